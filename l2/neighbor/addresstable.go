package neighbor

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// AddressTable is where the responders of one segment look up addresses. The segment's loop writes
// it. Readers hold its lock for one lookup, never across I/O, and a lookup costs the same for ten
// addresses and for ten thousand.
type AddressTable struct {
	mu     sync.RWMutex
	byAddr map[netip.Addr]*tableEntry // guarded by mu
	groups map[string]*tableGroup     // guarded by mu
	decoys map[netip.Addr]struct{}    // guarded by mu; of no group, but asked for
	// What the responders look up for each request. It is separate and small, so that thousands of
	// entries stay in the processor's cache.
	answered map[[16]byte]struct{} // guarded by mu

	Watchdog Watchdog
}

// tableEntry is one address. While groups change, two groups may hold it for a moment.
type tableEntry struct {
	groups []string
	owned  int // how many of the groups this node owns
}

// tableGroup is one group. Some addresses of an owned group may not be answered for, because it is
// not known yet whether they are free.
type tableGroup struct {
	addrs    []netip.Addr
	owned    bool
	answered int // how many of addrs are answered for, for this group or another
}

// NewAddressTable returns an empty table whose watchdog allows no answers yet.
func NewAddressTable() *AddressTable {
	return &AddressTable{
		byAddr:   make(map[netip.Addr]*tableEntry),
		groups:   make(map[string]*tableGroup),
		decoys:   make(map[netip.Addr]struct{}),
		answered: make(map[[16]byte]struct{}),
		Watchdog: Watchdog{base: time.Now()},
	}
}

// Answering reports whether this node answers for addr now: the address is answered for, and the
// watchdog has not expired.
func (a *AddressTable) Answering(addr netip.Addr) bool {
	a.mu.RLock()
	_, ok := a.answered[addr.As16()]
	a.mu.RUnlock()
	return ok && a.Watchdog.running()
}

// Knows reports whether a group holds addr, answered for or not, or it is a decoy: other hosts that
// use it matter.
func (a *AddressTable) Knows(addr netip.Addr) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	_, held := a.byAddr[addr]
	_, decoy := a.decoys[addr]
	return held || decoy
}

// SetDecoys sets whether the addresses are decoys.
func (a *AddressTable) SetDecoys(addrs []netip.Addr, on bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, addr := range addrs {
		if on {
			a.decoys[addr] = struct{}{}
		} else {
			delete(a.decoys, addr)
		}
	}
}

// GroupsOf returns the groups that hold addr, answered for or not. The caller must not change the
// slice.
func (a *AddressTable) GroupsOf(addr netip.Addr) []string {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if e, ok := a.byAddr[addr]; ok {
		return e.groups
	}
	return nil
}

// AddressesOf returns the addresses of a group. The caller must not change the slice.
func (a *AddressTable) AddressesOf(group string) []netip.Addr {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if g, ok := a.groups[group]; ok {
		return g.addrs
	}
	return nil
}

// Groups returns the addresses of each group. The caller must not change them.
func (a *AddressTable) Groups() [][]netip.Addr {
	a.mu.RLock()
	defer a.mu.RUnlock()
	list := make([][]netip.Addr, 0, len(a.groups))
	for _, g := range a.groups {
		list = append(list, g.addrs)
	}
	return list
}

// Holds reports whether this node answers for the group, or for some of it.
func (a *AddressTable) Holds(group string) bool {
	some, _ := a.Extent(group)
	return some
}

// Extent reports whether this node answers for some addresses of a group that it owns, and whether
// for all.
func (a *AddressTable) Extent(group string) (some, all bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	g, ok := a.groups[group]
	if !ok || !g.owned {
		return false, false
	}
	return g.answered > 0, g.answered == len(g.addrs)
}

// AnsweredOf returns the addresses of an owned group that this node answers for.
func (a *AddressTable) AnsweredOf(group string) []netip.Addr {
	a.mu.RLock()
	defer a.mu.RUnlock()
	var list []netip.Addr
	if g, ok := a.groups[group]; ok && g.owned {
		for _, addr := range g.addrs {
			if _, answered := a.answered[addr.As16()]; answered {
				list = append(list, addr)
			}
		}
	}
	return list
}

// Owned returns the addresses of all owned groups.
func (a *AddressTable) Owned() []netip.Addr {
	a.mu.RLock()
	defer a.mu.RUnlock()
	var list []netip.Addr
	for addr, e := range a.byAddr {
		if e.owned > 0 {
			list = append(list, addr)
		}
	}
	return list
}

// Answer starts answering for an address.
func (a *AddressTable) Answer(addr netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, was := a.answered[addr.As16()]; !was {
		a.answered[addr.As16()] = struct{}{}
		a.count(addr, +1)
	}
}

// Silence stops answering for an address, and reports whether it was answered for.
func (a *AddressTable) Silence(addr netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, was := a.answered[addr.As16()]
	if was {
		delete(a.answered, addr.As16())
		a.count(addr, -1)
	}
	return was
}

// count keeps how many of each group's addresses are answered for. a.mu is held.
func (a *AddressTable) count(addr netip.Addr, n int) {
	if e, ok := a.byAddr[addr]; ok {
		for _, group := range e.groups {
			a.groups[group].answered += n
		}
	}
}

// IsAnswered reports whether the address is answered for as long as the watchdog allows it.
func (a *AddressTable) IsAnswered(addr netip.Addr) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	_, ok := a.answered[addr.As16()]
	return ok
}

// SetGroup replaces a group's addresses, and keeps whether it is owned. It returns which addresses
// this node came to own and which it lost, over all groups.
func (a *AddressTable) SetGroup(group string, addrs []netip.Addr) (on, off []netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	g, ok := a.groups[group]
	if !ok {
		g = &tableGroup{}
		a.groups[group] = g
	}
	old := g.addrs
	g.addrs = addrs
	for _, addr := range addrs {
		if !slices.Contains(old, addr) {
			on = append(on, a.add(addr, group, g.owned)...)
		}
	}
	for _, addr := range old {
		if !slices.Contains(addrs, addr) {
			off = append(off, a.drop(addr, group, g.owned)...)
		}
	}
	if len(addrs) == 0 {
		delete(a.groups, group)
	}
	return on, off
}

// SetOwned sets whether this node owns a group. It returns which addresses it came to own and which
// it lost by that.
func (a *AddressTable) SetOwned(group string, owned bool) (on, off []netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	g, ok := a.groups[group]
	if !ok || g.owned == owned {
		return nil, nil
	}
	g.owned = owned
	for _, addr := range g.addrs {
		e := a.byAddr[addr]
		if owned {
			if e.owned++; e.owned == 1 {
				on = append(on, addr)
			}
		} else if e.owned--; e.owned == 0 {
			off = append(off, addr)
		}
	}
	return on, off
}

func (a *AddressTable) add(addr netip.Addr, group string, owned bool) []netip.Addr {
	e, ok := a.byAddr[addr]
	if !ok {
		e = &tableEntry{}
		a.byAddr[addr] = e
	}
	// A new slice each time: readers may still hold the old one.
	e.groups = append(slices.Clip(slices.Clone(e.groups)), group)
	if _, answered := a.answered[addr.As16()]; answered {
		a.groups[group].answered++
	}
	if !owned {
		return nil
	}
	if e.owned++; e.owned > 1 {
		return nil
	}
	return []netip.Addr{addr}
}

func (a *AddressTable) drop(addr netip.Addr, group string, owned bool) []netip.Addr {
	e, ok := a.byAddr[addr]
	if !ok {
		return nil
	}
	e.groups = slices.DeleteFunc(slices.Clone(e.groups), func(g string) bool { return g == group })
	if _, answered := a.answered[addr.As16()]; answered {
		a.groups[group].answered--
	}
	if owned {
		e.owned--
	}
	if len(e.groups) == 0 {
		delete(a.byAddr, addr)
	}
	if owned && e.owned == 0 {
		return []netip.Addr{addr}
	}
	return nil
}

// Watchdog stands between a segment's loop and its responders: a process that was frozen must not
// answer from what it believed before. It is a deadline that the loop extends while it runs on
// time.
type Watchdog struct {
	base  time.Time    // carries the monotonic clock
	until atomic.Int64 // nanoseconds after base
}

// Extend allows answers until the given time.
func (w *Watchdog) Extend(until time.Time) { w.until.Store(int64(until.Sub(w.base))) }

// Stop forbids answers until the next Extend.
func (w *Watchdog) Stop() { w.until.Store(0) }

func (w *Watchdog) running() bool { return int64(time.Since(w.base)) < w.until.Load() }
