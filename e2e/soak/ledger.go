package soak

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Span is a time in which a Service had an address. To is zero while it has it.
type Span struct{ From, To time.Time }

// within returns the part of the span between two moments, and whether there is one.
func (s Span) within(from, to time.Time) (Span, bool) {
	if s.From.Before(from) {
		s.From = from
	}
	if s.To.IsZero() || s.To.After(to) {
		s.To = to
	}
	return s, s.From.Before(s.To)
}

// Ledger notes which addresses Services have, and when they got and lost them. It may be used from
// several goroutines.
type Ledger struct {
	mu    sync.Mutex
	has   map[string][]netip.Addr // guarded by mu; by Service
	spans map[netip.Addr][]Span   // guarded by mu
	gone  map[string]bool         // guarded by mu; Services that do not come again
}

// NewLedger returns an empty ledger.
func NewLedger() *Ledger {
	return &Ledger{has: map[string][]netip.Addr{}, spans: map[netip.Addr][]Span{}, gone: map[string]bool{}}
}

// Note notes that a Service has these addresses and no others, from a moment on.
func (l *Ledger) Note(at time.Time, service string, addresses ...netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.gone[service] {
		l.note(at, service, addresses)
	}
}

// Gone notes that a Service is deleted from a moment on, and does not come again. A watch may still
// say otherwise: after an outage of the API server it can be half a minute behind.
func (l *Ledger) Gone(at time.Time, service string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.note(at, service, nil)
	l.gone[service] = true
}

// note is Note while mu is held.
func (l *Ledger) note(at time.Time, service string, addresses []netip.Addr) {
	for _, a := range l.has[service] {
		if spans := l.spans[a]; !slices.Contains(addresses, a) && !l.hasOther(service, a) {
			spans[len(spans)-1].To = at
		}
	}
	for _, a := range addresses {
		if spans := l.spans[a]; len(spans) == 0 || !spans[len(spans)-1].To.IsZero() {
			l.spans[a] = append(spans, Span{From: at})
		}
	}
	l.has[service] = addresses
	if len(addresses) == 0 {
		delete(l.has, service)
	}
}

// hasOther reports whether another Service has the address: its deletion and the new one's status
// may arrive in either order.
func (l *Ledger) hasOther(service string, a netip.Addr) bool {
	for other, addresses := range l.has {
		if other != service && slices.Contains(addresses, a) {
			return true
		}
	}
	return false
}

// Between returns when each address was had between two moments.
func (l *Ledger) Between(from, to time.Time) map[netip.Addr][]Span {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := map[netip.Addr][]Span{}
	for a, spans := range l.spans {
		for _, s := range spans {
			if part, some := s.within(from, to); some {
				found[a] = append(found[a], part)
			}
		}
	}
	return found
}

// Forget forgets what ended before a moment.
func (l *Ledger) Forget(before time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for a, spans := range l.spans {
		l.spans[a] = slices.DeleteFunc(spans, func(s Span) bool { return !s.To.IsZero() && s.To.Before(before) })
		if len(l.spans[a]) == 0 {
			delete(l.spans, a)
		}
	}
}

// Look is one look at an address: by a request on the segment, or into a table.
type Look struct {
	At time.Time
	// Served: somebody answered, or there was a route.
	Served bool
}

// LongestGap returns the longest time in the span without a look that found the address served.
// From the last one on, time counts up to the last look: later ones may find it.
func LongestGap(looks []Look, span Span) (gap Span) {
	since, last := span.From, span.From
	longer := func(to time.Time) {
		if to.Sub(since) > gap.To.Sub(gap.From) {
			gap = Span{From: since, To: to}
		}
	}
	for _, l := range looks {
		if l.At.Before(span.From) || !l.At.Before(span.To) {
			continue
		}
		last = l.At
		if l.Served {
			longer(l.At)
			since = l.At
		}
	}
	longer(last)
	return gap
}

// Lasts returns how long a span with an end lasts.
func (s Span) Lasts() time.Duration { return s.To.Sub(s.From) }
