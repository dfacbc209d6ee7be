package l2

import (
	"net/netip"
	"slices"
	"time"
)

// ownership decides, on one segment, which groups this node answers for. It has no clock and no socket: each
// method takes the time, and returns the moves to carry out, in order. Times must not go backwards.
//
// The owner of a group is the candidate of highest weight among those Ready on the segment. What differs
// from a plain election is how a group is lost: to a node that is alive it is handed over, and answered for
// until the new owner was heard, at most for the handover time. A moment with two answers breaks nothing,
// a moment with none does.
type ownership struct {
	self     string
	handover time.Duration

	// What decides, beside the groups themselves.
	eligible  bool // this node may own groups
	departing bool // this node wants to be relieved of them
	ready     func(node string) bool

	claims  map[string]*claim
	handing []handing // in the order of their ends: all last equally long
	owned   int
	pending int // claims in phase handingOver
}

type phase uint8

const (
	idle        phase = iota
	answering         // this node owns the group, or nobody else can
	handingOver       // another owns it, and has not been heard yet
)

type claim struct {
	addresses  []netip.Addr
	candidates []string
	owner      string
	phase      phase
	until      time.Time // end of handingOver
	rival      string    // the peer that last announced one of the addresses
	rivalAt    time.Time
}

type handing struct {
	group string
	until time.Time
}

// move is one thing to carry out.
type move struct {
	kind  moveKind
	group string
	owner string // after the move; empty: nobody
	cause Cause
	addrs []netip.Addr
}

type moveKind uint8

const (
	start    moveKind = iota // answer from now on, and announce
	announce                 // announce again: what the segment believes may be stale
	stop                     // answer no more
	expect                   // addresses were set or replaced: know them
	forget                   // addresses are none of ours any more
)

func newOwnership(self string, handover time.Duration, ready func(string) bool) *ownership {
	return &ownership{self: self, handover: handover, ready: ready, claims: make(map[string]*claim)}
}

// set replaces what is wanted of one group. No addresses: the group is not announced here.
func (o *ownership) set(now time.Time, group string, addresses []netip.Addr, candidates []string) []move {
	c, known := o.claims[group]
	if len(addresses) == 0 {
		if !known {
			return nil
		}
		return o.remove(group, c)
	}
	var moves []move
	if !known {
		c = &claim{}
		o.claims[group] = c
	}
	changed := !slices.Equal(c.addresses, addresses)
	if changed {
		c.addresses = addresses
		moves = append(moves, move{kind: expect, group: group, addrs: addresses})
	}
	c.candidates = candidates
	decided := o.decide(now, group, c, Configured)
	if changed && c.phase == answering && len(decided) == 0 {
		decided = append(decided, move{kind: announce, group: group, owner: o.self, cause: Configured, addrs: addresses})
	}
	return append(moves, decided...)
}

func (o *ownership) remove(group string, c *claim) []move {
	var moves []move
	if c.phase != idle {
		moves = append(moves, o.halt(group, c, Removed))
	}
	delete(o.claims, group)
	return append(moves, move{kind: forget, group: group})
}

// stand says whether this node may own groups, and whether it wants to be relieved.
func (o *ownership) stand(now time.Time, eligible, departing bool, cause Cause) []move {
	if o.eligible == eligible && o.departing == departing {
		return nil
	}
	o.eligible, o.departing = eligible, departing
	return o.reconsider(now, cause)
}

// reconsider decides every group anew, after the peers changed.
func (o *ownership) reconsider(now time.Time, cause Cause) []move {
	var moves []move
	for group, c := range o.claims {
		moves = append(moves, o.decide(now, group, c, cause)...)
	}
	return moves
}

// heard takes a peer's announcement of an address of the group.
func (o *ownership) heard(now time.Time, group, peer string) []move {
	c, ok := o.claims[group]
	if !ok {
		return nil
	}
	c.rival, c.rivalAt = peer, now
	// While departing, whoever announces is a taker, also where our view does not know it as one yet.
	if c.phase == handingOver || c.phase == answering && o.departing {
		c.owner = peer
		return []move{o.halt(group, c, HandedOver)}
	}
	return nil
}

// advance ends the handovers whose time is over.
func (o *ownership) advance(now time.Time) []move {
	var moves []move
	for len(o.handing) > 0 && !now.Before(o.handing[0].until) {
		h := o.handing[0]
		o.handing = o.handing[1:]
		if c, ok := o.claims[h.group]; ok && c.phase == handingOver && c.until.Equal(h.until) {
			moves = append(moves, o.halt(h.group, c, HandoverTimeout))
		}
	}
	return moves
}

// next is when advance has something to do; the zero time: never.
func (o *ownership) next() time.Time {
	if len(o.handing) == 0 {
		return time.Time{}
	}
	return o.handing[0].until
}

// drop stops everything at once: the interface is gone, nothing can be handed over on it.
func (o *ownership) drop(cause Cause) []move {
	var moves []move
	for group, c := range o.claims {
		c.owner = ""
		if c.phase != idle {
			moves = append(moves, o.halt(group, c, cause))
		}
	}
	return moves
}

// repeat announces everything that is answered for.
func (o *ownership) repeat(cause Cause) []move {
	var moves []move
	for group, c := range o.claims {
		if c.phase == answering {
			moves = append(moves, move{kind: announce, group: group, owner: o.self, cause: cause, addrs: c.addresses})
		}
	}
	return moves
}

func (o *ownership) decide(now time.Time, group string, c *claim, cause Cause) []move {
	c.owner = choose(group, c.candidates, o.may)
	switch {
	case c.owner == o.self:
		return o.take(group, c, cause)
	case c.phase == idle:
		return nil
	case c.owner == "" && o.departing:
		// Nobody can take it: answer as long as there is someone to answer.
		o.enter(c, answering)
		return nil
	case c.owner != "" && c.rival == c.owner && now.Sub(c.rivalAt) < o.handover:
		return []move{o.halt(group, c, HandedOver)} // it was faster than our view
	case c.phase == answering:
		o.enter(c, handingOver)
		c.until = now.Add(o.handover)
		o.handing = append(o.handing, handing{group, c.until})
	}
	return nil
}

func (o *ownership) take(group string, c *claim, cause Cause) []move {
	was := c.phase
	o.enter(c, answering)
	switch was {
	case idle:
		c.rival = "" // what was heard before is history
		return []move{{kind: start, group: group, owner: o.self, cause: cause, addrs: c.addresses}}
	case handingOver: // the other may have announced it meanwhile
		return []move{{kind: announce, group: group, owner: o.self, cause: cause, addrs: c.addresses}}
	case answering:
	}
	return nil
}

func (o *ownership) halt(group string, c *claim, cause Cause) move {
	o.enter(c, idle)
	return move{kind: stop, group: group, owner: c.owner, cause: cause, addrs: c.addresses}
}

// enter keeps the counts beside the phase.
func (o *ownership) enter(c *claim, p phase) {
	count := func(p phase, n int) {
		switch p {
		case answering:
			o.owned += n
		case handingOver:
			o.pending += n
		case idle:
		}
	}
	count(c.phase, -1)
	count(p, +1)
	c.phase = p
}

func (o *ownership) may(node string) bool {
	if node == o.self {
		return o.eligible
	}
	return o.ready(node)
}
