package neighbor

import (
	"net/netip"
	"slices"
	"time"
)

const (
	// defendInterval is the least time between two defenses of an address (RFC 5227 section 1.1,
	// DEFEND_INTERVAL).
	defendInterval = 10 * time.Second
	// A peer that announces an address that it does not claim may be about to claim it. It is not
	// if it announces the address again after strayDelay, within strayLifetime.
	strayDelay    = time.Second
	strayLifetime = 30 * time.Second
	// conflictLifetime is for how long after the other host was last heard a conflict counts. This
	// is checked every conflictCheck, so a conflict may last that much longer.
	conflictLifetime = time.Minute
	conflictCheck    = 10 * time.Second
)

// expiringSet is a set of addresses that forgets each of them after a while. The oldest is in front
// of the order.
type expiringSet struct {
	lifetime time.Duration
	at       map[netip.Addr]time.Time
	order    []netip.Addr
}

func newExpiringSet(lasts time.Duration) *expiringSet {
	return &expiringSet{lifetime: lasts, at: make(map[netip.Addr]time.Time)}
}

// expire forgets addresses whose time is over, and returns them.
func (r *expiringSet) expire(now time.Time) (over []netip.Addr) {
	for len(r.order) > 0 && now.Sub(r.at[r.order[0]]) >= r.lifetime {
		over = append(over, r.order[0])
		delete(r.at, r.order[0])
		r.order = r.order[1:]
	}
	return over
}

// add adds an address if it is not in the set, and reports whether it was added.
func (r *expiringSet) add(now time.Time, addr netip.Addr) bool {
	if _, ok := r.at[addr]; ok {
		return false
	}
	r.at[addr] = now
	r.order = append(r.order, addr)
	return true
}

// remove forgets an address.
func (r *expiringSet) remove(addr netip.Addr) {
	if _, ok := r.at[addr]; !ok {
		return
	}
	delete(r.at, addr)
	r.order = slices.DeleteFunc(r.order, func(a netip.Addr) bool { return a == addr })
}

// Defender reacts to other hosts that use an address which this node announces, by RFC 5227 section
// 2.4 (c). The address is never given up, because it is configured to be here. It is announced
// again, but at most once in defendInterval, so that two hosts which both insist do not flood the
// segment. IPv6 is treated alike. Times are arguments and never go back.
type Defender struct {
	told, strays *expiringSet
	contested    *expiringSet             // addresses in conflict, by when that was last checked
	heard        map[netip.Addr]time.Time // of the contested addresses, when the other host was last heard
}

// NewDefender returns a defender that knows of no conflict.
func NewDefender() *Defender {
	return &Defender{
		told:      newExpiringSet(defendInterval),
		strays:    newExpiringSet(strayLifetime),
		contested: newExpiringSet(conflictCheck),
		heard:     make(map[netip.Addr]time.Time),
	}
}

// Sighted takes another host's use of an address that this node answers for. It reports whether to
// announce the address again and to report the conflict. A probe is not a conflict: the answer to
// it is the defense.
func (d *Defender) Sighted(now time.Time, seen Sighting) bool {
	if seen.Use == Probed {
		return false
	}
	d.contested.add(now, seen.Addr)
	d.heard[seen.Addr] = now
	d.told.expire(now)
	return d.told.add(now, seen.Addr)
}

// Stray says that a peer announces an address which it does not claim, and reports whether it did
// so before.
func (d *Defender) Stray(now time.Time, addr netip.Addr) bool {
	d.strays.expire(now)
	return !d.strays.add(now, addr) && now.Sub(d.strays.at[addr]) >= strayDelay
}

// Silenced says that this node does not answer for an address any longer. What peers announce while
// it moves says nothing of a later time.
func (d *Defender) Silenced(addr netip.Addr) { d.strays.remove(addr) }

// Contested reports whether the address is in conflict, or was a moment ago.
func (d *Defender) Contested(addr netip.Addr) bool {
	_, ok := d.contested.at[addr]
	return ok
}

// Settled returns the addresses that are no longer in conflict.
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

// Next returns when Settled may have something to return; the zero time: never.
func (d *Defender) Next() time.Time {
	if len(d.contested.order) == 0 {
		return time.Time{}
	}
	return d.contested.at[d.contested.order[0]].Add(conflictCheck)
}
