package ipam

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

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

// rest is what is known of an address that rests.
type rest struct {
	owner string // who had it last, if that is known
	until time.Time
}

// pins are the addresses that owners ask for by name, whether they have them or not.
type pins struct {
	of map[netip.Addr][]string
	by map[string][]netip.Addr
}

// occupation is who occupies which address: Services of other implementations.
type occupation struct {
	of map[netip.Addr][]occupant // the longest-standing first
	by map[string][]netip.Addr
}

type occupant struct {
	who string
	by  string // in words that follow "is"
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

// Reservation returns who reserved the address, "" if nobody did.
func (a *Allocator) Reservation(address netip.Addr) string { return a.reserved[address] }

// UsedBy returns whose the address is, "" if nobody's.
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

// pinnedByOther reports whether another than the owner asks for the address by name.
func (a *Allocator) pinnedByOther(name string, address netip.Addr) bool {
	return slices.ContainsFunc(a.pinned.of[address], func(by string) bool { return by != name })
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

// mark notes whether an address is taken.
func (a *Allocator) mark(address netip.Addr) {
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
