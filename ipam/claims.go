package ipam

import (
	"net/netip"
	"slices"
)

// Reserve keeps an address for the owners of a namespace. The reservation is named namespace/name.
// Reserve fails with *TakenError if another namespace holds or reserved the address, or another
// reservation of the same namespace has it, with *UsedError if it is in use elsewhere, and with
// *RestingError if it rests for an owner of another namespace.
func (a *Allocator) Reserve(reservation string, address netip.Addr) error {
	if u := a.usedAt(address); u != nil {
		return &UsedError{Address: address, By: u.By}
	}
	if by, ok := a.reservations[address]; ok {
		if by == reservation {
			return nil
		}
		return &TakenError{Address: address, Reservation: by}
	}
	for _, other := range a.Holders(address) {
		if namespaceOf(other) != namespaceOf(reservation) {
			return &TakenError{Address: address, Owner: other}
		}
	}
	if r, rests := a.resting[address]; rests && namespaceOf(r.owner) != namespaceOf(reservation) {
		return &RestingError{Address: address, Owner: r.owner, Until: r.until}
	}
	if by := a.occupied.of[address]; len(by) > 0 {
		return &UsedError{Address: address, By: by[0].by}
	}
	a.reservations[address] = reservation
	a.settle(address)
	return nil
}

// ReserveAny reserves an address of the family in the pool: the one that the owner holds there, or
// else the one that the owner would get. It fails with *ExhaustedError.
func (a *Allocator) ReserveAny(reservation, pool string, family Family, owner string) (netip.Addr, error) {
	p := a.pools.byName[pool]
	if p == nil || p.Allocation == Disabled {
		return netip.Addr{}, &ExhaustedError{Family: family}
	}
	for _, address := range a.owners[owner].addresses {
		if FamilyOf(address) == family && a.pools.of(address) == p && a.Reserve(reservation, address) == nil {
			return address, nil
		}
	}
	address, ok := a.next(owner, p, family)
	if !ok {
		return netip.Addr{}, &ExhaustedError{Family: family, Full: []string{pool}}
	}
	return address, a.Reserve(reservation, address)
}

// Unreserve ends a reservation. Its holders keep the address.
func (a *Allocator) Unreserve(address netip.Addr) {
	if _, ok := a.reservations[address]; ok {
		delete(a.reservations, address)
		a.settle(address)
	}
}

// Occupy records the addresses of another implementation's Service, and replaces those recorded for
// it before. by says whose they are, in words that follow "is": "an address of Service x/y, which
// metallb serves". They are not given to anybody, but an owner that already holds one keeps it.
// Several Services may occupy one address. Occupy reports whether an address is no longer occupied
// by the Service.
func (a *Allocator) Occupy(who, by string, addresses []netip.Addr) (gaveUp bool) {
	before := a.occupied.by[who]
	a.Vacate(who)
	addresses = distinct(addresses)
	gaveUp = slices.ContainsFunc(before, func(address netip.Addr) bool { return !slices.Contains(addresses, address) })
	if len(addresses) == 0 {
		return gaveUp
	}
	a.occupied.by[who] = addresses
	for _, address := range addresses {
		a.occupied.of[address] = append(a.occupied.of[address], occupant{who, by})
		a.settle(address)
	}
	return gaveUp
}

// Vacate undoes Occupy, and reports whether there was anything to undo.
func (a *Allocator) Vacate(who string) bool {
	addresses := a.occupied.by[who]
	delete(a.occupied.by, who)
	for _, address := range addresses {
		left := slices.DeleteFunc(a.occupied.of[address], func(o occupant) bool { return o.who == who })
		if len(left) > 0 {
			a.occupied.of[address] = left
		} else {
			delete(a.occupied.of, address)
		}
		a.settle(address)
	}
	return len(addresses) > 0
}
