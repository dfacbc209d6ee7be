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
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	resync = time.Minute // the safety net under the kernel's notifications
	atOnce = 1000        // changes in a transaction
)

// table is the kernel's side.
type table interface {
	// replace makes these all prefixes that are dropped, in one transaction.
	replace(prefixes []netip.Prefix) error
	// change adds and removes addresses, in one transaction. They are single ones.
	change(add, remove []netip.Addr) error
	// holds reports whether the table drops these prefixes and no others.
	holds(prefixes []netip.Prefix) (bool, error)
	// remove deletes the table.
	remove() error
	// dropped counts packets, by family.
	dropped() (map[string]uint64, error)
	// watch calls lost when somebody takes something out of the table, until ctx ends or it fails.
	watch(ctx context.Context, lost func()) error
}

// Driver keeps the table. Its methods may be called from any goroutine, also before Run.
type Driver struct {
	log   *slog.Logger
	table table
	retry time.Duration // after a failure
	wake  chan struct{}

	mu      sync.Mutex
	groups  map[string][]netip.Prefix // guarded by mu
	wanted  map[netip.Prefix]int      // guarded by mu; how many groups want each
	dirty   map[netip.Prefix]bool     // guarded by mu; to be compared with what is applied
	failure string                    // guarded by mu
	removed bool                      // guarded by mu
}

// New returns a driver that drops nothing yet. Its metrics are registered with metrics; nil: nowhere.
func New(log *slog.Logger, metrics prometheus.Registerer) (*Driver, error) {
	d := newDriver(log, kernel{})
	if metrics != nil {
		if err := metrics.Register(counters{d.table}); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return d, nil
}

// counters reads the rules' counters when it is asked.
type counters struct{ table }

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

func newDriver(log *slog.Logger, t table) *Driver {
	return &Driver{
		log: log, table: t, retry: 5 * time.Second, wake: make(chan struct{}, 1),
		groups: map[string][]netip.Prefix{}, wanted: map[netip.Prefix]int{}, dirty: map[netip.Prefix]bool{},
	}
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
	for _, p := range prefixes {
		d.wanted[p]++
		d.dirty[p] = true
	}
	for _, p := range before {
		if d.wanted[p]--; d.wanted[p] == 0 {
			delete(d.wanted, p)
		}
		d.dirty[p] = true
	}
	d.poke()
}

// Remove deletes the table, for good: nothing is announced here any more.
func (d *Driver) Remove() error {
	d.mu.Lock()
	d.removed = true
	d.mu.Unlock()
	return d.table.remove()
}

// Err tells why packets are not dropped as wanted; empty: they are.
func (d *Driver) Err() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failure
}

func (d *Driver) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Run keeps the table as wanted until ctx ends, and leaves it as it is then: the node goes on to be sent
// what others have not yet noticed.
func (d *Driver) Run(ctx context.Context) error {
	lost := make(chan struct{}, 1)
	var watching sync.WaitGroup
	defer watching.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watching.Go(func() { d.follow(ctx, lost) })
	k := keeper{Driver: d, broken: true}
	ticker := time.NewTicker(resync)
	defer ticker.Stop()
	again := time.NewTimer(0) // the first thing is to take over what a former process left
	defer again.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-d.wake:
			err = k.apply()
		case <-again.C:
			err = k.restore()
		case <-lost:
			err = k.repair()
		case <-ticker.C:
			err = k.repair()
		}
		if d.note(err) {
			again.Reset(d.retry)
		}
	}
}

// follow watches the table until ctx ends.
func (d *Driver) follow(ctx context.Context, lost chan<- struct{}) {
	for ctx.Err() == nil {
		err := d.table.watch(ctx, func() {
			select {
			case lost <- struct{}{}:
			default:
			}
		})
		if err != nil {
			d.log.Debug("nftables are not watched", "error", err) // what matters is told when they are written
		}
		select {
		case <-ctx.Done():
		case <-time.After(d.retry):
		}
	}
}

// note keeps what fails, tells of it once, and reports whether it is to be tried again.
func (d *Driver) note(err error) bool {
	text := ""
	if err != nil {
		text = fmt.Sprintf("packets for announced addresses that nothing serves are not dropped: %v", err)
	}
	d.mu.Lock()
	news := text != d.failure
	d.failure = text
	d.mu.Unlock()
	if news && err != nil {
		d.log.Warn(text)
	}
	return err != nil
}

// keeper is what the one goroutine that writes knows.
type keeper struct {
	*Driver
	applied map[netip.Prefix]bool
	broken  bool // the table is not known to be as applied says
}

// apply writes what changed.
func (k *keeper) apply() error {
	for !k.broken { // else restore is due
		add, remove, aggregates, more := k.next()
		switch {
		case !more:
			return nil
		case aggregates:
			return k.restore()
		}
		if err := k.table.change(singles(add), singles(remove)); err != nil {
			k.broken = true
			return err
		}
		for _, p := range add {
			k.applied[p] = true
		}
		for _, p := range remove {
			delete(k.applied, p)
		}
	}
	return nil
}

// next takes some of what is dirty. Aggregates may overlap each other, so all are written anew when one changes.
func (k *keeper) next() (add, remove []netip.Prefix, aggregates, more bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.removed {
		return nil, nil, false, false
	}
	for p := range k.dirty {
		if len(add)+len(remove) == atOnce {
			break
		}
		delete(k.dirty, p)
		switch want := k.wanted[p] > 0; {
		case want == k.applied[p]:
		case !p.IsSingleIP():
			aggregates = true
		case want:
			add = append(add, p)
		default:
			remove = append(remove, p)
		}
	}
	return add, remove, aggregates, aggregates || len(add)+len(remove) > 0
}

// restore writes everything.
func (k *keeper) restore() error {
	all, ok := k.all()
	if !ok {
		return nil
	}
	k.broken = true
	if err := k.table.replace(all); err != nil {
		return err
	}
	k.broken = false
	k.applied = make(map[netip.Prefix]bool, len(all))
	for _, p := range all {
		k.applied[p] = true
	}
	return nil
}

// repair reads the table back, and restores it if it is not as it should be.
func (k *keeper) repair() error {
	if err := k.apply(); err != nil || k.broken {
		return err
	}
	holds, err := k.table.holds(slices.Collect(maps.Keys(k.applied)))
	if err != nil {
		return err
	}
	if holds {
		return nil
	}
	if all, ok := k.all(); ok {
		k.log.Warn("nftables table inet berth was changed by somebody else; writing it again", "prefixes", len(all))
	}
	return k.restore()
}

// all returns everything that is wanted, unless the table was removed.
func (k *keeper) all() ([]netip.Prefix, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.dirty)
	return slices.Collect(maps.Keys(k.wanted)), !k.removed
}

func singles(prefixes []netip.Prefix) []netip.Addr {
	addresses := make([]netip.Addr, 0, len(prefixes))
	for _, p := range prefixes {
		addresses = append(addresses, p.Addr())
	}
	return addresses
}
