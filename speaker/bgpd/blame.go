package bgpd

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Bounds of what is tried again.
const (
	// crashesCount is for how long a crash counts.
	crashesCount = 10 * time.Minute
	// crashesBorne is how many crashes in that time a router may cause before it is left alone, and
	// after it was, one.
	crashesBorne = 3
	// leftAloneFirst is for how long it is left alone the first time, twice as long the next, and
	// leftAloneAtMost at most.
	leftAloneFirst  = 10 * time.Minute
	leftAloneAtMost = 6 * time.Hour
	// againFirst is the pause before a worker is started after one crash, twice as long after each
	// other that counts, and againAtMost at most.
	againFirst  = 100 * time.Millisecond
	againAtMost = 30 * time.Second
)

// blame knows the crashes of workers, and the routers that seem to cause them.
type blame struct {
	Crashes []time.Time            `json:",omitempty"` // that no router is left alone for
	Routers map[netip.Addr]*record `json:",omitempty"`
}

// record is what is known of a router.
type record struct {
	Crashes []time.Time `json:",omitempty"`
	Cause   string      // of the last
	Until   time.Time   // when it is no longer left alone
	Times   int         // how often it was left alone
}

// crashed takes a crash that came right after a message of the router; no address: after none. It
// returns how long to wait before the next worker.
func (b *blame) crashed(now time.Time, router netip.Addr, cause string) (pause time.Duration) {
	if router.IsValid() && b.blamed(now, router, cause) {
		return againFirst
	}
	b.Crashes = append(young(b.Crashes, now), now)
	return min(againFirst<<min(len(b.Crashes)-1, 16), againAtMost)
}

// blamed counts a crash for a router, and reports whether it is left alone for that.
func (b *blame) blamed(now time.Time, router netip.Addr, cause string) bool {
	if b.Routers == nil {
		b.Routers = map[netip.Addr]*record{}
	}
	r := b.Routers[router]
	if r == nil {
		r = &record{}
		b.Routers[router] = r
	}
	r.Cause, r.Crashes = cause, append(young(r.Crashes, now), now)
	if len(r.Crashes) < crashesBorne && r.Times == 0 {
		return false
	}
	r.Until = now.Add(min(leftAloneFirst<<min(r.Times, 16), leftAloneAtMost))
	r.Times++
	r.Crashes, b.Crashes = nil, nil
	return true
}

func young(crashes []time.Time, now time.Time) []time.Time {
	return slices.DeleteFunc(crashes, func(at time.Time) bool { return now.Sub(at) > crashesCount })
}

// leftAlone returns the routers that are left alone now, and why, and when that changes; zero: it
// does not.
func (b *blame) leftAlone(now time.Time) (routers map[netip.Addr]string, changes time.Time) {
	routers = map[netip.Addr]string{}
	for router, r := range b.Routers {
		if !r.Until.After(now) {
			continue
		}
		routers[router] = fmt.Sprintf(
			"left alone until %s, or until its BGPNeighbor changes: the process that speaks BGP ended again and again of its messages, at last with %q; update Berth, and report the router's make and version",
			r.Until.UTC().Format(time.RFC3339),
			r.Cause,
		)
		if changes.IsZero() || r.Until.Before(changes) {
			changes = r.Until
		}
	}
	return routers, changes
}
