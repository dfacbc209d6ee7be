package ipam

import (
	"math/big"
	"net/netip"
)

// Usage counts the addresses of one family in a pool. Apart from Total, an address counts in one
// number only, the first that fits.
type Usage struct {
	// Total of the pool, including those given on request only and edge addresses.
	Total *big.Int
	// Assigned to owners.
	Assigned int64
	// Reserved: kept by a reservation, and not assigned.
	Reserved int64
	// Excluded: in use elsewhere, or occupied.
	Excluded *big.Int
	// Resting: freed a moment ago.
	Resting int64
	// Next is the address that an owner gets from the pool that names none and had none before. The
	// zero value: there is none.
	Next netip.Addr
}

// Usage returns the counts of each family that the pool has addresses of.
func (a *Allocator) Usage(pool string) map[Family]Usage {
	usage := map[Family]Usage{}
	p := a.pools.byName[pool]
	if p == nil {
		return usage
	}
	for _, family := range []Family{IPv4, IPv6} {
		if p.has(family) {
			usage[family] = a.usage(p, family)
		}
	}
	return usage
}

// Full returns the families that the pool has addresses of, but no free one for an owner that names
// none.
func (a *Allocator) Full(pool string) []Family {
	p := a.pools.byName[pool]
	if p == nil {
		return nil
	}
	var full []Family
	for _, family := range []Family{IPv4, IPv6} {
		if !p.has(family) {
			continue
		}
		if _, free := a.next("", p, family); !free {
			full = append(full, family)
		}
	}
	return full
}

func (a *Allocator) usage(p *poolState, family Family) Usage {
	s := p.stock(family)
	u := Usage{Total: new(big.Int), Assigned: int64(len(s.held)), Excluded: new(big.Int).Set(s.used)}
	for _, r := range p.Ranges {
		if FamilyOf(r.From()) == family {
			u.Total.Add(u.Total, size(r))
		}
	}
	counts := func(address netip.Addr) bool {
		_, held := a.holders[address]
		return !held && FamilyOf(address) == family && a.pools.of(address) == p
	}
	excluded := -s.usedHeld
	for address := range a.reservations {
		if counts(address) {
			u.Reserved++
			if a.usedAt(address) != nil {
				excluded--
			}
		}
	}
	for address := range a.occupied.of {
		if _, reserved := a.reservations[address]; !reserved && counts(address) && a.usedAt(address) == nil {
			excluded++
		}
	}
	u.Excluded.Add(u.Excluded, big.NewInt(excluded))
	s.resting.Scan(func(r restAddress) bool {
		if !a.blocked(r.address) {
			u.Resting++
		}
		return true
	})
	if p.Allocation != Disabled {
		u.Next, _ = a.next("", p, family)
	}
	return u
}
