package ipam

import (
	"container/heap"
	"iter"
	"math/big"
	"net/netip"
	"slices"
	"sort"

	"go4.org/netipx"
)

// Used is a range of addresses that somebody else has, and in words that follow "is"
// whose: "the InternalIP of node n1".
type Used struct {
	netipx.IPRange
	By string
}

// SetUsed replaces what is known to be in use elsewhere. Such addresses are never
// given; who holds one loses it at its next Assign. Where ranges overlap, the first
// says whose the address is. It costs as much as there are used ranges and addresses
// held, freed, reserved or pinned.
func (a *Allocator) SetUsed(used []Used) {
	before, now := a.used, disjoint(used)
	a.used = now
	gone, come := difference(before, now), difference(now, before)
	if len(gone)+len(come) == 0 {
		return
	}
	for _, u := range gone {
		a.taken.removeRange(u.IPRange)
	}
	for _, u := range come {
		a.taken.addRange(u.IPRange)
	}
	for address := range a.known() {
		if usedAt(gone, address) != nil || usedAt(come, address) != nil {
			a.settle(address)
		}
	}
	for address := range a.holders {
		if usedAt(gone, address) != nil {
			a.stock(address).usedHeld--
		}
		if usedAt(come, address) != nil {
			a.stock(address).usedHeld++
		}
	}
	a.countUsed()
}

// difference returns those of the ranges that are not among the others. Both are
// ascending.
func difference(ranges, others []Used) (rest []Used) {
	for _, u := range ranges {
		for len(others) > 0 && others[0].From().Less(u.From()) {
			others = others[1:]
		}
		if len(others) == 0 || others[0] != u {
			rest = append(rest, u)
		}
	}
	return rest
}

// known returns the addresses of which more is known than the pool they are in.
func (a *Allocator) known() iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		_ = keys(a.holders, yield) && keys(a.former, yield) && keys(a.reserved, yield) &&
			keys(a.occupied.of, yield) && keys(a.pinned.of, yield) && keys(a.skipped, yield)
	}
}

// keys yields the keys of the map, and reports whether more are wanted.
func keys[V any](m map[netip.Addr]V, yield func(netip.Addr) bool) bool {
	for address := range m {
		if !yield(address) {
			return false
		}
	}
	return true
}

// UsedBy returns whose the address is, "" if nobody's.
func (a *Allocator) UsedBy(address netip.Addr) string {
	if u := a.usedAt(address); u != nil {
		return u.By
	}
	return ""
}

func (a *Allocator) usedAt(address netip.Addr) *Used { return usedAt(a.used, address) }

// usedAt returns the one of the ranges, which are disjoint and ascending, that holds
// the address, or nil.
func usedAt(used []Used, address netip.Addr) *Used {
	i := sort.Search(len(used), func(i int) bool { return address.Compare(used[i].To()) <= 0 })
	if i == len(used) || !used[i].Contains(address) {
		return nil
	}
	return &used[i]
}

// HeldUsed returns the owners that hold an address which is in use elsewhere, sorted.
func (a *Allocator) HeldUsed() []string {
	if len(a.used) == 0 {
		return nil
	}
	var names []string
	for address, h := range a.holders {
		if a.usedAt(address) != nil {
			names = append(names, h.all()...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// countUsed counts the used addresses of every pool.
func (a *Allocator) countUsed() {
	for _, p := range a.pools.byName {
		for i := range p.stocks {
			p.stocks[i].used = new(big.Int)
		}
	}
	i := 0
	for _, r := range a.pools.ranges { // both ascending
		n := r.pool.stock(FamilyOf(r.From())).used
		for i < len(a.used) && a.used[i].To().Less(r.From()) {
			i++
		}
		for j := i; j < len(a.used) && !r.To().Less(a.used[j].From()); j++ {
			n.Add(n, overlap(r.IPRange, a.used[j].IPRange))
		}
	}
}

// overlap returns how many addresses two ranges that overlap have in common.
func overlap(r, s netipx.IPRange) *big.Int {
	from, to := r.From(), r.To()
	if from.Less(s.From()) {
		from = s.From()
	}
	if s.To().Less(to) {
		to = s.To()
	}
	return size(netipx.IPRangeFrom(from, to))
}

// disjoint returns the ranges without what an earlier one covers, ascending.
func disjoint(used []Used) []Used {
	var starts []ranked // ascending
	for i, u := range used {
		if u.IsValid() {
			starts = append(starts, ranked{u, i})
		}
	}
	slices.SortStableFunc(starts, func(x, y ranked) int { return x.From().Compare(y.From()) })
	var parts []Used
	var open byRank // those that have begun where the sweep is
	var at netip.Addr
	for len(starts) > 0 || len(open) > 0 {
		if len(open) == 0 {
			at = starts[0].From()
		}
		for len(starts) > 0 && !at.Less(starts[0].From()) {
			heap.Push(&open, starts[0])
			starts = starts[1:]
		}
		first := open[0]
		if first.To().Less(at) {
			heap.Pop(&open)
			continue
		}
		end := first.To()
		if len(starts) > 0 && !end.Less(starts[0].From()) {
			end = starts[0].From().Prev()
		}
		parts = joined(parts, Used{netipx.IPRangeFrom(at, end), first.By})
		if at = end.Next(); !at.IsValid() { // the last address of its family
			open = nil
		}
	}
	return parts
}

// joined appends a range to the ranges before it, or prolongs the last of them.
func joined(parts []Used, next Used) []Used {
	if n := len(parts); n > 0 && parts[n-1].By == next.By && parts[n-1].To().Next() == next.From() {
		parts[n-1].IPRange = netipx.IPRangeFrom(parts[n-1].From(), next.To())
		return parts
	}
	return append(parts, next)
}

// ranked is a range and its place in the order of precedence.
type ranked struct {
	Used
	rank int
}

// byRank is a heap, the first in precedence on top.
type byRank []ranked

func (h byRank) Len() int           { return len(h) }
func (h byRank) Less(i, j int) bool { return h[i].rank < h[j].rank }
func (h byRank) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byRank) Push(x any) {
	if r, ok := x.(ranked); ok {
		*h = append(*h, r)
	}
}

func (h *byRank) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
