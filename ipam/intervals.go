package ipam

import (
	"net/netip"

	"github.com/tidwall/btree"
	"go4.org/netipx"
)

// intervals is a set of addresses, kept as disjoint intervals that are as long as
// they can be. An operation costs the logarithm of the number of intervals,
// whatever the number of addresses.
type intervals struct {
	tree *btree.BTreeG[interval] // by from
}

type interval struct{ from, to netip.Addr }

func newIntervals() intervals {
	less := func(a, b interval) bool { return a.from.Less(b.from) }
	return intervals{btree.NewBTreeGOptions(less, btree.Options{NoLocks: true})}
}

// around returns the interval that holds the address.
func (s intervals) around(a netip.Addr) (found interval, ok bool) {
	s.tree.Descend(interval{from: a}, func(i interval) bool {
		found, ok = i, !i.to.Less(a)
		return false
	})
	return found, ok
}

// add puts an address in that is not in the set.
func (s intervals) add(a netip.Addr) {
	grown := interval{a, a}
	if before, ok := s.around(a.Prev()); ok && a.Prev().IsValid() {
		grown.from = before.from // Set replaces the item with this key
	}
	if after, ok := s.tree.Get(interval{from: a.Next()}); ok {
		grown.to = after.to
		s.tree.Delete(after)
	}
	s.tree.Set(grown)
}

// remove takes an address out that is in the set.
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
