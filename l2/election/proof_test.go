package election

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// ownerAndOther returns a world with one group, its owner and the other node.
func ownerAndOther(t *testing.T) (w *world, owner, other *simNode) {
	t.Helper()
	w = together(t, 2, 1, nil)
	owner, other = w.nodes[0], w.nodes[1]
	if other.answering(w.groups[0]) {
		owner, other = other, owner
	}
	return w, owner, other
}

func (n *simNode) unproven() []netip.Addr {
	return n.m.unproven(n.local(), n.m.groups[keyOf(n.w.groups[0])])
}

func expectAddrs(t *testing.T, what string, got, want []netip.Addr) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func (w *world) pass(t *testing.T, d time.Duration) {
	t.Helper()
	if err := w.run(d, nil); err != nil {
		t.Fatal(err)
	}
}

// A peer's claim counts as proof until a moment after it was last heard.
func TestUnprovenAfterPeerClaim(t *testing.T) {
	w, owner, other := ownerAndOther(t)
	addr := w.address(w.groups[0])
	other.capabilities, other.needs[w.groups[0]] = 0, 1
	other.want(w.groups[0]) // which keeps it from taking over
	expectAddrs(t, "unproven while the owner lives", other.unproven(), nil)
	expectAddrs(t, "unproven for the owner", owner.unproven(), nil)
	owner.crash()
	w.pass(t, 4500*time.Millisecond)
	expectAddrs(t, "unproven a moment after its death", other.unproven(), nil)
	w.pass(t, time.Second)
	expectAddrs(t, "unproven later", other.unproven(), []netip.Addr{addr})
}

// A claim does not prove an address that the group got a moment ago.
func TestUnprovenNewAddress(t *testing.T) {
	w, _, other := ownerAndOther(t)
	old, added := w.address(w.groups[0]), netip.MustParseAddr("192.0.2.99")
	other.m.SetGroup(other.local(), w.groups[0], Desired{Addresses: []netip.Addr{old, added}, Candidates: w.names()})
	expectAddrs(t, "unproven", other.unproven(), []netip.Addr{added})
	w.pass(t, vouchDelay+200*time.Millisecond)
	expectAddrs(t, "unproven when the claim stood for a while", other.unproven(), nil)
}

func TestUnprovenPartialClaim(t *testing.T) {
	w, owner, other := ownerAndOther(t)
	owner.m.SetPartial(w.groups[0], true)
	w.pass(t, 200*time.Millisecond)
	expectAddrs(t, "unproven", other.unproven(), []netip.Addr{w.address(w.groups[0])})
	if owner.m.own.digest != other.m.claims[owner.name].digest {
		t.Error("the digest depends on whether a claim is partial: older speakers' would differ")
	}
	owner.m.SetPartial(w.groups[0], false)
	w.pass(t, 200*time.Millisecond)
	expectAddrs(t, "unproven when it answers for all", other.unproven(), nil)
	owner.m.SetPartial(w.groups[0], true)
	w.pass(t, 200*time.Millisecond)
	owner.crash()
	w.pass(t, 4*simInterval)
	if claim := other.m.own.claims[keyOf(w.groups[0])]; claim.term == 0 || !claim.partial {
		t.Errorf("who takes it over claims %+v, want a claim that is partial until it was asked", claim)
	}
}

// A taker that answered for some addresses makes the proof by the former owner void.
func TestUnprovenAfterPartialTaker(t *testing.T) {
	for _, dies := range []bool{true, false} {
		w := together(t, 3, 1, nil)
		first := w.owners(w.groups[0])[0]
		first.state = Leaving
		first.act()
		w.pass(t, 300*time.Millisecond)
		second := w.owners(w.groups[0])[0]
		second.m.SetPartial(w.groups[0], true)
		w.pass(t, 300*time.Millisecond)
		first.crash()
		if dies {
			second.crash()
		} else {
			second.state = Leaving
			second.act()
		}
		w.pass(t, 4*simInterval)
		third := w.owners(w.groups[0])[0]
		if third == first || third == second || len(third.asked) == 0 {
			t.Errorf("dies %v: %s takes over, and asks for %v; want the third, and that it asks",
				dies, third.name, third.asked)
		}
	}
}

func TestUnprovenAfterFreeze(t *testing.T) {
	w, owner, other := ownerAndOther(t)
	addr := w.address(w.groups[0])
	other.freeze()
	w.pass(t, 150*time.Millisecond) // a hello waits in its socket
	owner.freeze()
	w.pass(t, 6*time.Second)
	for _, n := range []*simNode{owner, other} {
		n.frozen = false
		n.m.BeginTick(n.local())
	}
	owner.m.SetAnswered(owner.local(), addr, false)
	for len(other.inbox) > 0 {
		_ = other.m.Hear(other.local(), other.inbox[0])
		other.inbox = other.inbox[1:]
	}
	expectAddrs(t, "unproven for who answered for it", owner.unproven(), []netip.Addr{addr})
	expectAddrs(t, "unproven for who heard that", other.unproven(), []netip.Addr{addr})
}

func TestUnprovenByMirror(t *testing.T) {
	w, owner, other := ownerAndOther(t)
	owner.crash()
	other.crash()
	w.pass(t, 500*time.Millisecond) // the mirror still shows the owner
	other.boot()
	if got := other.m.groups[keyOf(w.groups[0])].mirror.Node; got != owner.name {
		t.Fatalf("the mirror tells of %q, want %s", got, owner.name)
	}
	expectAddrs(t, "unproven", other.unproven(), []netip.Addr{w.address(w.groups[0])})
}

func TestUnprovenAfterOwnAnswer(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.1")
	m := NewMachine(Options{Node: "a", Boot: 1, Interval: simInterval, Listen: simListen, Handover: simHandover})
	m.SetGroup(at(0), "g", Desired{Addresses: []netip.Addr{addr}, Candidates: []string{"a"}})
	c := m.groups[keyOf("g")]
	expectAddrs(t, "unproven at first", m.unproven(at(0), c), []netip.Addr{addr})
	m.SetAnswered(at(1000), addr, true)
	expectAddrs(t, "unproven while answered for", m.unproven(at(60_000), c), nil)
	m.SetAnswered(at(60_000), addr, false)
	m.SetGroup(at(60_000), "g", Desired{})
	m.SetGroup(at(60_001), "h", Desired{Addresses: []netip.Addr{addr}, Candidates: []string{"a"}})
	c = m.groups[keyOf("h")]
	expectAddrs(t, "unproven in another group a moment later", m.unproven(at(65_000), c), nil)
	expectAddrs(t, "unproven later", m.unproven(at(65_001), c), []netip.Addr{addr})
	for n := range 1000 {
		a := netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})
		m.SetAnswered(at(70_000+10*n), a, true)
		m.SetAnswered(at(70_000+10*n), a, false)
	}
	if got := len(m.proofs.last); got > 600 {
		t.Errorf("remembers %d addresses, and 500 of them are a moment old", got)
	}
}
