package neighbor

import (
	"net/netip"
	"time"
)

// Announcer paces the announcements of addresses that were taken over: at once, because clients
// wait, and again, because a segment loses frames and some switches learn slowly.
type Announcer struct {
	// One queue for each repetition. All entries of a queue wait equally long, so the oldest is in
	// front.
	queues [4][]queuedAddr
	latest map[netip.Addr]uint64 // by address, its current round; entries of older rounds are void
	round  uint64
}

// queuedAddr is an address that waits for its next announcement.
type queuedAddr struct {
	addr  netip.Addr
	round uint64
	begun time.Time
}

// NewAnnouncer returns an announcer with nothing to announce.
func NewAnnouncer() *Announcer { return &Announcer{latest: make(map[netip.Addr]uint64)} }

// delay returns how long after the take-over the n-th announcement is due.
func (*Announcer) delay(n int) time.Duration {
	return [...]time.Duration{0, 100 * time.Millisecond, 300 * time.Millisecond, time.Second}[n]
}

// Begin starts a series of announcements for each address. It replaces a series that is running.
func (a *Announcer) Begin(now time.Time, addrs ...netip.Addr) {
	for _, addr := range addrs {
		a.round++
		a.latest[addr] = a.round
		a.queues[0] = append(a.queues[0], queuedAddr{addr, a.round, now})
	}
}

// End stops the address's series.
func (a *Announcer) End(addr netip.Addr) { delete(a.latest, addr) }

// Due returns addresses to announce now, at most limit of them, so that a thousand of them
// do not delay the hello.
func (a *Announcer) Due(now time.Time, limit int) []netip.Addr {
	var addrs []netip.Addr
	for n := range a.queues {
		for len(a.queues[n]) > 0 && len(addrs) < limit {
			x := a.queues[n][0]
			if now.Sub(x.begun) < a.delay(n) {
				break
			}
			a.queues[n] = a.queues[n][1:]
			if a.latest[x.addr] != x.round {
				continue
			}
			addrs = append(addrs, x.addr)
			if n+1 < len(a.queues) {
				a.queues[n+1] = append(a.queues[n+1], x)
			} else {
				delete(a.latest, x.addr)
			}
		}
	}
	return addrs
}

// Next returns when Due has something to return; the zero time: never.
func (a *Announcer) Next() time.Time {
	var first time.Time
	for n, q := range a.queues {
		if len(q) == 0 {
			continue
		}
		if t := q[0].begun.Add(a.delay(n)); first.IsZero() || t.Before(first) {
			first = t
		}
	}
	return first
}
