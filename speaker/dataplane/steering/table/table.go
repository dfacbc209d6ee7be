// Package table ranks nodes for steering: which node takes a packet, and which one is asked next.
//
// A table has slots; the hash of a packet selects one. A slot ranks up to four nodes by weighted
// rendezvous hashing (Schindelhauer and Schomaker, "Weighted Distributed Hash Tables", 2005): each
// node has a score in each slot that depends on its name and weight alone, and the best score is
// first. So every speaker computes the same table from the same endpoints, a change moves the slots
// that it must and no others, and the node that was first before a change is among the next.
//
// The package is pure: no clock, no I/O.
package table

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

const (
	// Ranks is how many nodes a slot ranks.
	Ranks = 4
	// MaxWeight is the largest weight that counts; larger ones are taken for it. A kubelet runs a
	// few hundred pods at most.
	MaxWeight = 1 << 16
	// Slots is how many slots a table has: with three nodes shares scatter by 2 %, with a hundred
	// by 11 %. It is the same for all, as a Service's connections would all move with its number of
	// slots.
	Slots = 4096
)

// Member is a node with endpoints of a Service.
type Member struct {
	Node string
	// Weight is the number of its ready endpoints, or if it drains of those that still serve. At
	// least 1.
	Weight int
	// Draining: the node gets no new connections, and keeps those that it has.
	Draining bool
}

// Members in the order of their names, ready to be compared.
type Members []Member

// Normalize returns members by which all speakers compute the same table: in order, one for each
// node, with weights within bounds. Members without weight are left out. If all drain, none does:
// kube-proxy gives new connections to endpoints that terminate if there are no others.
func Normalize(members []Member) Members {
	kept := make(Members, 0, len(members))
	draining := 0
	for _, m := range members {
		if m.Weight <= 0 || m.Node == "" {
			continue
		}
		m.Weight = min(m.Weight, MaxWeight)
		kept = append(kept, m)
	}
	slices.SortStableFunc(kept, func(a, b Member) int { return cmp.Compare(a.Node, b.Node) })
	kept = slices.CompactFunc(kept, func(a, b Member) bool { return a.Node == b.Node })
	for _, m := range kept {
		if m.Draining {
			draining++
		}
	}
	if draining == len(kept) {
		for i := range kept {
			kept[i].Draining = false
		}
	}
	return kept
}

// Slot is the ranking of one slot: indices of a Table's Members, best first; None after the last.
type Slot [Ranks]uint16

// None is the rank that nobody has.
const None = 0xffff

// Table is the ranking of a Service's nodes in every slot. It does not change once built.
type Table struct {
	Members Members
	Slots   []Slot
}

// First returns the member that gets a slot's new connections: the best one that does not drain.
// None: there is none.
func (t *Table) First(slot int) uint16 {
	for _, m := range t.Slots[slot] {
		if m != None && !t.Members[m].Draining {
			return m
		}
	}
	return None
}

// Ranking returns the members that a slot ranks, best first.
func (t *Table) Ranking(slot int) Members {
	var ranked Members
	for _, m := range t.Slots[slot] {
		if m != None {
			ranked = append(ranked, t.Members[m])
		}
	}
	return ranked
}

// Shares returns in how many slots each member is first.
func (t *Table) Shares() []int {
	shares := make([]int, len(t.Members))
	for i := range t.Slots {
		if m := t.First(i); m != None {
			shares[m]++
		}
	}
	return shares
}

// What Check finds wrong.
var (
	// ErrNobody is of a table that sends a packet to nobody.
	ErrNobody = errors.New("the table sends packets to no node")
	// ErrOneSided is of a table that sends all packets to one node though several have endpoints.
	ErrOneSided = errors.New("the table sends all packets to one node")
)

// expectedSlots is how many slots the others should have for it to be a mistake that they have
// none. Below, it may be chance: a node with one endpoint beside one with hundreds.
const expectedSlots = 16

// Check refuses a table that cannot be right, wherever it came from. first returns the node that is
// first in each slot, by any number, and negative for none; members are those it was built of.
func Check(members Members, first func(slot int) int, slots int) error {
	used := map[int]int{}
	for i := range slots {
		n := first(i)
		if n < 0 {
			return fmt.Errorf("%w in slot %d of %d", ErrNobody, i, slots)
		}
		used[n]++
	}
	if len(used) == 0 {
		return fmt.Errorf("%w: it has no slots", ErrNobody)
	}
	total, heaviest, ready := 0, 0, 0
	for _, m := range members {
		if !m.Draining {
			ready++
			total += m.Weight
			heaviest = max(heaviest, m.Weight)
		}
	}
	if len(used) == 1 && ready > 1 && (total-heaviest)*slots >= expectedSlots*total {
		return fmt.Errorf("%w, but %d have ready endpoints", ErrOneSided, ready)
	}
	return nil
}
