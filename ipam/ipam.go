// Package ipam gives addresses from pools to owners. It is pure: it knows no
// Kubernetes, no clock and no I/O. An Allocator is not safe for concurrent use.
package ipam

import (
	"fmt"
	"maps"
	"math/big"
	"net/netip"
	"slices"

	"go4.org/netipx"
)

// Family is an address family.
type Family uint8

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

func (f Family) String() string { return fmt.Sprintf("IPv%d", uint8(f)) }

// FamilyOf returns the family of a valid address.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// Pool is a set of addresses to give.
type Pool struct {
	Name string
	// Ranges are disjoint and ascending, and overlap no range of another pool.
	Ranges []netipx.IPRange
	// Automatic pools give to anybody; others only an address that is asked for.
	Automatic bool
}

// Allocator knows the pools and who holds which address. The same address is never
// held by two owners.
type Allocator struct {
	pools    []Pool
	taken    intervals
	owners   map[netip.Addr]string
	holdings map[string][]netip.Addr
	assigned map[poolFamily]int64
}

type poolFamily struct {
	pool   string
	family Family
}

// New returns an allocator without pools.
func New() *Allocator {
	return &Allocator{
		taken:    newIntervals(),
		owners:   map[netip.Addr]string{},
		holdings: map[string][]netip.Addr{},
		assigned: map[poolFamily]int64{},
	}
}

// SetPools replaces the pools, in order of precedence. What is held stays held,
// inside a pool or not.
func (a *Allocator) SetPools(pools []Pool) {
	a.pools = slices.Clone(pools)
	a.assigned = map[poolFamily]int64{}
	for address := range a.owners {
		a.count(address, 1)
	}
}

// Owner returns who holds the address, "" if nobody does.
func (a *Allocator) Owner(address netip.Addr) string { return a.owners[address] }

// Holdings returns the addresses of an owner, ascending: IPv4 before IPv6.
func (a *Allocator) Holdings(owner string) []netip.Addr { return slices.Clone(a.holdings[owner]) }

// Owners returns how many owners hold addresses.
func (a *Allocator) Owners() int { return len(a.holdings) }

// PoolOf returns the name of the pool that holds the address, "" if none does.
func (a *Allocator) PoolOf(address netip.Addr) string {
	if p := a.poolOf(address); p != nil {
		return p.Name
	}
	return ""
}

// Hold gives the address to the owner, inside a pool or not: to restore what was
// given before. It fails with *TakenError if another owner holds it.
func (a *Allocator) Hold(owner string, address netip.Addr) error {
	switch holder := a.owners[address]; holder {
	case "":
	case owner:
		return nil
	default:
		return &TakenError{Address: address, Owner: holder}
	}
	a.taken.add(address)
	a.owners[address] = owner
	a.holdings[owner] = append(a.holdings[owner], address)
	slices.SortFunc(a.holdings[owner], netip.Addr.Compare)
	a.count(address, 1)
	return nil
}

// Release frees every address of the owner and tells whether there was one.
func (a *Allocator) Release(owner string) bool { return a.Free(owner, a.Holdings(owner)) }

// Free frees those of the addresses that the owner holds, and tells whether there
// was one.
func (a *Allocator) Free(owner string, addresses []netip.Addr) bool {
	freed := false
	for _, address := range addresses {
		if a.owners[address] != owner {
			continue
		}
		freed = true
		a.taken.remove(address)
		delete(a.owners, address)
		a.count(address, -1)
		a.holdings[owner] = slices.DeleteFunc(a.holdings[owner], func(h netip.Addr) bool { return h == address })
	}
	if len(a.holdings[owner]) == 0 {
		delete(a.holdings, owner)
	}
	return freed
}

func (a *Allocator) count(address netip.Addr, by int64) {
	if p := a.poolOf(address); p != nil {
		a.assigned[poolFamily{p.Name, FamilyOf(address)}] += by
	}
}

func (a *Allocator) poolOf(address netip.Addr) *Pool {
	for i := range a.pools {
		_, found := slices.BinarySearchFunc(a.pools[i].Ranges, address, func(r netipx.IPRange, address netip.Addr) int {
			switch {
			case r.To().Less(address):
				return -1
			case address.Less(r.From()):
				return 1
			}
			return 0
		})
		if found {
			return &a.pools[i]
		}
	}
	return nil
}

// lowestFree returns the lowest free address of the family in the automatic pools,
// in their order of precedence.
func (a *Allocator) lowestFree(family Family) (netip.Addr, error) {
	var full []string
	for _, pool := range a.pools {
		has := false
		for _, r := range pool.Ranges {
			if FamilyOf(r.From()) != family {
				continue
			}
			has = true
			if !pool.Automatic {
				break
			}
			if free, ok := a.taken.firstOutside(r); ok {
				return free, nil
			}
		}
		if has && pool.Automatic {
			full = append(full, pool.Name)
		}
	}
	return netip.Addr{}, &ExhaustedError{Family: family, Full: full}
}

// Usage counts the addresses of one family in a pool.
type Usage struct {
	Total    *big.Int
	Assigned int64
}

// Usage returns the counts of each family that the pool has addresses of.
func (a *Allocator) Usage(pool string) map[Family]Usage {
	usage := map[Family]Usage{}
	for _, p := range a.pools {
		if p.Name != pool {
			continue
		}
		for _, r := range p.Ranges {
			family := FamilyOf(r.From())
			u, ok := usage[family]
			if !ok {
				u = Usage{Total: new(big.Int), Assigned: a.assigned[poolFamily{pool, family}]}
			}
			u.Total.Add(u.Total, size(r))
			usage[family] = u
		}
	}
	return usage
}

// size of a range.
func size(r netipx.IPRange) *big.Int {
	from, to := r.From().AsSlice(), r.To().AsSlice()
	n := new(big.Int).SetBytes(to)
	n.Sub(n, new(big.Int).SetBytes(from))
	return n.Add(n, big.NewInt(1))
}

// Snapshot returns who holds what, for tests and diagnosis.
func (a *Allocator) Snapshot() map[netip.Addr]string { return maps.Clone(a.owners) }
