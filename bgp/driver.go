package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-lb/berth/internal/async"
)

// Config is what a Driver needs to know of its node.
type Config struct {
	// Node is the node's name, for logs.
	Node string
	// RouterID is the BGP identifier of all sessions: an IPv4 address, unique in the routing domain.
	RouterID netip.Addr
	// Listen is where routers may connect to us, as host:port; without a host on all addresses of the
	// node. Empty: nowhere. If it cannot be had, the peers that need it say so in Status, and it is
	// tried again every 5 s.
	Listen string
	// NextHops are the node's own addresses, at most one per family. A route of a family without one
	// is reported and not announced.
	NextHops []netip.Addr
	// Logger gets the driver's and GoBGP's messages; nil discards them.
	Logger *slog.Logger
	// Metrics is where the berth_bgp_* metrics are registered; nil means nowhere.
	Metrics prometheus.Registerer
	// Liveness watches the paths to those peers that have BFD enabled; nil: none is watched.
	Liveness Liveness
	// OnChange is called when Status may be another, and must not block; nil: not called.
	OnChange func()
	// Heard is called before a message of a router is handed to GoBGP, on the goroutine that reads
	// it; nil: not called. It must not block.
	Heard func(router netip.Addr)
	// LastingSession is how long a session must have been up for the next attempt to follow its end at
	// once, and not after 5 s; 0 means 10 s.
	LastingSession time.Duration
	// RefusalPause is how long a peer is left alone whose session we ended for its AS; 0 means 5
	// minutes.
	RefusalPause time.Duration
	// ResyncInterval is how often everything announced is read back from GoBGP and repaired; 0 means 5
	// minutes. Changes do not wait for it.
	ResyncInterval time.Duration
}

// Driver keeps sessions with peers and announces what is wanted of it. Its methods may be called
// from any goroutine, before and while Run runs.
type Driver struct {
	config    Config
	log       *slog.Logger
	listener  listener
	nextHops  map[gobgp.Family]netip.Addr
	observed  *async.Stream[Observation]
	orders    *orders
	published *published
	metrics   *metrics
}

// New checks the configuration and registers the metrics. Nothing is sent before Run.
func New(config Config) (*Driver, error) {
	if err := CheckRouterID(config.RouterID); err != nil {
		return nil, err
	}
	listener, err := newListener(config.Listen)
	if err != nil {
		return nil, err
	}
	nextHops, err := nextHopsOf(config.NextHops)
	if err != nil {
		return nil, err
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.LastingSession == 0 {
		config.LastingSession = 10 * time.Second
	}
	if config.RefusalPause == 0 {
		config.RefusalPause = 5 * time.Minute
	}
	if config.ResyncInterval == 0 {
		config.ResyncInterval = 5 * time.Minute
	}
	d := &Driver{
		config:    config,
		log:       config.Logger.With("node", config.Node),
		listener:  listener,
		nextHops:  nextHops,
		observed:  async.NewStream[Observation](observationsKept),
		orders:    newOrders(),
		published: newPublished(config.OnChange),
	}
	d.metrics = newMetrics(d.published)
	if config.Metrics != nil {
		if err := d.metrics.register(config.Metrics); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// Sync replaces the routes of one group; a Desired without routes removes it. It returns at once,
// at a cost that depends on this group alone. Groups that want the same prefix share it: it is
// announced while any of them wants it, to the union of their peers. The driver keeps desired: do
// not change it afterwards.
func (d *Driver) Sync(group string, desired Desired) {
	d.orders.give(func(o *order) { o.groups[group] = desired })
}

// SyncPeers replaces the peers. A peer that is equal to what it was, defaults filled in, keeps its
// session, whatever happens to the others; one that changed gets a new session. Invalid peers, and
// the second of two with one name or one address, are reported in Status and left alone.
func (d *Driver) SyncPeers(peers []Peer) {
	peers = slices.Clone(peers)
	for i, p := range peers {
		peers[i] = p.Canonical()
	}
	d.orders.give(func(o *order) { o.peers = &peers })
}

// LeaveAlone replaces the routers, by address, with which there is to be no session, and why: it
// stands in Status as the error of their peers.
func (d *Driver) LeaveAlone(routers map[netip.Addr]string) {
	routers = maps.Clone(routers)
	d.orders.give(func(o *order) { o.leftAlone, o.newLeft = routers, true })
}

// nextHopsOf returns the next hops by family, or why they cannot be used.
func nextHopsOf(addresses []netip.Addr) (map[gobgp.Family]netip.Addr, error) {
	hops := map[gobgp.Family]netip.Addr{}
	for _, hop := range addresses {
		if !hop.IsValid() || hop.IsUnspecified() || hop.Is4In6() {
			return nil, fmt.Errorf("BGP next hop %s is not an address of a node", hop)
		}
		family := familyOf(hop)
		if other, twice := hops[family]; twice {
			return nil, fmt.Errorf("BGP next hops %s and %s are of the same family", other, hop)
		}
		hops[family] = hop.WithZone("")
	}
	return hops, nil
}

// CheckListen returns why the text cannot be Config.Listen, or nil.
func CheckListen(text string) error {
	_, err := newListener(text)
	return err
}

// CheckNextHops returns why the addresses cannot be next hops, or nil.
func CheckNextHops(addresses []netip.Addr) error {
	_, err := nextHopsOf(addresses)
	return err
}

// SetNextHops replaces Config.NextHops: all routes are announced with the new ones. An error says
// why nothing changes.
func (d *Driver) SetNextHops(addresses []netip.Addr) error {
	hops, err := nextHopsOf(addresses)
	if err != nil {
		return err
	}
	d.orders.give(func(o *order) { o.nextHops = hops })
	return nil
}

// SetRouterID replaces the router ID. One that is another than before ends all sessions, which come
// up again with it; one that is not an IPv4 address other than 0.0.0.0 (RFC 6286 section 2.1) is an
// error and changes nothing.
func (d *Driver) SetRouterID(id netip.Addr) error {
	if err := CheckRouterID(id); err != nil {
		return err
	}
	d.orders.give(func(o *order) { o.routerID = id })
	return nil
}

// CheckRouterID returns why the address cannot be a router ID, or nil.
func CheckRouterID(id netip.Addr) error {
	if !id.Is4() || id.IsUnspecified() {
		return fmt.Errorf("BGP router ID %s is not an IPv4 address", id)
	}
	return nil
}

// Withdraw withdraws everything and keeps the sessions, so that no new connection comes to this
// node while it forwards what still does. It returns when the withdrawals are on their way to the
// peers. What Sync is given from then on is remembered, and announced only after Resume.
func (d *Driver) Withdraw(ctx context.Context) error {
	done := make(chan struct{})
	d.orders.give(func(o *order) {
		o.turn, o.phase = o.turn+1, withdrawn
		o.withdrawn = append(o.withdrawn, done)
	})
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("withdraw all BGP routes: %w", ctx.Err())
	}
}

// Drain asks the peers to prefer other routes, by GRACEFUL_SHUTDOWN (RFC 8326), a longer AS path
// and towards internal peers LOCAL_PREF 0, and withdraws everything after that time, as Withdraw
// does. Nothing is announced newly.
func (d *Driver) Drain(after time.Duration) {
	d.orders.give(func(o *order) { o.turn, o.phase, o.drainFor = o.turn+1, draining, after })
}

// LastResort asks the peers to prefer other routes, as Drain does, until Resume. What is wanted is
// announced so, also newly.
func (d *Driver) LastResort() {
	d.orders.give(func(o *order) { o.turn, o.phase = o.turn+1, lastResort })
}

// Resume takes Drain, LastResort, Withdraw and Restart back: what is wanted is announced again.
func (d *Driver) Resume() {
	d.orders.give(func(o *order) { o.turn, o.phase = o.turn+1, announcing })
}

// Restart says that this process is about to be replaced by another: what is announced stays, and
// peers with GracefulRestart are not told of the end.
func (d *Driver) Restart() {
	d.orders.give(func(o *order) { o.turn, o.phase = o.turn+1, restarting })
}

// Observed is the stream of what happens to sessions and routes. It is bounded: a slow reader loses
// the oldest observations and blocks nothing. It is never closed.
func (d *Driver) Observed() <-chan Observation { return d.observed.C() }

// Status describes the sessions and what is announced on them, as of now.
func (d *Driver) Status() Status { return d.published.status() }

// orders is what the exported methods leave for the loop: only the last word on each group and on
// the peers counts.
type orders struct {
	wake async.Signal

	mu      sync.Mutex
	started bool
	order
}

// order is a set of orders not yet carried out.
type order struct {
	groups    map[string]Desired
	peers     *[]Peer               // nil if unchanged
	leftAlone map[netip.Addr]string // if newLeft
	newLeft   bool
	routerID  netip.Addr                  // zero if unchanged
	nextHops  map[gobgp.Family]netip.Addr // nil if unchanged
	withdrawn []chan struct{}             // to close when nothing is announced any more

	turn     uint64 // counts the words on the phase
	phase    phase
	drainFor time.Duration
}

// phase is what becomes of all that is wanted.
type phase uint8

const (
	announcing phase = iota
	draining         // announced as a last resort, and nothing new
	withdrawn        // not announced
	restarting       // announced, beyond the end of the process where peers keep it
	lastResort       // announced as a last resort
)

// String returns the phase as it appears in logs.
func (p phase) String() string {
	return [...]string{"announcing", "draining", "withdrawn", "restarting", "last resort"}[p]
}

func newOrders() *orders {
	return &orders{wake: async.NewSignal(), order: order{groups: map[string]Desired{}}}
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
	o.wake.Notify()
}

// take moves everything that was ordered since the last time into the result; the phase stays.
func (o *orders) take() order {
	o.mu.Lock()
	defer o.mu.Unlock()
	taken := o.order
	o.order = order{groups: map[string]Desired{}, turn: taken.turn, phase: taken.phase, drainFor: taken.drainFor}
	return taken
}

// Liveness watches the paths to peers, faster than a hold timer does, by BFD (RFC 5882).
type Liveness interface {
	// Watch replaces the peers that are watched; all have an Address and BFD.Enabled. A peer that is
	// left out is told that this is on purpose. It must not block.
	Watch(peers []Peer)
	// Changes is the stream of changes of all paths.
	Changes() <-chan PathChange
}

// PathState is the state of the path to a peer.
type PathState string

// The states of paths.
const (
	// PathUp: both ends hear each other.
	PathUp PathState = "Up"
	// PathDown: they do not, or not yet.
	PathDown PathState = "Down"
	// PathUnwatched: the peer has stopped watching on purpose (AdminDown), which says nothing of the
	// path.
	PathUnwatched PathState = "AdminDown"
)

// PathChange says that the path to a peer changed its state.
type PathChange struct {
	Peer   string // its name
	State  PathState
	Reason string // why it is down
	Time   time.Time
}
