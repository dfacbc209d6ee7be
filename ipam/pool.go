package ipam

import (
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"sort"
	"time"

	"github.com/tidwall/btree"
	"go4.org/netipx"
)

// Family is an address family.
type Family uint8

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// index returns the index of the family in an array of both.
func (f Family) index() int {
	if f == IPv4 {
		return 0
	}
	return 1
}

func (f Family) String() string { return fmt.Sprintf("IPv%d", uint8(f)) }

// FamilyOf returns the family of a valid address.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// of returns a function that reports whether an address is of the family.
func of(family Family) func(netip.Addr) bool {
	return func(a netip.Addr) bool { return FamilyOf(a) == family }
}

// Allocation says to which owners a pool gives addresses.
type Allocation uint8

// The kinds of allocation.
const (
	// Automatic: to any owner whose request allows the pool.
	Automatic Allocation = iota
	// OnRequest: only to owners that name the pool or the address.
	OnRequest
	// Disabled: to none. Addresses that were given stay with their owners.
	Disabled
)

// Pool is a set of addresses to give.
type Pool struct {
	Name string
	// Ranges are disjoint and ascending, and do not overlap ranges of other pools.
	Ranges []netipx.IPRange
	// OnRequest are parts of Ranges that are given only to owners that name the address.
	OnRequest  []netipx.IPRange
	Allocation Allocation
	// ExcludeEdges: .0 and .255 of IPv4 /24s are never given.
	ExcludeEdges bool
	// ShareAcross: owners of different namespaces may share an address.
	ShareAcross bool
}

// poolState is a pool and the state of its addresses.
type poolState struct {
	Pool
	free   []netipx.IPRange // Ranges without OnRequest
	stocks [2]stock         // of each family
	// version is another one whenever something may have changed that the state of a pool shows.
	version uint64
}

func (p *poolState) stock(family Family) *stock { return &p.stocks[family.index()] }

// offers reports whether the pool gives the address to owners that do not name it.
func (p *poolState) offers(address netip.Addr) bool {
	if p.ExcludeEdges && edge(address) {
		return false
	}
	i := sort.Search(len(p.free), func(i int) bool { return address.Compare(p.free[i].To()) <= 0 })
	return i < len(p.free) && p.free[i].Contains(address)
}

// has reports whether the pool has addresses of the family.
func (p *poolState) has(family Family) bool {
	return slices.ContainsFunc(p.Ranges, func(r netipx.IPRange) bool { return FamilyOf(r.From()) == family })
}

// edge reports whether the address is the first or the last of an IPv4 /24.
func edge(a netip.Addr) bool {
	if !a.Is4() {
		return false
	}
	last := a.As4()[3]
	return last == 0 || last == 255
}

// stock is the state of the addresses of one family in a pool.
type stock struct {
	held     map[netip.Addr]bool
	usedHeld int64 // held, although in use elsewhere
	used     *big.Int
	past     *pastTree // addresses that can be given again
	resting  *restTree
}

func newStocks() (s [2]stock) {
	for i := range s {
		s[i] = stock{held: map[netip.Addr]bool{}, used: new(big.Int), past: newPastTree(), resting: newRestTree()}
	}
	return s
}

// pastTree is a set of addresses in the order in which they were freed.
type pastTree = btree.BTreeG[pastAddress]

type pastAddress struct {
	order   uint64
	address netip.Addr
}

func newPastTree() *pastTree {
	less := func(a, b pastAddress) bool { return a.order < b.order }
	return btree.NewBTreeGOptions(less, btree.Options{NoLocks: true})
}

// restTree is a set of addresses in the order in which their rest ends.
type restTree = btree.BTreeG[restAddress]

type restAddress struct {
	until time.Time
	pastAddress
}

func newRestTree() *restTree {
	less := func(a, b restAddress) bool {
		if c := a.until.Compare(b.until); c != 0 {
			return c < 0
		}
		return a.order < b.order
	}
	return btree.NewBTreeGOptions(less, btree.Options{NoLocks: true})
}

// poolSet is a set of pools with disjoint ranges.
type poolSet struct {
	byName map[string]*poolState
	ranges []poolRange // ascending
}

type poolRange struct {
	netipx.IPRange
	pool *poolState
}

func newPoolSet(pools []Pool) poolSet {
	s := poolSet{byName: make(map[string]*poolState, len(pools))}
	for _, pool := range pools {
		p := &poolState{Pool: pool, free: without(pool.Ranges, pool.OnRequest), stocks: newStocks()}
		s.byName[p.Name] = p
		for _, r := range p.Ranges {
			s.ranges = append(s.ranges, poolRange{r, p})
		}
	}
	slices.SortFunc(s.ranges, func(a, b poolRange) int { return a.From().Compare(b.From()) })
	return s
}

// without returns the ranges without the parts in out.
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

// of returns the pool that contains the address, or nil.
func (s poolSet) of(address netip.Addr) *poolState {
	i := sort.Search(len(s.ranges), func(i int) bool { return address.Compare(s.ranges[i].To()) <= 0 })
	if i == len(s.ranges) || !s.ranges[i].Contains(address) {
		return nil
	}
	return s.ranges[i].pool
}
