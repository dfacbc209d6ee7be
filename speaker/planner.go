package speaker

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/l2"
	"github.com/berth-lb/berth/speaker/dataplane/unserved"
	"github.com/berth-lb/berth/speaker/localnet"
	"github.com/berth-lb/berth/speaker/mirror"
	"github.com/berth-lb/berth/speaker/plan"
)

// planner turns what changed in the API into plans, and hands them to the drivers.
// One goroutine does all of it.
type planner struct {
	Options
	sources   *sources
	l2        *l2.Driver
	bgp       *bgp.Driver
	unserved  *unserved.Driver
	forwarder *forwarder
	carried   *carried // nil: this node forwards nothing itself
	vitals    *vitals
	paths     *paths
	local     *localnet.Watcher
	rivals    *rivals
	mirror    *mirror.Mirror
	reporter  *reporter
	tasks     *workqueue.Typed[task]

	routerID netip.Addr // where the Node asks for no other

	groups  *plan.Groups
	world   plan.World
	asked   map[string]string   // values of the annotation rebalance, by SegmentAnnouncement
	parts   map[string][]string // IDs that layer 2 knows, by group
	ordered atomic.Int32        // BGP peers
	kept    atomic.Bool         // some of them are asked to keep the routes over a restart
	unfit   atomic.Bool         // kube-proxy says that it is unhealthy
	keyed   bool
	// recordKeys sign what the controller gives, the latest first.
	recordKeys [][]byte

	mu       sync.Mutex // guards what follows; makes changes of state one after the other
	departed bool
}

// task is something to look at again.
type task struct {
	kind    taskKind
	service string
}

type taskKind uint8

const (
	serviceChanged taskKind = iota
	settingsChanged
	nodesChanged
	keyChanged
	speakerChanged // the object of this node
	dataPathChanged
	forwarderChanged
	forwardedChanged // of the address in place of the Service
	vitalsChanged
	rivalsChanged
	networkChanged // addresses on this node's interfaces, its gateways, or the API server's addresses
)

func newPlanner(o Options, s *sources, layer2 *l2.Driver, routes *bgp.Driver, drops *unserved.Driver, watched *paths, forwards *forwarder, m *mirror.Mirror, r *reporter) (*planner, error) {
	p := &planner{
		Options: o, sources: s, l2: layer2, bgp: routes, unserved: drops, forwarder: forwards, paths: watched, mirror: m, reporter: r,
		tasks:  workqueue.NewTyped[task](),
		groups: plan.NewGroups(),
		parts:  map[string][]string{},
		world:  plan.World{Self: o.Node, Snapshot: &config.Snapshot{}, Forwards: forwards != nil},
	}
	p.local = localnet.New(o.Logger.With("driver", "localnet"), func() { p.tasks.Add(task{kind: networkChanged}) })
	p.rivals = newRivals(o.Logger.With("driver", "bgp"), p.established, func() { p.tasks.Add(task{kind: rivalsChanged}) }, r.heldBack)
	r.rivals = p.rivals
	if forwards != nil {
		p.carried = newCarried(p.overdue)
		p.vitals = newVitals(p.reaches, func() { p.tasks.Add(task{kind: vitalsChanged}) })
	}
	r.heard = p.vitals.listen
	return p, p.watch()
}

// watch turns what the informers see into tasks.
func (p *planner) watch() error {
	service := func(o any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o); err == nil {
			p.tasks.Add(task{serviceChanged, key})
		}
	}
	endpoints := func(o any) {
		key := serviceOf(o)
		if key != "" {
			p.tasks.Add(task{serviceChanged, key})
		}
		if key == apiServerService {
			p.tasks.Add(task{kind: networkChanged})
		}
	}
	to := func(k taskKind) func(any) { return func(any) { p.tasks.Add(task{kind: k}) } }
	handlers := map[cache.SharedIndexInformer]func(any){
		p.sources.service: service,
		p.sources.slice:   endpoints,
		p.sources.secret:  to(keyChanged),
	}
	handlers[p.sources.status] = to(speakerChanged)
	handlers[p.sources.password] = to(settingsChanged)
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
	node := to(nodesChanged)
	_, err := p.sources.node.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: node, DeleteFunc: node,
		UpdateFunc: func(before, after any) {
			b, okB := before.(*corev1.Node)
			a, okA := after.(*corev1.Node)
			if !okA || !okB {
				return
			}
			if !candidate.Same(b, a) {
				node(after)
			}
			if isReady(b) != isReady(a) {
				p.mirror.Reconsider(a.Name)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	return nil
}

// begin makes all plans, before the drivers run: so that they begin with all of
// what is desired, and withdraw nothing by mistake.
func (p *planner) begin() {
	p.reviewKey()
	p.reviewRouterID()
	p.reviewPods()
	p.forwarder.look()
	p.reviewForwarder()
	p.world.Nodes = p.sources.nodes()
	p.world.Snapshot, _ = config.Compile(p.sources.objects())
	if err := p.local.Read(); err != nil {
		p.Logger.Warn("addresses of this node are not read yet", "error", err) // and read again when its watcher runs
	}
	p.reviewUsed()
	p.syncPeers()
	p.asked = askedToRebalance(p.sources.objects().SegmentAnnouncements)
	for _, key := range p.sources.service.GetStore().ListKeys() {
		p.reviewService(key)
	}
	p.reviewState()
}

// run plans until the context ends.
func (p *planner) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, p.tasks.ShutDown)
	defer stop()
	for {
		t, down := p.tasks.Get()
		if down {
			return
		}
		switch t.kind {
		case serviceChanged:
			p.reviewService(t.service)
		case settingsChanged:
			p.world.Snapshot, _ = config.Compile(p.sources.objects())
			p.reviewUsed()
			p.replan()
			p.rebalance()
		case networkChanged:
			if p.reviewUsed() {
				p.replan()
			}
		case rivalsChanged:
			p.syncPeers()
			p.reporter.poke()
		case speakerChanged:
			p.reviewRouterID()
			p.reporter.poke() // perhaps it was deleted
		case nodesChanged:
			p.reviewPods()
			nodes, used := p.nodes(), p.reviewUsed()
			if used || !reflect.DeepEqual(nodes, p.world.Nodes) {
				p.world.Nodes = nodes
				p.replan()
				p.reviewState()
			}
		case keyChanged:
			p.reviewKey()
			p.reviewState()
		case forwarderChanged:
			p.reviewForwarder()
			p.replan() // be it the same that the node can: IPVS as a whole may have failed, or works again
		case vitalsChanged:
			p.world.Dead = p.vitals.dead()
			p.Logger.Info("nodes that are dead", "nodes", slices.Sorted(maps.Keys(p.world.Dead)))
			p.replan()
		case forwardedChanged:
			if address, err := netip.ParseAddr(t.service); err == nil {
				for _, group := range p.groups.At(address) {
					p.plan(group)
				}
			}
			p.reporter.poke()
		case dataPathChanged:
			if unfit := p.unfit.Load(); unfit != p.world.Unfit {
				p.world.Unfit = unfit
				p.replan()
				p.reviewState()
			}
		}
		p.tasks.Done(t)
	}
}

// nodes returns what plans need to know of the nodes. Of this one the last that was
// known counts when its object is gone: its routes are withdrawn in good order.
func (p *planner) nodes() map[string]plan.Node {
	nodes := p.sources.nodes()
	if last, known := p.world.Nodes[p.Node]; known {
		if _, exists := nodes[p.Node]; !exists {
			nodes[p.Node] = plan.Node{Labels: last.Labels, Excluded: "object is gone"}
		}
	}
	return nodes
}

// reviewService plans the groups around a Service anew.
func (p *planner) reviewService(key string) {
	view := p.sources.view(key, p.recordKeys)
	if len(view.Addresses) == 0 && !p.groups.Has(key) {
		return
	}
	if len(view.Addresses) == 0 {
		p.carried.forgetService(key)
	}
	now, gone := p.groups.Set(view)
	for _, group := range now {
		p.plan(group)
	}
	// Last, so that an address that went to another group stays announced.
	for _, id := range gone {
		p.syncL2(id, nil, nil)
		p.bgp.Sync(id, bgp.Desired{})
		p.unserved.Sync(id, nil)
		p.forwarder.sync(id, plan.Forwarding{})
		p.carried.forget(id)
		p.reporter.complain(reasonIPVS, id, "")
		p.reporter.complain(reasonAddressInUse, id, "")
	}
	p.reporter.poke()
}

// replan plans every group anew, and the peers.
func (p *planner) replan() {
	p.syncPeers()
	for _, group := range p.groups.All() {
		p.plan(group)
	}
	p.reporter.poke()
}

// plan has the drivers do what a group needs. It goes one way: who forwards, what this node forwards, what its kernel shows of
// that, and what the node announces.
func (p *planner) plan(group plan.Group) {
	group, inUse := group.Unused(p.world.Used)
	p.reporter.complain(reasonAddressInUse, group.ID, inUse)
	services := plan.Classify(group, p.world.Snapshot)
	readiness := p.forward(group, services)
	endpoints := map[string]candidate.Endpoints{}
	for _, s := range services {
		if s.Local {
			endpoints[s.Name] = p.sources.endpoints(s.Name)
		}
	}
	announced := plan.PlanAnnouncements(group, services, endpoints, readiness, p.world)
	p.unserved.Sync(group.ID, announced.Routed()) // first: what is announced is sent here
	p.syncL2(group.ID, group.Names(), announced.L2)
	p.bgp.Sync(group.ID, announced.BGP)
	for part := range announced.L2 {
		p.reporter.remember(part, group)
	}
}

// syncL2 replaces what layer 2 knows of a group.
func (p *planner) syncL2(group string, services []string, parts map[string]l2.Desired) {
	before := p.parts[group]
	delete(p.parts, group)
	for part, desired := range parts {
		p.mirror.Show(part, services, desired.Addresses)
		p.l2.Sync(part, desired)
		p.parts[group] = append(p.parts[group], part)
	}
	for _, part := range before {
		if _, still := parts[part]; !still {
			p.l2.Sync(part, l2.Desired{})
			p.mirror.Show(part, nil, nil)
			p.reporter.forget(part)
		}
	}
}

// rebalance moves the groups of each SegmentAnnouncement whose annotation changed to the
// nodes that come first for them.
func (p *planner) rebalance() {
	before := p.asked
	p.asked = askedToRebalance(p.sources.objects().SegmentAnnouncements)
	for name, value := range p.asked {
		if value == before[name] {
			continue
		}
		p.Logger.Info("rebalancing", "segmentannouncement", name)
		for _, parts := range p.parts {
			for _, part := range parts {
				if plan.Selects(part, name) {
					p.l2.Rebalance(part)
				}
			}
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
	peers := p.rivals.free(plan.PlanPeers(p.world))
	p.ordered.Store(int32(len(peers)))
	p.kept.Store(slices.ContainsFunc(peers, func(peer bgp.Peer) bool { return peer.GracefulRestart > 0 }))
	p.bgp.SyncPeers(peers)
}

// reviewRouterID follows this node's Speaker. When the Node is gone, and the Speaker with it, nothing changes: its routes
// are withdrawn in good order.
func (p *planner) reviewRouterID() {
	if p.sources.nodeObject(p.Node) == nil {
		return
	}
	speaker := p.sources.self(p.Node)
	id, complaint := askedRouterID(speaker, p.routerID)
	p.reporter.complain(reasonInvalidRouterID, "", complaint)
	p.reporter.setRouterID(id)
	if err := p.bgp.SetRouterID(id); err != nil {
		p.Logger.Error("router ID", "error", err)
	}
}

// followDataPath takes what kube-proxy says of itself.
func (p *planner) followDataPath(unhealthy bool) {
	p.unfit.Store(unhealthy)
	p.tasks.Add(task{kind: dataPathChanged})
}

// reviewState follows what keeps this node from announcing.
func (p *planner) reviewState() {
	self, exists := p.world.Nodes[p.Node]
	switch {
	case !exists:
		p.become(v1alpha1.SpeakerLeaving, "the Node object is gone")
	case self.Excluded != "":
		p.become(v1alpha1.SpeakerLeaving, "the Node "+self.Excluded)
	case p.world.Unfit:
		p.become(v1alpha1.SpeakerLeaving, "kube-proxy on this node is unhealthy ("+p.ProxyHealthz+" answers 503)")
	case !p.keyed:
		p.become(v1alpha1.SpeakerStarting, "no key to sign hellos with yet")
	default:
		p.become(v1alpha1.SpeakerAnnouncing, "")
	}
}

// become tells everybody what state this speaker is in, unless it has departed.
func (p *planner) become(state v1alpha1.SpeakerState, reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.departed {
		p.announceState(state, reason)
	}
}

// depart is become, for good: what is seen of the Node changes the state no more. If
// holds, the other speakers keep for the next process what this one owns.
func (p *planner) depart(state v1alpha1.SpeakerState, reason string, holds bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.departed = true
	if !holds {
		p.announceState(state, reason)
	} else if p.reporter.setState(state, reason) {
		p.Logger.Info("state", "state", state, "reason", reason, "holds", true)
		p.l2.SetState(l2.Holding)
		p.restartBGP()
	}
}

// restartBGP has routers keep the routes that can, or else use others.
func (p *planner) restartBGP() {
	if p.kept.Load() {
		p.bgp.Restart()
	} else {
		p.bgp.Drain(p.DrainTime)
	}
}

func (p *planner) announceState(state v1alpha1.SpeakerState, reason string) {
	if !p.reporter.setState(state, reason) {
		return
	}
	p.Logger.Info("state", "state", state, "reason", reason)
	switch state {
	case v1alpha1.SpeakerAnnouncing:
		p.l2.SetState(l2.Ready)
		p.bgp.Resume()
	case v1alpha1.SpeakerLeaving:
		p.l2.SetState(l2.Leaving)
		p.bgp.Drain(p.DrainTime)
	case v1alpha1.SpeakerRestarting:
		p.l2.SetState(l2.Restarting)
		p.restartBGP()
	case v1alpha1.SpeakerStarting:
		p.l2.SetState(l2.Starting)
		p.bgp.Resume() // it needs no key
	case v1alpha1.SpeakerStopped, v1alpha1.SpeakerReplaced, v1alpha1.SpeakerPending:
	}
}

// settled tells whether the drivers have done what a start needs.
func (p *planner) settled() bool {
	layer2 := p.l2.Status()
	claiming := slices.ContainsFunc(layer2.Segments, func(s l2.Segment) bool { return s.Claiming })
	for _, s := range layer2.Segments {
		claiming = claiming && (s.Claiming || !s.Up)
	}
	return claiming && len(p.established()) >= int(p.ordered.Load())
}

// established returns the peers that have a session; one with a prefix may have several.
func (p *planner) established() map[string]bool {
	established := map[string]bool{}
	for _, peer := range p.bgp.Status().Peers {
		if peer.Established() {
			established[peer.Name] = true
		}
	}
	return established
}
