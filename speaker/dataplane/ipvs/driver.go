package ipvs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/berth-lb/berth/internal/async"
)

// Config is what a Driver may be told. The zero Config is a good one.
type Config struct {
	// Logger gets what goes wrong and what is repaired; nil discards it.
	Logger *slog.Logger
	// Interval is how often the kernel is compared with what is desired, which is also the time after which a
	// failure is tried again; 0 means 2 seconds. IPVS notifies nobody of changes.
	Interval time.Duration
	// Sources are addresses of this node, at most one of each family, that its own programs use as theirs when
	// they connect to an address of ours. Without one of IPv4 they find the network unreachable.
	Sources []netip.Addr
	// Sysctls is the folder of net.ipv4.vs, writable; empty: /proc/sys/net/ipv4/vs, which in a container often is not.
	Sysctls string
}

// Driver keeps the virtual servers of this network namespace as desired, and delivers packets for their
// addresses to them. Its methods may be called from any goroutine, before and while Run runs.
type Driver struct {
	log      *slog.Logger
	interval time.Duration
	connect  func() (edge, error)
	wake     async.Signal
	observed *async.Stream[Observation]

	mu     sync.Mutex
	wanted wanted             // guarded by mu
	dirty  map[Frontend]bool  // guarded by mu; to be compared with the kernel
	shown  map[Frontend]error // guarded by mu; nil: the kernel showed it as desired
	failed error              // guarded by mu; of IPVS as a whole

	// passing is held while the kernel is read and written, by Run and by Remove.
	passing sync.Mutex
	removed bool // guarded by passing
}

// New returns a driver that desires nothing yet.
func New(config Config) *Driver {
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.Interval == 0 {
		config.Interval = 2 * time.Second
	}
	if config.Sysctls == "" {
		config.Sysctls = sysctlFolder
	}
	return &Driver{
		log: config.Logger, interval: config.Interval, connect: func() (edge, error) { return openEdge(config.Sources, config.Sysctls) },
		wake: async.NewSignal(), observed: async.NewStream[Observation](observationsKept),
		wanted: newWanted(), dirty: map[Frontend]bool{}, shown: map[Frontend]error{}, failed: ErrPending,
	}
}

// Sync replaces the virtual servers of one group; an empty table removes them. It returns at once, at a cost
// that depends on this group alone. If two groups desire one frontend, the one that comes first by name has
// it. The driver keeps desired: do not change it afterwards.
//
// Give all groups before Run: what is not desired then is removed.
func (d *Driver) Sync(group string, desired Table) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.wanted.replace(group, desired) {
		d.dirty[f] = true
	}
	if len(d.dirty) > 0 {
		d.wake.Notify()
	}
}

// Run makes the kernel as desired, and again after somebody else changed it, until ctx ends. Then it leaves all
// as it is, for the next process to take over: connections go on.
//
// It reads and writes the network namespace of the thread that it runs on when it starts.
func (d *Driver) Run(ctx context.Context) error {
	k := &keeper{Driver: d, touched: map[netip.Addr]bool{}}
	defer k.disconnect()
	ticker := time.NewTicker(d.interval)
	defer ticker.Stop()
	often := time.NewTicker(d.interval / 8)
	defer often.Stop()
	k.pass(ctx, everything)
	for {
		select {
		case <-ctx.Done():
			k.leave()
			return nil
		case <-often.C:
			if k.emptied() {
				k.pass(ctx, everything)
			}
		case <-d.wake:
			k.pass(ctx, changes)
		case <-ticker.C:
			k.pass(ctx, everything)
		}
	}
}

// Remove deletes all virtual servers, routes and rules of ours, for good: their connections are reset. Call it when
// nothing is to be forwarded here any more. Sysctls stay as they are. A kernel without IPVS has nothing to delete.
func (d *Driver) Remove() error {
	d.passing.Lock()
	defer d.passing.Unlock()
	d.removed = true
	d.mu.Lock()
	addresses := d.wanted.addresses()
	d.mu.Unlock()
	e, err := d.connect()
	if errors.Is(err, ErrNoIPVS) {
		return nil
	}
	if err != nil {
		return err
	}
	defer e.close()
	return e.removeAll(addresses)
}

// Observed is the stream of what Serves and Err would newly return. It is bounded: a slow reader loses the oldest
// observations and blocks nothing. It is never closed.
func (d *Driver) Observed() <-chan Observation { return d.observed.C() }

// Err tells why nothing can be forwarded at all: ErrPending, ErrNoIPVS, a lack of privileges. Nil: IPVS works.
func (d *Driver) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed
}

// Serves returns nil if the kernel showed the frontend as it is desired, when it was last read: ErrPending if it was not
// read since the frontend is desired, or what is wrong.
func (d *Driver) Serves(f Frontend) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err, known := d.shown[f]
	switch {
	case d.failed != nil:
		return d.failed
	case !known:
		return ErrPending
	}
	return err
}

// Served counts the virtual servers that the kernel showed as they are desired.
func (d *Driver) Served() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, err := range d.shown {
		if err == nil {
			n++
		}
	}
	return n
}

// Statistics reads the counters of the desired virtual servers from the kernel, at a cost of one question for each.
func (d *Driver) Statistics() ([]FrontendStatistics, error) {
	e, err := d.connect()
	if err != nil {
		return nil, err
	}
	defer e.close()
	return e.servers.statistics(func(f Frontend) bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		_, ok := d.wanted.virtualServer(f)
		return ok
	})
}

// Probe returns nil if the kernel of this network namespace can serve with a scheduler: it makes a virtual server by
// a firewall mark of its own, and deletes it. Modules that are missing are loaded by the kernel, if it has them. The
// error is ErrNoIPVS, ErrNoScheduler, or another.
func Probe(scheduler string) error {
	servers, err := openKernel()
	if err != nil {
		return err
	}
	return errors.Join(servers.probe(scheduler), servers.close())
}

// edge is the kernel's side.
type edge struct {
	servers  virtualServers
	delivery router
	sysctls  sysctls
}

// router delivers packets for addresses to IPVS.
type router interface {
	addresses() (map[netip.Addr]bool, error)
	ensureRules(family) error
	add(netip.Addr) error
	remove(netip.Addr) error
	removeRules() error
	close() error
}

func openEdge(sources []netip.Addr, folder string) (edge, error) {
	servers, err := openKernel()
	if err != nil {
		return edge{}, err
	}
	routes, err := openDelivery(sources)
	if err != nil {
		return edge{}, errors.Join(err, servers.close())
	}
	return edge{servers, routes, kernelSysctls{folder}}, nil
}

func (e edge) close() error { return errors.Join(e.servers.close(), e.delivery.close()) }

// removeAll deletes what is on these addresses and on those that have a route.
func (e edge) removeAll(addresses map[netip.Addr]bool) error {
	routed, err := e.delivery.addresses()
	if err != nil {
		return err
	}
	actual, err := e.servers.table()
	if err != nil {
		return err
	}
	operations, _ := Diff(nil, actual, ownedAt(func(a netip.Addr) bool {
		_, ours := routed[a] // be it with another source
		return ours || addresses[a]
	}))
	var problems []error
	if len(operations) > 0 {
		_ = e.sysctls.set(nodestConnections, "1") // as good as can be: with 0 connections are dropped and not reset
	}
	for _, o := range operations {
		problems = append(problems, e.servers.apply(o))
	}
	if err := errors.Join(problems...); err != nil {
		return err // the routes say whose the rest is
	}
	for a := range routed {
		problems = append(problems, e.delivery.remove(a))
	}
	return errors.Join(append(problems, e.delivery.removeRules())...)
}

// ownedAt tells which virtual servers are ours: those of our marks, and those on addresses that are.
func ownedAt(address func(netip.Addr) bool) func(Frontend) bool {
	return func(f Frontend) bool {
		if f.Mark != 0 {
			return f.Mark&MarksMask == Marks
		}
		return address(f.Address)
	}
}

// wanted is what the groups desire.
type wanted struct {
	groups map[string]Table
	claims map[Frontend][]string // the groups that desire it, sorted
	users  map[netip.Addr]int    // how many frontends of claims have it
}

func newWanted() wanted {
	return wanted{map[string]Table{}, map[Frontend][]string{}, map[netip.Addr]int{}}
}

// replace returns the frontends that it concerns.
func (w *wanted) replace(group string, desired Table) []Frontend {
	before := w.groups[group]
	if len(desired) == 0 {
		delete(w.groups, group)
	} else {
		w.groups[group] = desired
	}
	var changed []Frontend
	for f, v := range desired {
		old, had := before[f]
		if !had {
			w.claim(f, group)
		}
		if !had || old.Settings != v.Settings || !slices.Equal(old.RealServers, v.RealServers) {
			changed = append(changed, f)
		}
	}
	for f := range before {
		if _, still := desired[f]; !still {
			w.release(f, group)
			changed = append(changed, f)
		}
	}
	return changed
}

func (w *wanted) claim(f Frontend, group string) {
	if len(w.claims[f]) == 0 {
		w.users[f.Address]++
	}
	i, _ := slices.BinarySearch(w.claims[f], group)
	w.claims[f] = slices.Insert(w.claims[f], i, group)
}

func (w *wanted) release(f Frontend, group string) {
	w.claims[f] = slices.DeleteFunc(w.claims[f], func(g string) bool { return g == group })
	if len(w.claims[f]) > 0 {
		return
	}
	delete(w.claims, f)
	if w.users[f.Address]--; w.users[f.Address] == 0 {
		delete(w.users, f.Address)
	}
}

func (w *wanted) virtualServer(f Frontend) (VirtualServer, bool) {
	groups := w.claims[f]
	if len(groups) == 0 {
		return VirtualServer{}, false
	}
	return w.groups[groups[0]][f], true
}

// of returns what is desired of some frontends.
func (w *wanted) of(some map[Frontend]bool) Table {
	t := Table{}
	for f := range some {
		if v, ok := w.virtualServer(f); ok {
			t[f] = v
		}
	}
	return t
}

func (w *wanted) table() Table {
	t := make(Table, len(w.claims))
	for f := range w.claims {
		t[f], _ = w.virtualServer(f)
	}
	return t
}

func (w *wanted) addresses() map[netip.Addr]bool {
	all := make(map[netip.Addr]bool, len(w.users))
	for a := range w.users {
		all[a] = true
	}
	return all
}

// observationsKept is how many observations wait for their reader.
const observationsKept = 1024

// ErrPending says that the kernel was not read yet.
var ErrPending = errors.New("the kernel's IPVS table was not read yet")

// Observation is a change of what Serves or Err return.
type Observation struct {
	// Frontend is the zero value if it concerns IPVS as a whole.
	Frontend Frontend
	// Err is nil if the kernel shows what is desired, be it that there is nothing any more.
	Err error
}

// String describes the observation for logs.
func (o Observation) String() string { return fmt.Sprintf("%s: %v", o.Frontend, o.Err) }
