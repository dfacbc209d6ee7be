package neighbor

import (
	"net/netip"
	"time"
)

const (
	// clearLifetime is for how long an address counts as free after it was found so, while nothing
	// else was heard of it.
	clearLifetime = time.Minute
	// scoutInterval is when it is probed again: before that, so that it never counts as unknown.
	scoutInterval = 50 * time.Second
	// scoutRest is from another host's use of an address to the next probe.
	scoutRest = 10 * time.Second
	// scoutPause is the time between two looks whether this node is the one that is to probe.
	scoutPause = time.Second
)

// Scout knows which addresses are free before they are wanted, so that they need no probe then. The
// caller probes, listens, and says what it heard. Times are arguments and never go back.
type Scout struct {
	finds map[netip.Addr]*find
}

// find is what is known about one address.
type find struct {
	at        time.Time // when to look at it again, unless it is probed
	probing   bool
	listening bool      // the caller hears when another host uses it
	clear     time.Time // when it was found free; zero: it was not, or was used since
}

// NewScout returns a scout that looks at nothing.
func NewScout() *Scout { return &Scout{finds: make(map[netip.Addr]*find)} }

// Set replaces the addresses to look at. It returns those to stop listening for.
func (s *Scout) Set(now time.Time, addrs []netip.Addr) (unheard []netip.Addr) {
	finds := make(map[netip.Addr]*find, len(addrs))
	for _, a := range addrs {
		if finds[a] = s.finds[a]; finds[a] == nil {
			finds[a] = &find{at: now}
		}
	}
	for a, f := range s.finds {
		if finds[a] == nil && f.listening {
			unheard = append(unheard, a)
		}
	}
	s.finds = finds
	return unheard
}

// Reset forgets what was found, because something may have gone unheard. It returns the addresses
// to stop listening for.
func (s *Scout) Reset(now time.Time) (unheard []netip.Addr) {
	for a, f := range s.finds {
		if f.listening {
			unheard = append(unheard, a)
		}
		*f = find{at: now}
	}
	return unheard
}

// Due returns the addresses to look at now. For each of them the caller calls Begin or Postpone.
func (s *Scout) Due(now time.Time) (addrs []netip.Addr) {
	for a, f := range s.finds {
		if !f.probing && !now.Before(f.at) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// Begin says that the address is being probed. It reports whether to begin to listen for it.
func (s *Scout) Begin(addr netip.Addr) (listen bool) {
	f := s.finds[addr]
	listen = !f.listening
	f.probing, f.listening = true, true
	return listen
}

// Postpone says that another node is to probe the address, or none. It reports whether to stop
// listening for it.
func (s *Scout) Postpone(now time.Time, addr netip.Addr) (unheard bool) {
	f := s.finds[addr]
	unheard = f.listening
	*f = find{at: now.Add(scoutPause)}
	return unheard
}

// Listens reports whether sightings of the address matter.
func (s *Scout) Listens(addr netip.Addr) bool {
	f, ok := s.finds[addr]
	return ok && f.listening
}

// Doubt says that the address, which is being probed, may be in use.
func (s *Scout) Doubt(addr netip.Addr) {
	if f, ok := s.finds[addr]; ok {
		f.clear = time.Time{}
	}
}

// Found says that the probes were not answered.
func (s *Scout) Found(now time.Time, addr netip.Addr) {
	if f, ok := s.finds[addr]; ok {
		f.probing, f.clear, f.at = false, now, now.Add(scoutInterval)
	}
}

// Used says that another host uses the address.
func (s *Scout) Used(now time.Time, addr netip.Addr) {
	if f, ok := s.finds[addr]; ok {
		f.probing, f.clear, f.at = false, time.Time{}, now.Add(scoutRest)
	}
}

// Claim says that this node claims the address. It reports whether the address needs no probe,
// because it was found free, and no other use of it was heard since. That counts once.
func (s *Scout) Claim(now time.Time, addr netip.Addr) (clear bool) {
	f, ok := s.finds[addr]
	if !ok {
		return false
	}
	clear = !f.clear.IsZero() && now.Sub(f.clear) <= clearLifetime
	f.probing, f.clear, f.at = false, time.Time{}, now
	return clear
}

// Next returns when Due has something to return; the zero time: never.
func (s *Scout) Next() (first time.Time) {
	for _, f := range s.finds {
		if !f.probing && (first.IsZero() || f.at.Before(first)) {
			first = f.at
		}
	}
	return first
}
