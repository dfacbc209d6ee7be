package l2

import (
	"net/netip"
	"time"
)

// defendInterval is how long one defence of an address has to last (RFC 5227 section 1.1, DEFEND_INTERVAL).
const defendInterval = 10 * time.Second

// defence answers another host that uses an address which this node announces, by RFC 5227 section 2.4 (c): the
// address is never given up, because it is configured to be here, and it is announced again, but at most once in
// defendInterval, lest two who both insist flood the segment. IPv6 is treated alike. It has no clock: times are
// arguments and never go back.
type defence struct {
	last  map[netip.Addr]time.Time
	order []netip.Addr // of last, the oldest first
}

func newDefence() *defence { return &defence{last: make(map[netip.Addr]time.Time)} }

// sighted takes a foreign host's use of an address that this node answers for, and reports whether to announce the
// address once more, and to tell of the conflict. A mere probe is none: the answer to it is the defence.
func (d *defence) sighted(now time.Time, seen sighting) bool {
	if seen.use == probed {
		return false
	}
	for len(d.order) > 0 && now.Sub(d.last[d.order[0]]) >= defendInterval {
		delete(d.last, d.order[0])
		d.order = d.order[1:]
	}
	if _, recent := d.last[seen.addr]; recent {
		return false
	}
	d.last[seen.addr] = now
	d.order = append(d.order, seen.addr)
	return true
}
