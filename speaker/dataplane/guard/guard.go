//go:build linux

// Package guard has the rules around IPVS: for the addresses that IPVS forwards, it drops what is
// for a port that no Service exposes, or from a source that may not connect, before it can reach
// DNAT (NodePorts) or a listener of the host, marks what the node's own pods and processes send
// where these have a virtual server of their own, and masquerades the connections whose endpoints
// are to see this node as the client.
//
// The rules are in one nftables table of Berth's own, "inet berth-ipvs". Only TCP, UDP and SCTP are
// touched. Linux 5.9 or later, for rejections in hook prerouting; it needs CAP_NET_ADMIN.
package guard

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-lb/berth/speaker/dataplane/nft"
)

// Driver keeps the table. Its methods may be called from any goroutine, also before Run.
type Driver struct {
	keeper *nft.Keeper[nft.Element]

	mu     sync.Mutex
	groups map[string]map[endpoint]Frontend // guarded by mu
	claims map[endpoint]map[string]Frontend // guarded by mu; the same, by endpoint and then group
	pods   []nft.Element                    // guarded by mu
}

// endpoint is what a packet is for.
type endpoint struct {
	address  netip.Addr
	port     uint16
	protocol uint8
}

// New returns a driver that guards nothing yet. Its metrics are registered with metrics; nil:
// nowhere.
func New(logger *slog.Logger, metrics prometheus.Registerer) (*Driver, error) {
	k := newKernel()
	if metrics != nil {
		if err := metrics.Register(counters{k}); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return newDriver(logger, k), nil
}

func newDriver(logger *slog.Logger, store nft.Store[nft.Element]) *Driver {
	return &Driver{
		keeper: nft.NewKeeper(
			logger,
			store,
			"packets for addresses that IPVS forwards are neither filtered nor masqueraded as wanted",
		),
		groups: map[string]map[endpoint]Frontend{}, claims: map[endpoint]map[string]Frontend{},
	}
}

// Sync replaces the frontends of one group; none removes it. It returns at once, at a cost that
// depends on this group alone, and the kernel gets all that it changes in one transaction. If
// several frontends have the same address, port and protocol, the first in a group counts, and
// among groups the first by name.
func (d *Driver) Sync(group string, frontends []Frontend) {
	after := make(map[endpoint]Frontend, len(frontends))
	for _, f := range frontends {
		f.Address = f.Address.Unmap().WithZone("")
		f.Sources = slices.Clone(f.Sources)
		e := endpoint{f.Address, f.Port, f.Protocol}
		if _, double := after[e]; !double {
			after[e] = f
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.groups[group]
	if d.groups[group] = after; len(after) == 0 {
		delete(d.groups, group)
	}
	var add, remove []nft.Element
	change := func(e endpoint, do func(map[string]Frontend)) {
		old := d.winner(e)
		if d.claims[e] == nil {
			d.claims[e] = map[string]Frontend{}
		}
		if do(d.claims[e]); len(d.claims[e]) == 0 {
			delete(d.claims, e)
		}
		add, remove = append(add, d.winner(e)...), append(remove, old...)
	}
	for e, f := range after {
		if old, is := before[e]; !is || !f.equal(old) {
			change(e, func(claims map[string]Frontend) { claims[group] = f })
		}
	}
	for e := range before {
		if _, stays := after[e]; !stays {
			change(e, func(claims map[string]Frontend) { delete(claims, group) })
		}
	}
	if len(add)+len(remove) > 0 {
		d.keeper.Update(add, remove)
	}
}

// SetPods replaces the ranges that pods of this node have their addresses from, for Frontend.Mark.
// It returns at once.
func (d *Driver) SetPods(prefixes []netip.Prefix) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.pods
	d.pods = podElements(prefixes)
	d.keeper.Update(d.pods, before)
}

// winner returns the elements of the frontend that counts among those for an endpoint. mu is held.
func (d *Driver) winner(e endpoint) []nft.Element {
	claims := d.claims[e]
	if len(claims) == 0 {
		return nil
	}
	return claims[slices.Min(slices.Collect(maps.Keys(claims)))].elements()
}

func (f Frontend) equal(g Frontend) bool {
	return f.Masquerade == g.Masquerade && f.Refuse == g.Refuse && f.Mark == g.Mark && slices.Equal(f.Sources, g.Sources)
}

// Run keeps the table as wanted until ctx ends, and leaves it as it is then: IPVS goes on to
// forward.
func (d *Driver) Run(ctx context.Context) error { return d.keeper.Run(ctx) }

// Remove deletes the table, for good.
func (d *Driver) Remove() error { return d.keeper.Remove() }

// Err returns why the kernel does not show what is desired; nil: it does, or will in a moment.
func (d *Driver) Err() error { return d.keeper.Err() }

// counters reads the rules' counters when it is asked.
type counters struct{ kernel }

var droppedPackets = prometheus.NewDesc(
	"berth_ipvs_packets_dropped_total",
	"Packets for addresses that IPVS serves, dropped since the table was last written: "+
		"for a port that no Service exposes (unexposed), or from outside loadBalancerSourceRanges (source).",
	[]string{"reason"},
	nil,
)

func (c counters) Describe(to chan<- *prometheus.Desc) { to <- droppedPackets }

func (c counters) Collect(to chan<- prometheus.Metric) {
	found, err := c.dropped()
	if err != nil {
		return // why there is no table is in Err
	}
	for reason, n := range found {
		to <- prometheus.MustNewConstMetric(droppedPackets, prometheus.CounterValue, float64(n), reason)
	}
}
