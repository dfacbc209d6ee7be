package speaker

import (
	"context"
	"fmt"
	"reflect"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/l2"
)

// planner turns what changed in the API into plans, and hands them to the drivers.
// One goroutine does all of it.
type planner struct {
	Options
	sources  *sources
	l2       *l2.Driver
	bgp      *bgp.Driver
	reporter *reporter
	tasks    *workqueue.Typed[task]

	groups *groups
	world  World

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
)

func newPlanner(o Options, s *sources, layer2 *l2.Driver, routes *bgp.Driver, r *reporter) (*planner, error) {
	p := &planner{
		Options: o, sources: s, l2: layer2, bgp: routes, reporter: r,
		tasks:  workqueue.NewTyped[task](),
		groups: newGroups(),
		world:  World{Self: o.Node, Snapshot: &config.Snapshot{}},
	}
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
			if okA && okB && !sameNode(b, a) {
				node(after)
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
	p.world.Nodes = p.sources.nodes()
	p.world.Snapshot, _ = config.Compile(p.sources.objects())
	p.bgp.SyncPeers(PlanPeers(p.world))
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
		case nodesChanged:
			if nodes := p.sources.nodes(); !reflect.DeepEqual(nodes, p.world.Nodes) {
				p.world.Nodes = nodes
				p.replan()
				p.reviewState()
			}
		case keyChanged:
			p.reviewKey()
		}
		p.tasks.Done(t)
	}
}

// reviewService plans the groups around a Service anew.
func (p *planner) reviewService(key string) {
	view := p.sources.view(key)
	if len(view.Addresses) == 0 && !p.groups.has(key) {
		return
	}
	now, gone := p.groups.set(view)
	for _, group := range now {
		p.plan(group)
	}
	// Last, so that an address that went to another group stays announced.
	for _, id := range gone {
		p.l2.Sync(id, l2.Desired{})
		p.bgp.Sync(id, bgp.Desired{})
		p.reporter.forget(id)
	}
	p.reporter.poke()
}

// replan plans every group anew, and the peers.
func (p *planner) replan() {
	p.bgp.SyncPeers(PlanPeers(p.world))
	for _, group := range p.groups.all() {
		p.plan(group)
	}
	p.reporter.poke()
}

func (p *planner) plan(group Group) {
	endpoints := map[string]Endpoints{}
	for _, s := range group.Services {
		if s.Local {
			endpoints[s.Name] = p.sources.endpoints(s.Name)
		}
	}
	plan := PlanGroup(group, endpoints, p.world)
	p.l2.Sync(group.ID, plan.L2)
	p.bgp.Sync(group.ID, plan.BGP)
	p.reporter.remember(group)
}

// reviewState follows the exclusion of this node.
func (p *planner) reviewState() {
	self, exists := p.world.Nodes[p.Node]
	switch {
	case !exists:
		p.become(v1alpha1.SpeakerLeaving, "the Node object is gone")
	case self.Excluded:
		p.become(v1alpha1.SpeakerLeaving, "the Node is being deleted or has the label "+v1alpha1.ExcludeLabel)
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

// depart is become, for good: what is seen of the Node changes the state no more.
func (p *planner) depart(state v1alpha1.SpeakerState, reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.departed = true
	p.announceState(state, reason)
}

func (p *planner) announceState(state v1alpha1.SpeakerState, reason string) {
	if !p.reporter.setState(state, reason) {
		return
	}
	p.Logger.Info("state", "state", state, "reason", reason)
	switch state {
	case v1alpha1.SpeakerReady:
		p.l2.SetState(l2.Ready)
	case v1alpha1.SpeakerLeaving:
		p.l2.SetState(l2.Leaving)
	case v1alpha1.SpeakerRestarting:
		p.l2.SetState(l2.Restarting)
	case v1alpha1.SpeakerStarting, v1alpha1.SpeakerStopped:
	}
}

// settled tells whether the drivers have done what a start needs.
func (p *planner) settled() bool {
	for _, segment := range p.l2.Status().Segments {
		if segment.Up && !segment.Claiming {
			return false
		}
	}
	for _, peer := range p.bgp.Status().Peers {
		if !peer.Established() {
			return false
		}
	}
	return true
}

// reviewKey takes the key of hellos from its Secret. A Secret that is gone changes
// nothing: the speakers go on with the key they have.
func (p *planner) reviewKey() {
	o, exists, err := p.sources.secret.GetStore().GetByKey(p.Namespace + "/" + v1alpha1.HelloSecret)
	secret, ok := o.(*corev1.Secret)
	if err != nil || !exists || !ok {
		p.reporter.complain("hello key", fmt.Sprintf("no Secret %s/%s yet: the controller makes it; without it nothing is announced by ARP and NDP", p.Namespace, v1alpha1.HelloSecret))
		return
	}
	key := secret.Data[v1alpha1.HelloKey]
	if len(key) < 16 {
		p.reporter.complain("hello key", fmt.Sprintf("Secret %s/%s: data.%s has %d bytes, and needs 16 or more; delete the Secret and restart the controller, which makes a good one", p.Namespace, v1alpha1.HelloSecret, v1alpha1.HelloKey, len(key)))
		return
	}
	p.reporter.complain("hello key", "")
	p.l2.SetKey(key)
}
