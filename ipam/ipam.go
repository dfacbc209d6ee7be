// Package ipam gives addresses from pools to owners. It is pure: it knows no
// Kubernetes, no clock and no I/O. An Allocator is not safe for concurrent use.
package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
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

// of returns a test for addresses of the family.
func of(family Family) func(netip.Addr) bool {
	return func(a netip.Addr) bool { return FamilyOf(a) == family }
}

// Allocator knows the pools and who holds which address. Two owners hold the same
// address only if their Terms let them share it.
//
// Owners are named namespace/name.
type Allocator struct {
	pools   poolSet
	taken   intervals // held, reserved and skipped addresses
	holders map[netip.Addr]holders
	owners  map[string]owner
	// reserved addresses, and the reservation of each.
	reserved map[netip.Addr]string
	// skipped edge addresses that the search came across.
	skipped map[netip.Addr]bool
	// keyed are the addresses that are shared under a key.
	keyed    map[string]map[netip.Addr]bool
	assigned map[poolFamily]int64
}

// holders of an address; nearly always one.
type holders struct {
	first string
	more  []string
}

func (h holders) all() []string { return append([]string{h.first}, h.more...) }

type owner struct {
	addresses []netip.Addr // ascending
	leaving   []netip.Addr // those of them that are surplus
	terms     Terms
}

type poolFamily struct {
	pool   string
	family Family
}

// New returns an allocator without pools.
func New() *Allocator {
	return &Allocator{
		taken:    newIntervals(),
		holders:  map[netip.Addr]holders{},
		owners:   map[string]owner{},
		reserved: map[netip.Addr]string{},
		skipped:  map[netip.Addr]bool{},
		keyed:    map[string]map[netip.Addr]bool{},
		assigned: map[poolFamily]int64{},
	}
}

// SetPools replaces the pools. What is held stays held, inside a pool or not. It
// costs as much as there are addresses held.
func (a *Allocator) SetPools(pools []Pool) {
	a.pools = newPoolSet(pools)
	for address := range a.skipped { // found again where they still matter
		a.taken.remove(address)
	}
	clear(a.skipped)
	clear(a.assigned)
	for address := range a.holders {
		a.count(address, 1)
	}
}

// Holders returns the owners of the address, the longest-standing first.
func (a *Allocator) Holders(address netip.Addr) []string {
	if h, ok := a.holders[address]; ok {
		return h.all()
	}
	return nil
}

// Holdings returns the addresses of an owner, ascending: IPv4 before IPv6.
func (a *Allocator) Holdings(name string) []netip.Addr { return slices.Clone(a.owners[name].addresses) }

// Addresses returns how many addresses are held.
func (a *Allocator) Addresses() int { return len(a.holders) }

// PoolOf returns the name of the pool that holds the address, "" if none does.
func (a *Allocator) PoolOf(address netip.Addr) string {
	if p := a.pools.of(address); p != nil {
		return p.Name
	}
	return ""
}

// Hold gives the address to the owner on the terms, inside a pool or not: to restore
// what was given before. It fails with *TakenError if somebody holds the address
// with whom the owner may not share it, or it is reserved for another namespace.
func (a *Allocator) Hold(name string, address netip.Addr, terms Terms) error {
	if err := a.mayHold(name, address, terms); err != nil {
		return err
	}
	a.setTerms(name, terms)
	a.hold(name, address)
	return nil
}

// mayHold tells why the owner may not hold the address on the terms.
func (a *Allocator) mayHold(name string, address netip.Addr, terms Terms) error {
	if by, ok := a.reserved[address]; ok && namespaceOf(by) != namespaceOf(name) {
		return &TakenError{Address: address, Reservation: by}
	}
	h, ok := a.holders[address]
	if !ok {
		return nil
	}
	pool := a.pools.of(address)
	across := pool != nil && pool.ShareAcross
	holds := slices.Contains(a.owners[name].addresses, address)
	for _, other := range h.all() {
		if other == name {
			continue
		}
		if slices.Contains(a.owners[other].leaving, address) {
			if holds {
				continue // it yields to who stays
			}
			return &TakenError{Address: address, Owner: other, Why: "for a moment still"}
		}
		if why := terms.clash(a.owners[other].terms, across || namespaceOf(other) == namespaceOf(name)); why != "" {
			return &TakenError{Address: address, Owner: other, Why: why}
		}
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
		a.take(address)
		a.holders[address] = holders{first: name}
		a.count(address, 1)
	}
	a.key(o.terms.Key, address)
}

// take marks an address as taken that is about to be held or reserved.
func (a *Allocator) take(address netip.Addr) {
	_, held := a.holders[address]
	_, reserved := a.reserved[address]
	switch {
	case a.skipped[address]:
		delete(a.skipped, address)
	case !held && !reserved:
		a.taken.add(address)
	}
}

// leave is the reverse of take, after the address is held or reserved no more.
func (a *Allocator) leave(address netip.Addr) {
	_, held := a.holders[address]
	_, reserved := a.reserved[address]
	if !held && !reserved {
		a.taken.remove(address)
	}
}

// Release frees every address of the owner and tells whether there was one.
func (a *Allocator) Release(name string) bool { return a.Free(name, a.Holdings(name)) }

// Free frees those of the addresses that the owner holds, and tells whether there
// was one.
func (a *Allocator) Free(name string, addresses []netip.Addr) bool {
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
		a.unhold(name, address)
		a.unkey(o.terms.Key, address)
	}
	if len(a.owners[name].addresses) == 0 {
		delete(a.owners, name)
	}
	return freed
}

func (a *Allocator) unhold(name string, address netip.Addr) {
	rest := slices.DeleteFunc(a.holders[address].all(), func(other string) bool { return other == name })
	if len(rest) > 0 {
		a.holders[address] = holders{first: rest[0], more: rest[1:]}
		return
	}
	delete(a.holders, address)
	a.count(address, -1)
	a.leave(address)
}

func (a *Allocator) count(address netip.Addr, by int64) {
	if p := a.pools.of(address); p != nil {
		a.assigned[poolFamily{p.Name, FamilyOf(address)}] += by
	}
}

// Reserve keeps an address for the owners of a namespace. The reservation is named
// namespace/name. It fails with *TakenError if another namespace holds or reserved
// the address, or another reservation of the same namespace has it.
func (a *Allocator) Reserve(reservation string, address netip.Addr) error {
	if by, ok := a.reserved[address]; ok {
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
	a.take(address)
	a.reserved[address] = reservation
	return nil
}

// ReserveAny reserves an address of the family in the pool: the one that the owner
// holds there, if it holds one, else the lowest free one. It fails with
// *ExhaustedError.
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
	address, ok := a.lowestFree(p, family)
	if !ok {
		return netip.Addr{}, &ExhaustedError{Family: family, Full: []string{pool}}
	}
	return address, a.Reserve(reservation, address)
}

// Unreserve ends a reservation; who holds the address goes on holding it.
func (a *Allocator) Unreserve(address netip.Addr) {
	if _, ok := a.reserved[address]; ok {
		delete(a.reserved, address)
		a.leave(address)
	}
}

// Reservation returns who reserved the address, "" if nobody did.
func (a *Allocator) Reservation(address netip.Addr) string { return a.reserved[address] }

// lowestFree returns the lowest free address of the family in the pool.
func (a *Allocator) lowestFree(p *Pool, family Family) (netip.Addr, bool) {
	for _, r := range p.free {
		if FamilyOf(r.From()) != family {
			continue
		}
		free, ok := a.taken.firstOutside(r)
		for ok && p.SkipEdges && edge(free) {
			// Taken from now on, so that the search passes over it once.
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

// Usage returns the counts of each family that the pool has addresses of.
func (a *Allocator) Usage(pool string) map[Family]Usage {
	usage := map[Family]Usage{}
	p := a.pools.byName[pool]
	if p == nil {
		return usage
	}
	for _, r := range p.Ranges {
		family := FamilyOf(r.From())
		u, ok := usage[family]
		if !ok {
			u = Usage{Assigned: a.assigned[poolFamily{pool, family}], Kept: a.kept(p, family)}
			u.Total = size(r)
		} else {
			u.Total.Add(u.Total, size(r))
		}
		usage[family] = u
	}
	return usage
}

// kept counts the reserved addresses of the pool that nobody holds.
func (a *Allocator) kept(p *Pool, family Family) (n int64) {
	for address := range a.reserved {
		if _, held := a.holders[address]; !held && FamilyOf(address) == family && a.pools.of(address) == p {
			n++
		}
	}
	return n
}

func namespaceOf(name string) string {
	namespace, _, _ := strings.Cut(name, "/")
	return namespace
}
