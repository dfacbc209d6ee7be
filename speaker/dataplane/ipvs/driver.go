//go:build linux

package ipvs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/internal/liveness"
)

// Config is what a Driver may be told. The zero Config is a good one.
type Config struct {
	// Logger gets what goes wrong and what is repaired; nil discards it.
	Logger *slog.Logger
	// Interval is how often the kernel is compared with what is desired, which is also the time after
	// which a failure is tried again; 0 means 2 seconds. IPVS notifies nobody of changes.
	Interval time.Duration
	// Sysctls is the folder of net.ipv4.vs, writable; empty: /proc/sys/net/ipv4/vs, which in a
	// container often is not.
	Sysctls string
}

// Driver keeps the virtual servers of this network namespace as desired, and delivers packets for
// their addresses to them. Its methods may be called from any goroutine, before and while Run runs.
type Driver struct {
	log      *slog.Logger
	interval time.Duration
	connect  func() (edge, error)
	sources  atomic.Pointer[[]netip.Addr]
	wake     async.Signal
	observed *async.Stream[Observation]

	mu      sync.Mutex
	desired desiredServers     // guarded by mu
	dirty   map[Frontend]bool  // guarded by mu; to be compared with the kernel
	shown   map[Frontend]error // guarded by mu; nil: the kernel showed it as desired
	failed  error              // guarded by mu; of IPVS as a whole

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
	d := &Driver{
		log: config.Logger, interval: config.Interval,
		wake: async.NewSignal(), observed: async.NewStream[Observation](observationsKept),
		desired: newDesiredServers(), dirty: map[Frontend]bool{}, shown: map[Frontend]error{}, failed: ErrPending,
	}
	d.sources.Store(&[]netip.Addr{})
	d.connect = func() (edge, error) {
		return openEdge(func() []netip.Addr { return *d.sources.Load() }, config.Sysctls)
	}
	return d
}

// SetSources replaces the addresses of this node, at most one of each family, that its own programs
// use as theirs when they connect to an address of ours. Without one of IPv4 they find the network
// unreachable. The kernel has them within the interval.
func (d *Driver) SetSources(addresses []netip.Addr) { d.sources.Store(&addresses) }

// Sync replaces the virtual servers of one group; an empty table removes them. It returns at once,
// at a cost that depends on this group alone. If two groups desire one frontend, the one that comes
// first by name has it. The driver keeps desired: do not change it afterwards.
//
// Give all groups before Run: what is not desired then is removed.
func (d *Driver) Sync(group string, desired Table) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.desired.replace(group, desired) {
		d.dirty[f] = true
	}
	if len(d.dirty) > 0 {
		d.wake.Notify()
	}
}

// Run makes the kernel as desired, and again after somebody else changed it, until ctx ends. Then
// it leaves all as it is, for the next process to take over: connections go on.
//
// It reads and writes the network namespace of the thread that it runs on when it starts.
func (d *Driver) Run(ctx context.Context) error {
	k := &keeper{Driver: d, touched: map[netip.Addr]bool{}}
	defer k.disconnect()
	ticker := time.NewTicker(d.interval)
	defer ticker.Stop()
	often := time.NewTicker(d.interval / 8)
	defer often.Stop()
	loop := liveness.Of(ctx, "IPVS", liveness.Limit+d.interval) // it comes around at least that often
	defer loop.End()
	loop.Begin()
	k.pass(ctx, everything)
	for {
		loop.Begin()
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

// Remove deletes all virtual servers, routes and rules of ours, for good: their connections are
// reset. Call it when nothing is to be forwarded here any more. Sysctls stay as they are. A kernel
// without IPVS has nothing to delete.
func (d *Driver) Remove() error {
	d.passing.Lock()
	defer d.passing.Unlock()
	d.removed = true
	d.mu.Lock()
	addresses := d.desired.addresses()
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

// Observed is the stream of what Serves and Err would newly return. It is bounded: a slow reader
// loses the oldest observations and blocks nothing. It is never closed.
func (d *Driver) Observed() <-chan Observation { return d.observed.C() }

// Err returns why nothing can be forwarded at all: ErrPending, ErrNoIPVS, a lack of privileges.
// Nil: IPVS works.
func (d *Driver) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed
}

// Serves returns nil if the kernel showed the frontend as it is desired, when it was last read:
// ErrPending if it was not read since the frontend is desired, or what is wrong.
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

// Statistics reads the counters of the desired virtual servers from the kernel, at a cost of one
// question for each.
func (d *Driver) Statistics() ([]FrontendStatistics, error) {
	e, err := d.connect()
	if err != nil {
		return nil, err
	}
	defer e.close()
	return e.servers.statistics(func(f Frontend) bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		_, ok := d.desired.virtualServer(f)
		return ok
	})
}

// Probe returns nil if the kernel of this network namespace can serve with a scheduler: it makes a
// virtual server by a firewall mark of its own, and deletes it. Modules that are missing are loaded
// by the kernel, if it has them. The error is ErrNoIPVS, ErrNoScheduler, or another.
func Probe(scheduler string) error {
	servers, err := openKernel()
	if err != nil {
		return err
	}
	return errors.Join(servers.probe(scheduler), servers.close())
}

// observationsKept is how many observations wait for their reader.
const observationsKept = 1024

// ErrPending says that the kernel was not read yet.
var ErrPending = errors.New("the kernel's IPVS table was not read yet")

// Observation is a change of what Serves or Err return.
type Observation struct {
	// Frontend is the zero value if it concerns IPVS as a whole.
	Frontend Frontend
	// Err is nil if the kernel matches the desired state, even if that state is empty.
	Err error
}

// String describes the observation for logs.
func (o Observation) String() string { return fmt.Sprintf("%s: %v", o.Frontend, o.Err) }
