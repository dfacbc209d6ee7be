package l2

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var (
	epoch  = time.Unix(1_000_000, 0)
	foreMC = [6]byte{2, 0, 0, 0, 0, 9}
)

func after(ms int) time.Time { return epoch.Add(time.Duration(ms) * time.Millisecond) }

// steps lets a prober do what is due, as a loop that is on time would, until the given time, and lists what it did.
func (p *prober) steps(until time.Time, limit int) []string {
	var did []string
	for t := p.next(); !t.IsZero() && !t.After(until); t = p.next() {
		ms := t.Sub(epoch).Milliseconds()
		for _, a := range p.due(t, limit) {
			did = append(did, fmt.Sprintf("%d probe %s", ms, a))
		}
		for _, v := range p.verdicts(t) {
			if v.free {
				did = append(did, fmt.Sprintf("%d %s free", ms, v.group))
			} else {
				did = append(did, fmt.Sprintf("%d %s conflict %s", ms, v.group, v.foe.addr))
			}
		}
	}
	return did
}

func expectSteps(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("did %q, want %q", got, want)
	}
}

func TestAnAddressThatNobodyHoldsIsFreeAfterThreeProbesAnd200Milliseconds(t *testing.T) {
	p := newProber()
	p.begin(epoch, "g", []netip.Addr{held4, held6})
	expectSteps(t, p.steps(after(60_000), 10),
		"0 probe 192.0.2.1", "0 probe 2001:db8::1", "60 probe 192.0.2.1", "60 probe 2001:db8::1",
		"120 probe 192.0.2.1", "120 probe 2001:db8::1", "200 g free")
	if p.holds("g") || len(p.asking) > 0 {
		t.Errorf("the free group is still probed: %v", p.asking)
	}
}

func TestAForeignHolderIsAConflictAtOnceAndAskedForAgainUntilItIsGone(t *testing.T) {
	for _, how := range []use{announced, spoken, probed} {
		p := newProber()
		p.begin(epoch, "g", []netip.Addr{held4, held6})
		p.steps(after(50), 10)
		p.sighted(after(51), sighting{known4, foreMC, how})
		p.sighted(after(52), sighting{held6, foreMC, how})
		p.sighted(after(53), sighting{held4, foreMC, how})
		expectSteps(t, p.steps(after(10_051), 10), "52 g conflict 2001:db8::1")
		if !p.holds("g") {
			t.Error("a group in conflict may be announced")
		}
		expectSteps(t, p.steps(after(10_060), 10), "10052 probe 192.0.2.1", "10052 probe 2001:db8::1")
		p.sighted(after(10_100), sighting{held4, foreMC, how})
		expectSteps(t, p.steps(after(20_099), 10), "10100 g conflict 192.0.2.1")
		expectSteps(t, p.steps(after(60_000), 10),
			"20100 probe 192.0.2.1", "20100 probe 2001:db8::1", "20160 probe 192.0.2.1", "20160 probe 2001:db8::1",
			"20220 probe 192.0.2.1", "20220 probe 2001:db8::1", "20300 g free")
	}
}

func TestOneConflictConcernsEveryGroupThatAsksForTheAddress(t *testing.T) {
	p := newProber()
	p.begin(epoch, "g", []netip.Addr{held4})
	p.begin(epoch, "h", []netip.Addr{held4})
	p.begin(epoch, "i", []netip.Addr{known4})
	p.due(epoch, 10)
	p.sighted(after(1), sighting{held4, foreMC, announced})
	expectSteps(t, p.steps(after(300), 10), "1 g conflict 192.0.2.1", "1 h conflict 192.0.2.1",
		"60 probe 192.0.2.2", "120 probe 192.0.2.2", "200 i free")
}

func TestProbingThatEndsOrBeginsAnewIsForgotten(t *testing.T) {
	p := newProber()
	p.begin(epoch, "g", []netip.Addr{held4})
	p.due(epoch, 10)
	p.sighted(after(1), sighting{held4, foreMC, announced})
	p.end("g")
	expectSteps(t, p.steps(after(60_000), 10))
	p.begin(after(60_000), "g", []netip.Addr{held4})
	p.due(after(60_000), 10)
	p.sighted(after(60_001), sighting{held4, foreMC, announced})
	p.begin(after(60_002), "g", []netip.Addr{known4})
	p.sighted(after(60_003), sighting{held4, foreMC, announced})
	expectSteps(t, p.steps(after(120_000), 10),
		"60002 probe 192.0.2.2", "60062 probe 192.0.2.2", "60122 probe 192.0.2.2", "60202 g free")
	if len(p.asking) > 0 || len(p.latest) > 0 {
		t.Errorf("left behind: %v, %v", p.asking, p.latest)
	}
}

func TestALoopThatIsLateListensAsLongAfterItsLastProbe(t *testing.T) {
	p := newProber()
	p.begin(epoch, "g", []netip.Addr{held4})
	p.due(epoch, 10)
	for _, late := range []int{1000, 2000} {
		if got := p.due(after(late), 10); len(got) != 1 {
			t.Fatalf("at %d ms probes for %v, want one", late, got)
		}
		if got := p.verdicts(after(late)); got != nil {
			t.Fatalf("at %d ms judged %v", late, got)
		}
	}
	expectSteps(t, p.steps(after(3000), 10), "2080 g free")
}

func TestProbesForManyGroupsAreSentAFewAtATime(t *testing.T) {
	p := newProber()
	for n := range 1000 {
		p.begin(epoch, fmt.Sprint("g", n), []netip.Addr{addr4(10<<24 + uint32(n))})
	}
	if got := p.due(epoch, 256); len(got) != 256 {
		t.Errorf("%d probes at once, want 256", len(got))
	}
	if got := p.next(); !got.Equal(epoch) {
		t.Errorf("the next are due at %s, want at once", got)
	}
	if got := p.steps(after(1000), 256); len(got) != 3*1000-256+1000 {
		t.Errorf("%d probes and verdicts, want the other %d", len(got), 3*1000-256+1000)
	}
}

// A prober is checked against what it promises, whatever happens in whatever order.
func TestNoGroupIsFreeWithoutThreeProbesAndSilence(t *testing.T) {
	type record struct {
		probes       int
		last         time.Time
		hit, resting bool
	}
	addrs := map[string]netip.Addr{"a": held4, "b": known4, "c": held6}
	rapid.Check(t, func(t *rapid.T) {
		p, now := newProber(), epoch
		seen := map[string]*record{} // of the groups that are probed
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "ms")) * time.Millisecond)
			g := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "group")
			switch rapid.SampledFrom([]string{"begin", "end", "sight", "turn", "turn", "turn", "sleep"}).Draw(t, "step") {
			case "begin":
				p.begin(now, g, []netip.Addr{addrs[g]})
				seen[g] = &record{}
			case "end":
				p.end(g)
				delete(seen, g)
			case "sight":
				p.sighted(now, sighting{addrs[g], foreMC, announced})
				if r := seen[g]; r != nil && !r.resting {
					r.hit = true
				}
			case "sleep":
				now = now.Add(11 * time.Second)
			}
			for _, a := range p.due(now, 2) {
				for g, r := range seen {
					if addrs[g] == a {
						*r = record{probes: r.probes + 1, last: now, hit: r.hit}
					}
				}
			}
			for _, v := range p.verdicts(now) {
				r := seen[v.group]
				switch {
				case r == nil:
					t.Fatalf("a verdict on %s, which nobody asks for", v.group)
				case r.hit == v.free:
					t.Fatalf("%+v after %+v", v, *r)
				case !v.free:
					*r = record{resting: true}
				case r.probes != 3 || now.Sub(r.last) < probeEar:
					t.Fatalf("%s is free after %+v", v.group, *r)
				default:
					delete(seen, v.group)
				}
			}
			for g := range seen {
				if !p.holds(g) {
					t.Fatalf("%s may be announced without a verdict", g)
				}
			}
			if len(seen) > 0 && p.next().IsZero() {
				t.Fatal("what is probed is never judged")
			}
		}
	})
}

func TestAnAddressIsDefendedAndToldOfOnceInTenSeconds(t *testing.T) {
	d := newDefence()
	for _, c := range []struct {
		ms   int
		addr netip.Addr
		use  use
		want bool
	}{
		{0, held4, probed, false},
		{1, held4, announced, true},
		{2, held4, announced, false},
		{3, held6, spoken, true},
		{9_999, held4, spoken, false},
		{10_000, held4, announced, false},
		{10_001, held4, announced, true},
		{10_002, held6, announced, false},
		{10_003, held6, announced, true},
		{20_000, held4, announced, false},
	} {
		if got := d.sighted(after(c.ms), sighting{c.addr, foreMC, c.use}); got != c.want {
			t.Errorf("after %d ms, %s used in way %d: defended %v, want %v", c.ms, c.addr, c.use, got, c.want)
		}
	}
	d.sighted(after(60_000), sighting{known4, foreMC, announced})
	if len(d.last) != 1 || len(d.order) != 1 {
		t.Errorf("it remembers %v", d.order)
	}
}
