package neighbor

import (
	"net/netip"
	"time"
)

const (
	// defendInterval is how long one defence of an address has to last (RFC 5227 section 1.1, DEFEND_INTERVAL).
	defendInterval = 10 * time.Second
	// A peer that announces what it does not claim may be on its way to claim it. It is not if it does so again after
	// strayAgain, within strayLasts.
	strayDelay    = time.Second
	strayLifetime = 30 * time.Second
	// conflictFresh is for how long after it was heard last a conflict about an address that is answered for counts; it is
	// looked at every conflictLook, so it may be that much longer.
	conflictLifetime = time.Minute
	conflictCheck    = 10 * time.Second
)

// recent are addresses with the time of an event of the last while. The oldest is in front of the order.
type expiringSet struct {
	lifetime time.Duration
	at       map[netip.Addr]time.Time
	order    []netip.Addr
}

func newExpiringSet(lasts time.Duration) *expiringSet {
	return &expiringSet{lifetime: lasts, at: make(map[netip.Addr]time.Time)}
}

// expire forgets what is over, and returns it.
func (r *expiringSet) expire(now time.Time) (over []netip.Addr) {
	for len(r.order) > 0 && now.Sub(r.at[r.order[0]]) >= r.lifetime {
		over = append(over, r.order[0])
		delete(r.at, r.order[0])
		r.order = r.order[1:]
	}
	return over
}

// add remembers an address that is not remembered yet, and reports whether it was not.
func (r *expiringSet) add(now time.Time, addr netip.Addr) bool {
	if _, ok := r.at[addr]; ok {
		return false
	}
	r.at[addr] = now
	r.order = append(r.order, addr)
	return true
}

// defence answers another host that uses an address which this node announces, by RFC 5227 section 2.4 (c): the
// address is never given up, because it is configured to be here, and it is announced again, but at most once in
// defendInterval, lest two who both insist flood the segment. IPv6 is treated alike. It has no clock: times are
// arguments and never go back.
type Defender struct {
	told, strays *expiringSet
	contested    *expiringSet             // addresses in conflict, by when that was looked at last
	heard        map[netip.Addr]time.Time // when it was heard last, of the contested
}

func NewDefender() *Defender {
	return &Defender{
		told: newExpiringSet(defendInterval), strays: newExpiringSet(strayLifetime), contested: newExpiringSet(conflictCheck),
		heard: make(map[netip.Addr]time.Time),
	}
}

// sighted takes another host's use of an address that this node answers for, and reports whether to announce the
// address once more, and to tell of the conflict. A mere probe is none: the answer to it is the defence.
func (d *Defender) Sighted(now time.Time, seen Sighting) bool {
	if seen.Use == Probed {
		return false
	}
	d.contested.add(now, seen.Addr)
	d.heard[seen.Addr] = now
	d.told.expire(now)
	return d.told.add(now, seen.Addr)
}

// stray takes that a peer announces an address which it does not claim, and reports whether it did before.
func (d *Defender) Stray(now time.Time, addr netip.Addr) bool {
	d.strays.expire(now)
	return !d.strays.add(now, addr) && now.Sub(d.strays.at[addr]) >= strayDelay
}

// fresh reports whether the address is in conflict, or was a moment ago.
func (d *Defender) Contested(addr netip.Addr) bool {
	_, ok := d.contested.at[addr]
	return ok
}

// settled returns the addresses that are in conflict no more.
func (d *Defender) Settled(now time.Time) (over []netip.Addr) {
	for _, addr := range d.contested.expire(now) {
		if now.Sub(d.heard[addr]) < conflictLifetime {
			d.contested.add(now, addr)
			continue
		}
		delete(d.heard, addr)
		over = append(over, addr)
	}
	return over
}

// next is when settled has something to say; the zero time: never.
func (d *Defender) Next() time.Time {
	if len(d.contested.order) == 0 {
		return time.Time{}
	}
	return d.contested.at[d.contested.order[0]].Add(conflictCheck)
}
