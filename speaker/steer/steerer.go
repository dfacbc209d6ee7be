package steer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/internal/liveness"
	"github.com/berth-lb/berth/speaker/dataplane/podnat"
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
	// applyAgain is after how long what could not be written is tried again.
	applyAgain = 5 * time.Second

	// handOver is how long owners of addresses without endpoints go on to steer once they must not.
	handOver = 2 * time.Second

	mostUnread = 1024 // changes for a reader that is slow

	// A node that boots has no conntrack yet, which the second chance asks: kube-proxy's rules load
	// it. It is looked for each trackAgain, for trackAtMost.
	trackAgain  = time.Second
	trackAtMost = 30 * time.Second
)

// Config of a Steerer. Refused says why this node must not steer, whatever its kernel can; empty:
// it may. Doubt is called with nodes that a process before this one suspected; Suspect decides.
type Config struct {
	Logger  *slog.Logger
	Node    string
	Pins    string // a folder of a BPF file system; it need not exist
	Refused func() string
	Doubt   func(node string)
}

// Steerer has the driver follow what the speaker desires. Its methods may be called from any
// goroutine, and none but Run and Remove waits for the kernel.
type Steerer struct {
	Config
	wake    async.Signal
	alarm   async.Signal // others are suspected
	changed *async.Stream[string]

	// Of Run:
	ways         map[string]steering.Node
	reached      map[string][]netip.Addr // by these ways
	ledger       *ledger
	encapsulates bool // all ways do
	unreached    string

	driver   atomic.Pointer[steering.Driver] // nil: none is open
	pods     atomic.Pointer[podnat.Table]    // what this node forwards to its own Pods; nil: nothing
	progress progress
	tally    tally

	open sync.Mutex // held while the driver is open, and while all of it is removed
	// judging is held while it is written who is dead, so that the last word stays.
	judging sync.Mutex

	mu         sync.Mutex
	groups     map[string][]plan.SteeredPort // guarded by mu; what is desired
	dirty      map[string]bool               // guarded by mu; groups that are another since they were applied
	steered    map[string][]plan.SteeredPort // guarded by mu; what the kernel has
	addresses  map[string][]netip.Addr       // guarded by mu; of nodes
	interfaces []string                      // guarded by mu
	uplinks    []string                      // guarded by mu; the ways of SetInterfaces
	all        bool                          // guarded by mu; all is to be applied, and ways may be others
	seed       decide.Seed                   // guarded by mu
	enabled    bool                          // guarded by mu
	removed    bool                          // guarded by mu; for good
	suspects   map[string]bool               // guarded by mu; nodes that are thought dead
	dead       map[string]bool               // guarded by mu; of those, beyond doubt
	doubted    bool                          // guarded by mu; what was suspected before is looked at
	report     Report                        // guarded by mu
	// adopted: until it is known better, the kernel has what a process before this one left.
	adopted bool // guarded by mu

	begun time.Time
}

// New returns a Steerer that steers nothing yet, but for what a process before this one left.
func New(c Config) *Steerer {
	s := &Steerer{
		Config: c, wake: async.NewSignal(), alarm: async.NewSignal(), changed: async.NewStream[string](mostUnread),
		groups: map[string][]plan.SteeredPort{}, steered: map[string][]plan.SteeredPort{},
		dirty: map[string]bool{}, ledger: newLedger(), enabled: true,
		report: Report{Lacking: "the program is not loaded yet", Starting: true}, begun: time.Now(),
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

// set has all be applied unless what it is about is as it was.
func (s *Steerer) set(same func() bool, do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if same() {
		return
	}
	do()
	s.all = true
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
	s.dirty[group] = true
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
func (s *Steerer) steers(group string) bool { return s.adopted || s.kernelHas(group) }

// kernelHas needs the lock.
func (s *Steerer) kernelHas(group string) bool {
	ports, has := s.groups[group], s.steered[group]
	return len(ports) > 0 && !slices.ContainsFunc(ports, func(p plan.SteeredPort) bool {
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
		s.seed, s.all = decide.SeedFrom(seed), true
	})
}

// SetEnabled turns steering off, which leaves nothing in the kernel, or on again.
func (s *Steerer) SetEnabled(enabled bool) { s.change(func() { s.enabled = enabled }) }

// SetNodes sets the addresses of all nodes.
func (s *Steerer) SetNodes(addresses map[string][]netip.Addr) {
	s.set(
		func() bool { return maps.EqualFunc(s.addresses, addresses, slices.Equal) },
		func() { s.addresses = maps.Clone(addresses) },
	)
}

// SetInterfaces takes what Interfaces returns. It is called for each change of the node's network,
// as when a Pod starts.
func (s *Steerer) SetInterfaces(names, ways []string) {
	s.set(
		func() bool { return slices.Equal(s.interfaces, names) && slices.Equal(s.uplinks, ways) },
		func() { s.interfaces, s.uplinks = names, ways },
	)
}

// Suspect replaces the nodes that are thought dead: they get no new connections. Those that are
// dead beyond doubt, as their kernels do not answer, are not even asked about what may be new. This
// node among them says that others may think so of it. Without a call the kernel has what a process
// before this one wrote.
func (s *Steerer) Suspect(nodes, dead map[string]bool) {
	s.mu.Lock()
	s.suspects, s.dead = nodes, dead
	s.mu.Unlock()
	s.alarm.Notify()
}

// Report returns how far this node steers.
func (s *Steerer) Report() (Report, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	report := s.report
	if pods := s.pods.Load(); pods != nil && pods.Err() != nil {
		report.Problem = pods.Err().Error()
	}
	return report, true
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
	return errors.Join(steering.Uninstall(s.Pins), podnat.Remove())
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
	if !s.seeded() {
		s.prolong()
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
		if !steering.Steers(s.Pins) { // else what a process before this one left goes on, for its lease
			if err := podnat.Remove(); err != nil {
				s.Logger.Warn("what forwards to Pods was left behind", "error", err)
			}
		}
		return openAgain
	}
	s.driver.Store(driver)
	defer func() {
		s.driver.Store(nil)
		if err := driver.Close(); err != nil {
			s.Logger.Warn("close the driver of steering", "error", err)
		}
	}()
	s.change(func() { s.all = true }) // this driver has nothing yet
	pods := podnat.New(s.Logger)
	s.pods.Store(pods)
	watching, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { s.watch(watching, driver) })
	defer watch.Wait()
	defer stop()
	again, starting := time.NewTicker(refresh), time.NewTicker(trackAgain)
	defer again.Stop()
	defer starting.Stop()
	for first := true; ; first = false {
		pass.Begin()
		due, err := s.apply(driver, time.Now())
		pass.End()
		if first { // only now, so that the table of a process before this one is not emptied
			watch.Go(func() { _ = pods.Run(watching) }) // never fails
		}
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
		case <-due:
		case <-s.wake:
			if async.Sleep(ctx, gather) != nil {
				return 0
			}
		case <-starting.C:
			if report, _ := s.Report(); report.Starting {
				s.refresh(driver, pass)
			} else {
				starting.Stop()
			}
		case <-again.C:
			s.refresh(driver, pass)
		}
	}
}

// refresh repairs what others changed.
func (s *Steerer) refresh(driver *steering.Driver, pass *liveness.Loop) {
	pass.Begin()
	defer pass.End()
	s.pods.Load().Prolong()
	err := driver.Refresh()
	s.progress.refreshed(err, time.Now())
	if err != nil {
		s.Logger.Warn("steering was not refreshed", "error", err)
	}
	s.change(func() { s.all = true }) // routes may be others
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

// Prolong has what a process before this one left go on while the speaker does not know yet what is
// desired, until ctx ends. A Steerer does so once it runs.
func Prolong(ctx context.Context, log *slog.Logger) {
	for ctx.Err() == nil {
		if err := steering.Prolong(Pins); err != nil {
			log.Warn("steering may end before the speaker knows what is desired", "error", err)
		}
		_ = async.Sleep(ctx, refresh)
	}
}

// prolong has what a process before this one left go on, as nothing is known yet.
func (s *Steerer) prolong() {
	if err := steering.Prolong(s.Pins); err != nil {
		s.Logger.Warn("steering may end before the speaker knows what is desired", "error", err)
	}
	if !steering.Steers(s.Pins) {
		s.lacks("the controller has not made a key yet")
	}
}

func (s *Steerer) seeded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seed != decide.Seed{}
}

// judge tells the driver which nodes are thought dead.
func (s *Steerer) judge(driver *steering.Driver) {
	s.judging.Lock()
	defer s.judging.Unlock()
	s.mu.Lock()
	suspects, dead, doubted := s.suspects, s.dead, s.doubted
	s.mu.Unlock()
	if suspects == nil || !doubted {
		return
	}
	if err := driver.Suspect(suspects, dead); err != nil {
		s.Logger.Warn("the state of nodes was not written", "error", err)
	}
}

// applied is what a turn of apply is about.
type applied struct {
	groups     map[string][]plan.SteeredPort // those that changed, or all
	all        bool
	addresses  map[string][]netip.Addr
	interfaces []string
	seed       decide.Seed
	suspects   map[string]bool
}

// take returns what is to be applied.
func (s *Steerer) take(now time.Time) applied {
	due, _ := s.ledger.next(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	a := applied{addresses: s.addresses, interfaces: s.interfaces, seed: s.seed, all: s.all, suspects: s.suspects}
	if s.all {
		a.groups = maps.Clone(s.groups)
		for group := range s.ledger.names { // perhaps gone
			a.groups[group] = s.groups[group]
		}
	} else {
		a.groups = make(map[string][]plan.SteeredPort, len(s.dirty)+len(due))
		for group := range s.dirty {
			a.groups[group] = s.groups[group]
		}
		for _, group := range due {
			a.groups[group] = s.groups[group]
		}
	}
	s.all = false
	clear(s.dirty)
	return a
}

// apply brings the kernel to what is desired, and tells what that changes. It returns when there is
// more to do though nothing changes; nil: never.
func (s *Steerer) apply(driver *steering.Driver, now time.Time) (again <-chan time.Time, err error) {
	a := s.take(now)
	s.ledger.suspect = a.suspects
	var names []string
	if a.all {
		s.findWays(a.addresses)
	}
	handed := map[string][]podnat.Frontend{}
	for group, ports := range a.groups {
		names = append(names, s.ledger.set(group, ports, s.reached, now)...)
		handed[group] = frontends(ports)
	}
	pods := s.pods.Load()
	pods.Sync(handed)
	pods.SetInterfaces(a.interfaces)
	if _, due := s.ledger.next(now); !due.IsZero() {
		again = time.After(due.Sub(now))
	}
	encapsulates := len(s.ledger.encapsulates) > 0
	switch {
	case a.all || encapsulates != s.encapsulates:
		s.encapsulates = encapsulates
		err = driver.Sync(s.desired(a))
	case len(names) > 0:
		err = s.update(driver, names)
	default:
		return again, nil
	}
	if err != nil || a.all { // interfaces are looked at only with all
		s.progress.synced(err, time.Now())
	}
	if err != nil {
		s.Logger.Warn("steering is not as desired", "error", err)
		if _, partial := errors.AsType[*steering.PartialError](err); !partial {
			s.fails("the kernel is not as desired: " + err.Error())
			s.mu.Lock()
			s.all = true
			s.mu.Unlock()
			s.judge(driver) // what is in the kernel decides
			return time.After(applyAgain), err
		}
	}
	s.doubt(driver)
	s.judge(driver)
	s.tally.begin(driver)
	s.progress.holds(driver.Tables())
	s.has(a.groups, driver.Features())
	return again, nil
}

// findWays looks at the routes to nodes.
func (s *Steerer) findWays(addresses map[string][]netip.Addr) {
	found, errs := ways(s.Node, addresses, steering.Reach)
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	s.ways, s.reached = found, reached(found)
	// Once, and not each time that routes are looked at.
	unreached := fmt.Sprint(errors.Join(errs...))
	if unreached != s.unreached && len(errs) > 0 {
		s.Logger.Warn("nodes get no packets, or not all, since there is no way to them", "error", unreached)
	}
	s.unreached = unreached
}

// desired is all that the driver should have.
func (s *Steerer) desired(a applied) steering.Desired {
	nodes := s.ways
	if s.encapsulates {
		nodes = encapsulated(nodes)
	}
	return steering.Desired{
		Enabled: true, Seed: a.seed, Self: s.Node, Interfaces: slices.DeleteFunc(slices.Clone(a.interfaces), unfit),
		Nodes: nodes, Services: s.ledger.services,
	}
}

// update tells the driver of Services that may be others.
func (s *Steerer) update(driver *steering.Driver, names []string) error {
	changed, removed := map[string]steering.Service{}, []string(nil)
	for _, name := range names {
		if service, ok := s.ledger.services[name]; ok {
			changed[name] = service
		} else {
			removed = append(removed, name)
		}
	}
	return driver.Update(changed, removed)
}

// doubt has the nodes looked at, once, that a process before this one suspected.
func (s *Steerer) doubt(driver *steering.Driver) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.doubted {
		return
	}
	s.doubted = true
	suspected := driver.Suspected()
	if len(suspected) == 0 {
		return
	}
	s.suspects = nil // what was said did not count with them
	for _, node := range suspected {
		s.Doubt(node)
	}
}

// unfit reports whether an interface has no Ethernet frames, as one of a tunnel, or is gone.
func unfit(name string) bool {
	device, err := netlink.LinkByName(name)
	return err != nil || device.Attrs().EncapType != "ether"
}

// lacks notes why this node does not steer.
func (s *Steerer) lacks(why string) { s.lack(why, false) }

// fails is lacks where the next attempt may succeed.
func (s *Steerer) fails(why string) { s.lack(why, time.Since(s.begun) < trackAtMost) }

func (s *Steerer) lack(why string, mayStart bool) {
	s.mu.Lock()
	before := s.report.Lacking
	s.report, s.adopted = Report{Lacking: why, Starting: mayStart && s.report.Starting}, false
	s.mu.Unlock()
	if before != why {
		s.Logger.Warn("this node does not steer", "reason", why)
		s.changed.Send("")
	}
}

// has notes that the kernel has these groups.
func (s *Steerer) has(groups map[string][]plan.SteeredPort, can steering.Features) {
	now := Report{Ports: len(s.ledger.services)}
	if can.TCX {
		now.Features = append(now.Features, v1alpha1.FeatureLink)
	}
	if can.SecondChance {
		now.Features = append(now.Features, v1alpha1.FeatureSecondChance)
	}
	s.mu.Lock()
	before := s.report
	if before.Starting && can.SecondChanceToCome && time.Since(s.begun) < trackAtMost {
		now.Lacking, now.Starting = "conntrack, which the second chance asks, is not loaded yet", true
	}
	s.report = now
	news := s.note(groups)
	s.adopted = false
	s.mu.Unlock()
	if len(news) > mostUnread/2 {
		s.changed.Send("") // all is planned again
		return
	}
	if before.Lacking != "" && now.Lacking == "" {
		s.Logger.Info("this node steers", "features", now.Features)
	}
	if before.Lacking != now.Lacking || before.Ports != now.Ports || !slices.Equal(before.Features, now.Features) {
		s.changed.Send("")
	}
	for _, group := range news {
		s.changed.Send(group)
	}
}

// note notes what the kernel has of groups, and returns those that it did not steer before, or does
// no longer. The caller holds mu.
func (s *Steerer) note(groups map[string][]plan.SteeredPort) (news []string) {
	for group, ports := range groups {
		did := s.steers(group)
		if s.steered[group] = ports; len(ports) == 0 {
			delete(s.steered, group)
		}
		is := s.kernelHas(group)
		if _, wanted := s.groups[group]; wanted && is != did {
			news = append(news, group)
		}
	}
	return news
}
