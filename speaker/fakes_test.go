package speaker

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/bgp/bfd"
	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/inuse"
	"github.com/berth-lb/berth/l2"
	"github.com/berth-lb/berth/speaker/dataplane"
	"github.com/berth-lb/berth/speaker/deadnodes"
	"github.com/berth-lb/berth/speaker/localnet"
	"github.com/berth-lb/berth/speaker/nodes"
	"github.com/berth-lb/berth/speaker/plan"
	"github.com/berth-lb/berth/speaker/rival"
	"github.com/berth-lb/berth/speaker/steer"
)

// The drivers of these tests remember what they are told, and say what a test has them say.

type fakeL2 struct {
	synced       map[netip.Addr]l2.Desired
	withdrawn    []netip.Addr
	nodes        map[string][]netip.Addr
	state        l2.State
	capabilities l2.Capabilities
	holds        []string
	status       l2.Status
	rebalanced   []netip.Addr
	paths        []bfd.Status
	next         map[netip.Addr]l2.Desired
	anticipated  int // how often next was replaced
	drained      chan struct{}
	observed     chan l2.Observation
}

func (f *fakeL2) Sync(address netip.Addr, desired l2.Desired) {
	if !desired.Announced {
		f.withdrawn = append(f.withdrawn, address)
		delete(f.synced, address)
		return
	}
	f.synced[address] = desired
}
func (f *fakeL2) Anticipate(next map[netip.Addr]l2.Desired) {
	f.next = next
	f.anticipated++
}
func (f *fakeL2) BFD() []bfd.Status                  { return f.paths }
func (f *fakeL2) Run(ctx context.Context) error      { <-ctx.Done(); return nil }
func (f *fakeL2) Observed() <-chan l2.Observation    { return f.observed }
func (f *fakeL2) Rebalance(address netip.Addr)       { f.rebalanced = append(f.rebalanced, address) }
func (f *fakeL2) SetState(s l2.State)                { f.state = s }
func (f *fakeL2) SetKeys(l2.Keys)                    {}
func (f *fakeL2) SetCapabilities(c l2.Capabilities)  { f.capabilities = c }
func (f *fakeL2) Confirm(time.Time)                  {}
func (f *fakeL2) MirrorLost()                        {}
func (f *fakeL2) SetNodes(a map[string][]netip.Addr) { f.nodes = a }
func (f *fakeL2) Status() l2.Status                  { return f.status }
func (f *fakeL2) Holds(netip.Addr) []string          { return f.holds }
func (f *fakeL2) Drained() <-chan struct{}           { return f.drained }

// fakeNodes are Nodes that tests put into its store.
type fakeNodes struct{ store cache.Store }

func newFakeNodes() fakeNodes { return fakeNodes{cache.NewStore(cache.MetaNamespaceKeyFunc)} }

func (f fakeNodes) Get(name string) *corev1.Node {
	o, _, err := f.store.GetByKey(name)
	if node, ok := o.(*corev1.Node); ok && err == nil {
		return node
	}
	return nil
}

func (f fakeNodes) All() (all []*corev1.Node) {
	for _, o := range f.store.List() {
		all = append(all, o.(*corev1.Node))
	}
	return all
}

func (fakeNodes) OnChange(nodes.Handler) (stop func()) { return func() {} }
func (fakeNodes) HasSynced() bool                      { return true }
func (fakeNodes) Run(ctx context.Context) error        { <-ctx.Done(); return nil }

// nodesOf returns the store of Nodes.
func nodesOf(s *sources) cache.Store { return s.node.(fakeNodes).store }

type fakeMidstream struct{}

func (fakeMidstream) Run(ctx context.Context) error { <-ctx.Done(); return nil }

type fakeBGP struct {
	synced   map[string]bgp.Desired // by group
	peers    []bgp.Peer
	hops     []netip.Addr
	id       netip.Addr
	calls    []string
	status   bgp.Status
	stays    bool // the sessions outlive the speaker
	observed chan bgp.Observation
}

func (f *fakeBGP) Sync(group string, desired bgp.Desired) {
	if len(desired.Routes) == 0 {
		delete(f.synced, group)
		return
	}
	f.synced[group] = desired
}
func (f *fakeBGP) Run(ctx context.Context) error    { <-ctx.Done(); return nil }
func (f *fakeBGP) Observed() <-chan bgp.Observation { return f.observed }
func (f *fakeBGP) SyncPeers(peers []bgp.Peer)       { f.peers = peers }
func (f *fakeBGP) SetRouterID(id netip.Addr) error  { f.id = id; return nil }
func (f *fakeBGP) SetNextHops(hops []netip.Addr) error {
	f.hops = hops
	return nil
}
func (f *fakeBGP) Drain(time.Duration)            { f.calls = append(f.calls, "drain") }
func (f *fakeBGP) LastResort()                    { f.calls = append(f.calls, "last resort") }
func (f *fakeBGP) Resume()                        { f.calls = append(f.calls, "resume") }
func (f *fakeBGP) Restart()                       { f.calls = append(f.calls, "restart") }
func (f *fakeBGP) Withdraw(context.Context) error { f.calls = append(f.calls, "withdraw"); return nil }
func (f *fakeBGP) Status() bgp.Status             { return f.status }
func (f *fakeBGP) Meet(context.Context)           {}
func (f *fakeBGP) Ends(context.Context) bool      { return !f.stays }
func (f *fakeBGP) Look([]rival.Router) ([]rival.Connection, error) {
	return nil, nil
}

// fakeDataplane is None but for what a test has it do.
type fakeDataplane struct {
	*dataplane.None
	overdue   time.Duration
	status    dataplane.Status
	synced    map[string]plan.Forwarding // by group
	forgotten []string                   // Services
	lacking   string
	observed  chan dataplane.Observation
	sources   []netip.Addr
}

// fakeSteerer steers the connections of the groups in steers.
type fakeSteerer struct {
	*steer.None
	synced   map[string][]plan.SteeredPort // by group
	steers   map[string]bool
	lacking  string
	starting bool
	off      bool
	seed     [16]byte
	suspect  map[string]bool
	changed  chan string
}

func (f *fakeSteerer) Sync(group string, ports []plan.SteeredPort) {
	if len(ports) == 0 {
		delete(f.synced, group)
		return
	}
	f.synced[group] = ports
}
func (f *fakeSteerer) Changed() <-chan string        { return f.changed }
func (f *fakeSteerer) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (f *fakeSteerer) Remove() error                 { return nil }
func (f *fakeSteerer) Steers(group string) bool      { return f.steers[group] }
func (f *fakeSteerer) SetEnabled(enabled bool)       { f.off = !enabled }
func (f *fakeSteerer) SetSeed(seed [16]byte)         { f.seed = seed }
func (f *fakeSteerer) Report() (steer.Report, bool) {
	return steer.Report{Lacking: f.lacking, Starting: f.starting, Ports: len(f.synced)}, true
}
func (f *fakeSteerer) Suspect(nodes, _ map[string]bool) { f.suspect = nodes }

func (f *fakeDataplane) SetSources(addresses []netip.Addr) { f.sources = addresses }

func (f *fakeDataplane) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (f *fakeDataplane) Remove() error                 { return nil }
func (f *fakeDataplane) Sync(group plan.Group, desired plan.Forwarding) dataplane.Status {
	f.synced[group.ID] = desired
	return f.status
}

func (f *fakeDataplane) Backends(
	_ plan.Group,
	services []plan.ClassifiedService,
	read func(string) []plan.Backend,
	_ func([]netip.Addr) time.Duration,
) (map[string][]plan.Backend, time.Duration) {
	found := map[string][]plan.Backend{}
	for _, s := range services {
		found[s.Name] = read(s.Name)
	}
	return found, f.overdue
}
func (f *fakeDataplane) Forget(group string)                    { delete(f.synced, group) }
func (f *fakeDataplane) ForgetService(name string)              { f.forgotten = append(f.forgotten, name) }
func (f *fakeDataplane) Observed() <-chan dataplane.Observation { return f.observed }

func (f *fakeDataplane) Abilities() ([]string, string) { return []string{"rr", "wlc"}, f.lacking }

type fakeUnserved struct {
	mu        sync.Mutex
	synced    map[string][]netip.Prefix // by group
	conflicts []netip.Addr              // guarded by mu
}

func (f *fakeUnserved) Sync(group string, prefixes []netip.Prefix) {
	if len(prefixes) == 0 {
		delete(f.synced, group)
		return
	}
	f.synced[group] = prefixes
}
func (f *fakeUnserved) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (f *fakeUnserved) SetUsed(*inuse.Set)            {}
func (f *fakeUnserved) SetConflicts(a []netip.Addr)   { f.mu.Lock(); f.conflicts = a; f.mu.Unlock() }
func (f *fakeUnserved) Err() error                    { return nil }
func (f *fakeUnserved) Remove() error                 { return nil }

type fakeMirror struct{ shown map[netip.Addr][]string } // Services by address

func (f *fakeMirror) Refresh() {}
func (f *fakeMirror) Depart()  {}

func (f *fakeMirror) Show(address netip.Addr, services, announcements []string) {
	if len(announcements) == 0 {
		delete(f.shown, address)
		return
	}
	f.shown[address] = services
}
func (f *fakeMirror) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (f *fakeMirror) Reconsider(string)             {}
func (f *fakeMirror) Synced() bool                  { return true }

type fakeNetwork struct {
	now     localnet.Network
	changed chan struct{}
}

func (f *fakeNetwork) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (f *fakeNetwork) Read() error                   { return nil }
func (f *fakeNetwork) Current() localnet.Network     { return f.now }
func (f *fakeNetwork) Changed() <-chan struct{}      { return f.changed }

type fakePeerFilter struct {
	held    []rival.HeldPeer
	begun   chan rival.HeldPeer
	changed chan struct{}
}

func (f *fakePeerFilter) Free(peers []bgp.Peer) []bgp.Peer { return peers }
func (f *fakePeerFilter) Run(ctx context.Context) error    { <-ctx.Done(); return nil }
func (f *fakePeerFilter) Changed() <-chan struct{}         { return f.changed }
func (f *fakePeerFilter) Check()                           {}
func (f *fakePeerFilter) Held() []rival.HeldPeer           { return f.held }
func (f *fakePeerFilter) Begun() <-chan rival.HeldPeer     { return f.begun }

type fakeKubeProxy chan bool

func (f fakeKubeProxy) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (f fakeKubeProxy) Changes() <-chan bool          { return f }

// node is a speaker's inside on node n1, with informers that do not run and drivers that do
// nothing.
type node struct {
	*planner
	l2        *fakeL2
	bgp       *fakeBGP
	dataplane *fakeDataplane
	steering  *fakeSteerer
	unserved  *fakeUnserved
	mirror    *fakeMirror
	localnet  *fakeNetwork
	rivals    *fakePeerFilter
	kubeProxy fakeKubeProxy
	events    *events.FakeRecorder
}

// idleNode returns a node with --ipvs whose kernel shows all as desired.
func idleNode(t testing.TB) node {
	t.Helper()
	return nodeAt(t, &rest.Config{}, true)
}

// nodeAt returns a node whose informers, if they are run, ask that API server.
func nodeAt(t testing.TB, config *rest.Config, ipvs bool) node {
	t.Helper()
	berth, errBerth := client.New(config)
	kube, errKube := kubernetes.NewForConfig(config)
	if err := errors.Join(errBerth, errKube); err != nil {
		t.Fatal(err)
	}
	n := node{
		l2: &fakeL2{
			synced:   map[netip.Addr]l2.Desired{},
			drained:  make(chan struct{}),
			observed: make(chan l2.Observation),
		},
		bgp: &fakeBGP{synced: map[string]bgp.Desired{}, observed: make(chan bgp.Observation)},
		dataplane: &fakeDataplane{
			synced: map[string]plan.Forwarding{}, status: dataplane.Status{Readiness: plan.Readiness{Shown: true}},
			observed: make(chan dataplane.Observation),
		},
		steering: &fakeSteerer{
			lacking: "not in this test",
			synced:  map[string][]plan.SteeredPort{},
			steers:  map[string]bool{},
			changed: make(chan string),
		},
		unserved:  &fakeUnserved{synced: map[string][]netip.Prefix{}},
		mirror:    &fakeMirror{shown: map[netip.Addr][]string{}},
		localnet:  &fakeNetwork{changed: make(chan struct{})},
		rivals:    &fakePeerFilter{begun: make(chan rival.HeldPeer), changed: make(chan struct{})},
		kubeProxy: make(fakeKubeProxy),
		events:    events.NewFakeRecorder(64),
	}
	s, err := New(Options{
		Kubernetes: kube, Berth: berth, Events: n.events, Logger: slog.New(slog.DiscardHandler),
		Node: "n1", Namespace: "berth-system", IPVS: ipvs,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.sources.node = newFakeNodes()
	d := drivers{
		l2: n.l2, bgp: n.bgp, dataplane: n.dataplane, unserved: n.unserved, mirror: n.mirror, localnet: n.localnet,
		rivals: n.rivals, kubeProxy: n.kubeProxy, steering: n.steering,
		dead:      deadnodes.New(deadnodes.Config{Addresses: func(string) []netip.Addr { return nil }}),
		midstream: fakeMidstream{},
	}
	r := newReporter(s.Options, s.sources, d, newConflicts())
	if n.planner, err = newPlanner(s.Options, s.sources, d, r, netip.MustParseAddr("192.0.2.11")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.tasks.ShutDown)
	return n
}

// A speaker with its real drivers is made of what was made before.
func TestSpeaker_assemble(t *testing.T) {
	for _, ipvs := range []bool{false, true} {
		o := idleNode(t).Options
		o.IPVS = ipvs
		s, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		n1 := &corev1.Node{
			Status: corev1.NodeStatus{
				Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.11"}},
			},
		}
		p, _, err := s.assemble(n1, "cluster")
		if err != nil {
			t.Fatal(err)
		}
		if _, asked := p.dataplane.Report(); asked != ipvs {
			t.Errorf("with --ipvs=%v the node reports that it forwards: %v", ipvs, asked)
		}
		p.tasks.ShutDown()
	}
}
