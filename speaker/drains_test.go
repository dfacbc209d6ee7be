package speaker

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/speaker/plan"
)

// drainTest reviews Services by the test's clock.
type drainTest struct {
	*testing.T
	drains *drains
	over   chan string
}

func drainsOf(t *testing.T) drainTest {
	over := make(chan string, 9)
	return drainTest{t, newDrains(func(service string) { over <- service }), over}
}

// review expects these of the addresses to be overdue; "-" before one: it does not terminate.
func (d drainTest) review(service string, limit time.Duration, addresses []string, want ...string) {
	d.Helper()
	var backends []plan.Backend
	for _, a := range addresses {
		b := backend("http", a[len(a)-len("10.0.0.1:80"):], "n1", candidate.Useless)
		b.Terminates = a[0] != '-'
		backends = append(backends, b)
	}
	d.drains.review(service, backends, limit)
	var got []string
	for _, b := range backends {
		if b.Overdue {
			got = append(got, b.Address.String())
		}
	}
	if !slices.Equal(got, want) {
		d.Errorf("overdue are %v, want %v", got, want)
	}
}

// pass lets time pass, and expects these Services to be planned anew at its end and not before.
func (d drainTest) pass(after time.Duration, want ...string) {
	d.Helper()
	const moment = time.Nanosecond
	<-time.After(after - moment)
	synctest.Wait()
	if len(d.over) > 0 {
		d.Errorf("%s planned anew before %s passed", <-d.over, after)
	}
	<-time.After(moment)
	synctest.Wait()
	var got []string
	for len(d.over) > 0 {
		got = append(got, <-d.over)
	}
	if !slices.Equal(got, want) {
		d.Errorf("after %s planned anew: %v, want %v", after, got, want)
	}
}

func TestTheTimeOfEachEndpointThatTerminates(t *testing.T) {
	const limit = time.Hour
	const a, b = "10.0.0.1:80", "10.0.0.2:80"
	for _, c := range []struct {
		name string
		run  func(drainTest)
	}{
		{"each has its own", func(d drainTest) {
			d.review("web", limit, []string{a, "-" + b})
			d.pass(20 * time.Minute)
			d.review("web", limit, []string{a, b})
			d.pass(40*time.Minute, "web")
			d.review("web", limit, []string{a, b}, a)
			d.pass(20*time.Minute, "web")
			d.review("web", limit, []string{a, b}, a, b)
			d.pass(48 * time.Hour)
		}},
		{"one that does not terminate has none", func(d drainTest) {
			d.review("web", limit, []string{"-" + a})
			d.pass(48 * time.Hour)
			d.review("web", limit, []string{"-" + a})
		}},
		{"one that is back begins anew", func(d drainTest) {
			d.review("web", limit, []string{a})
			d.pass(limit, "web")
			d.review("web", limit, []string{a}, a)
			d.review("web", limit, []string{"-" + a})
			d.review("web", limit, []string{a})
			d.pass(limit, "web")
			d.review("web", limit, []string{a}, a)
		}},
		{"one that is gone is forgotten", func(d drainTest) {
			d.review("web", limit, []string{a, b})
			d.review("web", limit, []string{b})
			d.pass(limit, "web")
			d.review("web", limit, []string{a, b}, b)
		}},
		{"a Service that is gone is forgotten", func(d drainTest) {
			d.review("web", limit, []string{a})
			d.review("web", limit, nil)
			d.pass(48 * time.Hour)
			d.review("web", limit, []string{a})
		}},
		{"Services do not bear on each other", func(d drainTest) {
			d.review("web", limit, []string{a})
			d.pass(10 * time.Minute)
			d.review("shop", limit, []string{a})
			d.pass(50*time.Minute, "web")
			d.review("web", limit, []string{a}, a)
			d.pass(10*time.Minute, "shop")
		}},
		{"a shorter limit is for those that drain already", func(d drainTest) {
			d.review("web", limit, []string{a})
			d.pass(20 * time.Minute)
			d.review("web", 30*time.Minute, []string{a})
			d.pass(10*time.Minute, "web")
			d.review("web", 30*time.Minute, []string{a}, a)
		}},
		{"a limit that has passed when it is made shorter", func(d drainTest) {
			d.review("web", limit, []string{a})
			d.pass(20 * time.Minute)
			d.review("web", time.Minute, []string{a}, a)
			d.pass(48 * time.Hour)
		}},
		{"a longer limit is for those that drain already", func(d drainTest) {
			d.review("web", limit, []string{a})
			d.pass(limit, "web")
			d.review("web", limit, []string{a}, a)
			d.review("web", 2*limit, []string{a})
			d.pass(limit, "web")
			d.review("web", 2*limit, []string{a}, a)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := drainsOf(t)
				c.run(d)
				d.drains.review("web", nil, limit)
				d.drains.review("shop", nil, limit)
				if len(d.drains.services) > 0 {
					t.Errorf("remembered of Services that are gone: %v", d.drains.services)
				}
			})
		})
	}
}
