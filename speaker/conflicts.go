package speaker

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/l2"
)

// Bounds of the conflicts in a report.
const (
	conflictLasts = time.Minute // after it was last observed
	mostConflicts = 64
)

// conflicts remembers for a while which addresses foreign hosts were heard to
// announce. Make one with newConflicts. Its methods may be called from any goroutine.
type conflicts struct {
	forgot async.Signal // tells the reporter that a conflict ended early

	mu   sync.Mutex                  // guards what follows
	seen map[netip.Addr]conflictSeen // by address
}

type conflictSeen struct {
	report v1alpha1.ConflictReport
	last   time.Time
}

func newConflicts() *conflicts {
	return &conflicts{forgot: async.NewSignal(), seen: map[netip.Addr]conflictSeen{}}
}

// note takes an observation of kind Conflict.
func (c *conflicts) note(o l2.Observation, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[o.Address] = conflictSeen{
		v1alpha1.ConflictReport{Address: o.Address.String(), NodeName: o.Node, MAC: o.MAC.String(), Interface: o.Interface},
		now,
	}
}

// current returns those of the last minute by address, the latest 64 when there
// are more.
func (c *conflicts) current(now time.Time) []v1alpha1.ConflictReport {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []conflictSeen
	for address, s := range c.seen {
		if now.Sub(s.last) > conflictLasts {
			delete(c.seen, address)
			continue
		}
		found = append(found, s)
	}
	byAddress := func(a, b conflictSeen) int { return cmp.Compare(a.report.Address, b.report.Address) }
	slices.SortFunc(found, func(a, b conflictSeen) int { return cmp.Or(b.last.Compare(a.last), byAddress(a, b)) })
	found = found[:min(len(found), mostConflicts)]
	slices.SortFunc(found, byAddress)
	var reports []v1alpha1.ConflictReport
	for _, s := range found {
		reports = append(reports, s.report)
	}
	return reports
}

// forget ends the conflict about an address: this node begins to answer for it, which it does not
// while another host does.
func (c *conflicts) forget(address netip.Addr) {
	c.mu.Lock()
	delete(c.seen, address)
	c.mu.Unlock()
	c.forgot.Notify()
}

// addresses returns all those of the last minute.
func (c *conflicts) addresses(now time.Time) []netip.Addr {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []netip.Addr
	for address, s := range c.seen {
		if now.Sub(s.last) <= conflictLasts {
			found = append(found, address)
		}
	}
	return found
}
