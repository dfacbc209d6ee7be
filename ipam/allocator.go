package ipam

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Allocator keeps the pools and the owners of each address. Two owners hold the same address only
// if their Terms let them share it.
//
// Owners are named namespace/name.
type Allocator struct {
	pools poolSet
	// outside is the stock of the addresses that are in no pool.
	outside [2]stock
	// taken holds the addresses that are not fresh: held now or before, reserved, pinned, occupied, in
	// use elsewhere, or skipped.
	taken   intervals
	holders map[netip.Addr]holders
	owners  map[string]owner
	// reservations has the AddressReservation of each address that one keeps.
	reservations map[netip.Addr]string
	// skipped holds the edge addresses that a search has passed over.
	skipped map[netip.Addr]bool
	// keyed holds the addresses that are shared under each key.
	keyed map[string]map[netip.Addr]bool
	// used holds the ranges in use elsewhere: disjoint and ascending.
	used     []Used
	occupied occupation
	pinned   pins
	// former holds the addresses that were held before and are not held now, with the order in which
	// they were freed.
	former  map[netip.Addr]uint64
	resting map[netip.Addr]rest // those of former that rest
	// restingOf holds the addresses that rest for each owner.
	restingOf map[string][]netip.Addr
	// freed counts the addresses that were freed, to order them.
	freed uint64
	// versions counts those of all pools, also of pools that are gone.
	versions uint64
}

// holders are the owners of an address; there is nearly always one.
type holders struct {
	first string
	more  []string
}

func (h holders) all() []string { return append([]string{h.first}, h.more...) }

type owner struct {
	addresses []netip.Addr // ascending
	leaving   []netip.Addr // the surplus ones among them
	terms     Terms
}

// rest describes an address that rests.
type rest struct {
	owner string // that had it last, "" if that is not known
	until time.Time
}

// pins are the addresses that owners ask for by name, whether they have them or not.
type pins struct {
	of map[netip.Addr][]string
	by map[string][]netip.Addr
}

// occupation is which Services of other implementations have which addresses.
type occupation struct {
	of map[netip.Addr][]occupant // in the order in which they came
	by map[string][]netip.Addr
}

type occupant struct {
	who string
	by  string // in words that follow "is"
}

// New returns an allocator without pools.
func New() *Allocator {
	return &Allocator{
		outside:      newStocks(),
		taken:        newIntervals(),
		holders:      map[netip.Addr]holders{},
		owners:       map[string]owner{},
		reservations: map[netip.Addr]string{},
		skipped:      map[netip.Addr]bool{},
		keyed:        map[string]map[netip.Addr]bool{},
		occupied:     occupation{of: map[netip.Addr][]occupant{}, by: map[string][]netip.Addr{}},
		pinned:       pins{of: map[netip.Addr][]string{}, by: map[string][]netip.Addr{}},
		former:       map[netip.Addr]uint64{},
		resting:      map[netip.Addr]rest{},
		restingOf:    map[string][]netip.Addr{},
	}
}

// Holders returns the owners of the address, in the order in which they got it.
func (a *Allocator) Holders(address netip.Addr) []string {
	if h, ok := a.holders[address]; ok {
		return h.all()
	}
	return nil
}

// Holdings returns the addresses of an owner in ascending order: IPv4 before IPv6.
func (a *Allocator) Holdings(name string) []netip.Addr { return slices.Clone(a.owners[name].addresses) }

// Addresses returns how many addresses are held.
func (a *Allocator) Addresses() int { return len(a.holders) }

// PoolOf returns the name of the pool that contains the address, "" if there is none.
func (a *Allocator) PoolOf(address netip.Addr) string {
	if p := a.pools.of(address); p != nil {
		return p.Name
	}
	return ""
}

// Reservation returns the reservation of the address, "" if there is none.
func (a *Allocator) Reservation(address netip.Addr) string { return a.reservations[address] }

// UsedBy says who uses the address elsewhere, "" if nobody does.
func (a *Allocator) UsedBy(address netip.Addr) string {
	if u := a.usedAt(address); u != nil {
		return u.By
	}
	return ""
}

// holds reports whether the owner holds the address.
func (a *Allocator) holds(name string, address netip.Addr) bool {
	return slices.Contains(a.owners[name].addresses, address)
}

func (a *Allocator) usedAt(address netip.Addr) *Used { return usedAt(a.used, address) }

// pinnedByOther reports whether another owner asks for the address by name.
func (a *Allocator) pinnedByOther(name string, address netip.Addr) bool {
	return slices.ContainsFunc(a.pinned.of[address], func(by string) bool { return by != name })
}

// blocked reports whether automatic allocation gives the address to nobody. Pins do not count: they
// block it for all owners but one.
func (a *Allocator) blocked(address netip.Addr) bool {
	_, held := a.holders[address]
	return held || a.claimed(address)
}

// claimed reports whether an address is not to be given even if nobody holds it.
func (a *Allocator) claimed(address netip.Addr) bool {
	_, reserved := a.reservations[address]
	return reserved || len(a.occupied.of[address]) > 0 || a.usedAt(address) != nil
}

// Version returns another number whenever Usage, Full, Resting or Recent of the pool may have
// changed. 0: there is no such pool.
func (a *Allocator) Version(pool string) uint64 {
	if p := a.pools.byName[pool]; p != nil {
		return p.version
	}
	return 0
}

// mark updates whether an address is taken.
func (a *Allocator) mark(address netip.Addr) {
	if p := a.pools.of(address); p != nil {
		a.renew(p)
	}
	if _, former := a.former[address]; former || a.skipped[address] || len(a.pinned.of[address]) > 0 ||
		a.blocked(address) {
		a.taken.add(address)
	} else {
		a.taken.remove(address)
	}
}

func namespaceOf(name string) string {
	namespace, _, _ := strings.Cut(name, "/")
	return namespace
}
