package steer

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

	"github.com/vishvananda/netlink"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/internal/liveness"
	"github.com/berth-lb/berth/speaker/dataplane/steering"
	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
	"github.com/berth-lb/berth/speaker/plan"
)

const (
	// Pins is the folder in which programs and maps outlive a speaker.
	Pins = "/sys/fs/bpf/berth"

	openAgain = 30 * time.Second // after an attempt to load the program failed
	refresh   = 20 * time.Second // between looks at what others changed
	// gather is how long changes are gathered: they come by the dozen.
	gather = 10 * time.Millisecond

	// handOver is how long owners of addresses without endpoints go on to steer once they must not.
	handOver = 2 * time.Second

	mostUnread = 1024 // changes for a reader that is slow
)

// Config of a Steerer. Refused says why this node must not steer, whatever its kernel can; empty:
// it may.
type Config struct {
	Logger  *slog.Logger
	Node    string
	Pins    string // a folder of a BPF file system; it need not exist
	Refused func() string
}

// Steerer has the driver follow what the speaker desires. Its methods may be called from any
// goroutine, and none but Run and Remove waits for the kernel.
type Steerer struct {
	Config
	wake    async.Signal
	alarm   async.Signal // somebody is suspected, or no longer
	changed *async.Stream[string]
	ways    map[string]steering.Node // of Run

	open sync.Mutex // held while the driver is open, and while all of it is removed

	mu         sync.Mutex
	groups     map[string][]plan.SteeredPort // guarded by mu; what is desired
	steered    map[string][]plan.SteeredPort // guarded by mu; what the kernel has
	addresses  map[string][]netip.Addr       // guarded by mu; of nodes
	interfaces []string                      // guarded by mu
	moved      bool                          // guarded by mu; the ways to nodes may be others
	seed       decide.Seed                   // guarded by mu
	enabled    bool                          // guarded by mu
	removed    bool                          // guarded by mu; for good
	heard      map[string]map[string]bool    // guarded by mu; interfaces, by the node that was heard there
	report     Report                        // guarded by mu
	// adopted: until it is known better, the kernel has what a process before this one left.
	adopted bool // guarded by mu
}

// New returns a Steerer that steers nothing yet, but for what a process before this one left.
func New(c Config) *Steerer {
	s := &Steerer{
		Config: c, wake: async.NewSignal(), alarm: async.NewSignal(), changed: async.NewStream[string](mostUnread),
		groups: map[string][]plan.SteeredPort{}, steered: map[string][]plan.SteeredPort{}, enabled: true,
		heard: map[string]map[string]bool{}, report: Report{Lacking: "the program is not loaded yet"},
	}
	if steering.Steers(c.Pins) {
		s.report, s.adopted = Report{}, true
	}
	return s
}

func (s *Steerer) change(do func()) {
	s.mu.Lock()
	do()
	s.mu.Unlock()
	s.wake.Notify()
}

// Sync replaces what is desired of a group; no ports: nothing.
func (s *Steerer) Sync(group string, ports []plan.SteeredPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.EqualFunc(s.groups[group], ports, plan.SteeredPort.Equal) {
		return
	}
	if len(ports) == 0 {
		delete(s.groups, group)
		delete(s.steered, group)
	} else {
		s.groups[group] = ports
	}
	s.wake.Notify()
}

// Steers reports whether the kernel steers the connections of a group: all its ports, perhaps to
// the nodes that they had before a change.
func (s *Steerer) Steers(group string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.report.Lacking == "" && s.steers(group)
}

// steers needs the lock.
func (s *Steerer) steers(group string) bool {
	ports, has := s.groups[group], s.steered[group]
	return s.adopted || len(ports) > 0 && !slices.ContainsFunc(ports, func(p plan.SteeredPort) bool {
		return !slices.ContainsFunc(has, func(q plan.SteeredPort) bool {
			return q.Address == p.Address && q.Port == p.Port && q.Protocol == p.Protocol
		})
	})
}

// Changed names a group for which Steers returns something else, or "" if Report does.
func (s *Steerer) Changed() <-chan string { return s.changed.C() }

// SetSeed sets the seed of the hash. It is the same on all nodes, and stays.
func (s *Steerer) SetSeed(seed [16]byte) {
	s.change(func() {
		s.seed = decide.SeedFrom(seed)
	})
}

// SetEnabled turns steering off, which leaves nothing in the kernel, or on again.
func (s *Steerer) SetEnabled(enabled bool) { s.change(func() { s.enabled = enabled }) }

// SetNodes sets the addresses of all nodes.
func (s *Steerer) SetNodes(addresses map[string][]netip.Addr) {
	s.change(func() { s.addresses, s.moved = maps.Clone(addresses), true })
}

// SetInterfaces sets by which interfaces packets for Services may come.
func (s *Steerer) SetInterfaces(names []string) {
	s.change(func() { s.interfaces, s.moved = names, true })
}

// NodeHeard says that a node is heard on an interface, or no longer. One that was heard and is
// heard nowhere any more is taken for dead.
func (s *Steerer) NodeHeard(node, on string, heard bool) {
	s.mu.Lock()
	if s.heard[node] == nil {
		s.heard[node] = map[string]bool{}
	}
	if heard {
		s.heard[node][on] = true
	} else {
		delete(s.heard[node], on)
	}
	s.mu.Unlock()
	s.alarm.Notify()
}

// Report returns how far this node steers.
func (s *Steerer) Report() (Report, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.report, true
}

// Remove leaves nothing in the kernel, and Run attaches nothing from then on.
func (s *Steerer) Remove() error {
	s.change(func() { s.removed = true })
	return s.uninstall()
}

// uninstall waits until Run has closed the driver.
func (s *Steerer) uninstall() error {
	s.open.Lock()
	defer s.open.Unlock()
	return steering.Uninstall(s.Pins)
}

// Run has the kernel follow until ctx ends, and leaves it as it is then: it goes on to steer.
func (s *Steerer) Run(ctx context.Context) error {
	pass := liveness.Of(ctx, "steering", liveness.Limit)
	for ctx.Err() == nil {
		pause := s.follow(ctx, pass)
		_ = s.await(ctx, pause)
	}
	return nil
}

// await waits for a change, for so long at most.
func (s *Steerer) await(ctx context.Context, atMost time.Duration) error {
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.wake:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// follow loads the program and keeps it up to date, until ctx ends or that is no use. It returns
// when to try again.
func (s *Steerer) follow(ctx context.Context, pass *liveness.Loop) time.Duration {
	if why := s.refused(); why != "" {
		s.lacks(why) // first: other nodes take over what this one has no endpoint of
		_ = async.Sleep(ctx, handOver)
		if err := s.uninstall(); err != nil {
			s.Logger.Warn("programs that steer were left behind", "error", err)
		}
		return openAgain
	}
	if !s.seeded() { // what a process before this one left goes on
		s.lacks("the controller has not made a key yet")
		return openAgain
	}
	s.open.Lock()
	defer s.open.Unlock()
	if s.refused() != "" {
		return 0
	}
	driver, err := steering.New(steering.Config{Pins: s.Pins})
	if err != nil {
		s.lacks("the program cannot be loaded: " + err.Error())
		return openAgain
	}
	defer func() {
		if err := driver.Close(); err != nil {
			s.Logger.Warn("close the driver of steering", "error", err)
		}
	}()
	watching, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { s.watch(watching, driver) })
	defer watch.Wait()
	defer stop()
	again := time.NewTicker(refresh)
	defer again.Stop()
	for {
		pass.Begin()
		err := s.apply(driver)
		pass.End()
		switch {
		case errors.Is(err, steering.ErrSeed):
			s.Logger.Warn("the key of records is another one: steering begins again, and connections break")
			if err := steering.Uninstall(s.Pins); err != nil {
				s.lacks("the seed changed, and what was pinned cannot be removed: " + err.Error())
				return openAgain
			}
			return 0
		case s.refused() != "":
			return 0
		}
		select {
		case <-ctx.Done():
			return 0
		case <-s.wake:
			if async.Sleep(ctx, gather) != nil {
				return 0
			}
		case <-again.C:
			pass.Begin()
			if err := driver.Refresh(); err != nil {
				s.Logger.Warn("steering was not refreshed", "error", err)
			}
			pass.End()
			s.change(func() { s.moved = true }) // routes may be others
		}
	}
}

// watch tells the driver of nodes that die while apply is at work, which may take seconds.
func (s *Steerer) watch(ctx context.Context, driver *steering.Driver) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.alarm:
			s.judge(driver)
		}
	}
}

// refused says why this node must not steer; empty: it may.
func (s *Steerer) refused() string {
	s.mu.Lock()
	enabled, removed := s.enabled, s.removed
	s.mu.Unlock()
	if removed {
		return "this node leaves"
	}
	if !enabled {
		return fmt.Sprintf(
			"steering is turned off by annotation %s of Secret %s",
			v1alpha1.AnnotationSteering,
			v1alpha1.HelloSecret,
		)
	}
	return s.Refused()
}

func (s *Steerer) seeded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seed != decide.Seed{}
}

// aliveOf returns whether each node that was heard is alive. If several are heard no longer, and no
// other is, it is more likely this node that does not hear.
func aliveOf(heard map[string]map[string]bool) map[string]bool {
	alive, some := map[string]bool{}, false
	for node, on := range heard {
		alive[node] = len(on) > 0
		some = some || alive[node]
	}
	if some || len(alive) < 2 {
		return alive
	}
	for node := range alive {
		alive[node] = true
	}
	return alive
}

// judge tells the driver which nodes are taken for dead.
func (s *Steerer) judge(driver *steering.Driver) {
	s.mu.Lock()
	alive := aliveOf(s.heard)
	s.mu.Unlock()
	for node, is := range alive {
		if err := driver.Alive(node, is); err != nil {
			s.Logger.Warn("the state of a node was not written", "node", node, "error", err)
		}
	}
}

// apply brings the kernel to what is desired, and tells what that changes.
func (s *Steerer) apply(driver *steering.Driver) error {
	s.mu.Lock()
	addresses, interfaces, seed := s.addresses, s.interfaces, s.seed
	groups := maps.Clone(s.groups)
	moved := s.moved
	s.moved = false
	s.mu.Unlock()
	if moved {
		var errs []error
		if s.ways, errs = ways(addresses, steering.Reach); len(errs) > 0 {
			s.Logger.Warn("nodes get no packets, since there is no way to them", "error", errors.Join(errs...))
		}
	}
	desired := steering.Desired{
		Enabled: true, Seed: seed, Self: s.Node, Interfaces: slices.DeleteFunc(slices.Clone(interfaces), unfit),
		Nodes: encapsulated(s.ways, groups), Services: services(groups, addresses),
	}
	if err := driver.Sync(desired); err != nil {
		s.Logger.Warn("steering is not as desired", "error", err)
		if _, partial := errors.AsType[*steering.PartialError](err); !partial {
			s.lacks("the kernel is not as desired: " + err.Error())
			return err
		}
	}
	s.judge(driver)
	s.has(groups, driver.Features(), desired.Services)
	return nil
}

// unfit reports whether an interface has no Ethernet frames, as one of a tunnel, or is gone.
func unfit(name string) bool {
	device, err := netlink.LinkByName(name)
	return err != nil || device.Attrs().EncapType != "ether"
}

// encapsulated returns the ways to nodes; all encapsulate if a pool asks for that.
func encapsulated(ways map[string]steering.Node, groups map[string][]plan.SteeredPort) map[string]steering.Node {
	always := false
	for _, ports := range groups {
		always = always || slices.ContainsFunc(ports, func(p plan.SteeredPort) bool {
			return p.How.Encapsulation == v1alpha1.EncapsulationIPIP
		})
	}
	if !always {
		return ways
	}
	all := maps.Clone(ways)
	for name, way := range all {
		way.Encapsulate = true
		all[name] = way
	}
	return all
}

// lacks notes why this node does not steer.
func (s *Steerer) lacks(why string) {
	s.mu.Lock()
	before := s.report.Lacking
	s.report, s.adopted = Report{Lacking: why}, false
	s.mu.Unlock()
	if before != why {
		s.Logger.Warn("this node does not steer", "reason", why)
		s.changed.Send("")
	}
}

// has notes that the kernel has these groups.
func (s *Steerer) has(groups map[string][]plan.SteeredPort, can steering.Features, all map[string]steering.Service) {
	now := Report{}
	for _, service := range all {
		now.Ports += len(service.Frontends)
	}
	if can.TCX {
		now.Features = append(now.Features, v1alpha1.FeatureLink)
	}
	if can.SecondChance {
		now.Features = append(now.Features, v1alpha1.FeatureSecondChance)
	}
	s.mu.Lock()
	before := s.report
	s.report = now
	var news []string
	did := map[string]bool{}
	for group := range s.groups {
		did[group] = s.steers(group)
	}
	s.adopted = false
	maps.Copy(s.steered, groups)
	for group := range s.groups {
		if s.steers(group) != did[group] {
			news = append(news, group)
		}
	}
	for group := range s.steered {
		if groups[group] == nil {
			delete(s.steered, group)
		}
	}
	s.mu.Unlock()
	if len(news) > mostUnread/2 {
		s.changed.Send("") // all is planned again
		return
	}
	if before.Lacking != "" {
		s.Logger.Info("this node steers", "features", now.Features)
	}
	if before.Lacking != "" || before.Ports != now.Ports || !slices.Equal(before.Features, now.Features) {
		s.changed.Send("")
	}
	for _, group := range news {
		s.changed.Send(group)
	}
}
