package neighbor

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

// steps lets a prober do what is due until the given time, as a loop that is on time would, and
// lists what it did. Addresses that nobody was heard to have are ended, others rest.
func (p *Prober) steps(until time.Time, limit int, rest time.Duration) []string {
	var did []string
	for t := p.Next(); !t.IsZero() && !t.After(until); t = p.Next() {
		ms := t.Sub(epoch).Milliseconds()
		for _, a := range p.Due(t, limit) {
			did = append(did, fmt.Sprintf("%d probe %s", ms, a))
		}
		for _, x := range p.Verdicts(t) {
			if len(x.Heard) == 0 {
				did = append(did, fmt.Sprintf("%d %s free", ms, x.Addr))
				p.End(x.Addr)
				continue
			}
			did = append(did, fmt.Sprintf("%d %s heard %d", ms, x.Addr, len(x.Heard)))
			p.Rest(t, x, rest)
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

// An address that no host has is free after three probes and 200 ms.
func TestProberFreeAddress(t *testing.T) {
	p := NewProber()
	p.Begin(epoch, held4)
	p.Begin(epoch, held6)
	expectSteps(t, p.steps(after(60_000), 10, 0),
		"0 probe 192.0.2.1", "0 probe 2001:db8::1", "60 probe 192.0.2.1", "60 probe 2001:db8::1",
		"120 probe 192.0.2.1", "120 probe 2001:db8::1", "200 192.0.2.1 free", "200 2001:db8::1 free")
	if len(p.latest) > 0 {
		t.Errorf("free addresses are still probed: %v", p.latest)
	}
}

func TestProberUsedAddress(t *testing.T) {
	for _, how := range []Use{Announced, Spoken, Probed} {
		p := NewProber()
		p.Begin(epoch, held4)
		p.Begin(epoch, held6)
		p.steps(after(50), 10, 0)
		p.Sighted(Sighting{known4, foreMC, how})
		p.Sighted(Sighting{held6, foreMC, how})
		p.Sighted(Sighting{held6, foreMC, how})
		expectSteps(t, p.steps(after(10_199), 10, 10*time.Second),
			"60 probe 192.0.2.1", "60 probe 2001:db8::1", "120 probe 192.0.2.1", "120 probe 2001:db8::1",
			"200 192.0.2.1 free", "200 2001:db8::1 heard 1")
		if p.Hears(held6) || p.idle != 1 {
			t.Errorf("what is heard of an address that rests matters, or %d rest", p.idle)
		}
		p.Sighted(Sighting{held6, foreMC, how})
		expectSteps(t, p.steps(after(60_000), 10, 0),
			"10200 probe 2001:db8::1", "10260 probe 2001:db8::1", "10320 probe 2001:db8::1", "10400 2001:db8::1 free")
		if p.idle != 0 {
			t.Errorf("%d addresses rest, want none", p.idle)
		}
	}
}

func TestProberBeginTwice(t *testing.T) {
	p := NewProber()
	p.Begin(epoch, held4)
	p.steps(after(100), 10, 0)
	p.Begin(after(100), held4)
	expectSteps(t, p.steps(after(1000), 10, 0), "120 probe 192.0.2.1", "200 192.0.2.1 free")
}

func TestProberEnd(t *testing.T) {
	p := NewProber()
	p.Begin(epoch, held4)
	p.Due(epoch, 10)
	p.Sighted(Sighting{held4, foreMC, Announced})
	p.End(held4)
	expectSteps(t, p.steps(after(60_000), 10, 0))
	p.Begin(after(60_000), held4)
	p.Due(after(60_000), 10)
	p.Sighted(Sighting{held4, foreMC, Announced})
	p.End(held4)
	p.Begin(after(60_002), held4)
	expectSteps(t, p.steps(after(120_000), 10, 0),
		"60002 probe 192.0.2.1", "60062 probe 192.0.2.1", "60122 probe 192.0.2.1", "60202 192.0.2.1 free")
	if len(p.asks)+len(p.ends)+len(p.latest)+p.idle > 0 {
		t.Errorf("left behind: %v, %v, %v", p.asks, p.ends, p.latest)
	}
}

// A loop that is late still listens as long after the last probe.
func TestProberLateLoop(t *testing.T) {
	p := NewProber()
	p.Begin(epoch, held4)
	p.Due(epoch, 10)
	for _, late := range []int{1000, 2000} {
		if got := p.Due(after(late), 10); len(got) != 1 {
			t.Fatalf("at %d ms probes for %v, want one", late, got)
		}
		if got := p.Verdicts(after(late)); got != nil {
			t.Fatalf("at %d ms judged %v", late, got)
		}
	}
	expectSteps(t, p.steps(after(3000), 10, 0), "2080 192.0.2.1 free")
}

func TestProberDueLimit(t *testing.T) {
	p := NewProber()
	for n := range 1000 {
		p.Begin(epoch, netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}))
	}
	if got := p.Due(epoch, 256); len(got) != 256 {
		t.Errorf("%d probes at once, want 256", len(got))
	}
	if got := p.Next(); !got.Equal(epoch) {
		t.Errorf("the next are due at %s, want at once", got)
	}
	if got := p.steps(after(1000), 256, 0); len(got) != 3*1000-256+1000 {
		t.Errorf("%d probes and verdicts, want the other %d", len(got), 3*1000-256+1000)
	}
}

// A prober is checked against what it promises, whatever happens in whatever order.
func TestProberVerdictsNeedThreeProbes(t *testing.T) {
	type record struct {
		probes       int
		last         time.Time
		hit, resting bool
	}
	addrs := []netip.Addr{held4, known4, held6}
	rapid.Check(t, func(t *rapid.T) {
		p, now := NewProber(), epoch
		seen := map[netip.Addr]*record{} // of what is probed
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "ms")) * time.Millisecond)
			a := rapid.SampledFrom(addrs).Draw(t, "address")
			switch rapid.SampledFrom([]string{
				"begin", "end", "sight", "turn", "turn", "turn", "sleep",
			}).Draw(t, "step") {
			case "begin":
				p.Begin(now, a)
				if seen[a] == nil {
					seen[a] = &record{}
				}
			case "end":
				p.End(a)
				delete(seen, a)
			case "sight":
				p.Sighted(Sighting{a, foreMC, Announced})
				if r := seen[a]; r != nil && !r.resting {
					r.hit = true
				}
			case "sleep":
				now = now.Add(11 * time.Second)
			}
			for _, a := range p.Due(now, 2) {
				r := seen[a]
				*r = record{probes: r.probes + 1, last: now, hit: r.hit}
			}
			for _, x := range p.Verdicts(now) {
				r := seen[x.Addr]
				switch {
				case r == nil:
					t.Fatalf("a verdict on %s, which nobody asks for", x.Addr)
				case r.hit != (len(x.Heard) > 0) || r.probes != 3 || now.Sub(r.last) < probeListen:
					t.Fatalf("%s, of which %v was heard, is judged after %+v", x.Addr, x.Heard, *r)
				case r.hit && rapid.Bool().Draw(t, "rest"):
					p.Rest(now, x, 10*time.Second)
					*r = record{resting: true}
				default:
					p.End(x.Addr)
					delete(seen, x.Addr)
				}
			}
			resting := 0
			for _, r := range seen {
				if r.resting {
					resting++
				}
			}
			if len(seen) != len(p.latest) || resting != p.idle {
				t.Fatalf("probes %v, %d of them rest; want %v", p.latest, p.idle, seen)
			}
			if len(seen) > 0 && p.Next().IsZero() {
				t.Fatal("what is probed is never judged")
			}
		}
	})
}

func TestDefenderSighted(t *testing.T) {
	d := NewDefender()
	for _, c := range []struct {
		ms   int
		addr netip.Addr
		use  Use
		want bool
	}{
		{0, held4, Probed, false},
		{1, held4, Announced, true},
		{2, held4, Announced, false},
		{3, held6, Spoken, true},
		{9_999, held4, Spoken, false},
		{10_000, held4, Announced, false},
		{10_001, held4, Announced, true},
		{10_002, held6, Announced, false},
		{10_003, held6, Announced, true},
		{20_000, held4, Announced, false},
	} {
		if got := d.Sighted(after(c.ms), Sighting{c.addr, foreMC, c.use}); got != c.want {
			t.Errorf("after %d ms, %s used in way %d: defended %v, want %v", c.ms, c.addr, c.use, got, c.want)
		}
	}
	d.Sighted(after(60_000), Sighting{known4, foreMC, Announced})
	if len(d.told.at) != 1 || len(d.told.order) != 1 {
		t.Errorf("it remembers %v", d.told.order)
	}
}
