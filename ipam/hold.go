package ipam

import (
	"net/netip"
	"slices"
	"time"
)

// Hold gives the address to the owner on the terms, inside a pool or not, even if it rests: to
// restore what was given before. It fails with *TakenError if an owner that may not share it holds
// the address, or it is reserved for another namespace, and with *UsedError if it is in use
// elsewhere.
func (a *Allocator) Hold(name string, address netip.Addr, terms Terms) error {
	err := a.mayShare(name, address, terms)
	if err == nil {
		err = a.notOccupied(name, address)
	}
	if err != nil {
		return err
	}
	a.setTerms(name, terms)
	a.hold(name, address)
	return nil
}

// TakeOver is Hold for an owner whose Service got its addresses from another implementation: all of
// them or none. Occupants for which with returns true are about to be taken over as well, and are
// no obstacle: they share the address, or wait for it.
func (a *Allocator) TakeOver(name string, addresses []netip.Addr, terms Terms, with func(occupant string) bool) error {
	for _, address := range addresses {
		if err := a.mayShare(name, address, terms); err != nil {
			return err
		}
		for _, o := range a.occupied.of[address] {
			if o.who != name && !with(o.who) {
				return &UsedError{Address: address, By: o.by}
			}
		}
	}
	a.setTerms(name, terms)
	for _, address := range addresses {
		a.hold(name, address)
	}
	return nil
}

// Release frees every address of the owner, none of which rests, and reports whether there was one.
func (a *Allocator) Release(name string) bool { return a.Free(name, a.Holdings(name), time.Time{}) }

// Free frees those of the addresses that the owner holds, and reports whether there were any. An
// address without holders then rests until the given time, zero for none: until then only this
// owner gets it.
func (a *Allocator) Free(name string, addresses []netip.Addr, until time.Time) bool {
	freed := false
	for _, address := range addresses {
		o := a.owners[name]
		at, has := slices.BinarySearchFunc(o.addresses, address, netip.Addr.Compare)
		if !has {
			continue
		}
		freed = true
		o.addresses = slices.Delete(o.addresses, at, at+1)
		o.leaving = slices.DeleteFunc(o.leaving, func(l netip.Addr) bool { return l == address })
		a.owners[name] = o
		a.unhold(name, address, until)
		a.unkey(o.terms.Key, address)
	}
	if len(a.owners[name].addresses) == 0 {
		delete(a.owners, name)
	}
	return freed
}

// mayHold returns why the owner may not hold the address on the terms.
func (a *Allocator) mayHold(name string, address netip.Addr, terms Terms) error {
	if err := a.mayShare(name, address, terms); err != nil {
		return err
	}
	if r, rests := a.resting[address]; rests && r.owner != name {
		return &RestingError{Address: address, Owner: r.owner, Until: r.until}
	}
	return a.notOccupied(name, address)
}

// mayShare returns a TakenError or UsedError if the address is in use elsewhere, reserved for
// another namespace, or held by an owner that does not share it on the terms.
func (a *Allocator) mayShare(name string, address netip.Addr, terms Terms) error {
	if u := a.usedAt(address); u != nil {
		return &UsedError{Address: address, By: u.By}
	}
	if by, ok := a.reservations[address]; ok && namespaceOf(by) != namespaceOf(name) {
		return &TakenError{Address: address, Reservation: by}
	}
	h, ok := a.holders[address]
	if !ok {
		return nil
	}
	pool := a.pools.of(address)
	across := pool != nil && pool.ShareAcross
	holds := a.holds(name, address)
	for _, other := range h.all() {
		if other == name {
			continue
		}
		if slices.Contains(a.owners[other].leaving, address) {
			if holds {
				continue // the other one is about to lose it
			}
			return &TakenError{Address: address, Owner: other, Why: "for another moment"}
		}
		if why := terms.clash(a.owners[other].terms, across || namespaceOf(other) == namespaceOf(name)); why != "" {
			return &TakenError{Address: address, Owner: other, Why: why}
		}
	}
	return nil
}

// notOccupied returns a UsedError if the address is occupied and the owner does not hold it.
func (a *Allocator) notOccupied(name string, address netip.Addr) error {
	if by := a.occupied.of[address]; len(by) > 0 && !a.holds(name, address) {
		return &UsedError{Address: address, By: by[0].by}
	}
	return nil
}

// hold notes that the owner holds the address.
func (a *Allocator) hold(name string, address netip.Addr) {
	o := a.owners[name]
	at, has := slices.BinarySearchFunc(o.addresses, address, netip.Addr.Compare)
	if has {
		return
	}
	o.addresses = slices.Insert(o.addresses, at, address)
	a.owners[name] = o
	if h, ok := a.holders[address]; ok {
		h.more = append(slices.Clone(h.more), name)
		a.holders[address] = h
	} else {
		a.recall(address)
		a.holders[address] = holders{first: name}
		a.count(address, true)
		a.taken.add(address)
	}
	a.key(o.terms.Key, address)
}

func (a *Allocator) unhold(name string, address netip.Addr, until time.Time) {
	if h := a.holders[address]; len(h.more) > 0 {
		left := slices.DeleteFunc(h.all(), func(other string) bool { return other == name })
		a.holders[address] = holders{first: left[0], more: left[1:]}
		return
	}
	delete(a.holders, address)
	a.count(address, false)
	a.retire(address, name, until) // still taken
}

// setTerms replaces the terms of an owner.
func (a *Allocator) setTerms(name string, terms Terms) {
	o := a.owners[name]
	former := o.terms.Key
	o.terms = terms
	a.owners[name] = o
	if former != terms.Key {
		for _, address := range o.addresses {
			a.unkey(former, address)
			a.key(terms.Key, address)
		}
	}
}

// key notes that the address can be shared under the key.
func (a *Allocator) key(key string, address netip.Addr) {
	if key == "" {
		return
	}
	if a.keyed[key] == nil {
		a.keyed[key] = map[netip.Addr]bool{}
	}
	a.keyed[key][address] = true
}

// unkey notes that an owner with the key no longer has the address.
func (a *Allocator) unkey(key string, address netip.Addr) {
	if key == "" {
		return
	}
	for _, other := range a.Holders(address) {
		if a.owners[other].terms.Key == key {
			return
		}
	}
	delete(a.keyed[key], address)
	if len(a.keyed[key]) == 0 {
		delete(a.keyed, key)
	}
}
