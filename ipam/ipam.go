// Package ipam gives addresses from pools to owners. It is pure: it knows no
// Kubernetes, no clock and no I/O. An Allocator is not safe for concurrent use.
package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Family is an address family.
type Family uint8

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// index of the family in an array of both.
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

// of returns a test for addresses of the family.
func of(family Family) func(netip.Addr) bool {
	return func(a netip.Addr) bool { return FamilyOf(a) == family }
}

// Allocator knows the pools and who holds which address. Two owners hold the same
// address only if their Terms let them share it.
//
// Owners are named namespace/name.
type Allocator struct {
	pools poolSet
	// outside is the stock of the addresses in no pool.
	outside [2]stock
	// taken addresses are not fresh: held or held once, reserved, pinned, occupied, in
	// use elsewhere, or skipped.
	taken   intervals
	holders map[netip.Addr]holders
	owners  map[string]owner
	// reserved addresses, and the reservation of each.
	reserved map[netip.Addr]string
	// skipped edge addresses that the search came across.
	skipped map[netip.Addr]bool
	// keyed are the addresses that are shared under a key.
	keyed map[string]map[netip.Addr]bool
	// used ranges are somebody else's: disjoint and ascending.
	used     []Used
	occupied occupation
	pinned   pins
	// former addresses were held once and are not now: in which order they were freed.
	former  map[netip.Addr]uint64
	resting map[netip.Addr]rest // those of them that rest
	// restingOf are the addresses that rest for an owner.
	restingOf map[string][]netip.Addr
	// freed counts the addresses freed, to order them.
	freed uint64
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

// New returns an allocator without pools.
func New() *Allocator {
	return &Allocator{
		outside:   newStocks(),
		taken:     newIntervals(),
		holders:   map[netip.Addr]holders{},
		owners:    map[string]owner{},
		reserved:  map[netip.Addr]string{},
		skipped:   map[netip.Addr]bool{},
		keyed:     map[string]map[netip.Addr]bool{},
		occupied:  occupation{of: map[netip.Addr][]occupant{}, by: map[string][]netip.Addr{}},
		pinned:    pins{of: map[netip.Addr][]string{}, by: map[string][]netip.Addr{}},
		former:    map[netip.Addr]uint64{},
		resting:   map[netip.Addr]rest{},
		restingOf: map[string][]netip.Addr{},
	}
}

// SetPools replaces the pools. What is held, occupied, pinned or rests stays so, inside
// a pool or not. It costs as much as there are such addresses.
func (a *Allocator) SetPools(pools []Pool) {
	a.pools = newPoolSet(pools)
	a.outside = newStocks()
	skipped := a.skipped
	a.skipped = map[netip.Addr]bool{} // found again where they still matter
	for address := range skipped {
		a.mark(address)
	}
	for address := range a.former {
		a.shelve(address)
	}
	a.recount()
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

// Hold gives the address to the owner on the terms, inside a pool or not, even if it
// rests: to restore what was given before. It fails with *TakenError if somebody holds
// the address with whom the owner may not share it, or it is reserved for another
// namespace, and with *UsedError if it is somebody else's.
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

// mayHold says why the owner may not hold the address on the terms.
func (a *Allocator) mayHold(name string, address netip.Addr, terms Terms) error {
	if err := a.mayShare(name, address, terms); err != nil {
		return err
	}
	if r, rests := a.resting[address]; rests && r.owner != name {
		return &RestingError{Address: address, Owner: r.owner, Until: r.until}
	}
	return a.notOccupied(name, address)
}

// TakeOver is Hold for an owner whose Service others gave the addresses, all or none. Occupants of which with says so are to
// be taken over as well, and are no obstacle: they share the address, or wait for it then.
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

// notOccupied says whose the address is, if it is occupied and the owner does not hold it.
func (a *Allocator) notOccupied(name string, address netip.Addr) error {
	if by := a.occupied.of[address]; len(by) > 0 && !a.holds(name, address) {
		return &UsedError{Address: address, By: by[0].by}
	}
	return nil
}

// holds reports whether the owner holds the address.
func (a *Allocator) holds(name string, address netip.Addr) bool {
	return slices.Contains(a.owners[name].addresses, address)
}

// mayShare says whose the address is, if it is in use elsewhere, reserved for another
// namespace, or held by an owner who does not share it on the terms.
func (a *Allocator) mayShare(name string, address netip.Addr, terms Terms) error {
	if u := a.usedAt(address); u != nil {
		return &UsedError{Address: address, By: u.By}
	}
	if by, ok := a.reserved[address]; ok && namespaceOf(by) != namespaceOf(name) {
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
		a.recall(address)
		a.holders[address] = holders{first: name}
		a.count(address, 1)
		a.taken.add(address)
	}
	a.key(o.terms.Key, address)
}

// blocked reports whether automatic allocation gives the address to nobody. Pins are
// another matter: they block for all but one.
func (a *Allocator) blocked(address netip.Addr) bool {
	_, held := a.holders[address]
	return held || a.claimed(address)
}

// claimed reports whether an address is not to be given even if nobody holds it.
func (a *Allocator) claimed(address netip.Addr) bool {
	_, reserved := a.reserved[address]
	return reserved || len(a.occupied.of[address]) > 0 || a.usedAt(address) != nil
}

// settle puts an address where it belongs after what is known of it changed.
func (a *Allocator) settle(address netip.Addr) {
	a.mark(address)
	a.shelve(address)
}

// mark notes whether an address is taken.
func (a *Allocator) mark(address netip.Addr) {
	if _, former := a.former[address]; former || a.skipped[address] || len(a.pinned.of[address]) > 0 || a.blocked(address) {
		a.taken.add(address)
	} else {
		a.taken.remove(address)
	}
}

// Release frees every address of the owner without a rest, and reports whether there
// was one.
func (a *Allocator) Release(name string) bool { return a.Free(name, a.Holdings(name), time.Time{}) }

// Free frees those of the addresses that the owner holds, and reports whether there was
// one. An address that nobody holds then rests until the time, unless that is zero:
// meanwhile only this owner gets it.
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

func (a *Allocator) unhold(name string, address netip.Addr, until time.Time) {
	if h := a.holders[address]; len(h.more) > 0 {
		left := slices.DeleteFunc(h.all(), func(other string) bool { return other == name })
		a.holders[address] = holders{first: left[0], more: left[1:]}
		return
	}
	delete(a.holders, address)
	a.count(address, -1)
	a.retire(address, name, until) // it stays taken
}

// Reserve keeps an address for the owners of a namespace. The reservation is named
// namespace/name. It fails with *TakenError if another namespace holds or reserved
// the address, or another reservation of the same namespace has it, with *UsedError if
// it is somebody else's, and with *RestingError if an owner of another namespace had it
// a moment ago.
func (a *Allocator) Reserve(reservation string, address netip.Addr) error {
	if u := a.usedAt(address); u != nil {
		return &UsedError{Address: address, By: u.By}
	}
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
	if r, rests := a.resting[address]; rests && namespaceOf(r.owner) != namespaceOf(reservation) {
		return &RestingError{Address: address, Owner: r.owner, Until: r.until}
	}
	if by := a.occupied.of[address]; len(by) > 0 {
		return &UsedError{Address: address, By: by[0].by}
	}
	a.reserved[address] = reservation
	a.settle(address)
	return nil
}

// ReserveAny reserves an address of the family in the pool: the one that the owner
// holds there, if it holds one, else the one that it would be given. It fails with
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
	address, ok := a.next(owner, p, family)
	if !ok {
		return netip.Addr{}, &ExhaustedError{Family: family, Full: []string{pool}, Resting: a.wakes(owner, p, family)}
	}
	return address, a.Reserve(reservation, address)
}

// Unreserve ends a reservation; who holds the address goes on holding it.
func (a *Allocator) Unreserve(address netip.Addr) {
	if _, ok := a.reserved[address]; ok {
		delete(a.reserved, address)
		a.settle(address)
	}
}

// Reservation returns who reserved the address, "" if nobody did.
func (a *Allocator) Reservation(address netip.Addr) string { return a.reserved[address] }

func namespaceOf(name string) string {
	namespace, _, _ := strings.Cut(name, "/")
	return namespace
}
