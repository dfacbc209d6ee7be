// Package unserved drops packets for announced addresses that nothing on this node serves: ports
// that no Service exposes, and unused addresses of an aggregate. Without it such packets would go
// back and forth between the node and the router until their time to live is over.
//
// kube-proxy rewrites the destination of what it serves before packets are forwarded (hook
// prerouting), so what reaches hook forward with an announced destination is for nobody. The rules
// are in one nftables table of Berth's own, "inet berth", after kube-proxy's, whose rejections keep
// their effect. Linux only; it needs CAP_NET_ADMIN.
//
// An address that a host has is never in the table: a careless pool must not cut off hosts that
// this node forwards packets to. Packets of established connections always pass, since somebody
// answers them.
package unserved

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"go4.org/netipx"

	"github.com/berth-lb/berth/config/inuse"
	"github.com/berth-lb/berth/speaker/dataplane/nft"
)

// Driver keeps the table. Its methods may be called from any goroutine, also before Run, and return
// at once.
type Driver struct {
	keeper *nft.Keeper[netip.Prefix]

	mu        sync.Mutex
	groups    map[string][]netip.Prefix // guarded by mu; as they were asked for
	answering map[netip.Addr]int        // guarded by mu; how often each was asked for
	hosts     hosts                     // guarded by mu
}

// hosts are the addresses that hosts have, or that are in use elsewhere for another reason.
type hosts struct {
	used      *inuse.Set
	conflicts []netip.Addr // ascending
}

// New returns a driver that drops nothing yet. Its metrics are registered with metrics; nil:
// nowhere.
func New(log *slog.Logger, metrics prometheus.Registerer) (*Driver, error) {
	k := newKernel(log)
	if metrics != nil {
		if err := metrics.Register(counters{k}); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return newDriver(log, k), nil
}

// counters reads the rules' counters when it is asked.
type counters struct{ kernel }

var droppedPackets = prometheus.NewDesc(
	"berth_unserved_packets_dropped_total",
	"Packets for announced addresses that nothing on the node serves, dropped since the table was last written.",
	[]string{"family"},
	nil,
)

func (c counters) Describe(to chan<- *prometheus.Desc) { to <- droppedPackets }

func (c counters) Collect(to chan<- prometheus.Metric) {
	found, err := c.dropped()
	if err != nil {
		return // why there is no table is in the speaker's status
	}
	for family, n := range found {
		to <- prometheus.MustNewConstMetric(droppedPackets, prometheus.CounterValue, float64(n), family)
	}
}

func newDriver(log *slog.Logger, store nft.Store[netip.Prefix]) *Driver {
	k := nft.NewKeeper(log, store, "packets for announced addresses that nothing serves are not dropped")
	// Aggregates may overlap each other, so all are written again when one changes.
	k.Whole = func(p netip.Prefix) bool { return !p.IsSingleIP() }
	return &Driver{keeper: k, groups: map[string][]netip.Prefix{}, answering: map[netip.Addr]int{}}
}

// Sync replaces the prefixes of one group, all masked; none removes it. Its cost depends on this
// group alone.
func (d *Driver) Sync(group string, prefixes []netip.Prefix) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.groups[group]
	if slices.Equal(before, prefixes) {
		return
	}
	if len(prefixes) == 0 {
		delete(d.groups, group)
	} else {
		d.groups[group] = slices.Clone(prefixes)
	}
	d.keeper.Update(d.hosts.without(prefixes), d.hosts.without(before))
}

// Answering notes that this node answers for an address on a segment, or no longer. The address may
// be on several segments, so each call with true needs one with false.
func (d *Driver) Answering(address netip.Addr, on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	self := d.hosts.without([]netip.Prefix{netip.PrefixFrom(address, address.BitLen())})
	switch n := d.answering[address]; {
	case on && n == 0:
		d.answering[address] = 1
		d.keeper.Update(self, nil)
	case on:
		d.answering[address]++
	case n == 1:
		delete(d.answering, address)
		d.keeper.Update(nil, self)
	case n > 1:
		d.answering[address]--
	}
}

// SetUsed replaces what is known of addresses in use. Aggregates are written without them.
func (d *Driver) SetUsed(used *inuse.Set) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.learn(hosts{used, d.hosts.conflicts})
}

// SetConflicts replaces the addresses that other hosts were heard to have. They are treated like
// those of SetUsed.
func (d *Driver) SetConflicts(addresses []netip.Addr) {
	addresses = slices.SortedFunc(slices.Values(addresses), netip.Addr.Compare)
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Equal(addresses, d.hosts.conflicts) {
		d.learn(hosts{d.hosts.used, addresses})
	}
}

// learn replaces hosts, and writes what differs because of that. mu is held.
func (d *Driver) learn(next hosts) {
	var add, remove []netip.Prefix
	move := func(prefixes []netip.Prefix) {
		if now, before := next.without(prefixes), d.hosts.without(prefixes); !slices.Equal(now, before) {
			add, remove = append(add, now...), append(remove, before...)
		}
	}
	for _, prefixes := range d.groups {
		move(prefixes)
	}
	for address := range d.answering {
		move([]netip.Prefix{netip.PrefixFrom(address, address.BitLen())})
	}
	d.hosts = next
	if len(add)+len(remove) > 0 {
		d.keeper.Update(add, remove)
	}
}

// without returns prefixes that together have the same addresses, except those of hosts.
func (h hosts) without(prefixes []netip.Prefix) []netip.Prefix {
	var left []netip.Prefix
	for _, p := range prefixes {
		if !h.used.Overlaps(p) && !slices.ContainsFunc(h.conflicts, p.Contains) {
			left = append(left, p)
			continue
		}
		if p.IsSingleIP() {
			continue
		}
		var rest netipx.IPSetBuilder
		rest.AddPrefix(p)
		for _, u := range h.used.All() {
			rest.RemoveRange(u.IPRange)
		}
		for _, a := range h.conflicts {
			rest.Remove(a)
		}
		if set, err := rest.IPSet(); err == nil { // there are no invalid ranges
			left = append(left, set.Prefixes()...)
		}
	}
	return left
}

// Run keeps the table as desired until ctx ends, and leaves it then: routers still send packets
// here until they notice.
func (d *Driver) Run(ctx context.Context) error { return d.keeper.Run(ctx) }

// Remove deletes the table, for good: nothing is announced here any more.
func (d *Driver) Remove() error { return d.keeper.Remove() }

// Err returns why packets are not dropped as desired; nil: they are.
func (d *Driver) Err() error { return d.keeper.Err() }
