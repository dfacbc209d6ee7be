package speaker

import (
	"net/netip"
	"time"

	"github.com/berth-lb/berth/speaker/plan"
)

// drains knows since when endpoints terminate, by Service. EndpointSlices do not say it, so the count begins when this
// process first sees it. Only the planner's goroutine uses it.
type drains struct {
	over     func(service string) // called, from any goroutine, when the limit of one of its endpoints passes
	services map[string]draining
}

// draining are the endpoints of a Service that terminate.
type draining struct {
	since map[netip.AddrPort]time.Time
	next  *time.Timer // to the next limit that passes; nil: none will
}

func newDrains(over func(service string)) *drains {
	return &drains{over: over, services: map[string]draining{}}
}

// review takes in all backends of a Service, and marks those that have terminated for as long as limit. What does not
// terminate any more is forgotten; without backends that is the Service.
func (d *drains) review(service string, backends []plan.Backend, limit time.Duration) {
	before, now := d.services[service], time.Now()
	if before.next != nil {
		before.next.Stop()
	}
	delete(d.services, service)
	since := map[netip.AddrPort]time.Time{}
	var next time.Duration // until the next limit passes; 0: none will
	for i := range backends {
		b := &backends[i]
		if !b.Terminates {
			continue
		}
		begun, known := before.since[b.Address]
		if !known {
			begun = now
		}
		since[b.Address] = begun
		left := limit - now.Sub(begun)
		if b.Overdue = left <= 0; !b.Overdue && (next == 0 || left < next) {
			next = left
		}
	}
	if len(since) == 0 {
		return
	}
	after := draining{since: since}
	if next > 0 {
		after.next = time.AfterFunc(next, func() { d.over(service) })
	}
	d.services[service] = after
}
