package l2

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-lb/berth/l2/packet"
)

// fakeLinks is a node's kernel with several interfaces, each on a segment.
type fakeLinks struct {
	kernelEvents
	all   []packet.Link // guarded by mu
	ether map[string]*ether
}

func (f *fakeLinks) now() time.Time { return time.Now() }

func (f *fakeLinks) links() ([]packet.Link, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.all), nil
}

func (f *fakeLinks) open(l packet.Link, in packet.Handlers) (wire, error) {
	e := f.ether[l.Name]
	w := &fakeWire{in: in, joined: make(map[netip.Addr]int)}
	e.connect(w)
	return w, nil
}

// setAddresses replaces the addresses of an interface, as an event.
func (f *fakeLinks) setAddresses(name string, addrs ...netip.Addr) {
	f.change(func() {
		i := slices.IndexFunc(f.all, func(l packet.Link) bool { return l.Name == name })
		f.all[i].Addrs = addrs
	})
}

// linkedNode is a driver with several interfaces. Its number is the last byte of their MACs and
// addresses. Addresses of the first one are node addresses.
type linkedNode struct {
	*Driver
	kernel *fakeLinks
	number byte
}

func nodeOn(t *testing.T, name string, number byte, on map[string]*ether) *linkedNode {
	t.Helper()
	n := &linkedNode{kernel: &fakeLinks{ether: on}, number: number}
	for i, ifname := range []string{"eth0", "eth1", "eth2"} {
		if on[ifname] == nil {
			continue
		}
		n.kernel.all = append(n.kernel.all, packet.Link{
			Name:  ifname,
			Index: i + 1,
			MTU:   1500,
			MAC:   [6]byte{2, 0, 0, 0, byte(i), number},
			Up:    true,
			Addrs: []netip.Addr{n.address(i)},
		})
	}
	d, err := newDriver(Config{
		Node:          name,
		NodeAddresses: n.kernel.all[0].Addrs,
		Logger:        slog.New(slog.DiscardHandler),
	}, n.kernel)
	if err != nil {
		t.Fatal(err)
	}
	n.Driver = d
	d.SetKeys(Keys{Sign: []byte("key")})
	d.SetState(Ready)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s: Run returned %v", name, err)
		}
	})
	return n
}

// address returns the address of the node's i-th interface.
func (n *linkedNode) address(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{192, 0, byte(2 + i), n.number})
}

const manyAddresses = 20

func vip(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}) }

// want gives the nodes many addresses, each wanted on these interfaces.
func want(nodes []*linkedNode, candidates []string, interfaces ...string) {
	for i := range manyAddresses {
		for _, n := range nodes {
			n.Sync(vip(i), Desired{Announced: true, Candidates: candidates, Interfaces: interfaces})
		}
	}
}

// owners says which nodes answer for each address of want.
func (e *ether) owners(t *testing.T) (owners [manyAddresses]string) {
	t.Helper()
	for i := range owners {
		for _, mac := range e.whoHas(t, vip(i).String()) {
			owners[i] += mac[len(mac)-2:]
		}
	}
	return owners
}

// expectOwned checks that each address of want has one owner.
func (e *ether) expectOwned(t *testing.T, when string) {
	t.Helper()
	for i, owner := range e.owners(t) {
		if len(owner) != 2 {
			t.Errorf("%s: %s is answered by %q, want one node", when, vip(i), owner)
		}
	}
}

// An interface loses its address for a moment, as by DHCP. Its segment ends, and begins again in
// the same process.
func TestSegmentThatBeginsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		a, b := nodeOn(t, "a", 1, map[string]*ether{"eth0": e}), nodeOn(t, "b", 2, map[string]*ether{"eth0": e})
		want([]*linkedNode{a, b}, []string{"a", "b"})
		pass(time.Minute)
		a.kernel.setAddresses("eth0")
		pass(2 * time.Second)
		a.kernel.setAddresses("eth0", a.address(0))
		pass(3 * time.Second)
		e.expectOwned(t, "after it began again")
		if peers := b.Status().Segments[0].Peers; len(peers) != 1 {
			t.Errorf("b hears %v, want a", peers)
		}
	})
}

// A SegmentAnnouncement that names an interface selects a node, does not for a while, and does
// again.
func TestSegmentOfNodeSelectedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		other, lan := &ether{}, &ether{}
		on := map[string]*ether{"eth0": other, "eth1": lan}
		a, b := nodeOn(t, "a", 1, on), nodeOn(t, "b", 2, on)
		both := []*linkedNode{a, b}
		want(both, []string{"a", "b"}, "eth1")
		pass(time.Hour)
		want([]*linkedNode{a}, []string{"b"})
		want([]*linkedNode{b}, []string{"b"}, "eth1")
		pass(10 * time.Second)
		want(both, []string{"a", "b"}, "eth1")
		pass(10 * time.Second)
		lan.expectOwned(t, "selected again")
		pass(10 * time.Minute)
		lan.expectOwned(t, "later")
	})
}

// Frames of one segment that somebody copies to another have no effect there, whether they are few
// or all.
func TestMessagesOfAnotherSegment(t *testing.T) {
	for name, frames := range map[string]int{"ten": 10, "all": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testMessagesOfAnotherSegment(t, frames) })
		})
	}
}

func testMessagesOfAnotherSegment(t *testing.T, frames int) {
	one, two := &ether{}, &ether{}
	a := nodeOn(t, "a", 1, map[string]*ether{"eth0": one, "eth1": two})
	b := nodeOn(t, "b", 2, map[string]*ether{"eth0": two})
	pass(time.Minute) // so the first segment's sequence is ahead
	want([]*linkedNode{a}, []string{"a", "b"}, "eth1")
	want([]*linkedNode{b}, []string{"a", "b"})
	pass(5 * time.Second)
	before := two.owners(t)
	copier := &fakeWire{joined: make(map[netip.Addr]int)}
	copier.in = packet.Handlers{
		Hello: func(payload []byte) {
			if frames--; frames < 0 {
				return
			}
			two.mu.Lock()
			wires := slices.Clone(two.wires)
			two.mu.Unlock()
			for _, w := range wires {
				w.in.Hello(slices.Clone(payload))
			}
		},
		ARP: func([]byte) []byte { return nil },
		NDP: func([]byte) []byte { return nil },
	}
	one.connect(copier)
	pass(10 * time.Second)
	if after := two.owners(t); after != before {
		t.Errorf("owners were %v and are %v", before, after)
	}
	if peers := b.Status().Segments[0].Peers; len(peers) != 1 {
		t.Errorf("b hears %v, want a", peers)
	}
}

// Two interfaces of a node are on one segment: from the beginning, or since one of them was plugged
// in there.
func TestTwins(t *testing.T) {
	for name, later := range map[string]bool{"from the beginning": false, "later": true} {
		for _, pattern := range []string{"eth*", "eth1"} {
			t.Run(name+" wanted on "+pattern, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testTwins(t, later, pattern) })
			})
		}
	}
}

// One of three interfaces on a segment serves it, without a pause.
func TestThreeTwins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		a := nodeOn(t, "a", 1, map[string]*ether{"eth0": e, "eth1": e, "eth2": e})
		want([]*linkedNode{a}, []string{"a"}, "eth*")
		pass(5 * time.Second)
		before := e.owners(t)
		for range 600 {
			pass(100 * time.Millisecond)
			if after := e.owners(t); after != before {
				t.Fatalf("owners were %v and are %v", before, after)
			}
		}
		e.expectOwned(t, "after a minute")
	})
}

func testTwins(t *testing.T, later bool, pattern string) {
	e := &ether{}
	second := e
	if later {
		second = &ether{}
	}
	a := nodeOn(t, "a", 1, map[string]*ether{"eth0": e, "eth1": second})
	b := nodeOn(t, "b", 2, map[string]*ether{"eth0": e})
	want([]*linkedNode{a}, []string{"a", "b"}, pattern)
	want([]*linkedNode{b}, []string{"a", "b"})
	for _, n := range []*linkedNode{a, b} { // one that b may not own
		d := Desired{Announced: true, Candidates: []string{"a"}}
		if n == a {
			d.Interfaces = []string{pattern}
		}
		n.Sync(vip(0), d)
	}
	pass(3 * time.Second)
	if later {
		second.mu.Lock()
		wires := second.wires
		second.wires = nil
		second.mu.Unlock()
		for _, w := range wires {
			e.connect(w)
		}
		pass(time.Second)
	}
	e.expectOwned(t, "settled")
	before := e.owners(t)
	if before[0] != "01" {
		t.Errorf("%s is answered by %s, want a", vip(0), before[0])
	}
	for range 30 {
		pass(time.Second)
		if after := e.owners(t); after != before {
			t.Fatalf("owners were %v and are %v", before, after)
		}
	}
	// Without the first interface, the second serves the segment.
	a.kernel.setAddresses("eth0")
	a.kernel.change(func() { a.kernel.all = a.kernel.all[1:] })
	pass(10 * time.Second)
	e.expectOwned(t, "without eth0")
}

// An interface gets a lower subnet, by which the mirror names the segment: claims move to the new
// name, and what the mirror says under it counts.
func TestSegmentOfNewName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		var mu sync.Mutex
		claims := map[string]string{} // node by segment
		n := e.node(t, "a", 1, func(c *Config, _ *fakeSystem) {
			c.OnClaim = func(said Claim) {
				mu.Lock()
				defer mu.Unlock()
				if claims[said.Segment] = said.Node; said.Node == "" {
					delete(claims, said.Segment)
				}
			}
		})
		n.Sync(svc4, by("a"))
		other := netip.MustParseAddr("192.0.2.201")
		n.Mirrored(Claim{Address: other, Segment: "10.0.0.0/8", Node: "b", Term: 7, MAC: printer})
		pass(3 * time.Second)
		n.system.set(func(f *fakeSystem) {
			f.link.Subnets = append([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, f.link.Subnets...)
		})
		pass(time.Second)
		mu.Lock()
		if want := map[string]string{"10.0.0.0/8": "a"}; !maps.Equal(claims, want) {
			t.Errorf("claims are %v, want %v", claims, want)
		}
		mu.Unlock()
		expectEqual(t, "answered all the time by", e.whoHas(t, svc), []string{n.mac})
		e.host(printer, with(other.String()))
		n.Sync(other, by("a"))
		pass(2 * time.Second)
		expectEqual(t, "conflicts", n.conflicts(), nil) // it is b, which claims it
	})
}

// A node's address changes, on its interface and in the API, in either order.
func TestSetNodes(t *testing.T) {
	for name, apiFirst := range map[string]bool{"the API first": true, "the interface first": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &ether{}
				a := nodeOn(t, "a", 1, map[string]*ether{"eth0": e})
				want([]*linkedNode{a}, []string{"a"})
				pass(3 * time.Second)
				e.expectOwned(t, "at first")
				moved := netip.MustParseAddr("203.0.113.7")
				inAPI := func() { a.SetNodes(map[string][]netip.Addr{"a": {moved}}) }
				onInterface := func() { a.kernel.setAddresses("eth0", moved) }
				if apiFirst {
					inAPI()
					onInterface()
				} else {
					onInterface()
					inAPI()
				}
				pass(3 * time.Second)
				e.expectOwned(t, "with the new address")
			})
		})
	}
}

// A segment knows the addresses that are wanted on its interface, or on its twins, and no others:
// whatever is wanted next, wherever the node's address is, and whatever interfaces there are.
func TestSegmentsKnowTheirOwn(t *testing.T) {
	one := &ether{}
	for name, on := range map[string]map[string]*ether{
		"three segments": {"eth0": {}, "eth1": {}, "eth2": {}},
		"one segment":    {"eth0": one, "eth1": one, "eth2": one},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testSegmentsKnowTheirOwn(t, nodeOn(t, "a", 1, on)) })
		})
	}
}

func testSegmentsKnowTheirOwn(t *testing.T, a *linkedNode) {
	r := rand.New(rand.NewPCG(1, 2))
	names := []string{"eth0", "eth1", "eth2"}
	all := slices.Clone(a.kernel.all)
	for step := range 300 {
		switch r.IntN(8) {
		case 0: // the node's address moves
			home := r.IntN(4)
			for i, name := range names {
				if slices.ContainsFunc(a.kernel.all, func(l packet.Link) bool { return l.Name == name }) {
					a.kernel.setAddresses(name, map[bool]netip.Addr{true: a.address(0), false: a.address(i + 7)}[i == home])
				}
			}
		case 1: // an interface vanishes, or all are back
			a.kernel.change(func() {
				if a.kernel.all = slices.Clone(all); r.IntN(2) == 0 {
					i := r.IntN(len(all))
					a.kernel.all = slices.Delete(a.kernel.all, i, i+1)
				}
			})
		default:
			var d Desired
			if patterns := [][]string{nil, {"eth0"}, {"eth1"}, {"eth1", ""}, {"eth[12]"}}; r.IntN(3) > 0 {
				d = Desired{Announced: true, Candidates: []string{"a"}, Interfaces: patterns[r.IntN(len(patterns))]}
			}
			a.Sync(vip(r.IntN(6)), d)
		}
		pass(time.Duration(r.IntN(3)) * time.Second) // twins find each other, or not yet
		pass(100 * time.Millisecond)
		var wrong string
		a.mu.Lock()
		for name, seg := range a.segments {
			var got, want []netip.Addr
			for addr := range seg.desired {
				got = append(got, addr)
			}
			for addr, d := range a.desired {
				if a.concerns(seg, d) {
					want = append(want, addr)
				}
			}
			slices.SortFunc(got, netip.Addr.Compare)
			slices.SortFunc(want, netip.Addr.Compare)
			if !slices.Equal(got, want) {
				wrong = fmt.Sprintf("%s knows %v, want %v", name, got, want)
			}
		}
		a.mu.Unlock()
		if wrong != "" {
			t.Fatalf("step %d: %s", step, wrong)
		}
	}
}

// A loop is not woken for what concerns other segments.
func TestSegmentsSleep(t *testing.T) {
	d, err := newDriver(Config{Node: "a", Logger: slog.New(slog.DiscardHandler)}, &fakeLinks{})
	if err != nil {
		t.Fatal(err)
	}
	eth0, eth1 := newSegment(&d.shared, d, "eth0", nil), newSegment(&d.shared, d, "eth1", nil)
	d.segments["eth0"], d.segments["eth1"] = eth0, eth1
	one := packet.Link{Name: "eth0", Subnets: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}
	two := packet.Link{Name: "eth0", Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	eth0.setLink(one, true)
	eth1.setLink(packet.Link{Name: "eth1"}, false)
	woken := func(what string, zero, first int) {
		t.Helper()
		if len(eth0.wake) != zero || len(eth1.wake) != first {
			t.Errorf("%s: woken are %d and %d, want %d and %d", what, len(eth0.wake), len(eth1.wake), zero, first)
		}
		for _, seg := range []*segment{eth0, eth1} {
			select {
			case <-seg.wake:
			default:
			}
		}
	}
	woken("links", 1, 1)
	d.Sync(vip(1), Desired{Announced: true, Interfaces: []string{"eth1"}})
	woken("wanted on eth1", 0, 1)
	d.Sync(vip(1), Desired{Announced: true})
	woken("wanted on the home", 1, 1) // eth1 loses it
	d.Sync(vip(1), Desired{})
	woken("not wanted", 1, 0)
	d.Mirrored(Claim{Address: vip(1), Segment: one.Segment(), Node: "b"})
	woken("a claim on eth0", 1, 0)
	eth0.setLink(two, true)
	woken("another name", 1, 0)
	d.Mirrored(Claim{Address: vip(2), Segment: one.Segment(), Node: "b"})
	woken("a claim on a segment that is gone", 0, 0)
	eth0.setLink(one, true)
	if in := eth0.inbox.take(); !in.renamed {
		t.Error("the segment has its former name again, and does not ask for the claims that it missed")
	}
}
