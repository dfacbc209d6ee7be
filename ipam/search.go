package ipam

import (
	"net/netip"
	"slices"
)

// next returns the address of the family that the pool gives to the owner next: the lowest one that
// was never held, or else the one freed longest ago.
func (a *Allocator) next(name string, p *poolState, family Family) (netip.Addr, bool) {
	own := a.ownPins(name, p, family)
	address, found := a.fresh(p, family)
	for _, pin := range own {
		if _, former := a.former[pin]; !former && (!found || pin.Less(address)) {
			address, found = pin, true
		}
	}
	if found {
		return address, true
	}
	oldest, found := p.stock(family).past.Min()
	for _, pin := range own {
		if order := a.former[pin]; !found || order < oldest.order {
			oldest, found = pastAddress{order, pin}, true
		}
	}
	return oldest.address, found
}

// ownPins returns the addresses that the pool can give only to this owner, since it asks for them
// by name.
func (a *Allocator) ownPins(name string, p *poolState, family Family) (own []netip.Addr) {
	for _, pin := range a.pinned.by[name] {
		_, rests := a.resting[pin]
		if FamilyOf(pin) == family && a.pools.of(pin) == p && p.offers(pin) && !rests &&
			!a.blocked(pin) && !a.pinnedByOther(name, pin) {
			own = append(own, pin)
		}
	}
	return own
}

// fresh returns the lowest address of the family in the pool that was never held.
func (a *Allocator) fresh(p *poolState, family Family) (netip.Addr, bool) {
	for _, r := range p.free {
		if FamilyOf(r.From()) != family {
			continue
		}
		free, ok := a.taken.firstOutside(r)
		for ok && p.ExcludeEdges && edge(free) {
			// It counts as taken from now on, so that a search passes over it only once.
			a.taken.add(free)
			a.skipped[free] = true
			free, ok = a.taken.firstOutside(r)
		}
		if ok {
			return free, true
		}
	}
	return netip.Addr{}, false
}

// lowestShared returns the lowest address of the pool and family that others hold and the owner may
// share. It leaves out addresses that another owner waits for by name. An owner that names an
// address it already holds does not wait.
func (a *Allocator) lowestShared(
	name string,
	p *poolState,
	family Family,
	terms Terms,
) (lowest netip.Addr, found bool) {
	for address := range a.keyed[terms.Key] {
		if FamilyOf(address) != family || a.pools.of(address) != p || a.mayHold(name, address, terms) != nil {
			continue
		}
		awaited := slices.ContainsFunc(
			a.pinned.of[address],
			func(by string) bool { return by != name && !a.holds(by, address) },
		)
		if !awaited && (!found || address.Less(lowest)) {
			lowest, found = address, true
		}
	}
	return lowest, found
}
