// Package l2 answers ARP and neighbour discovery for addresses that no interface holds, so that packets for
// them reach this node, and agrees with the other nodes of each segment on who answers.
//
// The unit is the group: addresses of both families that move together. The place is the segment: an
// interface and whoever is heard on it. A segment's loop (segment.go) joins the parts: the machine decides
// (machine.go, pure; by the messages of message.go; docs/design/l2-protocol.md says how), the responders answer
// (arp.go, ndp.go), the announcer tells the segment (announcer.go). Linux only.
package l2

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/l2/election"
)

// Config says who this node is and how patient it is.
type Config struct {
	// Node is this node's name, at most 253 bytes.
	Node string
	// Cluster keeps clusters that share a segment apart, at most by accident with the same key: any text that is
	// the cluster's own, such as the UID of its namespace kube-system.
	Cluster string
	// NodeAddresses tell which interfaces serve groups that name none.
	NodeAddresses []netip.Addr
	// Logger must not be nil.
	Logger *slog.Logger
	// Metrics is where berth_l2_* is registered. Nil: nowhere.
	Metrics prometheus.Registerer

	// HelloInterval is the time between hellos, 10 ms to 10 s; peers wait for three of them. 0: 100 ms.
	HelloInterval time.Duration
	// Listen is how long an interface is listened on before anything is claimed. 0: 1 s.
	Listen time.Duration
	// OnClaim is called for each change of a claim of this node's, in order, from a goroutine that must not be
	// made to wait. Nil: nobody wants to know.
	OnClaim func(Claim)
	// Handover is the longest time to answer for a group that another node owns, or that this one lacks a capability
	// for. 0: 1 s.
	Handover time.Duration
	// Answers is called with true just before this node answers for an address on a segment for the first time, or
	// announces it there, and with false after it ceased to, or while another host is in conflict about it, until a minute
	// after that was heard last. The calls about one address alternate for each segment, and come from a goroutine of each
	// that must not be made to wait: an address is answered for on as many segments as it was called with true more often than with false. A
	// driver that ends while it is Holding calls nothing. Nil: nobody wants to know.
	Answers func(addr netip.Addr, on bool)
	// Harmless reports whether this node's own kernel has the address because a Service has it (kube-proxy's ipvs mode): so
	// peers' kernels answer for it as well, which is no conflict then. It must not block. Nil: never.
	Harmless func(netip.Addr) bool
}

func (c Config) withDefaults() (Config, error) {
	set := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	set(&c.HelloInterval, 100*time.Millisecond)
	set(&c.Listen, time.Second)
	set(&c.Handover, time.Second)
	switch {
	case c.Node == "" || len(c.Node) > election.MaxNodeName:
		return c, fmt.Errorf("node name %q: must have 1 to %d bytes", c.Node, election.MaxNodeName)
	case c.Logger == nil:
		return c, errors.New("a logger is needed")
	case c.HelloInterval < election.MinHelloInterval || c.HelloInterval > election.MaxHelloInterval:
		return c, fmt.Errorf("hello interval %s: must be between %s and %s", c.HelloInterval, election.MinHelloInterval, election.MaxHelloInterval)
	case c.Listen < 0 || c.Handover < 0:
		return c, errors.New("listen and handover times cannot be negative")
	}
	return c, nil
}

// Rebalance moves the group to the candidate that comes first for it, if that is another one that is able. Groups move one
// after the other, each within the handover time.
func (d *Driver) Rebalance(group string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, seg := range d.segments {
		seg.rebalance(group)
	}
}

// MirrorLost tells that the mirror cannot be read any more: who was known by it alone counts as dead. What Mirrored
// says later is taken again.
func (d *Driver) MirrorLost() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.mirror)
	for _, seg := range d.segments {
		seg.mirrorLost()
	}
}

// mirrorKey is what the mirror has one claim for.
type mirrorKey struct{ group, segment string }

// Driver announces groups on this node's segments. Its methods may be called from any goroutine, also before
// Run.
type Driver struct {
	config   Config
	system   system
	boot     uint64
	cluster  uint64
	metrics  *metrics
	observed *async.Stream[Observation]
	kick     async.Signal // wakes the supervisor

	mu       sync.Mutex
	groups   map[string]Desired       // guarded by mu
	patterns map[string]int           // guarded by mu; how many groups name each
	segments map[string]*segment      // guarded by mu; by interface name
	ended    map[string]chan struct{} // guarded by mu; closed when the last segment of an interface has ended
	state    State                    // guarded by mu
	keys     Keys                     // guarded by mu
	able     Capabilities             // guarded by mu
	mirror   map[mirrorKey]Claim      // guarded by mu
	failure  string                   // guarded by mu
	leave    *leave                   // guarded by mu
}

// New returns a driver that is Starting and has no key.
func New(config Config) (*Driver, error) { return newDriver(config, kernel{}) }

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
		config: config, system: sys, boot: randomNumber(), cluster: election.ClusterID(config.Cluster), metrics: m, observed: async.NewStream[Observation](maxObservations),
		kick: async.NewSignal(), groups: make(map[string]Desired), patterns: make(map[string]int),
		segments: make(map[string]*segment), ended: make(map[string]chan struct{}), mirror: make(map[mirrorKey]Claim), leave: &leave{drained: make(chan struct{})},
	}, nil
}

// Run serves until ctx ends, then stops answering, closes its sockets and returns nil. What fails on the way
// is observed and tried again. It may be called once.
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

// Sync replaces what is wanted of one group, and returns at once. Its cost does not depend on how many
// other groups there are.
func (d *Driver) Sync(group string, desired Desired) {
	desired = Desired{
		Addresses:  slices.Clone(desired.Addresses),
		Interfaces: slices.Clone(desired.Interfaces),
		Candidates: slices.Clone(desired.Candidates),
		Preferred:  maps.Clone(desired.Preferred),
		Needs:      desired.Needs,
	}
	for i, a := range desired.Addresses {
		desired.Addresses[i] = a.Unmap().WithZone("")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	news := d.countPatterns(d.groups[group].Interfaces, -1)
	if len(desired.Addresses) == 0 {
		delete(d.groups, group)
	} else {
		d.groups[group] = desired
		news = d.countPatterns(desired.Interfaces, +1) || news
	}
	for _, seg := range d.segments {
		seg.want(group, desired)
	}
	if news {
		d.wakeSupervisor()
	}
}

// countPatterns reports whether a pattern became used or unused. d.mu is held.
func (d *Driver) countPatterns(patterns []string, n int) bool {
	news := false
	for _, p := range patterns {
		d.patterns[p] += n
		if d.patterns[p] == 0 {
			delete(d.patterns, p)
		}
		news = news || d.patterns[p] == 0 || n > 0 && d.patterns[p] == 1
	}
	return news
}

// SetKeys sets the keys of hellos. Nodes understand each other only if each accepts the key that the other signs
// with. Without a key this node claims nothing, and what it has it gives up within the handover time.
func (d *Driver) SetKeys(keys Keys) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.keys = Keys{Sign: slices.Clone(keys.Sign)}
	for _, k := range keys.Accept {
		d.keys.Accept = append(d.keys.Accept, slices.Clone(k))
	}
	d.wakeSegments()
}

// SetCapabilities says what this node is able to forward by; at first: nothing special. A group that needs what it lost is
// handed over, or given up within the handover time. What it gains makes it a candidate: owners stay.
func (d *Driver) SetCapabilities(c Capabilities) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.able = c
	d.wakeSegments()
}

// Mirrored takes what the mirror says of a group on a segment: the second way on which claims arrive. What is known
// when the driver starts is best said before Run.
func (d *Driver) Mirrored(said Claim) {
	d.mu.Lock()
	defer d.mu.Unlock()
	key := mirrorKey{said.Group, said.Segment}
	if said.Node == "" {
		delete(d.mirror, key)
	} else {
		d.mirror[key] = said
	}
	for _, seg := range d.segments {
		seg.mirror(said)
	}
}

// SetState says what this node is to tell the others. Leaving and Restarting hand over what it owns; Holding asks them
// to keep it for this node's next process, for 10 s.
func (d *Driver) SetState(state State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if state == d.state {
		return
	}
	d.state = state
	select {
	case <-d.leave.drained:
		d.leave = &leave{drained: make(chan struct{}), round: d.leave.round}
	default:
	}
	d.leave.round++
	d.leave.began = time.Now()
	d.wakeSegments()
	d.wakeSupervisor()
}

// Drained returns a channel that is closed when this node, having been told to leave or restart, owns nothing
// that another could take, or has told the others to hold it: each group was handed over, or nobody can take it, or the handover time is over.
// Ask for it after SetState; a later SetState to Ready and back needs a new one.
func (d *Driver) Drained() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.leave.drained
}

// Observed returns the stream of what is seen. It is never closed. If nobody reads, the oldest
// observations are lost, and counted in Status.
func (d *Driver) Observed() <-chan Observation { return d.observed.C() }

func (d *Driver) wakeSegments() {
	for _, seg := range d.segments {
		seg.stir()
	}
}

func (d *Driver) wakeSupervisor() { d.kick.Notify() }
