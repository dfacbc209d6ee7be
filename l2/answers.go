package l2

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// answers is what the responders of one segment look addresses up in. The segment's loop writes it; readers
// hold its lock for one lookup, never across I/O, and a lookup costs the same for ten and ten thousand.
type answers struct {
	mu     sync.RWMutex
	byAddr map[netip.Addr]*entry    // guarded by mu
	groups map[string]*announcement // guarded by mu
	// What the responders look at for each question, apart and small, so that thousands stay in a processor's cache.
	answered map[[16]byte]struct{} // guarded by mu

	awake wakefulness
}

// entry is one address; for a moment of a regrouping two groups may hold it.
type entry struct {
	groups    []string
	answering int
}

type announcement struct {
	addrs     []netip.Addr
	answering bool
}

func newAnswers() *answers {
	return &answers{
		byAddr: make(map[netip.Addr]*entry), groups: make(map[string]*announcement), answered: make(map[[16]byte]struct{}),
		awake: wakefulness{base: time.Now()},
	}
}

// answering reports whether this node answers for addr now: it owns it, and its own clockwork runs.
func (a *answers) answering(addr netip.Addr) bool {
	a.mu.RLock()
	_, ok := a.answered[addr.As16()]
	a.mu.RUnlock()
	return ok && a.awake.now()
}

// knows reports whether a group holds addr, answered for or not.
func (a *answers) knows(addr netip.Addr) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	_, ok := a.byAddr[addr]
	return ok
}

// groupsOf returns the groups that hold addr, answered for or not. The caller must not change the slice.
func (a *answers) groupsOf(addr netip.Addr) []string {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if e, ok := a.byAddr[addr]; ok {
		return e.groups
	}
	return nil
}

// of returns the addresses of a group. The caller must not change the slice.
func (a *answers) of(group string) []netip.Addr {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if g, ok := a.groups[group]; ok {
		return g.addrs
	}
	return nil
}

// holds reports whether this node answers for the group.
func (a *answers) holds(group string) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	g, ok := a.groups[group]
	return ok && g.answering
}

// active lists the addresses that are answered for.
func (a *answers) active() []netip.Addr {
	a.mu.RLock()
	defer a.mu.RUnlock()
	var list []netip.Addr
	for addr, e := range a.byAddr {
		if e.answering > 0 {
			list = append(list, addr)
		}
	}
	return list
}

// set replaces a group's addresses and keeps whether it is answered for. It returns which addresses of an
// answered group came and went, counted over all groups.
func (a *answers) set(group string, addrs []netip.Addr) (on, off []netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	g, ok := a.groups[group]
	if !ok {
		g = &announcement{}
		a.groups[group] = g
	}
	old := g.addrs
	g.addrs = addrs
	for _, addr := range addrs {
		if !slices.Contains(old, addr) {
			on = append(on, a.add(addr, group, g.answering)...)
		}
	}
	for _, addr := range old {
		if !slices.Contains(addrs, addr) {
			off = append(off, a.drop(addr, group, g.answering)...)
		}
	}
	if len(addrs) == 0 {
		delete(a.groups, group)
	}
	a.answer(on, off)
	return on, off
}

// mark says whether a group is answered for, and returns which addresses came and went by it.
func (a *answers) mark(group string, answering bool) (on, off []netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	g, ok := a.groups[group]
	if !ok || g.answering == answering {
		return nil, nil
	}
	g.answering = answering
	for _, addr := range g.addrs {
		e := a.byAddr[addr]
		if answering {
			if e.answering++; e.answering == 1 {
				on = append(on, addr)
			}
		} else if e.answering--; e.answering == 0 {
			off = append(off, addr)
		}
	}
	a.answer(on, off)
	return on, off
}

// answer lets the responders know. An address may come in one group while it goes in another. a.mu is held.
func (a *answers) answer(on, off []netip.Addr) {
	for _, addr := range off {
		delete(a.answered, addr.As16())
	}
	for _, addr := range on {
		a.answered[addr.As16()] = struct{}{}
	}
}

func (a *answers) add(addr netip.Addr, group string, answering bool) []netip.Addr {
	e, ok := a.byAddr[addr]
	if !ok {
		e = &entry{}
		a.byAddr[addr] = e
	}
	// A new slice each time: readers may still hold the old one.
	e.groups = append(slices.Clip(slices.Clone(e.groups)), group)
	if !answering {
		return nil
	}
	if e.answering++; e.answering > 1 {
		return nil
	}
	return []netip.Addr{addr}
}

func (a *answers) drop(addr netip.Addr, group string, answering bool) []netip.Addr {
	e, ok := a.byAddr[addr]
	if !ok {
		return nil
	}
	e.groups = slices.DeleteFunc(slices.Clone(e.groups), func(g string) bool { return g == group })
	if answering {
		e.answering--
	}
	if len(e.groups) == 0 {
		delete(a.byAddr, addr)
	}
	if answering && e.answering == 0 {
		return []netip.Addr{addr}
	}
	return nil
}

// wakefulness is the watchdog between a segment's loop and its responders: a process that was frozen must not
// answer from what it believed before. It is a deadline that the loop pushes on while it is on time.
type wakefulness struct {
	base  time.Time    // carries the monotonic clock
	until atomic.Int64 // nanoseconds after base
}

// extend allows answers until the given time.
func (w *wakefulness) extend(until time.Time) { w.until.Store(int64(until.Sub(w.base))) }

// sleep forbids answers until the next extend.
func (w *wakefulness) sleep() { w.until.Store(0) }

func (w *wakefulness) now() bool { return int64(time.Since(w.base)) < w.until.Load() }
