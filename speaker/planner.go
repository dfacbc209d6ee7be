package speaker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/ipvs"
	"github.com/berth-lb/berth/l2"
	"github.com/berth-lb/berth/speaker/mirror"
	"github.com/berth-lb/berth/speaker/unserved"
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
	vitals    *vitals
	drains    *drains
	paths     *paths
	mirror    *mirror.Mirror
	reporter  *reporter
	tasks     *workqueue.Typed[task]

	routerID netip.Addr // where the Node asks for no other

	groups  *groups
	marks   *marks
	trust   trust
	world   World
	asked   map[string]string   // values of the annotation rebalance, by L2Advertisement
	parts   map[string][]string // IDs that layer 2 knows, by group
	handed  map[string]handover // what is forwarded, by group
	ordered atomic.Int32        // BGP peers
	kept    atomic.Bool         // some of them are asked to keep the routes over a restart
	unfit   atomic.Bool         // kube-proxy says that it is unhealthy
	keyed   bool

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
	dataPathChanged
	forwarderChanged
	forwardedChanged // of the address in place of the Service
	vitalsChanged
	handedOver // of the group in place of the Service
)

func newPlanner(o Options, s *sources, layer2 *l2.Driver, routes *bgp.Driver, drops *unserved.Driver, watched *paths, forwards *forwarder, m *mirror.Mirror, r *reporter) (*planner, error) {
	p := &planner{
		Options: o, sources: s, l2: layer2, bgp: routes, unserved: drops, forwarder: forwards, paths: watched, mirror: m, reporter: r,
		tasks:  workqueue.NewTyped[task](),
		groups: newGroups(),
		marks:  newMarks(),
		trust:  trust{},
		parts:  map[string][]string{},
		handed: map[string]handover{},
		world:  World{Self: o.Node, Snapshot: &config.Snapshot{}, Forwards: forwards != nil},
	}
	p.drains = newDrains(func(service string) {
		p.Logger.Info("an endpoint has terminated for as long as it may keep connections (drainTimeout)", "service", service)
		p.tasks.Add(task{serviceChanged, service})
	})
	if forwards != nil {
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
		if key := serviceOf(o); key != "" {
			p.tasks.Add(task{serviceChanged, key})
		}
	}
	to := func(k taskKind) func(any) { return func(any) { p.tasks.Add(task{kind: k}) } }
	handlers := map[cache.SharedIndexInformer]func(any){
		p.sources.service: service,
		p.sources.slice:   endpoints,
		p.sources.secret:  to(keyChanged),
	}
	handlers[p.sources.status] = func(any) { p.reporter.poke() }
	for _, i := range p.sources.settings {
		handlers[i] = to(settingsChanged)
	}
	for informer, handle := range handlers {
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: handle, UpdateFunc: func(_, o any) { handle(o) }, DeleteFunc: handle,
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
			if ready(b) != ready(a) {
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
	p.syncPeers()
	p.asked = askedToRebalance(p.sources.objects().L2Advertisements)
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
			p.replan()
			p.rebalance()
		case nodesChanged:
			p.reviewRouterID()
			p.reviewPods()
			if nodes := p.nodes(); !reflect.DeepEqual(nodes, p.world.Nodes) {
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
				for _, group := range p.groups.at(address) {
					p.plan(group)
				}
			}
			p.reporter.poke()
		case handedOver:
			for _, group := range p.groups.of([]string{t.service}) {
				p.plan(group)
			}
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
func (p *planner) nodes() map[string]Node {
	nodes := p.sources.nodes()
	if last, known := p.world.Nodes[p.Node]; known {
		if _, exists := nodes[p.Node]; !exists {
			nodes[p.Node] = Node{Labels: last.Labels, Excluded: "object is gone"}
		}
	}
	return nodes
}

// reviewService plans the groups around a Service anew.
func (p *planner) reviewService(key string) {
	view := p.sources.view(key)
	if len(view.Addresses) == 0 && !p.groups.has(key) {
		return
	}
	if len(view.Addresses) == 0 {
		p.drains.review(key, nil, 0)
	}
	now, gone := p.groups.set(view)
	for _, group := range now {
		p.plan(group)
	}
	// Last, so that an address that went to another group stays announced.
	for _, id := range gone {
		p.syncL2(id, nil)
		p.bgp.Sync(id, bgp.Desired{})
		p.unserved.Sync(id, nil)
		p.forwarder.sync(id, Forwarding{})
		p.marks.assign(id, nil)
		delete(p.trust, id)
		delete(p.handed, id)
		p.reporter.complain("IPVS "+id, "")
	}
	p.reporter.poke()
}

// replan plans every group anew, and the peers.
func (p *planner) replan() {
	p.syncPeers()
	for _, group := range p.groups.all() {
		p.plan(group)
	}
	p.reporter.poke()
}

func (p *planner) plan(group Group) {
	endpoints := map[string]candidate.Endpoints{}
	for _, s := range group.Services {
		if s.Local {
			endpoints[s.Name] = p.sources.endpoints(s.Name)
		}
	}
	backends := map[string][]Backend{}
	if p.forwarder != nil {
		for _, s := range group.Services {
			if schedulerOf(s, p.world.Snapshot) != "" {
				backends[s.Name] = p.sources.backends(s.Name)
			}
			p.drains.review(s.Name, backends[s.Name], p.world.Snapshot.DrainTimeout(s.Addresses))
		}
		group.Marks = p.marks.assign(group.ID, needMarks(group.Services, p.world.Snapshot))
	}
	plan := PlanGroup(group, endpoints, backends, p.world)
	p.unserved.Sync(group.ID, plan.Prefixes(p.world.Capabilities)) // first: what is announced is sent here
	p.forward(group, plan.Forwarding)
	p.minds(group, &plan)
	p.syncL2(group.ID, plan.L2)
	p.bgp.Sync(group.ID, plan.BGP)
	for part := range plan.L2 {
		p.reporter.remember(part, group)
	}
}

// forward has the node forward what is desired, and for a while what kube-proxy is taking over.
func (p *planner) forward(group Group, desired Forwarding) {
	if p.forwarder == nil {
		return
	}
	next, again := p.handed[group.ID].next(desired, group.Services, time.Now())
	p.handed[group.ID] = next
	p.forwarder.sync(group.ID, next.Forwarding)
	if again > 0 {
		time.AfterFunc(again, func() { p.tasks.Add(task{handedOver, group.ID}) }) // too late does no harm
	}
}

// minds has this node announce nothing of a group for which its kernel does not forward yet, or cannot: no routes, and on the
// segments it is no candidate. What it owns there others may take; until they do it goes on to answer.
func (p *planner) minds(group Group, plan *Plan) {
	if p.forwarder == nil {
		return
	}
	err := p.forwarder.serves(plan.Forwarding)
	carries := p.trust.carries(group.ID, err, time.Now(), func(after time.Duration) {
		time.AfterFunc(after, func() { p.tasks.Add(task{serviceChanged, group.Services[0].Name}) })
	})
	complaint := ""
	if err != nil && !errors.Is(err, ipvs.ErrPending) && p.world.Capabilities != 0 { // else the report says it once
		complaint = fmt.Sprintf("IPVS: %v", err)
	}
	p.reporter.complain("IPVS "+group.ID, complaint)
	if carries || needed(group.Services, p.world.Snapshot) == 0 {
		return
	}
	plan.BGP = bgp.Desired{}
	for id, part := range plan.L2 {
		part.Candidates = slices.DeleteFunc(slices.Clone(part.Candidates), func(node string) bool { return node == p.Node })
		plan.L2[id] = part
	}
}

// syncL2 replaces what layer 2 knows of a group.
func (p *planner) syncL2(group string, parts map[string]l2.Desired) {
	before := p.parts[group]
	delete(p.parts, group)
	for part, desired := range parts {
		p.mirror.Show(part, desired.Addresses)
		p.l2.Sync(part, desired)
		p.parts[group] = append(p.parts[group], part)
	}
	for _, part := range before {
		if _, still := parts[part]; !still {
			p.l2.Sync(part, l2.Desired{})
			p.mirror.Show(part, nil)
			p.reporter.forget(part)
		}
	}
}

// rebalance moves the groups of each L2Advertisement whose annotation changed to the
// nodes that come first for them.
func (p *planner) rebalance() {
	before := p.asked
	p.asked = askedToRebalance(p.sources.objects().L2Advertisements)
	for name, value := range p.asked {
		if value == before[name] {
			continue
		}
		p.Logger.Info("rebalancing", "l2advertisement", name)
		for _, parts := range p.parts {
			for _, part := range parts {
				if selects(part, name) {
					p.l2.Rebalance(part)
				}
			}
		}
	}
}

func askedToRebalance(advertisements []*v1alpha1.L2Advertisement) map[string]string {
	asked := map[string]string{}
	for _, a := range advertisements {
		if value, ok := a.Annotations[v1alpha1.AnnotationRebalance]; ok {
			asked[a.Name] = value
		}
	}
	return asked
}

// syncPeers replaces the BGP peers.
func (p *planner) syncPeers() {
	peers := PlanPeers(p.world)
	p.ordered.Store(int32(len(peers)))
	p.kept.Store(slices.ContainsFunc(peers, func(peer bgp.Peer) bool { return peer.GracefulRestart > 0 }))
	p.bgp.SyncPeers(peers)
}

// reviewRouterID follows the annotation of this Node. One that is gone changes nothing: its routes are
// withdrawn in good order.
func (p *planner) reviewRouterID() {
	o, exists, err := p.sources.node.GetStore().GetByKey(p.Node)
	node, ok := o.(*corev1.Node)
	if err != nil || !exists || !ok {
		return
	}
	id, complaint := askedRouterID(node, p.routerID)
	p.reporter.complain("router ID", complaint)
	if err := p.bgp.SetRouterID(id); err != nil {
		p.Logger.Error("router ID", "error", err)
	}
}

// followForwarder has it looked at again what this node can forward.
func (p *planner) followForwarder(address netip.Addr) {
	t := task{kind: forwarderChanged}
	if address.IsValid() {
		t = task{forwardedChanged, address.String()}
	}
	p.tasks.Add(t)
}

// reviewPods takes in which addresses the pods of this node have, for what they reach of their own.
func (p *planner) reviewPods() {
	if p.forwarder == nil {
		return
	}
	prefixes, complaint := p.PodCIDRs, ""
	if o, exists, err := p.sources.node.GetStore().GetByKey(p.Node); err == nil && exists && len(prefixes) == 0 {
		node, ok := o.(*corev1.Node)
		if !ok {
			return
		}
		prefixes = podCIDRs(node)
	}
	if len(prefixes) == 0 {
		complaint = "IPVS: this Node has no spec.podCIDRs, so its pods are not known: under externalTrafficPolicy Local they reach endpoints as clients from outside do, and not themselves; give speakers --pod-cidrs"
	}
	p.reporter.complain("pods", complaint)
	p.forwarder.setPods(prefixes)
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

// reaches tells whether the kernel of a node answers at its InternalIPs. Of a node that is no more nobody wants to know.
func (p *planner) reaches(ctx context.Context, name string) bool {
	o, exists, err := p.sources.node.GetStore().GetByKey(name)
	node, ok := o.(*corev1.Node)
	return err == nil && exists && ok && reachable(ctx, internalIPs(node))
}

// reviewForwarder takes in with which schedulers this node can forward.
func (p *planner) reviewForwarder() {
	able, lacking := p.forwarder.schedulers()
	p.reporter.ability(lacking)
	p.world.Capabilities = capability(able...)
	p.l2.SetCapabilities(p.world.Capabilities)
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
		p.become(v1alpha1.SpeakerReady, "")
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
	case v1alpha1.SpeakerReady:
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
	case v1alpha1.SpeakerStopped:
	}
}

// settled tells whether the drivers have done what a start needs.
func (p *planner) settled() bool {
	layer2, routes := p.l2.Status(), p.bgp.Status()
	claiming := slices.ContainsFunc(layer2.Segments, func(s l2.Segment) bool { return s.Claiming })
	for _, s := range layer2.Segments {
		claiming = claiming && (s.Claiming || !s.Up)
	}
	established := map[string]bool{} // a peer with a prefix may have several sessions
	for _, peer := range routes.Peers {
		if peer.Established() {
			established[peer.Name] = true
		}
	}
	return claiming && len(established) >= int(p.ordered.Load())
}
