package dataplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/internal/scheduler"
	"github.com/berth-lb/berth/speaker/dataplane/guard"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
	"github.com/berth-lb/berth/speaker/kubeproxy"
	"github.com/berth-lb/berth/speaker/plan"
)

// Kernel modules come and go, and kube-proxy is reconfigured, without notice.
const (
	probeEvery   = 30 * time.Second // how often the kernel is asked what it can do
	askModeEvery = 5 * time.Second  // how often kube-proxy is asked in which mode it runs
)

// observationsKept is how many observations wait for their reader.
const observationsKept = 4096

// Config of a Driver.
type Config struct {
	Logger  *slog.Logger
	Metrics prometheus.Registerer // nil: nowhere
	// MetricsPerService adds metrics with series for each virtual server and each real server.
	MetricsPerService bool
	// ProxyMode is the URL where kube-proxy on this node says in which mode it runs. Empty: it is not
	// asked.
	ProxyMode string
	// Sysctls is the folder of the node's sysctls net.ipv4.vs. Empty: /proc/sys/net/ipv4/vs.
	Sysctls string
}

// Driver is Berth's own data plane on this node: virtual servers of IPVS, the rules around them,
// and what is remembered of both from plan to plan. Backends, Marks, Sync, Forget and ForgetService
// are for one goroutine; the other methods may be called from any.
type Driver struct {
	ipvs      *ipvs.Driver
	guard     *guard.Driver
	log       *slog.Logger
	proxyMode string // URL
	probe     func(scheduler string) error
	state     *forwardingState
	observed  *async.Stream[Observation]

	mu      sync.Mutex
	able    []string                   // guarded by mu; schedulers
	lacking string                     // guarded by mu; why not all of them
	yields  bool                       // guarded by mu; to kube-proxy, which would delete our virtual servers, and we its
	own     map[ipvs.Frontend]owner    // guarded by mu; what virtual servers by mark serve
	marked  map[string][]ipvs.Frontend // guarded by mu; those by mark, by group
	worked  bool                       // guarded by mu; IPVS did, once
	failing time.Time                  // guarded by mu; since when IPVS does not work; zero: it does, or was not tried yet
	told    string                     // guarded by mu; the abilities that were observed last
}

// owner is what a virtual server by mark serves.
type owner struct {
	group    string
	frontend ipvs.Frontend
}

// Observation says what may be planned differently now.
type Observation struct {
	Kind Kind
	// Address is the one that AddressChanged is about.
	Address netip.Addr
}

// Kind of an Observation.
type Kind uint8

const (
	// AbilityChanged: Abilities returns something else, or IPVS as a whole failed or works again.
	AbilityChanged Kind = iota
	// AddressChanged: the kernel shows something else of the virtual servers of an address.
	AddressChanged
)

// New returns a Driver that forwards nothing yet.
func New(c Config) (*Driver, error) {
	rules, err := guard.New(c.Logger, c.Metrics)
	if err != nil {
		return nil, err
	}
	observed := async.NewStream[Observation](observationsKept)
	d := &Driver{
		ipvs: ipvs.New(ipvs.Config{Logger: c.Logger, Sysctls: c.Sysctls}), guard: rules,
		log: c.Logger, proxyMode: c.ProxyMode, probe: ipvs.Probe,
		state:    newForwardingState(),
		observed: observed,
		own:      map[ipvs.Frontend]owner{}, marked: map[string][]ipvs.Frontend{},
	}
	if c.Metrics != nil {
		if err := c.Metrics.Register(forwarded{d, c.MetricsPerService}); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return d, nil
}

// Observed is the stream of what was seen. It is bounded: a slow reader loses the oldest and delays
// nothing.
func (d *Driver) Observed() <-chan Observation { return d.observed.C() }

// Run keeps the kernel as desired until the context ends. What is there then stays, for the next
// process.
func (d *Driver) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return d.guard.Run(ctx) })
	group.Go(func() error { return d.ipvs.Run(ctx) })
	group.Go(func() error { d.observe(ctx); return nil })
	return group.Wait()
}

// Status is what Sync says of a group.
type Status struct {
	Readiness plan.Readiness
	// Err is what is wrong with the group alone, or nil.
	Err error
	// Again is when the status changes though nothing happens; 0: never.
	Again time.Duration
}

// Sync replaces what is forwarded for a group, and returns what the kernel shows of it. What
// kube-proxy is taking over is forwarded for a while longer (see kubeProxyGrace).
func (d *Driver) Sync(group plan.Group, desired plan.Forwarding) Status {
	now := time.Now()
	next, again := d.state.grace[group.ID].next(desired, group.Services, now)
	d.state.grace[group.ID] = next
	d.program(group.ID, next.Forwarding)
	err := d.shows(desired)
	readiness, changes := d.state.ready.review(group.ID, err, now)
	if errors.Is(err, ipvs.ErrPending) || d.ipvs.Err() != nil { // Abilities say what is wrong with all groups
		err = nil
	}
	return Status{Readiness: readiness, Err: err, Again: soonest(again, changes)}
}

// Backends returns the backends of the Services that Berth forwards for, by name of the Service.
// Those that have terminated for as long as limit says of their Service are marked. Again is when
// that is true of another one; 0: never.
func (d *Driver) Backends(group plan.Group, services []plan.ClassifiedService, read func(service string) []plan.Backend,
	limit func(addresses []netip.Addr) time.Duration,
) (backends map[string][]plan.Backend, again time.Duration) {
	backends = map[string][]plan.Backend{}
	for _, s := range services {
		if s.IPVSScheduler != "" {
			backends[s.Name] = read(s.Name)
		}
	}
	for _, s := range group.Services {
		next, over := d.state.drains.review(s.Name, backends[s.Name], limit(s.Addresses), time.Now())
		if over {
			d.log.Info("an endpoint has terminated for as long as it may keep connections (drainTimeout)", "service", s.Name)
		}
		again = soonest(again, next)
	}
	return backends, again
}

// Marks returns the firewall marks of a group's frontends, which replace those it had.
func (d *Driver) Marks(group string, frontends []ipvs.Frontend) map[ipvs.Frontend]uint32 {
	return d.state.marks.assign(group, frontends)
}

// Forget ends the forwarding for a group that no longer exists.
func (d *Driver) Forget(group string) {
	d.program(group, plan.Forwarding{})
	d.state.forget(group)
}

// ForgetService forgets a Service that no longer exists.
func (d *Driver) ForgetService(name string) { d.state.drains.forget(name) }

// SetPods replaces the ranges that the pods of this node have their addresses from.
func (d *Driver) SetPods(prefixes []netip.Prefix) { d.guard.SetPods(prefixes) }

// SetSources replaces the addresses of this node that its own programs use as theirs when they
// connect to a virtual server, at most one of each family.
func (d *Driver) SetSources(addresses []netip.Addr) { d.ipvs.SetSources(addresses) }

// Probe finds out what the node can do now.
func (d *Driver) Probe() {
	able, lacking, yields := d.ability()
	d.mu.Lock()
	d.able, d.lacking, d.yields = able, lacking, yields
	d.mu.Unlock()
	able, lacking = d.Abilities()
	now := fmt.Sprint(able, lacking)
	d.mu.Lock()
	changed := now != d.told
	d.told = now
	d.mu.Unlock()
	if changed {
		d.log.Info("IPVS abilities changed", "schedulers", able, "lacking", lacking)
		d.observed.Send(Observation{Kind: AbilityChanged})
	}
}

// Abilities returns the schedulers by which this node can forward, and why these are not all. There
// are none while IPVS or the rules around it do not work.
func (d *Driver) Abilities() (schedulers []string, lacking string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.guard.Err(); err != nil {
		return nil, err.Error()
	}
	if err := d.ipvs.Err(); err != nil && !d.failing.IsZero() &&
		(!d.worked || time.Since(d.failing) >= plan.FailureGrace) {
		return nil, err.Error()
	}
	return d.able, d.lacking
}

// Report is what a node reports of its data plane.
type Report struct {
	Schedulers []string
	// Lacking says why these are not all.
	Lacking string
	// VirtualServers that the kernel shows as desired.
	VirtualServers int
}

// Report returns what is to be reported.
func (d *Driver) Report() (Report, bool) {
	able, lacking := d.Abilities()
	return Report{able, lacking, d.ipvs.Served()}, true
}

// Remove deletes everything from the kernel.
func (d *Driver) Remove() error {
	// A failure of one does not keep the other: rules that stay would go on dropping.
	return errors.Join(d.ipvs.Remove(), d.guard.Remove())
}

// program replaces what is forwarded for a group. The rules come first: until they are there, a
// port that no Service exposes would reach the node's own listeners.
func (d *Driver) program(group string, desired plan.Forwarding) {
	d.mu.Lock()
	if d.yields {
		desired = plan.Forwarding{}
	}
	d.mu.Unlock()
	d.guard.Sync(group, desired.Guards)
	d.ipvs.Sync(group, desired.Table)
	d.note(group, desired.Guards)
}

// note keeps which frontend each virtual server by mark serves.
func (d *Driver) note(group string, guards []guard.Frontend) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, gone := range d.marked[group] {
		if d.own[gone].group == group { // else another has it by now
			delete(d.own, gone)
		}
	}
	delete(d.marked, group)
	for _, g := range guards {
		if g.Mark != 0 {
			by := ipvs.Marked(g.Mark, g.Address)
			d.own[by] = owner{group, ipvs.Frontend{Address: g.Address, Port: g.Port, Protocol: ipvs.Protocol(g.Protocol)}}
			d.marked[group] = append(d.marked[group], by)
		}
	}
}

// addressOf returns the address that a virtual server serves, also one by mark. It is the zero one
// if it serves nothing any more.
func (d *Driver) addressOf(frontend ipvs.Frontend) netip.Addr {
	if frontend.Mark == 0 {
		return frontend.Address
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.own[frontend].frontend.Address
}

// shows returns nil if the kernel showed all of this as desired, or what it did not.
func (d *Driver) shows(desired plan.Forwarding) error {
	for frontend := range desired.Table {
		if err := d.ipvs.Serves(frontend); err != nil {
			return fmt.Errorf("%s: %w", frontend, err)
		}
	}
	return nil
}

func (d *Driver) observe(ctx context.Context) {
	probe := time.NewTicker(probeEvery)
	defer probe.Stop()
	askMode := time.NewTicker(askModeEvery)
	defer askMode.Stop()
	failed := time.NewTimer(0) // fires when a failure of IPVS begins to count
	failed.Stop()
	defer failed.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-askMode.C:
			if d.modeChanged() {
				d.Probe()
			}
		case o := <-d.ipvs.Observed():
			if o.Err != nil {
				d.log.Warn("IPVS does not forward as desired", "observation", o.String())
			}
			if o.Frontend == (ipvs.Frontend{}) {
				if after, begins := d.judge(o.Err); begins {
					failed.Reset(after)
				}
				d.observed.Send(Observation{Kind: AbilityChanged})
			} else if address := d.addressOf(o.Frontend); address.IsValid() {
				d.observed.Send(Observation{Kind: AddressChanged, Address: address})
			}
		case <-probe.C:
			d.Probe()
		case <-failed.C:
			d.Probe()
		}
	}
}

// judge notes whether IPVS works as a whole. If a failure begins, after is how long until it
// counts; 0 if IPVS never worked.
func (d *Driver) judge(err error) (after time.Duration, begins bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case err == nil:
		d.worked, d.failing = true, time.Time{}
	case d.failing.IsZero():
		d.failing = time.Now()
		if d.worked {
			after = plan.FailureGrace
		}
		return after, true
	}
	return 0, false
}

// modeChanged reports whether kube-proxy began or ceased to write virtual servers.
func (d *Driver) modeChanged() bool {
	now := kubeproxy.Mode(d.proxyMode) == "ipvs"
	d.mu.Lock()
	defer d.mu.Unlock()
	return now != d.yields
}

// ability asks kube-proxy and the kernel.
func (d *Driver) ability() (able []string, lacking string, yields bool) {
	if kubeproxy.Mode(d.proxyMode) == "ipvs" {
		return nil, "kube-proxy on this node runs in mode ipvs, and deletes virtual servers that it did not make: have it use another mode", true
	}
	var missing []string
	var why error
	for _, scheduler := range scheduler.Names() {
		if err := d.probe(scheduler); err != nil {
			missing, why = append(missing, scheduler), err
			continue
		}
		able = append(able, scheduler)
	}
	switch {
	case len(able) == 0:
		return nil, why.Error(), false
	case len(missing) > 0:
		return able, fmt.Sprintf("no scheduler %s: %v", strings.Join(missing, ", "), why), false
	}
	return able, "", false
}

// soonest returns the shorter of two times, of which 0 means never.
func soonest(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}
