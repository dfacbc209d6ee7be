package allocation

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/ipam"
)

// RestoreResting makes those addresses rest that former leaders freed, or may have freed, according
// to the statuses of the pools: a speaker that has not heard of it may still announce them. What is
// freed soon after rests longer, for the same reason (Config.Settling).
func (a *Allocations) RestoreResting(pools []*v1alpha1.LoadBalancerPool, now time.Time) {
	if a.config.Rest <= 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.settled = now.Add(max(a.config.Rest, a.config.Settling))
	longest := a.settled
	had := map[netip.Addr]string{} // Services, by what rests
	for _, pool := range pools {
		for _, r := range pool.Status.Resting {
			address, err := netip.ParseAddr(r.Address)
			if err != nil {
				continue
			}
			had[address] = r.Service
			if !r.UntilTime.After(now) {
				continue
			}
			until := r.UntilTime.Time
			if until.After(longest) { // another clock, or another setting
				until = longest
			}
			a.allocator.Rest(address, r.Service, until)
		}
		for _, address := range recentOf(pool) {
			a.allocator.Rest(address, had[address], longest)
		}
	}
	a.config.Queue.WakeAfter(time.Second)
}

// Wake ends the rest of freed addresses whose time is over, and requeues what waits for them, or
// for what was freed before.
func (a *Allocations) Wake(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	woke, next := a.allocator.Wake(now)
	if len(woke) > 0 {
		a.passOverUsed() // a Service that was deleted may have left its address on an interface
		a.retryWaiting(woke...)
		a.config.Queue.UsageChanged()
	} else {
		a.requeueWaiting()
	}
	if !next.IsZero() {
		a.config.Queue.WakeAfter(time.Until(next))
	}
}

// mostSkipped limits how many free addresses of a pool Resume passes over.
const mostSkipped = 1 << 12

// Resume has the pools give next what their statuses say that they do: only the leader remembers
// which addresses were held before, and those come last.
func (a *Allocations) Resume(pools []*v1alpha1.LoadBalancerPool, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, pool := range pools {
		for family, text := range map[ipam.Family]string{
			ipam.IPv4: pool.Status.IPv4.Next, ipam.IPv6: pool.Status.IPv6.Next,
		} {
			next, err := netip.ParseAddr(text)
			for range mostSkipped {
				first := a.allocator.Usage(pool.Name)[family].Next
				if err != nil || !first.IsValid() || !first.Less(next) {
					break
				}
				a.allocator.Rest(first, "", now)
				a.allocator.Wake(now)
			}
		}
	}
}

// mostRecent limits how many recent addresses a new leader makes rest.
const mostRecent = 1 << 16

// recentOf returns the addresses that were held or resting when the status of the pool was last
// written.
func recentOf(pool *v1alpha1.LoadBalancerPool) []netip.Addr {
	var found []netip.Addr
	for _, text := range pool.Status.Recent {
		from, to, err := parseRange(text)
		for a := from; err == nil && len(found) < mostRecent; a = a.Next() {
			found = append(found, a)
			if a == to {
				break
			}
		}
	}
	return found
}

// parseRange parses a range "a-b" or a single address.
func parseRange(text string) (from, to netip.Addr, err error) {
	first, second, isRange := strings.Cut(text, "-")
	if from, err = netip.ParseAddr(first); err != nil || !isRange {
		return from, from, err
	}
	to, err = netip.ParseAddr(second)
	if err == nil && (to.Less(from) || to.BitLen() != from.BitLen()) {
		err = fmt.Errorf("%q is not a valid range", text)
	}
	return from, to, err
}
