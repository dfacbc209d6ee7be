package heart

import (
	"errors"
	"io/fs"
	"net/netip"
	"time"

	"github.com/berth-lb/berth/bgp/bfd"
	"github.com/berth-lb/berth/internal/keptfile"
	"github.com/berth-lb/berth/l2"
)

const (
	// keepEvery bounds how often the state is written.
	keepEvery = 2 * time.Second
	// forgetAfter is how old the state may be. Peers that hear from the API take over long before
	// that; this is for the case that nobody does.
	forgetAfter = 24 * time.Hour
)

// orders are all orders that count.
type orders struct {
	Identity     Identity
	Keys         l2.Keys
	Capabilities l2.Capabilities
	Nodes        map[string][]netip.Addr
	State        l2.State
	Paths        []bfd.Peer
	Confirmed    time.Duration // of CLOCK_BOOTTIME, when what is desired was up to date; 0: never

	desired, next map[netip.Addr]l2.Desired
	mirrored      map[mirrorKey]l2.Claim
}

func newOrders() orders {
	return orders{desired: map[netip.Addr]l2.Desired{}, mirrored: map[mirrorKey]l2.Claim{}}
}

// apply takes an order.
func (s *orders) apply(o *order) {
	if o.Keys != nil {
		s.Keys = *o.Keys
	}
	if o.Capabilities != nil {
		s.Capabilities = *o.Capabilities
	}
	if o.Nodes != nil {
		s.Nodes = o.Nodes
	}
	if o.Confirmed != nil {
		s.Confirmed = max(keptfile.SinceBoot()-*o.Confirmed, 1)
	}
	if o.MirrorLost {
		clear(s.mirrored)
	}
	for _, c := range o.Mirrored {
		if key := (mirrorKey{c.Address, c.Segment}); c.Node == "" {
			delete(s.mirrored, key)
		} else {
			s.mirrored[key] = c
		}
	}
	for a, w := range o.Desired {
		if d := w.desired(o.Terms); d.Announced {
			s.desired[a] = d
		} else {
			delete(s.desired, a)
		}
	}
	if o.NewNext {
		s.next = map[netip.Addr]l2.Desired{}
		for a, w := range o.Next {
			s.next[a] = w.desired(o.Terms)
		}
	}
}

// kept is the state as a file. What is next and what is mirrored is left out: both are about what
// the API says at the moment.
type kept struct {
	orders
	Contact l2.Past
	Terms   []terms
	Desired map[netip.Addr]wish
}

const keptVersion = 1

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// writeState writes the state, so that a reader has all of it or what was there before.
func (h *Heart) writeState() (written bool, err error) {
	h.mu.Lock()
	if !h.named.complete && h.line != nil || h.driver == nil {
		h.mu.Unlock()
		return false, nil // the speaker has not said everything yet
	}
	k := kept{orders: h.orders, Contact: h.driver.Past(), Desired: map[netip.Addr]wish{}}
	set := newTermSet()
	for a, d := range h.orders.desired {
		k.Desired[a] = set.wish(d)
	}
	h.mu.Unlock()
	k.Terms = set.all
	return true, keptfile.Write(h.StateFile, keptVersion, k)
}

// recall begins with the orders of the process before, if they are of this boot and young enough.
func (h *Heart) recall() {
	if h.StateFile == "" {
		return
	}
	var k kept
	age, err := keptfile.Read(h.StateFile, keptVersion, forgetAfter, &k)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		h.Logger.Warn("the state of the process before is not used", "error", err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.identify(k.Identity); err != nil {
		h.Logger.Warn("the state of the process before is not used", "error", err)
		return
	}
	o := order{
		Keys: &k.Keys, Capabilities: &k.Capabilities, Nodes: k.Nodes,
		Terms: k.Terms, Desired: k.Desired,
	}
	h.driver.Recall(k.Contact, age)
	h.apply(&o)
	h.orders.State, h.orders.Paths, h.orders.Confirmed = k.State, k.Paths, k.Confirmed
	h.engine.Sync(k.Paths)
	h.driver.SetState(k.State)
	h.run()
	h.Logger.Info(
		"going on with what the speaker wanted of the process before",
		"addresses",
		len(k.Desired),
		"age",
		age,
	)
}
