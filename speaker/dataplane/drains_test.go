package dataplane

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/speaker/plan"
)

// drainTest reviews Services by a clock of its own.
type drainTest struct {
	*testing.T
	drains *drains
	now    time.Time
	due    map[string]time.Time // when Services are to be reviewed again
}

// review expects these of the addresses to be overdue; "-" before one: it does not terminate.
func (d drainTest) review(service string, limit time.Duration, addresses []string, want ...string) {
	d.Helper()
	var backends []plan.Backend
	for _, a := range addresses {
		b := plan.Backend{
			Port:    "http",
			Address: netip.MustParseAddrPort(strings.TrimPrefix(a, "-")),
			Node:    "n1",
			State:   candidate.Useless,
		}
		b.Terminates = a[0] != '-'
		backends = append(backends, b)
	}
	next, _ := d.drains.review(service, backends, limit, d.now)
	delete(d.due, service)
	if next > 0 {
		d.due[service] = d.now.Add(next)
	}
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

// pass lets time pass, and expects these Services to be due at its end, and none before.
func (d *drainTest) pass(after time.Duration, want ...string) {
	d.Helper()
	d.now = d.now.Add(after)
	var got []string
	for service, due := range d.due {
		if due.Before(d.now) {
			d.Errorf("%s is due before %s passed", service, after)
		}
		if !due.After(d.now) {
			got = append(got, service)
		}
	}
	if !slices.Equal(got, want) {
		d.Errorf("after %s are due: %v, want %v", after, got, want)
	}
}

func TestDrains_review(t *testing.T) {
	const limit = time.Hour
	const a, b = "10.0.0.1:80", "10.0.0.2:80"
	for _, c := range []struct {
		name string
		run  func(*drainTest)
	}{
		{"each has its own", func(d *drainTest) {
			d.review("web", limit, []string{a, "-" + b})
			d.pass(20 * time.Minute)
			d.review("web", limit, []string{a, b})
			d.pass(40*time.Minute, "web")
			d.review("web", limit, []string{a, b}, a)
			d.pass(20*time.Minute, "web")
			d.review("web", limit, []string{a, b}, a, b)
			d.pass(48 * time.Hour)
		}},
		{"one that does not terminate has none", func(d *drainTest) {
			d.review("web", limit, []string{"-" + a})
			d.pass(48 * time.Hour)
			d.review("web", limit, []string{"-" + a})
		}},
		{"the time of one that is back starts over", func(d *drainTest) {
			d.review("web", limit, []string{a})
			d.pass(limit, "web")
			d.review("web", limit, []string{a}, a)
			d.review("web", limit, []string{"-" + a})
			d.review("web", limit, []string{a})
			d.pass(limit, "web")
			d.review("web", limit, []string{a}, a)
		}},
		{"one that is gone is forgotten", func(d *drainTest) {
			d.review("web", limit, []string{a, b})
			d.review("web", limit, []string{b})
			d.pass(limit, "web")
			d.review("web", limit, []string{a, b}, b)
		}},
		{"a Service that is gone is forgotten", func(d *drainTest) {
			d.review("web", limit, []string{a})
			d.review("web", limit, nil)
			d.pass(48 * time.Hour)
			d.review("web", limit, []string{a})
		}},
		{"Services do not bear on each other", func(d *drainTest) {
			d.review("web", limit, []string{a})
			d.pass(10 * time.Minute)
			d.review("shop", limit, []string{a})
			d.pass(50*time.Minute, "web")
			d.review("web", limit, []string{a}, a)
			d.pass(10*time.Minute, "shop")
		}},
		{"a shorter limit is for those that drain already", func(d *drainTest) {
			d.review("web", limit, []string{a})
			d.pass(20 * time.Minute)
			d.review("web", 30*time.Minute, []string{a})
			d.pass(10*time.Minute, "web")
			d.review("web", 30*time.Minute, []string{a}, a)
		}},
		{"a limit that has passed when it is made shorter", func(d *drainTest) {
			d.review("web", limit, []string{a})
			d.pass(20 * time.Minute)
			d.review("web", time.Minute, []string{a}, a)
			d.pass(48 * time.Hour)
		}},
		{"a longer limit is for those that drain already", func(d *drainTest) {
			d.review("web", limit, []string{a})
			d.pass(limit, "web")
			d.review("web", limit, []string{a}, a)
			d.review("web", 2*limit, []string{a})
			d.pass(limit, "web")
			d.review("web", 2*limit, []string{a}, a)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &drainTest{T: t, drains: newDrains(), now: time.Now(), due: map[string]time.Time{}}
			c.run(d)
			d.drains.forget("web")
			d.drains.review("shop", nil, limit, d.now)
			if len(d.drains.services) > 0 {
				t.Errorf("remembered of Services that are gone: %v", d.drains.services)
			}
		})
	}
}

func TestDrains_review_reportsOnce(t *testing.T) {
	const limit = time.Minute
	d, now := newDrains(), time.Now()
	for _, step := range []struct {
		after time.Duration
		over  bool
	}{{0, false}, {limit - 1, false}, {limit, true}, {limit + 1, false}} {
		backends := []plan.Backend{{Address: netip.MustParseAddrPort("10.0.0.1:80"), Terminates: true}}
		if _, over := d.review("web", backends, limit, now.Add(step.after)); over != step.over {
			t.Errorf("after %s another endpoint is overdue: %v, want %v", step.after, over, step.over)
		}
	}
}
