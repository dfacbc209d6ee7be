package election

import (
	"net/netip"
	"testing"
	"time"
)

// ownerAndOther returns a world with one address, its owner and the other node.
func ownerAndOther(t *testing.T) (w *world, owner, other *simNode) {
	t.Helper()
	w = together(t, 2, 1, nil)
	owner, other = w.nodes[0], w.nodes[1]
	if other.answering(w.addresses[0]) {
		owner, other = other, owner
	}
	return w, owner, other
}

// expectUnproven checks whether the node would probe for the world's first address.
func (n *simNode) expectUnproven(t *testing.T, when string, want bool) {
	t.Helper()
	if got := n.m.unproven(n.local(), n.m.addresses[keyOf(n.w.addresses[0])]); got != want {
		t.Errorf("%s: to be probed %t, want %t", when, got, want)
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
	other.capabilities, other.needs[w.addresses[0]] = 0, 1
	other.want(w.addresses[0]) // which keeps it from taking over
	other.expectUnproven(t, "while the owner lives", false)
	owner.expectUnproven(t, "for the owner", false)
	owner.crash()
	w.pass(t, 4500*time.Millisecond)
	other.expectUnproven(t, "a moment after its death", false)
	w.pass(t, time.Second)
	other.expectUnproven(t, "later", true)
}

func TestUnprovenProbingClaim(t *testing.T) {
	w, owner, other := ownerAndOther(t)
	owner.m.setProbing(w.addresses[0], true)
	w.pass(t, 200*time.Millisecond)
	other.expectUnproven(t, "now", true)
	owner.m.setProbing(w.addresses[0], false)
	w.pass(t, 200*time.Millisecond)
	other.expectUnproven(t, "when it answers", false)
	owner.m.setProbing(w.addresses[0], true)
	w.pass(t, 200*time.Millisecond)
	owner.crash()
	w.pass(t, 4*simInterval)
	if claim := other.m.own.claims[keyOf(w.addresses[0])]; claim.term == 0 || !claim.probing {
		t.Errorf("the node that takes it over claims %+v, want that it is probing", claim)
	}
}

// A taker that does not answer yet makes the proof by the former owner void.
func TestUnprovenAfterProbingTaker(t *testing.T) {
	for _, dies := range []bool{true, false} {
		w := together(t, 3, 1, nil)
		first := w.owners(w.addresses[0])[0]
		first.state = Leaving
		first.act()
		w.pass(t, 300*time.Millisecond)
		second := w.owners(w.addresses[0])[0]
		second.m.setProbing(w.addresses[0], true)
		w.pass(t, 300*time.Millisecond)
		first.crash()
		if dies {
			second.crash()
		} else {
			second.state = Leaving
			second.act()
		}
		w.pass(t, 4*simInterval)
		third := w.owners(w.addresses[0])[0]
		if third == first || third == second || !third.asked {
			t.Errorf("dies %v: %s takes over, and probes: %v; want the third, and that it probes",
				dies, third.name, third.asked)
		}
	}
}

func TestUnprovenAfterFreeze(t *testing.T) {
	w, owner, other := ownerAndOther(t)
	addr := w.addresses[0]
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
	owner.expectUnproven(t, "for who answered for it", true)
	other.expectUnproven(t, "for who heard that", true)
}

func TestUnprovenByMirror(t *testing.T) {
	w, owner, other := ownerAndOther(t)
	owner.crash()
	other.crash()
	w.pass(t, 500*time.Millisecond) // the mirror still shows the owner
	other.boot()
	if got := other.m.addresses[keyOf(w.addresses[0])].mirror.Node; got != owner.name {
		t.Fatalf("the mirror tells of %q, want %s", got, owner.name)
	}
	other.expectUnproven(t, "now", true)
}

func TestUnprovenAfterOwnAnswer(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.1")
	m := NewMachine(Options{Node: "a", Boot: 1, Interval: simInterval, Listen: simListen, Handover: simHandover})
	wanted := Desired{Announced: true, Candidates: []string{"a"}}
	expect := func(when string, now time.Time, want bool) {
		t.Helper()
		if got := m.unproven(now, m.stateOf(keyOf(addr))); got != want {
			t.Errorf("%s: to be probed %t, want %t", when, got, want)
		}
	}
	m.SetDesired(at(0), addr, wanted)
	expect("at first", at(0), true)
	m.SetAnswered(at(1000), addr, true)
	expect("while answered for", at(60_000), false)
	m.SetAnswered(at(60_000), addr, false)
	m.SetDesired(at(60_000), addr, Desired{})
	m.SetDesired(at(60_001), addr, wanted)
	expect("when it is wanted again a moment later", at(65_000), false)
	expect("later", at(65_001), true)
	for n := range 1000 {
		a := netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})
		m.SetAnswered(at(70_000+10*n), a, true)
		m.SetAnswered(at(70_000+10*n), a, false)
	}
	if got := len(m.proofs.last); got > 600 {
		t.Errorf("remembers %d addresses, and 500 of them are a moment old", got)
	}
}

// A node that takes an address over knows since when nobody answers for it.
func TestVacancy(t *testing.T) {
	for _, c := range []struct {
		name        string
		leave       func(w *world, owner *simNode)
		least, most time.Duration
	}{
		{
			name:  "the owner dies",
			leave: func(_ *world, owner *simNode) { owner.crash() },
			least: 2 * simInterval, most: 5 * simInterval,
		},
		{
			name:  "the owner hands it over",
			leave: func(_ *world, owner *simNode) { owner.state = Leaving; owner.act() },
		},
	} {
		w, owner, other := ownerAndOther(t)
		c.leave(w, owner)
		w.pass(t, time.Second)
		if !other.answering(w.addresses[0]) {
			t.Fatalf("%s: the other node does not answer", c.name)
		}
		if other.vacant < c.least || other.vacant > c.most {
			t.Errorf("%s: the address was vacant for %s, want %s to %s", c.name, other.vacant, c.least, c.most)
		}
	}
	// Nobody had it: the time is that of the turns.
	w := together(t, 2, 1, nil)
	first := w.owners(w.addresses[0])[0]
	if first.vacant < 0 || first.vacant > 2*rankDelay {
		t.Errorf("a new address was vacant for %s, want at most %s", first.vacant, 2*rankDelay)
	}
}
