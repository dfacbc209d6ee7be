package steering

import (
	"slices"

	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
	"github.com/berth-lb/berth/speaker/dataplane/steering/table"
)

// keep returns a slot that ranks after its own first nodes those that were first in it before: they
// may have connections, which growth by more nodes than a slot ranks would push out. Who is first,
// and who takes its place, is the same without it, so nodes that remember different things agree on
// that. Before are the tables that it had; drains has all members, and whether they drain.
func keep(slot decide.Slot, before []decide.Slot, drains map[uint16]bool) decide.Slot {
	var ranks, was []uint16
	add := func(to []uint16, n uint16) []uint16 {
		if _, member := drains[n]; member && !slices.Contains(to, n) {
			to = append(to, n)
		}
		return to
	}
	for _, old := range before {
		was = add(was, old.First())
		for i := range decide.Ranks {
			if old.Was(i) {
				n, _ := old.At(i)
				was = add(was, n)
			}
		}
	}
	for i := range decide.Ranks {
		if n, _ := slot.At(i); i < 2 || !slices.Contains(ranks, slot.First()) {
			ranks = add(ranks, n)
		}
	}
	for _, n := range was {
		ranks = add(ranks, n)
	}
	for i := range decide.Ranks {
		n, _ := slot.At(i)
		ranks = add(ranks, n)
	}
	kept := decide.NoSlot.WithMoved(slot.Moved())
	for i, n := range ranks[:min(len(ranks), decide.Ranks)] {
		kept = kept.With(i, n, drains[n])
		if i > 0 && n != slot.First() && slices.Contains(was, n) {
			kept = kept.WithWas(i)
		}
	}
	return kept
}

// inOrder returns a slot whose ranks after those that decide who gets a connection are in an order
// that does not depend on what this node remembers: nodes ask each other one after the other, each
// by its own table, and leave nobody out only if all go by the same order.
func inOrder(slot decide.Slot, before func(a, b uint16) bool) decide.Slot {
	type rank struct {
		node        uint16
		drains, was bool
	}
	var head, tail []rank
	for i := range decide.Ranks {
		n, drains := slot.At(i)
		switch r := (rank{n, drains, slot.Was(i)}); {
		case n == decide.Nobody:
		case i < 2 || !slices.ContainsFunc(head, func(r rank) bool { return r.node == slot.First() }):
			head = append(head, r)
		default:
			tail = append(tail, r)
		}
	}
	slices.SortFunc(tail, func(a, b rank) int {
		if before(a.node, b.node) {
			return -1
		}
		return 1
	})
	ordered := decide.NoSlot.WithMoved(slot.Moved())
	for i, r := range append(head, tail...) {
		if ordered = ordered.With(i, r.node, r.drains); r.was {
			ordered = ordered.WithWas(i)
		}
	}
	return ordered
}

// ordersOf returns the order for inOrder of each slot: that of the table's scores.
func ordersOf(b *table.Builder, members table.Members, nodes map[string]uint16) func(slot int) func(a, b uint16) bool {
	place := make(map[uint16]uint16, len(members))
	for i, m := range members {
		place[nodes[m.Node]] = uint16(i)
	}
	before := b.Before(members)
	return func(slot int) func(a, b uint16) bool {
		return func(a, b uint16) bool { return before(slot, place[a], place[b]) }
	}
}
