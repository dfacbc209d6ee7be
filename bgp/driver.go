package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/prometheus/client_golang/prometheus"
)

// Config is what a Driver needs to know of its node.
type Config struct {
	// Node is the node's name, for logs.
	Node string
	// RouterID is the BGP identifier of all sessions: an IPv4 address, unique in the routing domain.
	RouterID netip.Addr
	// NextHops are the node's own addresses, at most one per family. A route of a family without one is
	// reported and not announced.
	NextHops []netip.Addr
	// Logger gets the driver's and GoBGP's messages; nil discards them.
	Logger *slog.Logger
	// Metrics is where the berth_bgp_* metrics are registered; nil means nowhere.
	Metrics prometheus.Registerer
	// ResyncInterval is how often everything announced is read back from GoBGP and repaired; 0 means 5
	// minutes. Changes do not wait for it.
	ResyncInterval time.Duration
}

// Driver keeps sessions with peers and announces what is wanted of it. Its methods may be called from any
// goroutine, before and while Run runs.
type Driver struct {
	config   Config
	log      *slog.Logger
	nextHops map[gobgp.Family]netip.Addr
	observed observations
	orders   *orders
	board    *board
	metrics  *metrics
}

// New checks the configuration and registers the metrics. Nothing is sent before Run.
func New(config Config) (*Driver, error) {
	if !config.RouterID.Is4() || config.RouterID.IsUnspecified() {
		return nil, fmt.Errorf("BGP router ID %s is not an IPv4 address", config.RouterID)
	}
	nextHops := map[gobgp.Family]netip.Addr{}
	for _, hop := range config.NextHops {
		if !hop.IsValid() || hop.IsUnspecified() || hop.Is4In6() {
			return nil, fmt.Errorf("BGP next hop %s is not an address of a node", hop)
		}
		family := familyOf(hop)
		if other, twice := nextHops[family]; twice {
			return nil, fmt.Errorf("BGP next hops %s and %s are of the same family", other, hop)
		}
		nextHops[family] = hop.WithZone("")
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.ResyncInterval == 0 {
		config.ResyncInterval = 5 * time.Minute
	}
	d := &Driver{
		config:   config,
		log:      config.Logger.With(slog.String("node", config.Node)),
		nextHops: nextHops,
		observed: make(observations, observationsKept),
		orders:   newOrders(),
		board:    newBoard(),
	}
	d.metrics = newMetrics(d.board)
	if config.Metrics != nil {
		if err := d.metrics.register(config.Metrics); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// Run keeps the sessions and the routes until ctx ends. Then it closes the sessions with NOTIFICATION Cease
// (Administrative Shutdown "leaving" after Withdraw, else Administrative Reset "restarting") and returns nil,
// or an error if that took more than two seconds. It must not be called twice.
func (d *Driver) Run(ctx context.Context) error {
	if !d.orders.start() {
		return errors.New("run BGP driver: it has run already")
	}
	return newOwner(d).run(ctx)
}

// Sync replaces the routes of one group; a Desired without routes removes it. It returns at once, at a cost
// that depends on this group alone. Groups that want the same prefix share it: it is announced while any of
// them wants it, to the union of their peers. The driver keeps desired: do not change it afterwards.
func (d *Driver) Sync(group string, desired Desired) {
	d.orders.give(func(o *order) { o.groups[group] = desired })
}

// SyncPeers replaces the peers. A peer that is equal to what it was keeps its session, whatever happens to
// the others; one that changed gets a new session. Invalid peers, and the second of two with one name or
// one address, are reported in Status and left alone.
func (d *Driver) SyncPeers(peers []Peer) {
	peers = slices.Clone(peers)
	d.orders.give(func(o *order) { o.peers = &peers })
}

// Withdraw withdraws everything and keeps the sessions, so that no new connection comes to this node while
// it forwards what still does. It returns when the withdrawals are on their way to the peers. What Sync is
// given from then on is remembered, and announced only after Resume.
func (d *Driver) Withdraw(ctx context.Context) error {
	done := make(chan struct{})
	d.orders.give(func(o *order) {
		o.leaving = true
		o.withdrawn = append(o.withdrawn, done)
	})
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("withdraw all BGP routes: %w", ctx.Err())
	}
}

// Resume takes Withdraw back: what is wanted is announced again.
func (d *Driver) Resume() {
	d.orders.give(func(o *order) { o.leaving = false })
}

// Observed is the stream of what happens to sessions and routes. It is bounded: a slow reader loses the
// oldest observations and blocks nothing. It is never closed.
func (d *Driver) Observed() <-chan Observation { return d.observed }

// Status describes the sessions and what is announced on them, as of now.
func (d *Driver) Status() Status { return d.board.status() }

// orders is what the exported methods leave for the owner: only the last word on each group and on the
// peers counts.
type orders struct {
	wake chan struct{}

	mu      sync.Mutex
	started bool
	order
}

// order is a set of orders not yet carried out.
type order struct {
	groups    map[string]Desired
	peers     *[]Peer // nil if unchanged
	leaving   bool
	withdrawn []chan struct{} // to close when nothing is announced any more
}

func newOrders() *orders {
	return &orders{wake: make(chan struct{}, 1), order: order{groups: map[string]Desired{}}}
}

// start is true the first time.
func (o *orders) start() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	first := !o.started
	o.started = true
	return first
}

func (o *orders) give(add func(*order)) {
	o.mu.Lock()
	add(&o.order)
	o.mu.Unlock()
	wake(o.wake)
}

// take moves everything that was ordered since the last time into the result; leaving stays.
func (o *orders) take() order {
	o.mu.Lock()
	defer o.mu.Unlock()
	taken := o.order
	o.order = order{groups: map[string]Desired{}, leaving: taken.leaving}
	return taken
}
