package speaker

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/inuse"
	"github.com/berth-lb/berth/config/retain"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/internal/liveness"
	"github.com/berth-lb/berth/l2"
	"github.com/berth-lb/berth/speaker/dataplane"
	"github.com/berth-lb/berth/speaker/plan"
)

// planner turns what changed in the API and in the drivers into plans, and hands them to the
// drivers. One goroutine does all of it.
type planner struct {
	Options
	drivers
	sources  *sources
	reporter *reporter
	tasks    workqueue.TypedDelayingInterface[task]

	routerID netip.Addr     // where the Speaker asks for no other
	asksID   bool           // the Speaker asks for one
	unasked  retain.Missing // what the Speaker asked for

	groups    *plan.Groups
	world     plan.World
	asked     map[string]string                      // values of the annotation rebalance, by SegmentAnnouncement
	balanced  map[string]time.Time                   // when the addresses of each were last rebalanced
	wanted    map[string]map[netip.Addr]plan.Segment // what layer 2 knows, by group
	electors  map[string]plan.Electors               // by group
	serving   map[string][]string                    // nodes that this one forwards to, by group
	waiting   map[string]bool                        // Services that are looked at when endpoints are known
	next      map[string]map[netip.Addr]l2.Desired   // what may be wanted of layer 2 soon, by pool
	addresses []netip.Addr                           // the last InternalIPs of this node
	holders   map[netip.Addr]string                  // the group of each address that layer 2 knows
	ordered   atomic.Int32                           // BGP peers
	kept      atomic.Bool                            // some of them are asked to keep the routes over a restart
	keyed     bool
	// recordKeys sign what the controller gives, the latest first.
	recordKeys [][]byte

	retained retain.Configuration // what is in effect
	served   retain.Served        // nil: whatever is gone was deleted

	proxyUnhealthy bool // kube-proxy on this node says so

	mu       sync.Mutex            // held while the state changes, so that changes do not overlap
	departed bool                  // guarded by mu
	outdated bool                  // guarded by mu; other nodes know better what is desired
	unfit    bool                  // guarded by mu; another node should forward, if one can
	stays    bool                  // guarded by mu; once departed: the BGP sessions outlive this process
	current  v1alpha1.SpeakerState // guarded by mu
}

// task is something to look at again.
type task struct {
	kind      taskKind
	service   string     // of serviceChanged
	pool      string     // of nextChanged
	address   netip.Addr // of forwardedChanged
	unhealthy bool       // of proxyHealthChanged
}

type taskKind uint8

const (
	serviceChanged taskKind = iota
	settingsChanged
	settingsGone // a moment ago
	nodesChanged
	keyChanged
	speakerChanged     // the object of this node
	proxyHealthChanged // kube-proxy became unhealthy, or healthy
	abilityChanged     // what this node can forward
	forwardedChanged   // what the kernel shows of an address
	deadNodesChanged
	rivalsChanged    // peers to hold back
	freshnessChanged // whether other nodes know better what is desired
	nextChanged      // which addresses a pool gives next
	endpointsFilled  // it is known where Services have endpoints
	networkChanged   // addresses on this node's interfaces, its gateways, or the API server's addresses
)

// refilledAfter is when caches that are filled again are complete: an informer waits up to 30 s
// before it tries again.
const refilledAfter = time.Minute

const speakersResource = "speakers"

func newPlanner(o Options, s *sources, d drivers, r *reporter, routerID netip.Addr) (*planner, error) {
	p := &planner{
		Options: o, drivers: d, sources: s, reporter: r, routerID: routerID,
		unasked:  retain.Missing{Resource: speakersResource},
		balanced: map[string]time.Time{},
		tasks:    workqueue.NewTypedDelayingQueue[task](),
		groups:   plan.NewGroups(),
		wanted:   map[string]map[netip.Addr]plan.Segment{},
		next:     map[string]map[netip.Addr]l2.Desired{},
		electors: map[string]plan.Electors{},
		serving:  map[string][]string{},
		waiting:  map[string]bool{},
		holders:  map[netip.Addr]string{},
		world: plan.World{
			Self:        o.Node,
			Snapshot:    &config.Snapshot{},
			Electorates: plan.NewElectorates(),
			Forwards:    o.IPVS,
		},
	}
	return p, p.watch()
}

// watch turns what the informers see into tasks.
func (p *planner) watch() error {
	service := func(o any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o); err == nil {
			p.tasks.Add(task{kind: serviceChanged, service: key})
		}
	}
	endpoints := func(o any) {
		if key := serviceOf(o); key != "" {
			p.tasks.Add(task{kind: serviceChanged, service: key})
		}
	}
	to := func(k taskKind) func(any) { return func(any) { p.tasks.Add(task{kind: k}) } }
	handlers := map[cache.SharedIndexInformer]func(any){
		p.sources.service:   service,
		p.sources.slice:     endpoints,
		p.sources.apiServer: to(networkChanged),
		p.sources.secret:    to(keyChanged),

		p.sources.status:   to(speakerChanged),
		p.sources.password: to(settingsChanged),
	}
	for informer, handle := range handlers {
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: handle, UpdateFunc: func(_, o any) { handle(o) }, DeleteFunc: handle,
		}); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
	}
	settings := to(settingsChanged)
	for _, i := range p.sources.settings {
		if _, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: settings, DeleteFunc: settings,
			UpdateFunc: func(before, after any) {
				b, okB := before.(metav1.Object)
				a, okA := after.(metav1.Object)
				if okA && okB && config.Differ(b, a) {
					settings(after)
				}
			},
		}); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
	}
	if _, err := p.sources.pool.AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(before, after any) {
			b, okB := before.(*v1alpha1.LoadBalancerPool)
			a, okA := after.(*v1alpha1.LoadBalancerPool)
			if okA && okB && !slices.Equal(nextOf(b), nextOf(a)) {
				p.tasks.Add(task{kind: nextChanged, pool: a.Name})
			}
		},
	}); err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	p.sources.node.OnChange(func(before, after *corev1.Node) {
		if before == nil || after == nil || !candidate.Same(before, after) {
			p.tasks.Add(task{kind: nodesChanged})
		}
		if before != nil && after != nil && isReady(before) != isReady(after) {
			p.mirror.Reconsider(after.Name)
		}
	})
	return nil
}

// begin makes all plans before the drivers run, so that they begin with everything that is desired,
// and withdraw nothing by mistake.
func (p *planner) begin() {
	p.reviewKey()
	p.reviewRouterID()
	p.reviewPods()
	p.dataplane.Probe()
	p.reviewAbilities()
	p.world.Nodes = p.sources.nodes()
	p.reviewAddresses()
	p.compile()
	if err := p.localnet.Read(); err != nil {
		p.Logger.Warn("addresses of this node are not read yet", "error", err) // and read again when its watcher runs
	}
	p.reviewUsed()
	p.syncPeers()
	p.asked = askedToRebalance(p.sources.objects().SegmentAnnouncements)
	for _, key := range p.sources.service.GetStore().ListKeys() {
		p.reviewService(key)
	}
	p.reviewNext(p.sources.pool.GetStore().ListKeys()...)
	p.reviewState()
}

// run plans until the context ends.
func (p *planner) run(ctx context.Context) {
	ctx, end := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, p.tasks.ShutDown)
	defer stop()
	var following sync.WaitGroup
	defer following.Wait()
	defer end()
	following.Go(func() { p.follow(ctx) })
	p.work(liveness.Of(ctx, "planner", liveness.Limit))
}

// suspects returns the nodes that are thought dead; this one, too, if others may think so of it:
// once it is back, connections that began without it are elsewhere.
func (p *planner) suspects() map[string]bool {
	suspects := p.dead.Suspects()
	if p.dead.Alone() {
		suspects[p.Node] = true
	}
	return suspects
}

// follow turns what the drivers see into tasks, until the context ends.
func (p *planner) follow(ctx context.Context) {
	var rewound time.Time
	filled := p.sources.filled
	for {
		select {
		case <-ctx.Done():
			return
		case <-filled:
			filled = nil
			p.tasks.Add(task{kind: endpointsFilled})
		case o := <-p.dataplane.Observed():
			switch o.Kind {
			case dataplane.AbilityChanged:
				p.tasks.Add(task{kind: abilityChanged})
			case dataplane.AddressChanged:
				p.tasks.Add(task{kind: forwardedChanged, address: o.Address})
			}
		case <-p.dead.Changed():
			p.steering.Suspect(p.suspects(), p.dead.Lost())
			p.tasks.Add(task{kind: deadNodesChanged})
		case group := <-p.steering.Changed():
			if group == "" {
				p.tasks.Add(task{kind: abilityChanged})
			} else {
				p.tasks.Add(task{kind: serviceChanged, service: group}) // it is named by one of its Services
			}
		case <-p.Rewound:
			if time.Since(rewound) < refilledAfter {
				continue // each watch finds out by itself
			}
			rewound = time.Now()
			p.Logger.Warn("the storage of the API server was restored to an older state; reading all of it again")
			p.reporter.rewound.Store(true)
			p.reviewAll()
		case <-p.reporter.freshness:
			p.tasks.Add(task{kind: freshnessChanged})
		case <-p.localnet.Changed():
			p.tasks.Add(task{kind: networkChanged})
		case <-p.rivals.Changed():
			p.tasks.Add(task{kind: rivalsChanged})
		case unhealthy := <-p.kubeProxy.Changes():
			p.tasks.Add(task{kind: proxyHealthChanged, unhealthy: unhealthy})
		}
	}
}

// reviewAll has everything planned again, now and when the caches were filled again. What the
// caches call the same version can be another one after a restore.
func (p *planner) reviewAll() {
	for _, after := range []time.Duration{0, refilledAfter} {
		for _, k := range []taskKind{settingsChanged, nodesChanged, keyChanged, speakerChanged} {
			p.tasks.AddAfter(task{kind: k}, after)
		}
	}
}

// work does the tasks until their queue is shut down.
func (p *planner) work(pass *liveness.Loop) {
	for {
		t, down := p.tasks.Get()
		if down {
			return
		}
		pass.Begin()
		p.do(t)
		pass.End()
		p.tasks.Done(t)
	}
}

// compile puts the configuration into effect for the plans that follow.
func (p *planner) compile() {
	objects := p.sources.objects()
	if p.served != nil {
		var again time.Duration
		if objects, again = p.retained.Apply(time.Now(), objects, p.served); again > 0 {
			p.tasks.AddAfter(task{kind: settingsGone}, again)
		}
		p.reporter.complain(reasonKindGone, "", kindsGone(p.retained.Gone()))
	}
	objects.Before = p.world.Snapshot
	p.world.Snapshot, _ = config.Compile(objects)
	p.world.Electorates = plan.NewElectorates()
}

// lookAgain has the configuration compiled again if other objects are kept now that are gone.
func (p *planner) lookAgain() {
	kept := p.retained.Kept()
	_, again := p.retained.Apply(time.Now(), p.sources.objects(), p.served)
	if !slices.Equal(kept, p.retained.Kept()) {
		p.do(task{kind: settingsChanged})
	} else if again > 0 {
		p.tasks.AddAfter(task{kind: settingsGone}, again)
	}
}

// kindsGone says that objects of the configuration are kept though their kinds are not there.
func kindsGone(resources []string) string {
	if len(resources) == 0 {
		return ""
	}
	return fmt.Sprintf(
		"the CustomResourceDefinition of %s was deleted with its objects; what they said stays in effect until they are there again, or for %s after the definition is: apply manifests/crds and the configuration again",
		strings.Join(resources, ", "),
		retain.HeldFor,
	)
}

func (p *planner) do(t task) {
	switch t.kind {
	case serviceChanged:
		p.reviewService(t.service)
	case settingsChanged:
		p.compile()
		p.reviewUsed()
		p.replan()
		p.rebalance()
	case settingsGone:
		p.lookAgain()
	case endpointsFilled:
		for service := range p.waiting {
			p.reviewService(service)
		}
		clear(p.waiting)
		p.replan()
	case nextChanged:
		p.reviewNext(t.pool)
	case networkChanged:
		if before, changed := p.reviewUsed(); changed {
			p.replanUsed(before)
			p.reviewAllNext()
			p.reporter.poke()
		}
	case freshnessChanged:
		p.reviewFreshness()
	case rivalsChanged:
		p.syncPeers()
		p.reporter.poke()
	case speakerChanged:
		p.reviewRouterID()
		p.reporter.poke() // perhaps it was deleted
	case nodesChanged:
		p.reviewAddresses()
		p.reviewPods()
		nodes := p.nodes()
		before, used := p.reviewUsed()
		if used || !reflect.DeepEqual(nodes, p.world.Nodes) {
			p.nodesChanged(nodes, before)
			p.reviewState()
			p.rebalanceAgain()
		}
	case keyChanged:
		p.reviewKey()
		p.reviewState()
	case abilityChanged:
		p.reviewAbilities()
		p.replan() // also if the abilities are the same: IPVS as a whole may have failed, or works again
	case deadNodesChanged:
		p.setDead(p.dead.Dead())
	case forwardedChanged:
		for _, group := range p.groups.At(t.address) {
			p.plan(group)
		}
		p.reporter.poke()
	case proxyHealthChanged:
		p.proxyUnhealthy = t.unhealthy
		p.reviewState()
	}
}

// nodesChanged plans again what depends on what changed. Of other nodes that is only for which
// addresses they are candidates, and which they use; before is what was in use elsewhere.
func (p *planner) nodesChanged(nodes map[string]plan.Node, before *inuse.Set) {
	self := !reflect.DeepEqual(nodes[p.Node], p.world.Nodes[p.Node])
	p.world.Nodes = nodes
	changes := p.world.Electorates.Renew(nodes)
	if self {
		p.replan()
		return
	}
	used := before != p.world.Used
	if used {
		p.replanUsed(before)
	}
	if len(changes) > 0 {
		p.elect(changes)
	}
	if used || len(changes) > 0 {
		p.reviewAllNext()
		p.reporter.poke()
	}
}

// setDead plans again what is forwarded to nodes that died or are back. Nothing else depends on
// them.
func (p *planner) setDead(dead map[string]bool) {
	before := p.world.Dead
	if maps.Equal(dead, before) {
		return
	}
	p.world.Dead = dead
	p.Logger.Info("dead nodes changed", "nodes", slices.Sorted(maps.Keys(dead)))
	var touched []string
	for id, nodes := range p.serving {
		if slices.ContainsFunc(nodes, func(node string) bool { return dead[node] != before[node] }) {
			touched = append(touched, id)
		}
	}
	p.plan(p.groups.Of(touched...)...)
	p.reporter.poke()
}

// elect gives the candidates of now to the addresses that changes are about. Groups that need more
// than that are planned again.
func (p *planner) elect(changes plan.Changes) {
	var others []string
	for id, electors := range p.electors {
		if changes.Of(electors) && !(electors.Plain && p.reelect(id, electors)) {
			others = append(others, id)
		}
	}
	p.plan(p.groups.Of(others...)...)
}

// reelect does so for a group; false: an address has no candidates any more.
func (p *planner) reelect(group string, electors plan.Electors) bool {
	wanted := p.wanted[group]
	for address, segment := range wanted {
		if !p.world.Electorates.Elect(&segment, electors) {
			return false
		}
		wanted[address] = segment
		p.l2.Sync(address, segment.Desired)
	}
	return true
}

// nodes returns what plans need to know of the nodes. If this node's object is gone, its last known
// labels count, so that its routes are withdrawn cleanly.
func (p *planner) nodes() map[string]plan.Node {
	nodes := p.sources.nodes()
	if last, known := p.world.Nodes[p.Node]; known {
		if _, exists := nodes[p.Node]; !exists {
			nodes[p.Node] = plan.Node{Labels: last.Labels, Excluded: "object is gone"}
		}
	}
	return nodes
}

// reviewService plans the groups around a Service again.
func (p *planner) reviewService(key string) {
	view := p.sources.view(key, p.recordKeys)
	if len(view.Addresses) == 0 && !p.groups.Has(key) {
		return
	}
	if view.Local && len(view.Addresses) > 0 && !p.sources.endpointsKnown() {
		p.waiting[key] = true // and what was planned stays
		return
	}
	if len(view.Addresses) == 0 {
		p.dataplane.ForgetService(key)
	}
	now, gone := p.groups.Set(view)
	p.plan(now...)
	// Last, so that an address that went to another group stays announced.
	for _, id := range gone {
		p.withdraw(id, p.syncL2(plan.Group{ID: id}, nil))
		p.bgp.Sync(id, bgp.Desired{})
		p.unserved.Sync(id, nil)
		delete(p.electors, id)
		delete(p.serving, id)
		p.dataplane.Forget(id)
		p.steering.Sync(id, nil)
		p.reporter.complain(reasonIPVS, id, "")
		p.reporter.complain(reasonAddressInUse, id, "")
	}
	p.reporter.poke()
}

// replan plans every group again, and the peers.
func (p *planner) replan() {
	p.syncPeers()
	p.plan(p.groups.All()...)
	p.reviewAllNext()
	p.reporter.poke()
}

func (p *planner) reviewAllNext() {
	clear(p.next)
	p.reviewNext(p.sources.pool.GetStore().ListKeys()...)
}

// reviewNext has layer 2 expect what these pools give next, each as if a Service of policy Cluster
// got it alone. What other pools give stays as it is.
func (p *planner) reviewNext(pools ...string) {
	for _, name := range pools {
		p.next[name] = p.planNext(name)
	}
	all := map[netip.Addr]l2.Desired{}
	for _, next := range p.next {
		maps.Copy(all, next)
	}
	p.l2.Anticipate(all)
}

// planNext says what may be wanted soon of the addresses that a pool gives next.
func (p *planner) planNext(name string) map[netip.Addr]l2.Desired {
	o, _, err := p.sources.pool.GetStore().GetByKey(name)
	pool, ok := o.(*v1alpha1.LoadBalancerPool)
	if err != nil || !ok {
		return nil
	}
	planned := map[netip.Addr]l2.Desired{}
	for _, address := range nextOf(pool) {
		// Its status may be older than its spec.
		if of := p.world.Snapshot.PoolOf(address); of == nil || of.Name != name {
			continue
		}
		if desired, wanted := plan.PlanNext(address, p.world); wanted {
			planned[address] = desired
		}
	}
	return planned
}

// nextOf returns the addresses that the pool gives next, by its status.
func nextOf(pool *v1alpha1.LoadBalancerPool) []netip.Addr {
	var next []netip.Addr
	for _, text := range []string{pool.Status.IPv4.Next, pool.Status.IPv6.Next} {
		if address, err := netip.ParseAddr(text); err == nil {
			next = append(next, address)
		}
	}
	return next
}

// plan has the drivers do what groups need. An address may move from one of them to another.
func (p *planner) plan(groups ...plan.Group) {
	left := make([][]netip.Addr, len(groups))
	for i, group := range groups {
		left[i] = p.planGroup(group)
	}
	for i, group := range groups {
		p.withdraw(group.ID, left[i])
	}
}

// planGroup has the drivers do what a group needs. It goes one way: who forwards, what this node
// forwards, what its kernel shows of that, and what the node announces. It returns what syncL2
// does.
func (p *planner) planGroup(group plan.Group) (left []netip.Addr) {
	group, inUse := group.Unused(p.world.Used)
	p.reporter.complain(reasonAddressInUse, group.ID, inUse)
	services := plan.Classify(group, p.world.Snapshot)
	if slices.ContainsFunc(services, plan.ClassifiedService.ByEndpoints) && !p.sources.endpointsKnown() {
		return nil // it is planned when they are, and what was planned stays
	}
	readiness := p.forward(group, services)
	readiness.Steers, readiness.Starting = p.steer(group, services)
	announced := plan.PlanAnnouncements(group, services, p.endpoints(services), readiness, p.world)
	p.unserved.Sync(group.ID, announced.Routed()) // first: what is announced is sent here
	left = p.syncL2(group, announced.L2)
	p.electors[group.ID] = announced.Electors
	p.bgp.Sync(group.ID, announced.BGP)
	return left
}

// forward has this node forward for a group, and returns what its kernel shows of that.
func (p *planner) forward(group plan.Group, services []plan.ClassifiedService) plan.Readiness {
	backends, overdue := p.dataplane.Backends(group, services, p.sources.backends, p.world.Snapshot.DrainTimeout)
	if nodes := nodesWith(backends); len(nodes) > 0 {
		p.serving[group.ID] = nodes
	} else {
		delete(p.serving, group.ID)
	}
	services, complaint := plan.LimitSources(services)
	marks := p.dataplane.Marks(group.ID, plan.MarkedFrontends(services))
	status := p.dataplane.Sync(group, plan.PlanForwarding(services, backends, marks, p.world))
	if status.Err != nil {
		complaint = fmt.Sprintf("IPVS: %v", status.Err)
	}
	p.reporter.complain(reasonIPVS, group.ID, complaint)
	for _, again := range []time.Duration{overdue, status.Again} {
		if again > 0 { // earlier than needed does no harm
			p.tasks.AddAfter(task{kind: serviceChanged, service: group.Services[0].Name}, again)
		}
	}
	return status.Readiness
}

// nodesWith returns the nodes that have some of these backends.
func nodesWith(backends map[string][]plan.Backend) []string {
	var nodes []string
	for _, some := range backends {
		for _, b := range some {
			nodes = append(nodes, b.Node)
		}
	}
	slices.Sort(nodes)
	return slices.Clone(slices.Compact(nodes)) // without what was left out
}

// steer has this node steer the connections of a group, and reports whether its kernel does, and
// whether that is not known yet.
func (p *planner) steer(group plan.Group, services []plan.ClassifiedService) (steers, starting bool) {
	if !p.Steering {
		return false, false
	}
	backends := map[string][]plan.Backend{}
	for _, s := range services {
		if s.Steering != nil {
			backends[s.Name] = p.sources.backends(s.Name)
		}
	}
	p.steering.Sync(group.ID, plan.PlanSteering(p.Node, services, backends))
	report, _ := p.steering.Report()
	return p.steering.Steers(group.ID), report.Starting
}

// endpoints returns where Services of policy Local, and those that are steered, have endpoints.
func (p *planner) endpoints(services []plan.ClassifiedService) map[string]candidate.Endpoints {
	endpoints := map[string]candidate.Endpoints{}
	for _, s := range services {
		if s.ByEndpoints() {
			endpoints[s.Name] = p.sources.endpoints(s.Name)
		}
	}
	return endpoints
}

// syncL2 replaces what layer 2 knows of a group, and returns the addresses that the group no longer
// has. Another group may have them by now, so they are to be withdrawn when all groups are planned.
func (p *planner) syncL2(group plan.Group, wanted map[netip.Addr]plan.Segment) (left []netip.Addr) {
	before := p.wanted[group.ID]
	if p.wanted[group.ID] = wanted; len(wanted) == 0 {
		delete(p.wanted, group.ID)
	}
	for address, segment := range wanted {
		services := group.NamesAt(address)
		p.reporter.remember(address, services)
		p.mirror.Show(address, services, segment.AnnouncementNames)
		p.l2.Sync(address, segment.Desired)
		p.holders[address] = group.ID
	}
	for address := range before {
		if _, still := wanted[address]; !still {
			left = append(left, address)
		}
	}
	return left
}

// withdraw has layer 2 forget addresses of a group, unless another group has them by now.
func (p *planner) withdraw(group string, addresses []netip.Addr) {
	for _, address := range addresses {
		if p.holders[address] != group {
			continue
		}
		delete(p.holders, address)
		p.l2.Sync(address, l2.Desired{})
		p.mirror.Show(address, nil, nil)
		p.reporter.forget(address)
	}
}

// rebalance moves the addresses of each SegmentAnnouncement whose annotation changed to the
// nodes that come first for them.
func (p *planner) rebalance() {
	before := p.asked
	p.asked = askedToRebalance(p.sources.objects().SegmentAnnouncements)
	for name, value := range p.asked {
		if value == before[name] {
			continue
		}
		p.Logger.Info("rebalancing", "segmentannouncement", name)
		p.balanced[name] = time.Now()
		p.rebalanceOf(name)
	}
}

// rebalanceOf moves the addresses of a SegmentAnnouncement to the nodes that come first for them.
func (p *planner) rebalanceOf(name string) {
	for _, wanted := range p.wanted {
		for address, segment := range wanted {
			if slices.Contains(segment.AnnouncementNames, name) {
				p.l2.Rebalance(address)
			}
		}
	}
}

// alsoFor is for how long after a rebalancing nodes count in it that change: who asked for it may
// know a moment earlier than this node that another one may announce again.
const alsoFor = 10 * time.Second

// rebalanceAgain has nodes that just changed take part in what was rebalanced just before.
func (p *planner) rebalanceAgain() {
	for name, at := range p.balanced {
		if time.Since(at) < alsoFor {
			p.rebalanceOf(name)
		} else {
			delete(p.balanced, name)
		}
	}
}

func askedToRebalance(announcements []*v1alpha1.SegmentAnnouncement) map[string]string {
	asked := map[string]string{}
	for _, a := range announcements {
		if value, ok := a.Annotations[v1alpha1.AnnotationRebalance]; ok {
			asked[a.Name] = value
		}
	}
	return asked
}

// syncPeers replaces the BGP peers.
func (p *planner) syncPeers() {
	peers := p.rivals.Free(plan.PlanPeers(p.world))
	p.ordered.Store(int32(len(peers)))
	p.kept.Store(slices.ContainsFunc(peers, func(peer bgp.Peer) bool { return peer.GracefulRestart > 0 }))
	p.bgp.SyncPeers(peers)
}

// reviewRouterID follows this node's Speaker. When the Node is gone, and the Speaker with it,
// nothing changes: its routes are withdrawn cleanly.
func (p *planner) reviewRouterID() {
	if p.sources.node.Get(p.Node) == nil {
		return
	}
	speaker := p.sources.self(p.Node)
	switch text := speaker.Spec.BGP.RouterID; {
	case text != "":
		p.asksID = true
		p.unasked.Found(speakersResource)
	case p.asksID && p.served != nil:
		// Was it taken out, or was the CustomResourceDefinition deleted with all Speakers?
		if again := p.unasked.Keep(speakersResource, time.Now(), p.served); again > 0 {
			p.tasks.AddAfter(task{kind: speakerChanged}, again)
			return
		}
		p.asksID = false
	}
	id, complaint := askedRouterID(speaker, p.routerID)
	p.reporter.complain(reasonInvalidRouterID, "", complaint)
	p.reporter.setRouterID(id)
	if err := p.bgp.SetRouterID(id); err != nil {
		p.Logger.Error("router ID was not set", "error", err)
	}
}

// reviewState follows what keeps this node from announcing.
func (p *planner) reviewState() {
	self, exists := p.world.Nodes[p.Node]
	switch {
	case !exists:
		p.become(v1alpha1.SpeakerLeaving, "the Node object is gone", false)
	case self.Excluded != "":
		p.become(v1alpha1.SpeakerLeaving, "the Node "+self.Excluded, false)
	case p.proxyUnhealthy:
		// All kube-proxies can say so at once, for example after a bad Service. The rules that they wrote
		// before go on forwarding. So routers are asked to prefer other nodes, and if there is none, they
		// have this one.
		p.become(
			v1alpha1.SpeakerLeaving,
			"kube-proxy on this node is unhealthy ("+p.ProxyHealthz+" answers 503)",
			true,
		)
	case !p.keyed:
		p.become(v1alpha1.SpeakerStarting, "no key to sign hellos with yet", false)
	default:
		p.become(v1alpha1.SpeakerAnnouncing, "", false)
	}
}

// become tells the drivers and the others what state this speaker is in, unless it has departed. A
// node that is unfit leaves, but its routes stay as a last resort.
func (p *planner) become(state v1alpha1.SpeakerState, reason string, unfit bool) {
	p.mu.Lock()
	changed := !p.departed && p.reporter.setState(state, reason)
	if changed {
		p.unfit = unfit
		p.announceState(state)
	}
	p.mu.Unlock()
	if state == v1alpha1.SpeakerLeaving {
		p.mirror.Depart()
	}
	if changed {
		p.Logger.Info("speaker state changed", "state", state, "reason", reason)
	}
}

// depart is become, for good: the state no longer follows the Node. If holds, the other speakers
// keep for the next process what this one owns. If stays, the sessions outlive this process.
func (p *planner) depart(state v1alpha1.SpeakerState, reason string, holds, stays bool) {
	p.mu.Lock()
	p.departed, p.unfit, p.stays = true, false, stays
	changed := p.reporter.setState(state, reason)
	switch {
	case !changed:
	case holds:
		p.l2.SetState(l2.Holding)
		p.restartBGP()
	default:
		p.announceState(state)
	}
	p.mu.Unlock()
	if changed {
		p.Logger.Info("speaker state changed", "state", state, "reason", reason, "holds", holds)
	}
}

// reviewFreshness makes the routes of this node a last resort while another node knows better what
// is desired: their addresses may be somebody else's by now. On segments the nodes settle that
// among themselves.
func (p *planner) reviewFreshness() {
	outdated := slices.ContainsFunc(p.l2.Status().Segments, func(s l2.Segment) bool { return s.Outdated })
	p.mu.Lock()
	defer p.mu.Unlock()
	if outdated == p.outdated {
		return
	}
	p.outdated = outdated
	p.Logger.Info("freshness changed", "outdated", outdated)
	if !p.departed && p.current == v1alpha1.SpeakerAnnouncing {
		p.announceState(p.current)
	}
}

// announceState has the drivers act on a state. mu is held.
func (p *planner) announceState(state v1alpha1.SpeakerState) {
	p.current = state
	if p.notices != nil {
		p.notices.SetReady(state == v1alpha1.SpeakerAnnouncing || state == v1alpha1.SpeakerLeaving)
	}
	switch state {
	case v1alpha1.SpeakerAnnouncing:
		p.l2.SetState(l2.Ready)
		if p.outdated {
			p.bgp.LastResort()
		} else {
			p.bgp.Resume()
		}
	case v1alpha1.SpeakerLeaving:
		p.l2.SetState(l2.Leaving)
		if p.unfit {
			p.bgp.LastResort()
		} else {
			p.bgp.Drain(p.DrainTime)
		}
	case v1alpha1.SpeakerRestarting:
		p.l2.SetState(l2.Restarting)
		p.restartBGP()
	case v1alpha1.SpeakerStarting:
		p.l2.SetState(l2.Starting)
		p.bgp.Resume() // it needs no key
	case v1alpha1.SpeakerStopped, v1alpha1.SpeakerReplaced, v1alpha1.SpeakerPending:
	}
}

// restartBGP has routers keep the routes that can, or else use others; where the sessions stay,
// there is nothing to say. mu is held.
func (p *planner) restartBGP() {
	switch {
	case p.stays:
	case p.kept.Load():
		p.bgp.Restart()
	default:
		p.bgp.Drain(p.DrainTime)
	}
}

// reviewAddresses follows the addresses of the nodes. What this node had last counts while the API
// has none for it.
func (p *planner) reviewAddresses() {
	addresses := p.sources.addresses()
	if own := addresses[p.Node]; len(own) > 0 {
		p.addresses = own
	} else {
		addresses[p.Node] = p.addresses
	}
	p.l2.SetNodes(addresses)
	p.steering.SetNodes(addresses)
	p.dead.Keep(func(node string) bool { return addresses[node] != nil })
	own := onePerFamily(p.addresses)
	if len(own) == 0 {
		return
	}
	p.dataplane.SetSources(own)
	if err := p.bgp.SetNextHops(own); err != nil {
		p.Logger.Error("next hops were not set", "error", err)
	}
}

// reviewPods follows which addresses the pods of this node have, for what they reach of their own.
func (p *planner) reviewPods() {
	if !p.IPVS {
		return
	}
	prefixes, complaint := p.pods(), ""
	if len(prefixes) == 0 {
		complaint = "IPVS: this Node has no spec.podCIDRs, so its pods are not known: under externalTrafficPolicy Local they reach endpoints as clients from outside do, and not themselves; give speakers --pod-cidrs"
	}
	p.reporter.complain(reasonPodsUnknown, "", complaint)
	p.dataplane.SetPods(prefixes)
}

// pods returns the ranges that pods of this node have their addresses from, none if nobody says.
func (p *planner) pods() []netip.Prefix {
	if node := p.sources.node.Get(p.Node); node != nil && len(p.PodCIDRs) == 0 {
		return podCIDRs(node)
	}
	return p.PodCIDRs
}

// podCIDRs are the ranges that pods of the node have their addresses from, as far as the API says.
func podCIDRs(node *corev1.Node) []netip.Prefix {
	var found []netip.Prefix
	for _, text := range node.Spec.PodCIDRs {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			found = append(found, prefix.Masked())
		}
	}
	return found
}

// reviewAbilities follows with which schedulers this node can forward, and whether it steers.
func (p *planner) reviewAbilities() {
	able, lacking := p.dataplane.Abilities()
	p.reporter.ability(lacking)
	p.world.Capabilities = plan.Capability(able...)
	if report, asked := p.steering.Report(); asked && report.Lacking == "" {
		p.world.Capabilities |= plan.Steers
	}
	p.l2.SetCapabilities(p.world.Capabilities)
}

// settled reports whether the drivers have done what a start needs.
func (p *planner) settled() bool {
	layer2 := p.l2.Status()
	claiming := slices.ContainsFunc(layer2.Segments, func(s l2.Segment) bool { return s.Claiming })
	for _, s := range layer2.Segments {
		claiming = claiming && (s.Claiming || !s.Up && !fails(s))
	}
	return claiming && len(established(p.bgp)) >= int(p.ordered.Load())
}

// fails reports whether something is wanted on a segment that cannot be served. A link that is down
// is no failure.
func fails(s l2.Segment) bool { return !s.Up && s.Err != "" && s.Wanted > 0 }

// missing returns the segments that are not served yet, and those of the neighbors without a
// session that this node still has.
func (p *planner) missing(neighbors map[string]bool) []string {
	var missing []string
	state, _ := p.reporter.state()
	for _, s := range p.l2.Status().Segments {
		if state == v1alpha1.SpeakerAnnouncing && (s.Up && !s.Claiming || fails(s)) {
			missing = append(missing, "segment "+s.Interface)
		}
	}
	up := established(p.bgp)
	for _, peer := range p.bgp.Status().Peers {
		if neighbors[peer.Name] && !up[peer.Name] {
			missing = append(missing, "session with "+peer.Name)
		}
	}
	slices.Sort(missing)
	return slices.Compact(missing)
}

// askedRouterID returns the router ID that the Speaker asks for, or the one to use
// otherwise; the complaint says what is wrong with what it asks for.
func askedRouterID(speaker *v1alpha1.Speaker, otherwise netip.Addr) (id netip.Addr, complaint string) {
	text := speaker.Spec.BGP.RouterID
	if text == "" {
		return otherwise, ""
	}
	id, err := netip.ParseAddr(text)
	if err != nil || !id.Is4() || id.IsUnspecified() {
		return otherwise, fmt.Sprintf(
			"Speaker %s: spec.bgp.routerID: %s is not a BGP router ID; write an IPv4 address that no other router has, such as 192.0.2.11, or leave it out; %s is used until then",
			speaker.Name,
			config.Quote(text),
			otherwise,
		)
	}
	return id, ""
}
