package ipam

import (
	"net/netip"
	"slices"
)

// Request is what an owner asks for.
type Request struct {
	// Families are those wanted, the primary one first: one address of each. Never empty.
	Families []Family
	// All asks for every family or nothing. Otherwise a family that no pool can give is left out, as
	// long as another one is given.
	All bool
	// Pinned are addresses asked for by name, at most one of each family. The request fails unless all
	// are given.
	Pinned []netip.Addr
	// Pools are the names of the pools that may give to the owner, in order of precedence. Without any
	// the owner keeps what it holds and gets nothing.
	Pools []string
	// Named says that the owner named the pools. Pools that give on request give to it then, too.
	Named bool
	// Strict says that the owner changed which pools it names since it got its addresses. It then
	// keeps no address of a pool that it does not name, not even a pinned one.
	Strict bool
	// Drop are addresses that the owner does not want to keep.
	Drop []netip.Addr
	// Terms are those on which the owner shares addresses.
	Terms Terms
}

// Assignment is the result of Assign.
type Assignment struct {
	// Addresses are those that the owner should have, in the order of the families asked for.
	Addresses []netip.Addr
	// Surplus are addresses that the owner is to lose. It holds them until Free, so that nobody else
	// gets them while they may still be seen as the owner's.
	Surplus []netip.Addr
	// Missing says why families were left out.
	Missing []error
	// Renewed says that the terms of an owner with addresses changed, so that others may now be able
	// to share with it.
	Renewed bool
	// Regained says that one of the addresses rested for the owner until now.
	Regained bool
}

// Assign gives the owner what it asks for. It keeps the addresses that it holds and that fit, even
// outside of all pools; the others become surplus. If the request cannot be met, everything that
// the owner holds is surplus, and the error is of one of this package's types.
func (a *Allocator) Assign(name string, request Request) (Assignment, error) {
	before, known := a.owners[name]
	renewed := known && !before.terms.equal(request.Terms)
	a.setTerms(name, request.Terms)
	addresses, missing, err := a.choose(name, request)
	if err == nil && len(missing) > 0 && (request.All || len(addresses) == 0) {
		err = missing[0]
	}
	if err != nil { // all or nothing
		addresses, missing = nil, nil
	}
	regained := false
	for _, address := range addresses {
		_, rests := a.resting[address]
		regained = regained || rests
		a.hold(name, address)
	}
	order := func(address netip.Addr) int { return slices.Index(request.Families, FamilyOf(address)) }
	slices.SortFunc(addresses, func(x, y netip.Addr) int { return order(x) - order(y) })
	var surplus []netip.Addr
	for _, held := range a.owners[name].addresses {
		if !slices.Contains(addresses, held) {
			surplus = append(surplus, held)
		}
	}
	if o := a.owners[name]; len(o.addresses) == 0 {
		delete(a.owners, name) // its terms matter to nobody
	} else {
		o.leaving = slices.Clone(surplus)
		a.owners[name] = o
	}
	return Assignment{
		Addresses: addresses, Surplus: surplus, Missing: missing, Renewed: renewed, Regained: regained,
	}, err
}

// Surrender makes everything that the owner holds surplus, and returns it: for an owner whose
// request is not valid.
func (a *Allocator) Surrender(name string) []netip.Addr {
	o, ok := a.owners[name]
	if !ok {
		return nil
	}
	o.leaving = slices.Clone(o.addresses)
	a.owners[name] = o
	return slices.Clone(o.addresses)
}

// choose returns the addresses that the owner should have: the pinned ones, and of each other
// family the lowest that it holds and may keep, or else a new one. missing says why a family has
// none, err why a pinned address cannot be given.
func (a *Allocator) choose(name string, request Request) (chosen []netip.Addr, missing []error, err error) {
	for _, pin := range request.Pinned { // all or none
		if err := a.mayPin(name, pin, request); err != nil {
			return nil, nil, err
		}
	}
	chosen = slices.Clone(request.Pinned)
	for _, family := range request.Families {
		if slices.ContainsFunc(chosen, of(family)) {
			continue
		}
		address, ok := a.keep(name, family, request)
		if !ok {
			if address, err = a.find(name, family, request); err != nil {
				missing = append(missing, err)
				continue
			}
		}
		chosen = append(chosen, address)
	}
	return chosen, missing, nil
}

// mayPin returns why the owner may not have an address that it asks for by name.
func (a *Allocator) mayPin(name string, pin netip.Addr, request Request) error {
	if !slices.Contains(request.Families, FamilyOf(pin)) {
		return &FamilyError{Address: pin, Families: request.Families}
	}
	p := a.pools.of(pin)
	if a.holds(name, pin) {
		if request.leaves(p) {
			return &ScopeError{Address: pin, Pool: p.Name, Named: true}
		}
		return a.mayHold(name, pin, request.Terms)
	}
	u := a.usedAt(pin)
	switch {
	case p == nil:
		return &OutsideError{Address: pin}
	case !slices.Contains(request.Pools, p.Name):
		return &ScopeError{Address: pin, Pool: p.Name, Named: request.Named}
	case u != nil:
		return &UsedError{Address: pin, By: u.By}
	case p.Allocation == Disabled:
		return &DisabledError{Address: pin, Pool: p.Name}
	case p.ExcludeEdges && edge(pin):
		return &EdgeError{Address: pin, Pool: p.Name}
	}
	return a.mayHold(name, pin, request.Terms)
}

// leaves reports whether the owner does not want to keep addresses of the pool, nil for addresses
// in no pool.
func (r Request) leaves(p *poolState) bool {
	return r.Strict && p != nil && !slices.Contains(r.Pools, p.Name)
}

// gives reports whether the pool gives the owner addresses that it does not name.
func (r Request) gives(p *poolState) bool {
	return p != nil && (p.Allocation == Automatic || p.Allocation == OnRequest && r.Named)
}

// keep returns the lowest address of the family that the owner holds and that still fits.
func (a *Allocator) keep(name string, family Family, request Request) (netip.Addr, bool) {
	for _, address := range a.owners[name].addresses {
		if FamilyOf(address) != family || slices.Contains(request.Drop, address) || request.leaves(a.pools.of(address)) {
			continue
		}
		if a.mayHold(name, address, request.Terms) == nil {
			return address, true
		}
	}
	return netip.Addr{}, false
}

// find returns an address of the family for the owner: one that rests for it, or one that it may
// share, or the next one of the first pool that has one.
func (a *Allocator) find(name string, family Family, request Request) (netip.Addr, error) {
	if address, ok := a.regain(name, family, request); ok {
		return address, nil
	}
	for _, pool := range request.Pools {
		if p := a.pools.byName[pool]; request.gives(p) && request.Terms.Key != "" {
			if address, ok := a.lowestShared(name, p, family, request.Terms); ok {
				return address, nil
			}
		}
	}
	exhausted := &ExhaustedError{Family: family, Named: request.Named}
	for _, pool := range request.Pools {
		p := a.pools.byName[pool]
		if !request.gives(p) || !p.has(family) {
			continue
		}
		if address, ok := a.next(name, p, family); ok {
			return address, nil
		}
		exhausted.Full = append(exhausted.Full, pool)
	}
	return netip.Addr{}, exhausted
}

// regain returns the address of the family that rests for the owner, if it holds none; of several
// the one that it had last.
func (a *Allocator) regain(name string, family Family, request Request) (last netip.Addr, found bool) {
	if len(a.restingOf[name]) == 0 || slices.ContainsFunc(a.owners[name].addresses, of(family)) {
		return last, false
	}
	for _, address := range a.restingOf[name] {
		p := a.pools.of(address)
		if FamilyOf(address) != family || !request.gives(p) || !slices.Contains(request.Pools, p.Name) ||
			!p.offers(address) || slices.Contains(request.Drop, address) ||
			a.mayHold(name, address, request.Terms) != nil {
			continue
		}
		if !found || a.former[last] < a.former[address] {
			last, found = address, true
		}
	}
	return last, found
}
