package ipam

import (
	"math/big"
	"net/netip"
	"slices"
	"sort"

	"go4.org/netipx"
)

// Allocation says when a pool gives addresses.
type Allocation uint8

// The ways of allocation.
const (
	// Automatic: to anybody whose request allows the pool.
	Automatic Allocation = iota
	// OnRequest: only to who names the pool or the address.
	OnRequest
	// Disabled: to nobody. What is given stays given.
	Disabled
)

// Pool is a set of addresses to give.
type Pool struct {
	Name string
	// Ranges are disjoint and ascending, and overlap no range of another pool.
	Ranges []netipx.IPRange
	// Reserved are parts of Ranges that are given only to who names the address.
	Reserved   []netipx.IPRange
	Allocation Allocation
	// SkipEdges: the addresses .0 and .255 of IPv4 /24s are never given.
	SkipEdges bool
	// ShareAcross: owners of different namespaces may share an address.
	ShareAcross bool

	free []netipx.IPRange // Ranges without Reserved
}

// edge tells whether the address is the first or the last of an IPv4 /24.
func edge(a netip.Addr) bool {
	if !a.Is4() {
		return false
	}
	last := a.As4()[3]
	return last == 0 || last == 255
}

// poolSet is a set of pools with disjoint ranges.
type poolSet struct {
	byName map[string]*Pool
	ranges []poolRange // ascending
}

type poolRange struct {
	netipx.IPRange
	pool *Pool
}

func newPoolSet(pools []Pool) poolSet {
	s := poolSet{byName: make(map[string]*Pool, len(pools))}
	for _, p := range pools {
		p.free = without(p.Ranges, p.Reserved)
		s.byName[p.Name] = &p
		for _, r := range p.Ranges {
			s.ranges = append(s.ranges, poolRange{r, &p})
		}
	}
	slices.SortFunc(s.ranges, func(a, b poolRange) int { return a.From().Compare(b.From()) })
	return s
}

// without returns the ranges less the parts taken out.
func without(ranges, out []netipx.IPRange) []netipx.IPRange {
	if len(out) == 0 {
		return ranges
	}
	var b netipx.IPSetBuilder
	for _, r := range ranges {
		b.AddRange(r)
	}
	for _, r := range out {
		b.RemoveRange(r)
	}
	set, err := b.IPSet()
	if err != nil { // an invalid range: give nothing rather than too much
		return nil
	}
	return set.Ranges()
}

// of returns the pool that holds the address, or nil.
func (s poolSet) of(address netip.Addr) *Pool {
	i := sort.Search(len(s.ranges), func(i int) bool { return address.Compare(s.ranges[i].To()) <= 0 })
	if i == len(s.ranges) || !s.ranges[i].Contains(address) {
		return nil
	}
	return s.ranges[i].pool
}

// Usage counts the addresses of one family in a pool.
type Usage struct {
	// Total of the pool, reserved and edge addresses among them.
	Total *big.Int
	// Assigned to owners.
	Assigned int64
	// Kept by reservations, and held by nobody.
	Kept int64
}

// size of a range.
func size(r netipx.IPRange) *big.Int {
	n := new(big.Int).SetBytes(r.To().AsSlice())
	n.Sub(n, new(big.Int).SetBytes(r.From().AsSlice()))
	return n.Add(n, big.NewInt(1))
}
