package l2

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/l2/election"
)

// Driver announces addresses on this node's segments. Its methods may be called from any goroutine,
// also before Run.
type Driver struct {
	shared
	kick async.Signal // wakes the supervisor

	mu           sync.Mutex
	desired      map[netip.Addr]Desired   // guarded by mu
	next         map[netip.Addr]Desired   // guarded by mu; what may be desired soon
	patterns     map[string]int           // guarded by mu; how many addresses are wanted on each
	segments     map[string]*segment      // guarded by mu; by interface name
	ended        map[string]chan struct{} // guarded by mu; by interface, closed when its last segment has ended
	state        State                    // guarded by mu
	keys         Keys                     // guarded by mu
	capabilities Capabilities             // guarded by mu
	mirror       map[mirrorKey]Claim      // guarded by mu
	contact      election.Contact         // guarded by mu
	nodes        nodes                    // guarded by mu
	twins        map[string]string        // guarded by mu; by interface, the one that serves its segment
	failure      string                   // guarded by mu
	departure    *departure               // guarded by mu
}

// departure is one attempt to hand everything over.
type departure struct {
	round   uint64 // counts changes of state: a segment has drained for one of them
	began   time.Time
	drained chan struct{}
}

// New returns a driver that is Starting and has no key.
func New(config Config) (*Driver, error) { return newDriver(config, hostSystem{}) }

func newDriver(config Config, sys system) (*Driver, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("configure layer 2: %w", err)
	}
	m, err := newMetrics(config.Metrics)
	if err != nil {
		return nil, err
	}
	return &Driver{
		shared: shared{
			config:   config,
			system:   sys,
			cluster:  election.ClusterID(config.Cluster),
			metrics:  m,
			observed: async.NewStream[Observation](maxObservations),
		},
		kick:      async.NewSignal(),
		desired:   make(map[netip.Addr]Desired),
		next:      make(map[netip.Addr]Desired),
		patterns:  make(map[string]int),
		segments:  make(map[string]*segment),
		ended:     make(map[string]chan struct{}),
		mirror:    make(map[mirrorKey]Claim),
		twins:     make(map[string]string),
		departure: &departure{drained: make(chan struct{})},
	}, nil
}

// Run serves until ctx ends, then stops answering, closes its sockets and returns nil. Failures on
// the way are observed and retried. It may be called once.
func (d *Driver) Run(ctx context.Context) error {
	tasks, ctx := errgroup.WithContext(ctx)
	// The supervisor starts one more task here for each interface it finds, and each ends with ctx.
	tasks.Go(func() error { return d.follow(ctx) })
	tasks.Go(func() error { return d.supervise(ctx, tasks) })
	if err := tasks.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("layer 2: %w", err)
	}
	return nil
}

// Sync replaces the desired state of one address, and returns at once. The zero Desired withdraws
// it. Its cost does not depend on how many other addresses there are. The driver keeps what desired
// points to, which must not change any more: so thousands of addresses can share one list of
// candidates, if it is sorted.
func (d *Driver) Sync(addr netip.Addr, desired Desired) {
	addr = addr.Unmap().WithZone("")
	if !desired.Announced {
		desired = Desired{}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	former := d.desired[addr]
	changed := d.countPatterns(former.Interfaces, -1)
	if desired.Announced {
		d.desired[addr] = desired
		changed = d.countPatterns(desired.Interfaces, +1) || changed
	} else {
		delete(d.desired, addr)
	}
	for _, seg := range d.segments {
		switch {
		case d.concerns(seg, desired):
			seg.setDesired(addr, desired)
		case d.concerns(seg, former):
			seg.setDesired(addr, Desired{})
		}
	}
	if changed {
		d.kick.Notify()
	}
}

// Anticipate replaces the addresses that may be desired soon, and how. They are probed where this
// node would be the first to claim them, so that it answers at once when they are. Until then it
// claims and announces nothing, and answers nobody.
func (d *Driver) Anticipate(addresses map[netip.Addr]Desired) {
	next := make(map[netip.Addr]Desired, len(addresses))
	for addr, desired := range addresses {
		if desired.Announced {
			next[addr.Unmap().WithZone("")] = desired
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next = next
	for _, seg := range d.segments {
		seg.setNext(next)
	}
}

// countPatterns reports whether a pattern became used or unused. d.mu is held.
func (d *Driver) countPatterns(patterns []string, n int) bool {
	changed := false
	for _, p := range patterns {
		d.patterns[p] += n
		if d.patterns[p] == 0 {
			delete(d.patterns, p)
		}
		changed = changed || d.patterns[p] == 0 || n > 0 && d.patterns[p] == 1
	}
	return changed
}

// Rebalance moves the address to the candidate that ranks first for it, if that is another node
// that is able to take it. Addresses move one after the other, each within the handover time.
func (d *Driver) Rebalance(addr netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, seg := range d.segments {
		seg.rebalance(addr)
	}
}

// Mirrored takes what the mirror says of an address on a segment: the second channel by which
// claims arrive. What is known when the driver starts is best said before Run.
func (d *Driver) Mirrored(said Claim) {
	d.mu.Lock()
	defer d.mu.Unlock()
	key := mirrorKey{said.Address, said.Segment}
	if said.Node == "" {
		delete(d.mirror, key)
	} else {
		d.mirror[key] = said
	}
	for _, seg := range d.segments {
		seg.setMirrored(said)
	}
}

// MirrorLost says that the mirror cannot be read any more. Nodes that are known only by it count as
// dead. Later calls of Mirrored count again.
func (d *Driver) MirrorLost() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.mirror)
	for _, seg := range d.segments {
		seg.setMirrorLost()
	}
}

// SetKeys sets the keys of hellos. Nodes understand each other only if each accepts the key that
// the other signs with. Without a key this node claims nothing, and gives up what it owns within
// the handover time.
func (d *Driver) SetKeys(keys Keys) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.keys = Keys{Sign: slices.Clone(keys.Sign)}
	for _, k := range keys.Accept {
		d.keys.Accept = append(d.keys.Accept, slices.Clone(k))
	}
	d.notifySegments()
}

// SetCapabilities sets what this node is able to forward by. It has no capabilities at first. An
// address that needs a lost capability is handed over, or given up within the handover time. A
// gained capability makes the node a candidate, but moves nothing.
func (d *Driver) SetCapabilities(c Capabilities) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.capabilities = c
	d.notifySegments()
}

// SetNodes says which addresses the nodes have, this one included, as the API has it. Those of this
// node select the interfaces that serve addresses which name none.
func (d *Driver) SetNodes(addresses map[string][]netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.nodes.version > 0 && maps.EqualFunc(d.nodes.addresses, addresses, slices.Equal) {
		return
	}
	d.nodes = nodes{addresses, d.nodes.version + 1}
	d.kick.Notify()
	d.notifySegments()
}

// Confirm says that what is desired here was up to date at that time. Once it was called, it is to
// be called again at least as often as Config.FreshWithin says: peers take over from a node that
// goes without it for long, unless they do, too.
func (d *Driver) Confirm(at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.system.now()
	d.contact = d.contact.Confirm(now, now.Add(-time.Since(at)), d.config.times())
}

// Past returns what the next process is to know of when Confirm was called, and with what.
func (d *Driver) Past() Past {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.contact.Past(d.system.now())
}

// Recall takes what the process before this one knew so long ago. It comes before the first
// Confirm.
func (d *Driver) Recall(past Past, ago time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.contact = past.Contact(d.system.now().Add(-ago))
}

// SetState sets the state that this node tells the others. Leaving and Restarting hand over what it
// owns. Holding asks the others to keep it for this node's next process, for 10 s.
func (d *Driver) SetState(state State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if state == d.state {
		return
	}
	d.state = state
	select {
	case <-d.departure.drained:
		d.departure = &departure{drained: make(chan struct{}), round: d.departure.round}
	default:
	}
	d.departure.round++
	d.departure.began = time.Now()
	d.notifySegments()
	d.kick.Notify()
}

// Drained returns a channel that is closed when this node, after SetState to Leaving or Restarting,
// owns nothing that another node could take: each address was handed over, or nobody can take it,
// or the handover time is over. After SetState to Holding it is closed when the others were told.
// Call it after SetState; after a later SetState to Ready and back, call it again.
func (d *Driver) Drained() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.departure.drained
}

// Observed returns the stream of observations. It is never closed. If nobody reads it, the oldest
// observations are lost, and counted in Status.
func (d *Driver) Observed() <-chan Observation { return d.observed.C() }

// Status returns what is known now. It does not wait for the network.
func (d *Driver) Status() Status {
	d.mu.Lock()
	s := Status{State: d.state, Keyed: len(d.keys.Sign) > 0, Err: d.failure, Lost: d.observed.Dropped()}
	for _, seg := range d.segments {
		if p := seg.published.Load(); p != nil {
			s.Segments = append(s.Segments, *p)
		}
	}
	d.mu.Unlock()
	slices.SortFunc(s.Segments, func(a, b Segment) int { return strings.Compare(a.Interface, b.Interface) })
	return s
}

// Holds returns the interfaces on which this node answers for the address now, by name.
func (d *Driver) Holds(addr netip.Addr) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var held []string
	for name, seg := range d.segments {
		if seg.table.IsAnswered(addr) {
			held = append(held, name)
		}
	}
	slices.Sort(held)
	return held
}

func (d *Driver) notifySegments() {
	for _, seg := range d.segments {
		seg.wake.Notify()
	}
}
