package steering

import (
	"slices"

	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
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
