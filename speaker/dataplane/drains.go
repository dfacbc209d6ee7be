package dataplane

import (
	"net/netip"
	"time"

	"github.com/berth-lb/berth/speaker/plan"
)

// drains knows since when endpoints terminate, by Service. EndpointSlices do not say it, so the
// time counts from when this process first sees it. It is not safe for concurrent use.
type drains struct {
	services map[string]map[netip.AddrPort]draining
}

// draining is an endpoint that terminates.
type draining struct {
	since   time.Time
	overdue bool
}

func newDrains() *drains { return &drains{services: map[string]map[netip.AddrPort]draining{}} }

// review marks the backends of a Service that have terminated for as long as limit. Backends are
// all that the Service has. Next is how long until that is true of another one; 0: never. Over
// reports whether a backend is marked for the first time.
func (d *drains) review(
	service string,
	backends []plan.Backend,
	limit time.Duration,
	now time.Time,
) (next time.Duration, over bool) {
	before := d.services[service]
	after := map[netip.AddrPort]draining{}
	for i := range backends {
		b := &backends[i]
		if !b.Terminates {
			continue
		}
		e, known := before[b.Address]
		if !known {
			e = draining{since: now}
		}
		left := limit - now.Sub(e.since)
		b.Overdue = left <= 0
		over = over || b.Overdue && !e.overdue
		e.overdue = b.Overdue
		after[b.Address] = e
		if !b.Overdue {
			next = soonest(next, left)
		}
	}
	if d.services[service] = after; len(after) == 0 {
		d.forget(service)
	}
	return next, over
}

// forget forgets a Service that no longer exists.
func (d *drains) forget(service string) { delete(d.services, service) }
