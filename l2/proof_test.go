package l2

import (
	"net/netip"
	"testing"
	"time"
)

// ownerAndOther returns a world with one group, and who owns it first.
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
	return n.m.unproven(n.local(), n.m.contests[keyOf(n.w.groups[0])])
}

func (w *world) pass(t *testing.T, d time.Duration) {
	t.Helper()
	if err := w.run(d, nil); err != nil {
		t.Fatal(err)
	}
}

func TestWhatAPeerClaimsIsProvenUntilAMomentAfterItWasHeardLast(t *testing.T) {
	w, owner, other := ownerAndOther(t)
	addr := w.address(w.groups[0])
	other.capabilities, other.needs[w.groups[0]] = 0, 1
	other.want(w.groups[0]) // which keeps it from taking over
	expectEqual(t, "unproven while the owner lives", other.unproven(), nil)
	expectEqual(t, "unproven for the owner", owner.unproven(), nil)
	owner.crash()
	w.pass(t, 4500*time.Millisecond)
	expectEqual(t, "unproven a moment after its death", other.unproven(), nil)
	w.pass(t, time.Second)
	expectEqual(t, "unproven later", other.unproven(), []netip.Addr{addr})
}

func TestAnAddressThatCameToAGroupAMomentAgoIsNotProvenByAClaim(t *testing.T) {
	w, _, other := ownerAndOther(t)
	old, added := w.address(w.groups[0]), netip.MustParseAddr("192.0.2.99")
	other.m.set(other.local(), w.groups[0], Desired{Addresses: []netip.Addr{old, added}, Candidates: w.names()})
	expectEqual(t, "unproven", other.unproven(), []netip.Addr{added})
	w.pass(t, vouchAfter+200*time.Millisecond)
	expectEqual(t, "unproven when the claim stood for a while", other.unproven(), nil)
}

func TestAClaimForSomeOfTheAddressesProvesNone(t *testing.T) {
	w, owner, other := ownerAndOther(t)
	owner.m.partially(w.groups[0], true)
	w.pass(t, 200*time.Millisecond)
	expectEqual(t, "unproven", other.unproven(), []netip.Addr{w.address(w.groups[0])})
	if owner.m.own.digest != other.m.peers[owner.name].digest {
		t.Error("the digest tells whether a claim is partial: older speakers' would differ")
	}
	owner.m.partially(w.groups[0], false)
	w.pass(t, 200*time.Millisecond)
	expectEqual(t, "unproven when it answers for all", other.unproven(), nil)
	owner.m.partially(w.groups[0], true)
	w.pass(t, 200*time.Millisecond)
	owner.crash()
	w.pass(t, 4*simInterval)
	if claim := other.m.own.claims[keyOf(w.groups[0])]; claim.term == 0 || !claim.partial {
		t.Errorf("who takes it over claims %+v, want a claim that is partial until it was asked", claim)
	}
}

func TestATakerThatAnsweredForSomeOutdatesWhatItsForerunnerProved(t *testing.T) {
	for _, dies := range []bool{true, false} {
		w := together(t, 3, 1, nil)
		first := w.owners(w.groups[0])[0]
		first.state = Leaving
		first.act()
		w.pass(t, 300*time.Millisecond)
		second := w.owners(w.groups[0])[0]
		second.m.partially(w.groups[0], true)
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
			t.Errorf("dies %v: %s takes over, and asks for %v; want the third, and that it asks", dies, third.name, third.asked)
		}
	}
}

func TestWhatAProcessBelievedBeforeItFrozeIsNoProof(t *testing.T) {
	w, owner, other := ownerAndOther(t)
	addr := w.address(w.groups[0])
	other.freeze()
	w.pass(t, 150*time.Millisecond) // a hello waits in its socket
	owner.freeze()
	w.pass(t, 6*time.Second)
	for _, n := range []*simNode{owner, other} {
		n.frozen = false
		n.m.wake(n.local())
	}
	owner.m.answered(owner.local(), addr, false)
	for len(other.inbox) > 0 {
		_ = other.m.hear(other.local(), other.inbox[0])
		other.inbox = other.inbox[1:]
	}
	expectEqual(t, "unproven for who answered for it", owner.unproven(), []netip.Addr{addr})
	expectEqual(t, "unproven for who heard that", other.unproven(), []netip.Addr{addr})
}

func TestWhatTheMirrorTellsIsNoProof(t *testing.T) {
	w, owner, other := ownerAndOther(t)
	owner.crash()
	other.crash()
	w.pass(t, 500*time.Millisecond) // the mirror tells of the owner still
	other.boot()
	if got := other.m.contests[keyOf(w.groups[0])].mirror.Node; got != owner.name {
		t.Fatalf("the mirror tells of %q, want %s", got, owner.name)
	}
	expectEqual(t, "unproven", other.unproven(), []netip.Addr{w.address(w.groups[0])})
}

func TestWhatThisNodeAnsweredForIsProvenForAMoment(t *testing.T) {
	m := newMachine("a", 1, simInterval, simListen, simHandover, nil)
	m.set(epoch, "g", Desired{Addresses: []netip.Addr{held4}, Candidates: []string{"a"}})
	c := m.contests[keyOf("g")]
	expectEqual(t, "unproven at first", m.unproven(epoch, c), []netip.Addr{held4})
	m.answered(after(1000), held4, true)
	expectEqual(t, "unproven while answered for", m.unproven(after(60_000), c), nil)
	m.answered(after(60_000), held4, false)
	m.set(after(60_000), "g", Desired{})
	m.set(after(60_001), "h", Desired{Addresses: []netip.Addr{held4}, Candidates: []string{"a"}})
	c = m.contests[keyOf("h")]
	expectEqual(t, "unproven in another group a moment later", m.unproven(after(65_000), c), nil)
	expectEqual(t, "unproven later", m.unproven(after(65_001), c), []netip.Addr{held4})
	for n := range 1000 {
		a := addr4(10<<24 + uint32(n))
		m.answered(after(70_000+10*n), a, true)
		m.answered(after(70_000+10*n), a, false)
	}
	if got := len(m.proofs.last); got > 600 {
		t.Errorf("remembers %d addresses of which 500 are a moment old", got)
	}
}
