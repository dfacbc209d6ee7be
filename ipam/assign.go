package ipam

import (
	"net/netip"
	"slices"

	"go4.org/netipx"
)

// Request is what an owner asks for.
type Request struct {
	// Families wanted, one address each, the primary first. Never empty.
	Families []Family
	// All: every family or nothing. Otherwise a family that no pool can give is
	// done without, as long as one is given.
	All bool
	// Pinned are addresses asked for by name, at most one of each family. They are
	// given or the request fails.
	Pinned []netip.Addr
	// Pools, by name, that may give to the owner, in order of precedence.
	Pools []string
	// Named: the owner named the pools. Then those that give on request give too,
	// and addresses of other pools are not kept.
	Named bool
	// Drop are addresses that the owner does not want to keep.
	Drop []netip.Addr
	// Terms on which the owner shares addresses.
	Terms Terms
}

// Assignment is what an owner should have after Assign.
type Assignment struct {
	// Addresses in the order of the families asked for.
	Addresses []netip.Addr
	// Surplus are addresses that the owner should not have any more. It goes on
	// holding them, so that nobody else gets them while anybody may still see them
	// as the owner's, until Free.
	Surplus []netip.Addr
	// Missing says why a family was done without.
	Missing []error
	// Renewed: the terms of an owner that holds addresses changed, so that others may
	// share now who could not before.
	Renewed bool
}

// Assign makes the owner hold what it asks for. Addresses that it holds and that
// fit are kept, inside a pool or not; the others are surplus. When the request
// cannot be met, all that the owner holds is surplus, and the error is one of this
// package's types.
func (a *Allocator) Assign(name string, request Request) (Assignment, error) {
	before, known := a.owners[name]
	before.addresses = slices.Clone(before.addresses)
	renewed := known && !before.terms.equal(request.Terms)
	a.setTerms(name, request.Terms)
	addresses, err := a.choose(name, request)
	var missing []error
	for _, family := range request.Families {
		if err != nil || slices.ContainsFunc(addresses, of(family)) {
			continue
		}
		address, full := a.find(name, family, request)
		if full != nil {
			missing = append(missing, full)
			continue
		}
		a.hold(name, address)
		addresses = append(addresses, address)
	}
	if err == nil && len(missing) > 0 && (request.All || len(addresses) == 0) {
		err = missing[0]
	}
	if err != nil {
		// Who fails takes nothing: what others wait for must not seem to come free.
		taken := slices.DeleteFunc(a.Holdings(name), func(h netip.Addr) bool { return slices.Contains(before.addresses, h) })
		a.Free(name, taken)
		addresses, missing = nil, nil
	}
	order := func(address netip.Addr) int { return slices.Index(request.Families, FamilyOf(address)) }
	slices.SortFunc(addresses, func(x, y netip.Addr) int { return order(x) - order(y) })
	surplus := slices.DeleteFunc(a.Holdings(name), func(h netip.Addr) bool { return slices.Contains(addresses, h) })
	if o := a.owners[name]; len(o.addresses) == 0 {
		delete(a.owners, name) // its terms concern nobody
	} else {
		o.leaving = slices.Clone(surplus)
		a.owners[name] = o
	}
	return Assignment{Addresses: addresses, Surplus: surplus, Missing: missing, Renewed: renewed}, err
}

// Surrender makes everything that the owner holds surplus, and returns it: for an
// owner whose request makes no sense.
func (a *Allocator) Surrender(name string) []netip.Addr {
	o, ok := a.owners[name]
	if !ok {
		return nil
	}
	o.leaving = slices.Clone(o.addresses)
	a.owners[name] = o
	return slices.Clone(o.addresses)
}

// choose takes the pinned addresses, and tells which addresses the owner keeps:
// the pinned ones, and of each other family wanted the lowest that it holds.
func (a *Allocator) choose(name string, request Request) ([]netip.Addr, error) {
	held := a.Holdings(name)
	for _, pin := range request.Pinned { // all or none
		if err := a.mayPin(name, pin, request); err != nil {
			return nil, err
		}
	}
	kept := slices.Clone(request.Pinned)
	for _, pin := range request.Pinned {
		a.hold(name, pin)
	}
	for _, family := range request.Families {
		if slices.ContainsFunc(kept, of(family)) {
			continue
		}
		for _, address := range held {
			if FamilyOf(address) == family && a.mayKeep(name, address, request) {
				kept = append(kept, address)
				break
			}
		}
	}
	return kept, nil
}

// mayPin tells why the owner may not have the address it names.
func (a *Allocator) mayPin(name string, pin netip.Addr, request Request) error {
	if !slices.Contains(request.Families, FamilyOf(pin)) {
		return &FamilyError{Address: pin, Families: request.Families}
	}
	if !slices.Contains(a.owners[name].addresses, pin) {
		p := a.pools.of(pin)
		switch {
		case p == nil:
			return &OutsideError{Address: pin}
		case !slices.Contains(request.Pools, p.Name):
			return &ScopeError{Address: pin, Pool: p.Name, Named: request.Named}
		case p.Allocation == Disabled:
			return &DisabledError{Address: pin, Pool: p.Name}
		case p.SkipEdges && edge(pin):
			return &EdgeError{Address: pin, Pool: p.Name}
		}
	}
	return a.mayHold(name, pin, request.Terms)
}

// mayKeep tells whether an address that the owner holds still fits.
func (a *Allocator) mayKeep(name string, address netip.Addr, request Request) bool {
	if slices.Contains(request.Drop, address) || request.Named && !slices.Contains(request.Pools, a.PoolOf(address)) {
		return false
	}
	return a.mayHold(name, address, request.Terms) == nil
}

// find returns an address of the family for the owner: one that it may share, else
// the lowest free one, of the first pool that has one.
func (a *Allocator) find(name string, family Family, request Request) (netip.Addr, error) {
	gives := func(p *Pool) bool {
		return p != nil && (p.Allocation == Automatic || p.Allocation == OnRequest && request.Named)
	}
	for _, pool := range request.Pools {
		if p := a.pools.byName[pool]; gives(p) && request.Terms.Key != "" {
			if address, ok := a.lowestShared(name, p, family, request.Terms); ok {
				return address, nil
			}
		}
	}
	var full []string
	for _, pool := range request.Pools {
		p := a.pools.byName[pool]
		if !gives(p) || !slices.ContainsFunc(p.Ranges, func(r netipx.IPRange) bool { return FamilyOf(r.From()) == family }) {
			continue
		}
		if address, ok := a.lowestFree(p, family); ok {
			return address, nil
		}
		full = append(full, pool)
	}
	return netip.Addr{}, &ExhaustedError{Family: family, Full: full, Named: request.Named}
}
