package neighbor

import (
	"maps"
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
	wanted map[netip.Addr]struct{} // guarded by mu
	decoys map[netip.Addr]struct{} // guarded by mu; not wanted, but asked for
	next   map[netip.Addr]struct{} // guarded by mu; perhaps wanted soon
	// What the responders look up for each request. It is separate and small, so that thousands of
	// entries stay in the processor's cache.
	answered map[[16]byte]struct{} // guarded by mu

	Watchdog Watchdog
}

// NewAddressTable returns an empty table whose watchdog, which goes by that clock, allows no
// answers yet.
func NewAddressTable(now func() time.Time) *AddressTable {
	return &AddressTable{
		wanted:   make(map[netip.Addr]struct{}),
		decoys:   make(map[netip.Addr]struct{}),
		next:     make(map[netip.Addr]struct{}),
		answered: make(map[[16]byte]struct{}),
		Watchdog: Watchdog{base: now(), now: now},
	}
}

// Answering reports whether this node answers for addr now: the address is answered for, and the
// watchdog has not expired.
func (a *AddressTable) Answering(addr netip.Addr) bool {
	return a.IsAnswered(addr) && a.Watchdog.running()
}

// IsAnswered reports whether the address is answered for as long as the watchdog allows it.
func (a *AddressTable) IsAnswered(addr netip.Addr) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	_, ok := a.answered[addr.As16()]
	return ok
}

// Knows reports whether addr is wanted, answered for or not, may be wanted soon, or is a decoy:
// other hosts that use it matter.
func (a *AddressTable) Knows(addr netip.Addr) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	_, wanted := a.wanted[addr]
	_, decoy := a.decoys[addr]
	_, next := a.next[addr]
	return wanted || decoy || next
}

// Wanted returns the addresses that are wanted, in no order.
func (a *AddressTable) Wanted() []netip.Addr {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return slices.Collect(maps.Keys(a.wanted))
}

// SetWanted sets whether the address is wanted on the segment.
func (a *AddressTable) SetWanted(addr netip.Addr, on bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	set(a.wanted, addr, on)
}

// SetNext sets whether the address may be wanted on the segment soon.
func (a *AddressTable) SetNext(addr netip.Addr, on bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	set(a.next, addr, on)
}

// SetDecoys sets whether the addresses are decoys.
func (a *AddressTable) SetDecoys(addrs []netip.Addr, on bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, addr := range addrs {
		set(a.decoys, addr, on)
	}
}

// Answer starts answering for an address.
func (a *AddressTable) Answer(addr netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	set(a.answered, addr.As16(), true)
}

// Silence stops answering for an address, and reports whether it was answered for.
func (a *AddressTable) Silence(addr netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, was := a.answered[addr.As16()]
	set(a.answered, addr.As16(), false)
	return was
}

func set[K comparable](s map[K]struct{}, key K, on bool) {
	if on {
		s[key] = struct{}{}
	} else {
		delete(s, key)
	}
}

// Watchdog stands between a segment's loop and its responders: a process that was frozen must not
// answer from what it believed before. It is a deadline that the loop extends while it runs on
// time.
type Watchdog struct {
	now   func() time.Time
	base  time.Time
	until atomic.Int64 // nanoseconds after base
}

// Extend allows answers until the given time.
func (w *Watchdog) Extend(until time.Time) { w.until.Store(int64(until.Sub(w.base))) }

// Stop forbids answers until the next Extend.
func (w *Watchdog) Stop() { w.until.Store(0) }

func (w *Watchdog) running() bool { return int64(w.now().Sub(w.base)) < w.until.Load() }
