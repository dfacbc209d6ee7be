package l2

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"

	"github.com/berth-lb/berth/l2/neighbor"
	"github.com/berth-lb/berth/l2/packet"
)

// host is a host on a segment that is not a speaker, though it may have a speaker's MAC, as that
// node's kernel does. It answers for what it holds, and records what is asked and announced.
type host struct {
	mac   net.HardwareAddr
	holds func(netip.Addr) bool
	wire  *fakeWire
	// unlessProbed, if it is set, is what it holds when it is probed.
	unlessProbed func(netip.Addr) bool

	mu        sync.Mutex
	probes    map[netip.Addr]int // guarded by mu
	announced map[string]int     // guarded by mu; by address and MAC
}

func (e *ether) host(mac net.HardwareAddr, holds func(netip.Addr) bool) *host {
	h := &host{mac: mac, holds: holds, probes: map[netip.Addr]int{}, announced: map[string]int{}}
	h.wire = &fakeWire{
		ether:  e,
		joined: map[netip.Addr]int{},
		in:     packet.Handlers{Hello: func([]byte) {}, ARP: h.arp, NDP: h.ndp},
	}
	e.mu.Lock()
	e.wires = append(e.wires, h.wire)
	e.mu.Unlock()
	return h
}

// with has a host hold some addresses.
func with(addrs ...string) func(netip.Addr) bool {
	return func(a netip.Addr) bool { return slices.Contains(addrs, a.String()) }
}

func everything(netip.Addr) bool { return true }

func (h *host) arp(frame []byte) []byte {
	p, ok := neighbor.ParseARP(frame)
	switch {
	case !ok || p.Operation != arp.OperationRequest && p.SenderIP != p.TargetIP:
		return nil
	case p.SenderIP == p.TargetIP:
		h.note(p.SenderIP, p.SenderHardwareAddr)
		return nil
	case p.SenderIP.IsUnspecified():
		h.asked(p.TargetIP)
		if h.unlessProbed != nil && !h.unlessProbed(p.TargetIP) {
			return nil
		}
	}
	if !h.holds(p.TargetIP) {
		return nil
	}
	return neighbor.ARPFrame(p.SenderHardwareAddr, &arp.Packet{
		Operation:          arp.OperationReply,
		SenderHardwareAddr: h.mac,
		SenderIP:           p.TargetIP,
		TargetHardwareAddr: p.SenderHardwareAddr,
		TargetIP:           p.SenderIP,
	})
}

func (h *host) ndp(frame []byte) []byte {
	p, ok := neighbor.ParseNDP(frame)
	if !ok {
		return nil
	}
	switch m := p.Message.(type) {
	case *ndp.NeighborAdvertisement:
		h.note(m.TargetAddress, p.Station)
	case *ndp.NeighborSolicitation:
		if p.Source.IsUnspecified() {
			h.asked(m.TargetAddress)
		}
		if h.holds(m.TargetAddress) {
			return neighbor.UnsolicitedNA(h.mac, m.TargetAddress)
		}
	}
	return nil
}

func (h *host) asked(a netip.Addr) {
	h.mu.Lock()
	h.probes[a]++
	h.mu.Unlock()
}

func (h *host) note(a netip.Addr, mac net.HardwareAddr) {
	h.mu.Lock()
	h.announced[a.String()+" "+mac.String()]++
	h.mu.Unlock()
}

// saw returns how often an address was probed, and announced by a MAC, and forgets it.
func (h *host) saw(addr, mac string) (probes, announced int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := netip.MustParseAddr(addr)
	probes, announced = h.probes[a], h.announced[addr+" "+mac]
	delete(h.probes, a)
	delete(h.announced, addr+" "+mac)
	return probes, announced
}

// says has the host announce an address that it may or may not hold.
func (h *host) says(addr string) {
	for _, frame := range neighbor.GratuitousARP(h.mac, netip.MustParseAddr(addr)) {
		_ = h.wire.SendARP(frame)
	}
}

// probesFor has it probe for an address, as a host that wants it.
func (h *host) probesFor(addr string) {
	_ = h.wire.SendARP(neighbor.ARPProbe(h.mac, netip.MustParseAddr(addr)))
}

// asks has it ask for another host in the name of an address.
func (h *host) asks(addr string) {
	_ = h.wire.SendARP(neighbor.ARPRequest(h.mac, netip.MustParseAddr(addr), netip.MustParseAddr("192.0.2.100")))
}

// conflicts returns the addresses, MACs and nodes of the conflicts that a node has observed, each
// once.
func (n *fakeNode) conflicts() []string {
	var list []string
	for _, o := range n.seen() {
		if c := fmt.Sprintf("%s %s %q", o.Address, o.MAC, o.Node); o.Kind == Conflict && !slices.Contains(list, c) {
			list = append(list, c)
		}
	}
	return list
}

func expectEqual[T ~[]E, E comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

var printer = net.HardwareAddr{2, 0xff, 0, 0, 0, 7}

const printerMAC = "02:ff:00:00:00:07"

func TestProbeAddedAddress(t *testing.T) {
	for name, c := range map[string]struct {
		before, after []string
		fresh         string
	}{
		"a second address": {[]string{svc}, []string{svc, "192.0.2.201"}, "192.0.2.201"},
		"a second family":  {[]string{svc}, []string{svc, "2001:db8::201"}, "2001:db8::201"},
		"another pin":      {[]string{svc}, []string{"192.0.2.201"}, "192.0.2.201"},
	} {
		for _, taken := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, taken %v", name, taken), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := &ether{}
					owner, other := twoNodes(t, e)
					for _, n := range []*fakeNode{owner, other} {
						n.sync(by("a", "b"), c.before...)
					}
					pass(3 * time.Second)
					h := e.host(printer, func(a netip.Addr) bool { return taken && a.String() == c.fresh })
					for _, n := range []*fakeNode{owner, other} {
						n.sync(Desired{}, c.before...)
						n.sync(by("a", "b"), c.after...)
					}
					pass(2 * time.Second)
					probes, announced := h.saw(c.fresh, owner.mac)
					if probes != 3 || (announced > 0) == taken {
						t.Errorf("%d probes and %d announcements, want 3, and announcements only if nobody has it",
							probes, announced)
					}
					var want []string
					if taken {
						want = []string{fmt.Sprintf("%s %s %q", c.fresh, printerMAC, "")}
					}
					expectEqual(t, "conflicts", owner.conflicts(), want)
					if slices.Contains(c.after, svc) {
						expectEqual(t, "the other address is answered by", e.whoHas(t, svc),
							[]string{owner.mac})
					}
				})
			})
		}
	}
}

// Once a term in the mirror counted as proof that the cluster had the addresses.
func TestProbeAfterOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		h := e.host(printer, with("192.0.2.201"))
		nodes := []*fakeNode{e.node(t, "a", 1), e.node(t, "b", 2)}
		for _, n := range nodes {
			n.sync(by("a", "b"), svc, "192.0.2.201")
			n.Mirrored(Claim{
				Address:   netip.MustParseAddr("192.0.2.201"),
				Segment:   "192.0.2.0/24",
				Node:      "a",
				Term:      7,
				Witnessed: true,
				MAC:       net.HardwareAddr{2, 0, 0, 0, 0, 1},
			})
		}
		pass(3 * time.Second)
		if probes, announced := h.saw("192.0.2.201", nodes[0].mac); probes < 3 || announced != 0 {
			t.Errorf("%d probes and %d announcements of an address that is taken by now, want 3 and none",
				probes, announced)
		}
		if probes, announced := h.saw(svc, nodes[0].mac); probes < 3 || announced == 0 {
			t.Errorf("%d probes and %d announcements of one that is free, want 3 and some", probes, announced)
		}
	})
}

// What candidates are ranked by decides only about vacant addresses.
func TestNewRankMovesNothing(t *testing.T) {
	for i := range 10 {
		synctest.Test(t, func(t *testing.T) {
			e := &ether{}
			owner, other := twoNodes(t, e)
			for _, n := range []*fakeNode{owner, other} {
				d := by("a", "b")
				d.Rank, d.Preferred = fmt.Sprint(i), map[string]int32{"a": int32(i % 3), "b": 1}
				n.Sync(svc4, d)
			}
			for ms := range 500 {
				if got := e.whoHas(t, svc); !slices.Equal(got, []string{owner.mac}) {
					t.Fatalf("after %d ms it is answered by %v, want %s", ms, got, owner.mac)
				}
				pass(time.Millisecond)
			}
			expectEqual(t, "conflicts", append(owner.conflicts(), other.conflicts()...), nil)
		})
	}
}

// A node that takes over from an owner that did not answer for one of its addresses probes that one
// alone.
func TestProbeAfterProbingOwner(t *testing.T) {
	const second = "192.0.2.201"
	for _, taken := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e := &ether{}
			h := e.host(printer, func(a netip.Addr) bool { return taken && a.String() == second })
			owner, other := twoNodes(t, e)
			for _, n := range []*fakeNode{owner, other} {
				n.sync(by("a", "b"), second)
			}
			pass(3 * time.Second)
			expectEqual(t, "with a conflict about the other address it is answered by", e.whoHas(t, svc),
				[]string{owner.mac})
			h.saw(svc, other.mac)
			h.saw(second, other.mac)
			owner.kill()
			pass(550 * time.Millisecond)
			if probes, announced := h.saw(svc, other.mac); probes != 0 || announced == 0 {
				t.Errorf("taken %v: %d probes and %d announcements of %s, want none and some",
					taken, probes, announced, svc)
			}
			want := map[bool]int{true: 3}[taken]
			if probes, announced := h.saw(second, other.mac); probes != want || announced == 0 != taken {
				t.Errorf("taken %v: %d probes and %d announcements of %s, want %d probes",
					taken, probes, announced, second, want)
			}
			expectEqual(t, "answered by", e.whoHas(t, svc), []string{other.mac})
		})
	}
}

// Once a peer's answer was ignored, so that other nodes took a node's own address from it.
func TestConflictWithNodeAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		a, b := e.node(t, "a", 1), e.node(t, "b", 2)
		kernel := e.host(net.HardwareAddr{2, 0, 0, 0, 0, 2}, with("192.0.2.2", "2001:db8::2"))
		pass(2 * time.Second)
		for _, addr := range []string{"192.0.2.2", "2001:db8::2"} {
			for _, n := range []*fakeNode{a, b} {
				n.sync(by("a"), addr)
			}
			pass(20 * time.Second)
			probes, announced := kernel.saw(addr, a.mac)
			if announced > 0 || probes < 3*10 || probes > 3*20 {
				t.Errorf("%s was announced %d times, and probed %d times in 20 s; want it probed each second or two",
					addr, announced, probes)
			}
			expectEqual(t, "conflicts", a.conflicts(), []string{fmt.Sprintf("%s %s %q", addr, b.mac, "b")})
			for _, n := range []*fakeNode{a, b} {
				n.sync(Desired{}, addr)
			}
		}
	})
}

func TestConflictWithPeerKernelEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		var gone atomic.Bool
		e.host(net.HardwareAddr{2, 0, 0, 0, 0, 2}, func(a netip.Addr) bool { return !gone.Load() && a.String() == svc })
		a, b := e.node(t, "a", 1), e.node(t, "b", 2)
		for _, n := range []*fakeNode{a, b} {
			n.Sync(svc4, by("a"))
		}
		pass(5 * time.Second)
		expectEqual(t, "answered while the kernel holds it by", e.whoHas(t, svc), []string{b.mac})
		gone.Store(true)
		pass(1500 * time.Millisecond)
		expectEqual(t, "answered a moment later by", e.whoHas(t, svc), []string{a.mac})
	})
}

// A node that is short of time answers a little longer than its peers think. When a speaker with
// thousands of addresses was replaced, that was a conflict of 128 Services.
func TestNoConflictWithPeerThatLetsGo(t *testing.T) {
	for _, lasts := range []time.Duration{time.Second, 4 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			e := &ether{}
			var gone atomic.Bool
			e.host(net.HardwareAddr{2, 0, 0, 0, 0, 2}, func(a netip.Addr) bool { return !gone.Load() && a.String() == svc })
			a, b := e.node(t, "a", 1), e.node(t, "b", 2)
			for _, n := range []*fakeNode{a, b} {
				n.Sync(svc4, by("a"))
			}
			pass(lasts)
			gone.Store(true)
			pass(1500 * time.Millisecond)
			var want []string
			if lasts > peerPatience {
				want = []string{fmt.Sprintf("%s %s %q", svc, b.mac, "b")}
			}
			expectEqual(t, fmt.Sprintf("conflicts after %v", lasts), a.conflicts(), want)
			expectEqual(t, "answered in the end by", e.whoHas(t, svc), []string{a.mac})
		})
	}
}

// In kube-proxy's ipvs mode all nodes' kernels have all addresses of Services.
func TestConfigHarmless(t *testing.T) {
	for _, harmless := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			e := &ether{}
			e.host(net.HardwareAddr{2, 0, 0, 0, 0, 2}, with(svc))
			knows := func(c *Config, _ *fakeSystem) { c.Harmless = func(netip.Addr) bool { return harmless } }
			a, b := e.node(t, "a", 1, knows), e.node(t, "b", 2, knows)
			for _, n := range []*fakeNode{a, b} {
				n.Sync(svc4, by("a"))
			}
			pass(4 * time.Second)
			var want []string
			if !harmless {
				want = []string{fmt.Sprintf("%s %s %q", svc, b.mac, "b")}
			}
			expectEqual(t, "conflicts", a.conflicts(), want)
			if got := slices.Contains(e.whoHas(t, svc), a.mac); got != harmless {
				t.Errorf("harmless %v: answered %v", harmless, got)
			}
		})
	}
}

// Once a peer's announcement of an address that it does not claim was ignored forever.
func TestConflictWithStrayPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		owner, other := twoNodes(t, e)
		mac, err := net.ParseMAC(other.mac)
		if err != nil {
			t.Fatal(err)
		}
		keepalived := e.host(mac, with())
		keepalived.says(svc)
		pass(900 * time.Millisecond)
		keepalived.says(svc)
		pass(time.Millisecond)
		expectEqual(t, "conflicts within a second", owner.conflicts(), nil)
		pass(200 * time.Millisecond)
		keepalived.says(svc)
		pass(1100 * time.Millisecond)
		expectEqual(t, "conflicts", owner.conflicts(), []string{fmt.Sprintf("%s %s %q",
			svc, other.mac, other.config.Node)})
		expectEqual(t, "answered by", e.whoHas(t, svc), []string{owner.mac})
	})
}

// While an address moves, a peer's announcement may be read before its claim. Two moves within half
// a minute, as in a rolling restart, are no conflict.
func TestNoConflictWithStrayPeerOfFormerMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		owner, other := twoNodes(t, e)
		mac, err := net.ParseMAC(other.mac)
		if err != nil {
			t.Fatal(err)
		}
		early := e.host(mac, with())
		for range 3 {
			early.says(svc)
			pass(300 * time.Millisecond) // to see that it is no proxy
			for _, leaves := range []*fakeNode{owner, other} {
				leaves.SetState(Leaving)
				pass(700 * time.Millisecond)
				leaves.SetState(Ready)
				pass(700 * time.Millisecond)
			}
			expectEqual(t, "answered by", e.whoHas(t, svc), []string{owner.mac})
		}
		expectEqual(t, "conflicts", owner.conflicts(), nil)
	})
}

// If hellos are filtered, nodes' MACs are known only from the mirror.
func TestNoConflictWithMirroredNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		kernel := e.host(net.HardwareAddr{2, 0, 0, 0, 0, 2}, with(svc))
		a := e.node(t, "a", 1)
		a.Mirrored(
			Claim{
				Address: netip.MustParseAddr("192.0.2.202"),
				Segment: "192.0.2.0/24",
				Node:    "b",
				Term:    3,
				MAC:     kernel.mac,
			},
		)
		a.Sync(svc4, by("a"))
		pass(4 * time.Second)
		expectEqual(t, "conflicts", a.conflicts(), []string{fmt.Sprintf("%s %s %q", svc, kernel.mac, "b")})
	})
}

func TestNoConflictInPlannedMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		owner, other := twoNodes(t, e)
		h := e.host(printer, with())
		for range 6 {
			owner.SetState(Leaving)
			for ms := range 700 {
				if got := e.whoHas(t, svc); len(got) == 0 {
					t.Fatalf("nobody answers %d ms after the order to leave", ms)
				}
				pass(time.Millisecond)
			}
			owner.SetState(Ready)
			pass(700 * time.Millisecond)
			owner, other = other, owner
			expectEqual(t, "answered by", e.whoHas(t, svc), []string{owner.mac})
		}
		expectEqual(t, "conflicts", append(owner.conflicts(), other.conflicts()...), nil)
		if probes, _ := h.saw(svc, owner.mac); probes > 0 {
			t.Errorf("%d probes of an address that is answered for", probes)
		}
	})
}

// apiMirror shows the claims of all nodes to all, a little later, as the API does.
type apiMirror struct {
	mu     sync.Mutex
	claims map[netip.Addr]Claim
	nodes  []*fakeNode
	// latency is how long a claim takes to reach everybody.
	latency time.Duration
}

// join is an option by which a node's claims go there.
func (m *apiMirror) join(c *Config, _ *fakeSystem) {
	name := c.Node
	c.OnClaim = func(said Claim) { time.AfterFunc(m.latency, func() { m.write(name, said) }) }
}

func (m *apiMirror) write(name string, said Claim) {
	m.mu.Lock()
	defer m.mu.Unlock()
	have := m.claims[said.Address]
	switch {
	case said.Node == "" && have.Node != name, said.Node != "" && have.Node != "" && have.Node != name &&
		have.Term >= said.Term:
		said = have
	default:
		m.claims[said.Address] = said
	}
	for _, n := range m.nodes {
		n.Mirrored(said)
	}
}

// notReady shows that the API calls the node not ready.
func (m *apiMirror) notReady(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for a, said := range m.claims {
		if said.Node == name {
			said.Node = ""
			m.claims[a] = said
			for _, n := range m.nodes {
				n.Mirrored(said)
			}
		}
	}
}

// muteSegment is a segment that filters hellos: nodes know each other only by the API.
type muteSegment struct {
	*ether
	api   *apiMirror
	names []string
	away  bool // the API server is
}

func newMuteSegment(t *testing.T, nodes int, latency time.Duration) *muteSegment {
	t.Helper()
	s := &muteSegment{ether: &ether{}, api: &apiMirror{claims: map[netip.Addr]Claim{}, latency: latency}}
	for i := range nodes {
		s.names = append(s.names, string(rune('a'+i)))
	}
	for i := range nodes {
		s.start(t, i)
	}
	s.pass(5 * time.Second)
	return s
}

// start starts a node, which is told what the API has.
func (s *muteSegment) start(t *testing.T, i int) *fakeNode {
	t.Helper()
	mute := func(_ *Config, f *fakeSystem) { f.mute = true }
	n := s.ether.node(t, s.names[i], byte(i+51), s.api.join, mute)
	addresses := map[string][]netip.Addr{}
	for i, name := range s.names {
		addresses[name] = []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 51)})}
	}
	n.SetNodes(addresses)
	s.api.mu.Lock()
	defer s.api.mu.Unlock()
	for _, said := range s.api.claims {
		n.Mirrored(said)
	}
	s.api.nodes = slices.Insert(s.api.nodes, i, n)
	return n
}

// end ends a node's speaker.
func (s *muteSegment) end(i int) {
	s.api.nodes[i].kill()
	pass(10 * time.Millisecond)
	s.api.mu.Lock()
	s.api.nodes = slices.Delete(s.api.nodes, i, i+1)
	s.api.mu.Unlock()
}

// pass lets time pass in which the API confirms what is desired, unless it is away.
func (s *muteSegment) pass(d time.Duration) {
	for range max(1, d/time.Second) {
		for _, n := range s.api.nodes {
			if !s.away {
				n.Confirm(time.Now())
			}
		}
		pass(min(d, time.Second))
	}
}

func (s *muteSegment) want(d Desired) {
	for _, n := range s.api.nodes {
		n.Sync(svc4, d)
	}
}

// staysWith fails unless the node with that MAC answers, and no other one, for d.
func (s *muteSegment) staysWith(t *testing.T, when, mac string, d time.Duration) {
	t.Helper()
	for range d / (50 * time.Millisecond) {
		if got := s.whoHas(t, svc); len(got) != 1 || got[0] != mac {
			t.Fatalf("%s: answered by %v, want %s", when, got, mac)
		}
		s.pass(50 * time.Millisecond)
	}
}

// oneWithin waits until a node answers. No second one does.
func (s *muteSegment) oneWithin(t *testing.T, when string, d time.Duration) string {
	t.Helper()
	for range d / (50 * time.Millisecond) {
		s.pass(50 * time.Millisecond)
		if got := s.whoHas(t, svc); len(got) > 1 {
			t.Fatalf("%s: answered by %v, want one at most", when, got)
		}
	}
	got := s.whoHas(t, svc)
	if len(got) != 1 {
		t.Fatalf("%s: nobody answers after %s", when, d)
	}
	return got[0]
}

// Once each node took the other's probe for a foreign host's: all reported a conflict, and no node
// answered for 10 s.
func TestMuteSegment(t *testing.T) {
	for nodes := 2; nodes <= 12; nodes += 2 {
		for _, latency := range []time.Duration{20 * time.Millisecond, 150 * time.Millisecond, 400 * time.Millisecond} {
			t.Run(fmt.Sprintf("%d nodes, %s", nodes, latency), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testMuteSegment(t, nodes, latency) })
			})
		}
	}
}

func testMuteSegment(t *testing.T, nodes int, latency time.Duration) {
	s := newMuteSegment(t, nodes, latency)
	s.want(by(s.names...))
	owner := s.oneWithin(t, "a new address", 2*time.Second)
	s.staysWith(t, "later", owner, 10*time.Second)

	i := slices.IndexFunc(s.api.nodes, func(n *fakeNode) bool { return n.mac == owner })
	other := (i + 1) % nodes
	for range 3 {
		s.end(other)
		n := s.start(t, other)
		n.Confirm(time.Now())
		n.Sync(svc4, by(s.names...))
		s.staysWith(t, "another node's speaker is restarted", owner, 6*time.Second)
	}
	s.away = true
	s.pass(8 * time.Second)
	for _, n := range s.api.nodes {
		n.MirrorLost()
	}
	s.staysWith(t, "the API server is away", owner, 20*time.Second)
	s.away = false

	s.end(i)
	s.pass(time.Second)
	s.api.notReady(s.names[i])
	next := s.oneWithin(t, "the owner's node is not ready", 2*time.Second)
	s.staysWith(t, "later", next, 10*time.Second)
	for _, n := range s.api.nodes {
		n.system.mu.Lock()
		wire := n.system.wire
		n.system.mute = false
		n.system.mu.Unlock()
		wire.mu.Lock()
		wire.mute = false
		wire.mu.Unlock()
		s.staysWith(t, "hellos pass", next, 50*time.Millisecond)
	}
	s.staysWith(t, "all hellos pass", next, 5*time.Second)
	for _, n := range s.api.nodes {
		expectEqual(t, "conflicts", n.conflicts(), nil)
	}
	s.want(Desired{})
	s.pass(time.Second)
}

// A probe is not a use of the address: a new host that wants it may be told that it is taken.
func TestConflictAfterThreeForeignProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		a := e.node(t, "a", 1)
		h := e.host(printer, with())
		pass(2 * time.Second)
		a.Sync(svc4, by("a", "b"))
		for range 2 {
			pass(100 * time.Millisecond)
			h.probesFor(svc)
			pass(200 * time.Millisecond)
			expectEqual(t, "conflicts", a.conflicts(), nil)
			expectEqual(t, "answered by", e.whoHas(t, svc), nil)
			pass(900 * time.Millisecond)
		}
		pass(100 * time.Millisecond)
		h.probesFor(svc)
		pass(200 * time.Millisecond)
		expectEqual(t, "conflicts", a.conflicts(), []string{fmt.Sprintf("%s %s %q", svc, printerMAC, "")})
		pass(11 * time.Second)
		expectEqual(t, "answered when it no longer asks, by", e.whoHas(t, svc), []string{a.mac})
	})
}

const (
	next4 = "192.0.2.201"
	next6 = "2001:db8::201"
)

// anticipate has the node expect the same of several addresses.
func (n *fakeNode) anticipate(d Desired, addrs ...string) {
	next := map[netip.Addr]Desired{}
	for _, a := range addrs {
		next[netip.MustParseAddr(a)] = d
	}
	n.Anticipate(next)
}

// expectHolds checks whether the node answers for the address.
func (n *fakeNode) expectHolds(t *testing.T, when, addr string, want bool) {
	t.Helper()
	if got := len(n.Holds(netip.MustParseAddr(addr))) > 0; got != want {
		t.Errorf("%s it answers for %s: %v, want %v", when, addr, got, want)
	}
}

// expectProbes checks how often a host was asked for the address, by all nodes.
func (h *host) expectProbes(t *testing.T, when, addr string, want int) {
	t.Helper()
	if got, _ := h.saw(addr, ""); got != want {
		t.Errorf("%s %s was probed %d times, want %d", when, addr, got, want)
	}
}

// An address that was probed beforehand is answered for at once, and until then nobody says
// anything about it.
func TestNextAddressAnswersAtOnce(t *testing.T) {
	for _, addr := range []string{next4, next6} {
		synctest.Test(t, func(t *testing.T) {
			e := &ether{}
			first, other := twoNodes(t, e)
			h := e.host(printer, with())
			for _, n := range []*fakeNode{first, other} {
				n.anticipate(by("a", "b"), addr)
			}
			pass(3 * time.Second)
			if probes, announced := h.saw(addr, first.mac); probes != 3 || announced != 0 {
				t.Errorf(
					"before it is wanted it was probed %d times and announced %d times, want 3, by one node, and 0",
					probes,
					announced,
				)
			}
			for _, n := range []*fakeNode{first, other} {
				n.expectHolds(t, "before it is wanted", addr, false)
				if got := n.seen(); got != nil {
					t.Errorf("before it is wanted a node observed %v", got)
				}
				n.Sync(netip.MustParseAddr(addr), by("a", "b"))
			}
			pass(50 * time.Millisecond)
			first.expectHolds(t, "50 ms later", addr, true)
			pass(2 * time.Second)
			other.expectHolds(t, "2 s later", addr, false)
			if probes, announced := h.saw(addr, first.mac); probes != 0 || announced == 0 {
				t.Errorf("when it is wanted it was probed %d times and announced %d times", probes, announced)
			}
		})
	}
}

// What another host does after the address was found free counts.
func TestNextAddressIsTaken(t *testing.T) {
	for name, takes := range map[string]func(*host){
		"announces it":     func(h *host) { h.says(next4) },
		"probes for it":    func(h *host) { h.probesFor(next4) },
		"asks in its name": func(h *host) { h.asks(next4) },
		"answers the probes that are under way": func(h *host) {
			for probes := 0; probes == 0; probes, _ = h.saw(next4, "") {
				pass(10 * time.Millisecond)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &ether{}
				first, other := twoNodes(t, e)
				for _, n := range []*fakeNode{first, other} {
					n.anticipate(by("a", "b"), next4)
				}
				pass(3 * time.Second)
				h := e.host(printer, with(next4))
				takes(h)
				pass(time.Millisecond)
				expectEqual(t, "conflicts about what nobody wants", first.conflicts(), nil)
				for _, n := range []*fakeNode{first, other} {
					n.sync(by("a", "b"), next4)
				}
				pass(2 * time.Second)
				if probes, announced := h.saw(next4, first.mac); probes != 3 || announced != 0 {
					t.Errorf(
						"when it is wanted there are %d probes and %d announcements, want 3 and none",
						probes,
						announced,
					)
				}
				first.expectHolds(t, "although another host has it", next4, false)
				expectEqual(t, "conflicts", first.conflicts(), []string{fmt.Sprintf("%s %s %q", next4, printerMAC, "")})
			})
		})
	}
}

// An address is probed again before what was found is a minute old, and 10 s after another host
// was found to have it.
func TestNextAddressIsProbedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		first, _ := twoNodes(t, e)
		var taken atomic.Bool
		h := e.host(printer, func(a netip.Addr) bool { return taken.Load() && a.String() == next4 })
		first.anticipate(by("a", "b"), next4)
		pass(time.Second)
		h.expectProbes(t, "within 1 s", next4, 3)
		pass(48 * time.Second)
		h.expectProbes(t, "until 49 s", next4, 0)
		taken.Store(true)
		pass(2 * time.Second)
		h.expectProbes(t, "until 51 s", next4, 3)
		pass(8 * time.Second)
		h.expectProbes(t, "while it rests", next4, 0)
		pass(3 * time.Second)
		h.expectProbes(t, "after it rested", next4, 3)
		expectEqual(t, "conflicts", first.conflicts(), nil)
		taken.Store(false)
		pass(11 * time.Second)
		h.expectProbes(t, "after it rested again", next4, 3)
		first.sync(by("a", "b"), next4)
		pass(50 * time.Millisecond)
		first.expectHolds(t, "when it is free again", next4, true)
	})
}

// Only the node that would be the first to claim an address probes for it, and the next one when
// that one is gone.
func TestNextAddressIsProbedByFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		first, other := twoNodes(t, e)
		h := e.host(printer, with())
		other.anticipate(by("a", "b"), next4)
		pass(5 * time.Second)
		h.expectProbes(t, "by the second in line", next4, 0)
		first.anticipate(by(other.config.Node), next4)
		pass(5 * time.Second)
		h.expectProbes(t, "by no candidate", next4, 0)
		d := by("a", "b")
		d.Interfaces = []string{"eth1"}
		first.anticipate(d, next4)
		pass(5 * time.Second)
		h.expectProbes(t, "on another interface", next4, 0)
		d = by("a", "b")
		d.Needs = 1
		first.anticipate(d, next4)
		pass(5 * time.Second)
		h.expectProbes(t, "by a node without the capability", next4, 0)
		other.sync(by(other.config.Node), next4)
		pass(5 * time.Second)
		h.expectProbes(t, "by its owner", next4, 3)
		first.anticipate(by("a", "b"), next4)
		pass(5 * time.Second)
		h.expectProbes(t, "while another node owns it", next4, 0)
		other.sync(Desired{}, next4)
		pass(5 * time.Second)
		h.expectProbes(t, "when that node has given it up", next4, 3)
		third := e.node(t, "c", 3)
		pass(5 * time.Second)
		first.kill()
		pass(5 * time.Second)
		h.expectProbes(t, "by the next one when the first is gone", next4, 3)
		third.kill()
		other.Anticipate(nil)
		pass(5 * time.Second)
		other.anticipate(by("a", "b"), next4)
		pass(5 * time.Second)
		h.expectProbes(t, "by a node that hears nobody", next4, 0)
	})
}

// What was found counts only while this node listens.
func TestNextAddressIsProbedWithoutProof(t *testing.T) {
	for name, deaf := range map[string]func(*fakeNode){
		"no longer next": func(n *fakeNode) { n.Anticipate(nil) },
		"link was down": func(n *fakeNode) {
			n.system.set(func(f *fakeSystem) { f.link.Up = false })
			pass(50 * time.Millisecond)
			n.system.set(func(f *fakeSystem) { f.link.Up = true })
		},
		"suspended": func(n *fakeNode) { n.system.suspended.Add(int64(5 * time.Second)) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &ether{}
				n := e.node(t, "a", 1)
				h := e.host(printer, with())
				n.anticipate(by("a"), next4, next6)
				pass(3 * time.Second)
				h.expectProbes(t, "beforehand", next4, 3)
				h.expectProbes(t, "beforehand", next6, 3)
				deaf(n)
				n.sync(by("a"), next4, next6)
				pass(3 * time.Second)
				h.expectProbes(t, "when it is wanted", next4, 3)
				h.expectProbes(t, "when it is wanted", next6, 3)
				n.expectHolds(t, "after that", next4, true)
				n.sync(Desired{}, next4, next6)
				n.Anticipate(nil)
				pass(time.Second)
				n.system.wire.mu.Lock()
				defer n.system.wire.mu.Unlock()
				if len(n.system.wire.joined) > 0 {
					t.Errorf("it still listens for %v", n.system.wire.joined)
				}
			})
		})
	}
}

// A proxy does not have the address.
func TestNextAddressBesideProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		first, other := twoNodes(t, e)
		e.host(printer, everything)
		for _, n := range []*fakeNode{first, other} {
			n.anticipate(by("a", "b"), next4)
		}
		pass(5 * time.Second)
		for _, n := range []*fakeNode{first, other} {
			n.sync(by("a", "b"), next4)
		}
		pass(50 * time.Millisecond)
		first.expectHolds(t, "50 ms later", next4, true)
	})
}

func TestNextAddressesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		n := e.node(t, "a", 1)
		h := e.host(printer, with())
		var addrs []string
		for i := range maxNext + 10 {
			addrs = append(addrs, fmt.Sprintf("192.0.2.%d", 110+i))
		}
		n.anticipate(by("a"), addrs...)
		pass(5 * time.Second)
		for i, a := range addrs {
			want := 3
			if i >= maxNext {
				want = 0
			}
			h.expectProbes(t, "beforehand", a, want)
		}
	})
}
