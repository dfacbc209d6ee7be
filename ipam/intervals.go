package ipam

import (
	"net/netip"

	"github.com/tidwall/btree"
	"go4.org/netipx"
)

// intervals is a set of addresses, stored as disjoint intervals that are as long as possible. An
// operation costs the logarithm of the number of intervals, whatever the number of addresses.
type intervals struct {
	tree *btree.BTreeG[interval] // by from
}

type interval struct{ from, to netip.Addr }

func newIntervals() intervals {
	less := func(a, b interval) bool { return a.from.Less(b.from) }
	return intervals{btree.NewBTreeGOptions(less, btree.Options{NoLocks: true})}
}

// around returns the interval that contains the address.
func (s intervals) around(a netip.Addr) (found interval, ok bool) {
	s.tree.Descend(interval{from: a}, func(i interval) bool {
		found, ok = i, !i.to.Less(a)
		return false
	})
	return found, ok
}

// add adds an address.
func (s intervals) add(a netip.Addr) {
	grown, after := interval{a, a}, interval{}
	in, before, next := false, a.Prev(), a.Next()
	pivot := a
	if next.IsValid() {
		pivot = next
	}
	s.tree.Descend(interval{from: pivot}, func(i interval) bool {
		switch {
		case i.from == next:
			after = i
			return true
		case !i.to.Less(a):
			in = true
		case i.to == before:
			grown.from = i.from // Set replaces the item with this key
		}
		return false
	})
	if in {
		return
	}
	if after.from.IsValid() {
		grown.to = after.to
		s.tree.Delete(after)
	}
	s.tree.Set(grown)
}

// addRange adds the addresses of a range. It costs as much as the number of intervals that it
// touches.
func (s intervals) addRange(r netipx.IPRange) {
	grown := interval{r.From(), r.To()}
	low, high := grown.from.Prev(), grown.to.Next()
	if !low.IsValid() {
		low = grown.from
	}
	if !high.IsValid() {
		high = grown.to
	}
	for _, i := range s.within(low, high) {
		s.tree.Delete(i)
		if i.from.Less(grown.from) {
			grown.from = i.from
		}
		if grown.to.Less(i.to) {
			grown.to = i.to
		}
	}
	s.tree.Set(grown)
}

// removeRange removes the addresses of a range.
func (s intervals) removeRange(r netipx.IPRange) {
	for _, i := range s.within(r.From(), r.To()) {
		s.tree.Delete(i)
		if i.from.Less(r.From()) {
			s.tree.Set(interval{i.from, r.From().Prev()})
		}
		if r.To().Less(i.to) {
			s.tree.Set(interval{r.To().Next(), i.to})
		}
	}
}

// within returns the intervals that contain an address from low to high.
func (s intervals) within(low, high netip.Addr) (found []interval) {
	s.tree.Descend(interval{from: high}, func(i interval) bool {
		if i.to.Less(low) {
			return false
		}
		found = append(found, i)
		return true
	})
	return found
}

// remove removes an address.
func (s intervals) remove(a netip.Addr) {
	i, ok := s.around(a)
	if !ok {
		return
	}
	s.tree.Delete(i)
	if i.from != a {
		s.tree.Set(interval{i.from, a.Prev()})
	}
	if i.to != a {
		s.tree.Set(interval{a.Next(), i.to})
	}
}

// firstOutside returns the lowest address of the range that is not in the set.
func (s intervals) firstOutside(r netipx.IPRange) (netip.Addr, bool) {
	a := r.From()
	if i, ok := s.around(a); ok {
		a = i.to.Next()
	}
	return a, a.IsValid() && !r.To().Less(a) && a.BitLen() == r.From().BitLen()
}
