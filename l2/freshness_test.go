package l2

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// confirmedNodes returns twoNodes after a minute in which what they want was confirmed as the
// speaker does it, and whether each still hears from the API.
func confirmedNodes(t *testing.T, e *ether) (owner, other *fakeNode, ownerHears, otherHears *atomic.Bool) {
	t.Helper()
	owner, other = twoNodes(t, e)
	ownerHears, otherHears = owner.confirm(t), other.confirm(t)
	pass(time.Minute)
	return owner, other, ownerHears, otherHears
}

// confirm confirms what is desired every 3 s while the returned value is true.
func (n *fakeNode) confirm(t *testing.T) *atomic.Bool {
	t.Helper()
	var hears atomic.Bool
	hears.Store(true)
	n.Confirm(time.Now())
	ended := make(chan struct{})
	ticker := time.NewTicker(3 * time.Second)
	go func() {
		for {
			select {
			case <-ticker.C:
				if hears.Load() {
					n.Confirm(time.Now())
				}
			case <-ended:
				return
			}
		}
	}()
	t.Cleanup(func() {
		ticker.Stop()
		close(ended)
	})
	return &hears
}

// A node that lost the API, and only the API, gives its addresses to one that did not, without a
// gap. It takes nothing from that one.
func TestStaleOwnerIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		owner, other, hears, _ := confirmedNodes(t, e)
		expectEqual(t, "answered while both hear from the API by", e.whoHas(t, svc), []string{owner.mac})
		hears.Store(false)
		pass(14 * time.Second)
		expectEqual(t, "answered a little later by", e.whoHas(t, svc), []string{owner.mac})
		for range 60 {
			pass(100 * time.Millisecond)
			if got := e.whoHas(t, svc); len(got) != 1 {
				t.Fatalf("answered by %v, want one node", got)
			}
		}
		expectEqual(t, "answered after 20 s by", e.whoHas(t, svc), []string{other.mac})
		if !owner.Status().Segments[0].Outdated || other.Status().Segments[0].Outdated {
			t.Error("the status does not say which node is outdated")
		}
		pass(time.Hour)
		expectEqual(t, "answered an hour later by", e.whoHas(t, svc), []string{other.mac})
		// The node that knows better dies: an old picture of the API is better than none.
		other.kill()
		pass(time.Second)
		expectEqual(t, "answered when the other is dead by", e.whoHas(t, svc), []string{owner.mac})
		if owner.Status().Segments[0].Outdated {
			t.Error("it is outdated still, though no node knows better")
		}
		hears.Store(true)
		pass(time.Minute)
		expectEqual(t, "answered when the API is back by", e.whoHas(t, svc), []string{owner.mac})
	})
}

// A segment that ends while the node is outdated there is not outdated any longer.
func TestOutdatedSegmentEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		owner, _, hears, _ := confirmedNodes(t, e)
		owner.seen()
		hears.Store(false)
		pass(20 * time.Second)
		owner.system.set(func(f *fakeSystem) { f.link.Addrs = nil })
		pass(time.Second)
		var kinds []Kind
		for _, o := range owner.seen() {
			if o.Kind == Outdated || o.Kind == UpToDate {
				kinds = append(kinds, o.Kind)
			}
		}
		expectEqual(t, "observed", kinds, []Kind{Outdated, UpToDate})
	})
}

// When no node hears from the API, nothing changes, though they do not lose it at the same moment.
// Nor does anything when one hears from it again before another does.
func TestNothingMovesWithoutAPI(t *testing.T) {
	for _, lag := range []time.Duration{0, time.Second, 3 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			e := &ether{}
			owner, other, first, second := confirmedNodes(t, e)
			first.Store(false)
			pass(lag)
			second.Store(false)
			for range 100 {
				pass(time.Second)
				if got := e.whoHas(t, svc); !slices.Equal(got, []string{owner.mac}) {
					t.Fatalf("%s apart: answered by %v, want %s", lag, got, owner.mac)
				}
			}
			second.Store(true)
			for range 55 {
				pass(time.Second)
				if got := e.whoHas(t, svc); !slices.Equal(got, []string{owner.mac}) || owner.Status().Segments[0].Outdated {
					t.Fatalf("%s apart: answered by %v while the other is back, want %s, up to date", lag, got, owner.mac)
				}
			}
			if lag > 0 {
				first.Store(true)
				pass(time.Minute)
				expectEqual(t, "answered when both are back by", e.whoHas(t, svc), []string{owner.mac})
				return
			}
			// The owner had the time, so it has lost the API for itself.
			pass(20 * time.Second)
			expectEqual(t, "answered when the owner had its time by", e.whoHas(t, svc), []string{other.mac})
		})
	}
}

// An address of a Service that is gone is given to another Service while its owner does not hear
// from the API: the node that knows does not wait for it.
func TestReusedAddressOfStaleOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		_, other, hears, _ := confirmedNodes(t, e)
		hears.Store(false)
		pass(5 * time.Second)
		other.Sync(svc4, Desired{})
		pass(time.Minute) // the address rests
		other.Sync(svc4, by(other.config.Node))
		pass(time.Second)
		expectEqual(t, "answered by", e.whoHas(t, svc), []string{other.mac})
	})
}

// A node that never lost the API takes back at once what a stale one took while its own segment was
// away: the segment is new, and what the node knows is not.
func TestNewSegmentOfAFreshNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		owner, other, hears, _ := confirmedNodes(t, e)
		hears.Store(false)
		pass(time.Minute)
		expectEqual(t, "answered by", e.whoHas(t, svc), []string{other.mac})
		var addresses []netip.Addr
		other.system.set(func(f *fakeSystem) { addresses, f.link.Addrs = f.link.Addrs, nil })
		pass(3 * time.Second)
		expectEqual(t, "answered without the other by", e.whoHas(t, svc), []string{owner.mac})
		other.system.set(func(f *fakeSystem) { f.link.Addrs = addresses })
		pass(5 * time.Second)
		expectEqual(t, "answered when the other is back by", e.whoHas(t, svc), []string{other.mac})
	})
}
