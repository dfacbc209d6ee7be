package ipam

import (
	"iter"
	"math/big"
	"net/netip"
	"slices"
)

// SetPools replaces the pools. Addresses that are held, occupied, pinned or resting stay so, inside
// a pool or not. It costs as much as the number of such addresses.
func (a *Allocator) SetPools(pools []Pool) {
	a.pools = newPoolSet(pools)
	a.outside = newStocks()
	skipped := a.skipped
	a.skipped = map[netip.Addr]bool{} // searches find them again
	for address := range skipped {
		a.mark(address)
	}
	for address := range a.former {
		a.shelve(address)
	}
	a.recount()
}

// Disable has the pool give no more addresses until SetPools.
func (a *Allocator) Disable(pool string) {
	if p := a.pools.byName[pool]; p != nil {
		p.Allocation = Disabled
		a.renew(p)
	}
}

// SetUsed replaces the ranges that are in use elsewhere. Their addresses are never given, and an
// owner that holds one loses it at its next Assign. Where ranges overlap, the first one counts. It
// costs as much as the number of ranges and of addresses that are held, freed, reserved or pinned.
func (a *Allocator) SetUsed(used []Used) {
	before, now := a.used, disjoint(used)
	a.used = now
	gone, come := difference(before, now), difference(now, before)
	if len(gone)+len(come) == 0 {
		return
	}
	for _, u := range gone {
		a.taken.removeRange(u.IPRange)
	}
	for _, u := range come {
		a.taken.addRange(u.IPRange)
	}
	for address := range a.known() {
		if usedAt(gone, address) != nil || usedAt(come, address) != nil {
			a.settle(address)
		}
	}
	for address := range a.holders {
		if usedAt(gone, address) != nil {
			a.stock(address).usedHeld--
		}
		if usedAt(come, address) != nil {
			a.stock(address).usedHeld++
		}
	}
	a.countUsed()
}

// SetPins replaces the addresses that a known owner asks for by name, whether it has them or not.
// They are not given automatically to others. It returns those that are no longer among them.
func (a *Allocator) SetPins(name string, addresses []netip.Addr) (removed []netip.Addr) {
	before, now := a.pinned.by[name], distinct(addresses)
	if slices.Equal(before, now) {
		return nil
	}
	if a.pinned.by[name] = now; len(now) == 0 {
		delete(a.pinned.by, name)
	}
	for _, address := range before {
		if slices.Contains(now, address) {
			continue
		}
		removed = append(removed, address)
		left := slices.DeleteFunc(a.pinned.of[address], func(by string) bool { return by == name })
		if len(left) > 0 {
			a.pinned.of[address] = left
		} else {
			delete(a.pinned.of, address)
		}
		a.settle(address)
	}
	for _, address := range now {
		if !slices.Contains(before, address) {
			a.pinned.of[address] = append(a.pinned.of[address], name)
			a.settle(address)
		}
	}
	return removed
}

// HeldUsed returns the owners that hold an address in use elsewhere, sorted.
func (a *Allocator) HeldUsed() []string {
	if len(a.used) == 0 {
		return nil
	}
	var names []string
	for address, h := range a.holders {
		if a.usedAt(address) != nil {
			names = append(names, h.all()...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// known returns the addresses with a state of their own beyond the pool that they are in.
func (a *Allocator) known() iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		_ = keys(a.holders, yield) && keys(a.former, yield) && keys(a.reservations, yield) &&
			keys(a.occupied.of, yield) && keys(a.pinned.of, yield) && keys(a.skipped, yield)
	}
}

// keys yields the keys of the map, and reports whether to go on.
func keys[V any](m map[netip.Addr]V, yield func(netip.Addr) bool) bool {
	for address := range m {
		if !yield(address) {
			return false
		}
	}
	return true
}

// distinct returns the addresses, each once, ascending.
func distinct(addresses []netip.Addr) []netip.Addr {
	sorted := slices.SortedFunc(slices.Values(addresses), netip.Addr.Compare)
	return slices.Compact(sorted)
}

// recount counts again what depends on the pools and on what is in use elsewhere.
func (a *Allocator) recount() {
	for _, p := range a.pools.byName {
		for i := range p.stocks {
			clear(p.stocks[i].held)
			p.stocks[i].usedHeld = 0
		}
	}
	for address := range a.holders {
		a.count(address, true)
	}
	a.countUsed()
}

// count counts an address among those of its pool that are held, or not any longer.
func (a *Allocator) count(address netip.Addr, held bool) {
	p := a.pools.of(address)
	if p == nil {
		return
	}
	s, by := p.stock(FamilyOf(address)), int64(1)
	if held {
		s.held[address] = true
	} else {
		delete(s.held, address)
		by = -1
	}
	if a.usedAt(address) != nil {
		s.usedHeld += by
	}
	a.renew(p)
}

// renew gives the pool a version that none had before.
func (a *Allocator) renew(p *poolState) {
	a.versions++
	p.version = a.versions
}

// countUsed counts the addresses of every pool that are in use elsewhere.
func (a *Allocator) countUsed() {
	for _, p := range a.pools.byName {
		for i := range p.stocks {
			p.stocks[i].used = new(big.Int)
		}
		a.renew(p)
	}
	i := 0
	for _, r := range a.pools.ranges { // both ascending
		n := r.pool.stock(FamilyOf(r.From())).used
		for i < len(a.used) && a.used[i].To().Less(r.From()) {
			i++
		}
		for j := i; j < len(a.used) && !r.To().Less(a.used[j].From()); j++ {
			n.Add(n, overlap(r.IPRange, a.used[j].IPRange))
		}
	}
}
