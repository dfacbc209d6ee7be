package decide

import "strconv"

// Action is what becomes of a packet.
type Action uint8

// Actions.
const (
	Pass  Action = iota // it is left to the kernel here, and so to kube-proxy
	Steer               // it goes to another node
	Drop
)

// Reason says why. The numbers are in the program's counters.
type Reason uint16

// Reasons.
const (
	First        Reason = iota + 1 // steered to the first in rank
	Corrected                      // steered to the first in rank, as the sender has another table
	Second                         // steered to whom may know the connection: the second chance
	Returned                       // steered to the first in rank, as nobody knows the connection
	Local                          // here: this node is first in rank, or the connection is new
	Known                          // here: conntrack knows the connection
	Unknown                        // here: nobody knows the connection
	Exhausted                      // here: the packet was forwarded too often
	Unsettled                      // dropped: nobody knows the connection, but tables have just changed
	TooBig                         // not sent: encapsulated, it would be larger than the path takes; its sender is told
	NoPath                         // here: the node has no address of the packet's family
	Source                         // here: loadBalancerSourceRanges do not have the source
	NoTable                        // here: the maps have no table, or nobody in it
	Decapsulated                   // came encapsulated; counted beside one of the others
)

var reasons = [...]string{
	First: "first", Corrected: "corrected", Second: "second_chance", Returned: "returned", Local: "local",
	Known: "known", Unknown: "unknown", Exhausted: "exhausted", Unsettled: "unsettled", TooBig: "too_big",
	NoPath: "no_path", Source: "source", NoTable: "no_table", Decapsulated: "decapsulated",
}

// String returns the reason as metrics have it.
func (r Reason) String() string {
	if r > 0 && int(r) < len(reasons) {
		return reasons[r]
	}
	return "reason_" + strconv.Itoa(int(r))
}

// class is how often a packet was forwarded, and as what. Its TTL carries it.
type class uint8

const (
	fresh     class = iota // from a client, or a router
	toFirst                // to the first in rank
	corrected              // to the first in rank, which may have to ask others and not know it
	second                 // to the second chance
	third
	last
)

func classOf(ttl uint8) class {
	switch {
	case ttl > 24:
		return fresh
	case ttl <= 8:
		return last
	}
	return class(7 - (ttl+3)>>2)
}

// View is what is known about a packet.
type View struct {
	Slot Slot
	// Self is the node that has the packet.
	Self uint16
	// Alive reports for each rank whether its node is not thought dead, Returned whether it was,
	// lately, Dead whether it is dead, beyond doubt.
	Alive, Returned, Dead [Ranks]bool
	TTL                   uint8
	// Local: this node has ready endpoints.
	Local bool
	// Chance: the packet is from the middle of a connection, and the Service's protocol has a
	// second chance.
	Chance bool
	// Held: tables have just changed, and the sender would try again (TCP).
	Held bool
	// Bounces: what nobody knows ends at the first in rank, even if endpoints are here (UDP).
	Bounces bool
}

// Verdict is what the program does.
type Verdict struct {
	Action Action
	Reason Reason
	// Node is where the packet goes; Self if it is not steered.
	Node uint16
	// TTL is what the packet has then.
	TTL uint8
}

// order is who gets the packet.
type order struct {
	first uint16 // gets what is new
	moved bool
	// returned: the first was thought dead lately, which it need not know itself.
	returned bool
}

func (v View) up(rank int) bool {
	n, _ := v.Slot.At(rank)
	return v.Alive[rank] || n == v.Self
}

func (v View) order() order {
	o := order{first: Nobody, moved: v.Slot.Moved()}
	fallback := uint16(Nobody)
	for i := range Ranks {
		n, drains := v.Slot.At(i)
		if n == Nobody || drains {
			continue
		}
		if fallback == Nobody {
			fallback, o.returned = n, v.Returned[i]
		}
		if o.first == Nobody && v.up(i) {
			o.first = n
		}
	}
	if o.first == Nobody { // all are suspected: more likely it is this node that is ill
		o.first = fallback
	}
	o.moved = o.moved || o.returned || o.first != fallback
	return o
}

// others are whom a node asks about a connection that it does not know.
type others struct {
	next uint16 // in rank
	dead uint16 // when nobody else is left
	// ranked is how many nodes may know a connection, with the first and this one.
	ranked int
}

// others finds whom this node asks: the next one in rank, and after the last one the best.
// Suspects have their turn, so that nodes which suspect different ones leave nobody out. A dead
// node is asked last, or not at all what may be new (UDP), since it would end there. A node that
// is not ranked goes by how many were asked before it.
func (v View) others(o order) others {
	w := others{next: Nobody, dead: Nobody}
	var ring [Ranks]uint16
	self, first := Ranks, 0
	for i := range Ranks {
		n, _ := v.Slot.At(i)
		switch {
		case n == Nobody:
			continue
		case n == v.Self:
			self = w.ranked
		case n == o.first:
			first = w.ranked
		case v.Dead[i]:
			if w.dead == Nobody && !v.Bounces {
				w.dead = n
			}
			continue
		}
		ring[w.ranked] = n
		w.ranked++
	}
	switch {
	case self == Ranks && w.ranked > 0:
		w.next = ring[(first+max(1, v.asked()))%w.ranked]
	case w.ranked > 1:
		w.next = ring[(self+1)%w.ranked]
	}
	return w
}

// AsksConntrack reports whether the verdict depends on whether this node knows the connection.
func (v View) AsksConntrack() bool {
	o, c := v.order(), classOf(v.TTL)
	switch {
	case !v.Chance || o.first == Nobody:
		return false
	case c == last:
		return true
	case o.first == v.Self:
		return o.moved || c >= corrected
	}
	return c != fresh
}

// Decide returns the verdict. Known says whether this node's conntrack knows the connection; it
// does not matter unless AsksConntrack.
func (v View) Decide(known bool) Verdict {
	o, c := v.order(), classOf(v.TTL)
	mine := o.first == v.Self
	switch {
	case o.first == Nobody:
		return v.here(NoTable)
	case c == last:
		return v.end(o, known)
	case c == fresh && !mine && o.returned:
		return to(o.first, corrected, First)
	case c == fresh && !mine:
		return to(o.first, toFirst, First)
	case !v.Chance && (mine || v.Local), v.Chance && mine && !o.moved && c < corrected:
		return v.here(Local)
	case !v.Chance:
		return to(o.first, c+1, Corrected)
	case known:
		return v.here(Known)
	}
	return v.ask(o, c)
}

// lowestThird is the TTL at which a packet goes to no further node that may know its connection.
const (
	lowestThird  = 9
	highestThird = 12
)

// asked is how many nodes were asked that are not the first, by the one that asked first. This one
// is one of them.
func (v View) asked() int {
	switch classOf(v.TTL) {
	case second:
		return 1
	case third:
		return 2 + int(highestThird-v.TTL)
	}
	return 0
}

// ask returns the verdict on a packet in the middle of a connection that this node does not know.
// The first asks the next in rank, that one the next, and so on, by falling TTLs of one class,
// until all were asked that are not the first.
func (v View) ask(o order, c class) Verdict {
	mine := o.first == v.Self
	if !mine && c < second {
		return to(o.first, c+1, Corrected)
	}
	w := v.others(o)
	switch {
	case w.next != Nobody && v.left(o, w):
		return v.further(w.next, c)
	case w.dead != Nobody && v.TTL > lowestThird:
		return v.further(w.dead, c)
	case v.Held, mine && c >= second && !v.Bounces:
		// In the second case another node is the first, by its table, so tables have just changed.
		return v.drop()
	case !mine: // nobody who was asked knows it; the first may by now, or it answers
		return to(o.first, last, Returned)
	}
	return v.here(Unknown)
}

// left reports whether one more is to be asked than were. After the last one that is the first,
// which may not be the one that asked first, and then once more the one after it: a node that has
// not heard that it joined is not in its own table, and guesses its turn. Of two nodes none is
// left out.
func (v View) left(o order, w others) bool {
	asked := v.asked()
	return asked < w.ranked-1 || asked < w.ranked && w.ranked > 2 || asked <= w.ranked && w.next != o.first
}

// further sends a packet to the next one that may know its connection.
func (v View) further(node uint16, c class) Verdict {
	switch {
	case c < second:
		return to(node, second, Second)
	case c == second:
		return to(node, third, Second)
	}
	return Verdict{Steer, Second, node, v.TTL - 1}
}

// end returns the verdict on a packet that was forwarded as often as it may be, or that came from a
// client far away: it still gets to the first, by falling TTLs.
func (v View) end(o order, known bool) Verdict {
	mine := o.first == v.Self
	switch {
	case v.Chance && known:
		return v.here(Known)
	case v.Chance && mine && v.Held:
		return v.drop()
	case mine, !v.Chance && v.Local, v.TTL <= 1 && (!v.Chance || v.Bounces):
		return v.here(Exhausted)
	case v.Bounces && v.Local && v.TTL <= 2: // of two that disagree one has pods, perhaps
		return v.here(Exhausted)
	case v.TTL <= 1: // tables differ, and each node thinks another one the first
		return v.drop()
	}
	return Verdict{Steer, Corrected, o.first, v.TTL - 1}
}

func (v View) drop() Verdict { return Verdict{Drop, Unsettled, v.Self, v.TTL} }

func (v View) here(why Reason) Verdict { return Verdict{Pass, why, v.Self, v.TTL} }

func to(node uint16, c class, why Reason) Verdict {
	return Verdict{Steer, why, node, uint8(28 - 4*c)}
}
