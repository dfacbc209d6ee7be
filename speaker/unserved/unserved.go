// Package unserved drops packets for announced addresses that nothing on this node serves: ports that
// no Service exposes, and unused addresses of an aggregate. Without it they would go back to the router that
// sent them, and come again, until their time to live is over.
//
// kube-proxy rewrites the destination of what it serves before packets are forwarded (hook prerouting), so
// what reaches hook forward with an announced destination is for nobody. The rules are in one nftables table
// of Berth's own, "inet berth", after kube-proxy's, whose rejections keep their effect. Linux only; it needs
// CAP_NET_ADMIN.
package unserved

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-lb/berth/speaker/nft"
)

// Driver keeps the table. Its methods may be called from any goroutine, also before Run.
type Driver struct {
	keeper *nft.Keeper[netip.Prefix]

	mu     sync.Mutex
	groups map[string][]netip.Prefix // guarded by mu
}

// New returns a driver that drops nothing yet. Its metrics are registered with metrics; nil: nowhere.
func New(log *slog.Logger, metrics prometheus.Registerer) (*Driver, error) {
	k := newKernel()
	if metrics != nil {
		if err := metrics.Register(counters{k}); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return newDriver(log, k), nil
}

// counters reads the rules' counters when it is asked.
type counters struct{ kernel }

var droppedPackets = prometheus.NewDesc("berth_unserved_packets_dropped_total",
	"Packets for announced addresses that nothing on the node serves, dropped since the table was last written.", []string{"family"}, nil)

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
	// Aggregates may overlap each other, so all are written anew when one changes.
	k.Whole = func(p netip.Prefix) bool { return !p.IsSingleIP() }
	return &Driver{keeper: k, groups: map[string][]netip.Prefix{}}
}

// Sync replaces the prefixes of one group, all masked; none removes it. It returns at once, at a cost that
// depends on this group alone.
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
	d.keeper.Update(prefixes, before)
}

// Run keeps the table as wanted until ctx ends, and leaves it as it is then: the node goes on to be sent
// what others have not yet noticed.
func (d *Driver) Run(ctx context.Context) error { return d.keeper.Run(ctx) }

// Remove deletes the table, for good: nothing is announced here any more.
func (d *Driver) Remove() error { return d.keeper.Remove() }

// Err tells why packets are not dropped as wanted; nil: they are.
func (d *Driver) Err() error { return d.keeper.Err() }
