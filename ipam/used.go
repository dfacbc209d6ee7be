package ipam

import (
	"container/heap"
	"math/big"
	"net/netip"
	"slices"
	"sort"

	"go4.org/netipx"
)

// Used is a range of addresses in use elsewhere. By says by whom, in words that follow "is": "the
// InternalIP of node n1".
type Used struct {
	netipx.IPRange
	By string
}

// usedAt returns the range that contains the address, or nil. The ranges are disjoint and
// ascending.
func usedAt(used []Used, address netip.Addr) *Used {
	i := sort.Search(len(used), func(i int) bool { return address.Compare(used[i].To()) <= 0 })
	if i == len(used) || !used[i].Contains(address) {
		return nil
	}
	return &used[i]
}

// disjoint returns the ranges in ascending order, without the parts that an earlier range covers.
func disjoint(used []Used) []Used {
	var starts []ranked // ascending
	for i, u := range used {
		if u.IsValid() {
			starts = append(starts, ranked{u, i})
		}
	}
	slices.SortStableFunc(starts, func(x, y ranked) int { return x.From().Compare(y.From()) })
	var parts []Used
	var open byRank // ranges that contain at, and ended ones
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
		if at = end.Next(); !at.IsValid() { // end is the last address of its family
			open = nil
		}
	}
	return parts
}

// joined appends a range to the ranges before it, or extends the last of them.
func joined(parts []Used, next Used) []Used {
	if n := len(parts); n > 0 && parts[n-1].By == next.By && parts[n-1].To().Next() == next.From() {
		parts[n-1].IPRange = netipx.IPRangeFrom(parts[n-1].From(), next.To())
		return parts
	}
	return append(parts, next)
}

// difference returns the ranges that are not among the others. Both lists are ascending.
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

// overlap returns how many addresses two overlapping ranges have in common.
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

// size returns the number of addresses in a range.
func size(r netipx.IPRange) *big.Int {
	n := new(big.Int).SetBytes(r.To().AsSlice())
	n.Sub(n, new(big.Int).SetBytes(r.From().AsSlice()))
	return n.Add(n, big.NewInt(1))
}

// ranked is a range and its precedence.
type ranked struct {
	Used
	rank int
}

// byRank is a heap with the lowest rank on top.
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
