package speaker

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	typedappsv1 "k8s.io/client-go/kubernetes/typed/apps/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/speaker/contact"
	"github.com/berth-lb/berth/speaker/nodes"
	"github.com/berth-lb/berth/speaker/object"
	"github.com/berth-lb/berth/speaker/plan"
	"github.com/berth-lb/berth/speaker/stored"
)

// sources are the informers that a speaker reads from.
type sources struct {
	factories []informers.SharedInformerFactory // of the informers of Kubernetes' own kinds

	service   cache.SharedIndexInformer
	slice     cache.SharedIndexInformer // runs from when wanted is closed
	apiServer cache.SharedIndexInformer // the EndpointSlices of the API server
	node      clusterNodes
	secret    cache.SharedIndexInformer
	status    cache.SharedIndexInformer // this speaker's Speaker
	pool      cache.SharedIndexInformer
	segments  cache.SharedIndexInformer
	routes    cache.SharedIndexInformer
	peer      cache.SharedIndexInformer
	password  cache.SharedIndexInformer
	settings  []cache.SharedIndexInformer // pool, segments, routes and peer

	// Many clusters have no Service whose announcement depends on where its endpoints are, so
	// EndpointSlices are watched from the first one on. A node that forwards always needs them.
	forwards bool
	want     sync.Once
	wanted   chan struct{}
	filled   chan struct{} // closed when the cache of EndpointSlices is filled, unless forwards

	// daemonSet is the one that this process belongs to. The speaker works without: it need not be
	// readable, nor there.
	daemonSet     cache.SharedIndexInformer
	daemonSetKey  string
	daemonSetSeen atomic.Bool
}

// clusterNodes are the Nodes of the cluster, which nodes.Nodes implements.
type clusterNodes interface {
	Get(name string) *corev1.Node // nil: there is none
	All() []*corev1.Node
	OnChange(h nodes.Handler) (stop func())
	HasSynced() bool
	Run(ctx context.Context) error
}

// byService indexes EndpointSlices by namespace/name of their Service.
const byService = "service"

func newSources(o Options) (*sources, error) {
	keys := informers.NewSharedInformerFactoryWithOptions(
		o.Kubernetes,
		0,
		informers.WithNamespace(o.Namespace),
		informers.WithTweakListOptions(
			func(l *metav1.ListOptions) { l.FieldSelector = "metadata.name=" + v1alpha1.HelloSecret },
		),
	)
	s := &sources{
		factories: []informers.SharedInformerFactory{keys},

		secret:   keys.Core().V1().Secrets().Informer(),
		status:   client.NewInformer(ownStatus{o.Berth.Speakers, o.Node}, &v1alpha1.Speaker{}),
		pool:     client.NewInformer(o.Berth.LoadBalancerPools, &v1alpha1.LoadBalancerPool{}),
		segments: client.NewInformer(o.Berth.SegmentAnnouncements, &v1alpha1.SegmentAnnouncement{}),
		routes:   client.NewInformer(o.Berth.RouteAnnouncements, &v1alpha1.RouteAnnouncement{}),
		peer:     client.NewInformer(o.Berth.BGPNeighbors, &v1alpha1.BGPNeighbor{}),

		daemonSet: client.NewInformer(
			ownDaemonSet{o.Kubernetes.AppsV1().DaemonSets(o.Namespace), o.DaemonSet}, &appsv1.DaemonSet{},
		),
		daemonSetKey: o.Namespace + "/" + o.DaemonSet,

		forwards: o.IPVS || o.Steering,
		wanted:   make(chan struct{}),
		filled:   make(chan struct{}),
	}
	if s.forwards {
		s.endpointsKnown()
	}
	if _, err := s.daemonSet.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { s.daemonSetSeen.Store(true) },
	}); err != nil {
		return nil, fmt.Errorf("watch DaemonSet %s: %w", s.daemonSetKey, err)
	}
	var err error
	if s.password, err = client.NewPasswordInformer(o.Kubernetes, o.Namespace); err != nil {
		return nil, err
	}
	if err := s.addObjects(o); err != nil {
		return nil, err
	}
	s.settings = []cache.SharedIndexInformer{s.pool, s.segments, s.routes, s.peer}
	if err := s.daemonSet.SetTransform(slimDaemonSet); err != nil {
		return nil, fmt.Errorf("watch DaemonSet %s: %w", s.daemonSetKey, err)
	}
	return s, nil
}

// addObjects adds the informers of what there may be very many of, and of what is of the same kind.
func (s *sources) addObjects(o Options) (err error) {
	core, discovery := o.Kubernetes.CoreV1().RESTClient(), o.Kubernetes.DiscoveryV1().RESTClient()
	if s.service, err = (client.Compact[*corev1.Service]{
		Client: core, Resource: "services", New: func() *corev1.Service { return &corev1.Service{} },
		Select: func(l *metav1.ListOptions) { l.FieldSelector = "spec.type=" + string(corev1.ServiceTypeLoadBalancer) },
		Keep:   func(svc *corev1.Service) runtime.Object { return stored.NewService(svc, s.forwards) },
	}).Informer(nil); err != nil {
		return err
	}
	if s.node, err = nodes.New(nodes.Config{
		Kubernetes: o.Kubernetes, Namespace: o.Namespace, Node: o.Node, Logger: o.Logger,
	}); err != nil {
		return err
	}
	exposed := client.Compact[*discoveryv1.EndpointSlice]{
		Client: discovery, Resource: "endpointslices",
		New: func() *discoveryv1.EndpointSlice { return &discoveryv1.EndpointSlice{} },
	}
	ofAPIServer := exposed
	// Those that another proxy than kube-proxy serves count, too, under policy Local.
	exposed.Select = labeled("!" + corev1.IsHeadlessService)
	exposed.Keep = func(slice *discoveryv1.EndpointSlice) runtime.Object { return stored.NewEndpointSlice(slice) }
	if s.forwards {
		exposed.Keep = func(slice *discoveryv1.EndpointSlice) runtime.Object { return stored.NewBackends(slice) }
	}
	if s.slice, err = exposed.Informer(cache.Indexers{byService: func(o any) ([]string, error) {
		if name := serviceOf(o); name != "" {
			return []string{name}, nil
		}
		return nil, nil
	}}); err != nil {
		return err
	}
	// Its addresses are in use.
	ofAPIServer.Namespace, ofAPIServer.Select = metav1.NamespaceDefault, labeled(
		discoveryv1.LabelServiceName+"=kubernetes",
	)
	ofAPIServer.Keep = func(slice *discoveryv1.EndpointSlice) runtime.Object { return candidate.SlimBackends(slice) }
	s.apiServer, err = ofAPIServer.Informer(nil)
	return err
}

// labeled has those listed and watched that match a selector of labels.
func labeled(selector string) func(*metav1.ListOptions) {
	return func(l *metav1.ListOptions) { l.LabelSelector = selector }
}

// ownStatus is a source of the one Speaker of that name.
type ownStatus struct {
	client.Source[*v1alpha1.SpeakerList]
	name string
}

func (n ownStatus) only(o metav1.ListOptions) metav1.ListOptions {
	o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, n.name).String()
	return o
}

func (n ownStatus) List(ctx context.Context, o metav1.ListOptions) (*v1alpha1.SpeakerList, error) {
	return n.Source.List(ctx, n.only(o))
}

func (n ownStatus) Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	return n.Source.Watch(ctx, n.only(o))
}

// ownDaemonSet is a source of the one DaemonSet of that name. A watch that is open goes on when the
// rights to it are taken away, as they are early in an uninstall.
type ownDaemonSet struct {
	typedappsv1.DaemonSetInterface
	name string
}

func (n ownDaemonSet) only(o metav1.ListOptions) metav1.ListOptions {
	o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, n.name).String()
	return o
}

func (n ownDaemonSet) List(ctx context.Context, o metav1.ListOptions) (*appsv1.DaemonSetList, error) {
	return n.DaemonSetInterface.List(contact.Aside(ctx), n.only(o))
}

func (n ownDaemonSet) Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	return n.DaemonSetInterface.Watch(contact.Aside(ctx), n.only(o))
}

// daemonSetGone reports whether the DaemonSet was there, and is deleted or being deleted.
func (s *sources) daemonSetGone() bool {
	o, exists, err := s.daemonSet.GetStore().GetByKey(s.daemonSetKey)
	if set, ok := o.(*appsv1.DaemonSet); err == nil && exists && ok {
		return set.DeletionTimestamp != nil
	}
	return s.daemonSetSeen.Load()
}

// awaitDaemonSetGone is daemonSetGone, but gives the news of it until the context ends to arrive.
func (s *sources) awaitDaemonSetGone(ctx context.Context) bool {
	for !s.daemonSetGone() {
		if async.Sleep(ctx, 50*time.Millisecond) != nil {
			return false
		}
	}
	return true
}

// run fills the caches until the context ends.
func (s *sources) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, f := range s.factories {
		f.StartWithContext(ctx)
	}
	for _, i := range append(s.settings, s.status, s.password, s.daemonSet, s.service, s.apiServer) {
		group.Go(func() error { i.RunWithContext(ctx); return nil })
	}
	group.Go(func() error { return s.node.Run(ctx) })
	group.Go(func() error { s.runSlices(ctx); return nil })
	<-ctx.Done()
	for _, f := range s.factories {
		f.Shutdown()
	}
	return group.Wait()
}

// runSlices watches EndpointSlices from when they are wanted until the context ends.
func (s *sources) runSlices(ctx context.Context) {
	select {
	case <-s.wanted:
	case <-ctx.Done():
		return
	}
	var told sync.WaitGroup
	defer told.Wait()
	told.Go(func() {
		if cache.WaitForCacheSync(ctx.Done(), s.slice.HasSynced) {
			close(s.filled)
		}
	})
	s.slice.RunWithContext(ctx)
}

// fill waits until the caches are filled, that of EndpointSlices if something depends on them.
func (s *sources) fill(ctx context.Context) bool {
	if !cache.WaitForCacheSync(ctx.Done(), s.synced) {
		return false
	}
	if !s.byEndpoints() {
		return true
	}
	s.endpointsKnown()
	return cache.WaitForCacheSync(ctx.Done(), s.slice.HasSynced)
}

func (s *sources) synced() bool {
	all := []cache.SharedIndexInformer{s.service, s.apiServer, s.secret, s.status, s.password}
	for _, i := range append(all, s.settings...) {
		if !i.HasSynced() {
			return false
		}
	}
	return s.node.HasSynced()
}

// byEndpoints reports whether who announces a Service may depend on where its endpoints are.
func (s *sources) byEndpoints() bool {
	return s.forwards ||
		slices.ContainsFunc(client.Stored[*stored.Service](s.service), (*stored.Service).Local) ||
		slices.ContainsFunc(
			client.Stored[*v1alpha1.LoadBalancerPool](s.pool),
			func(p *v1alpha1.LoadBalancerPool) bool {
				return p.Spec.Dataplane == v1alpha1.DataplaneSteering
			},
		)
}

// endpointsKnown reports whether it is known where Services have endpoints. From then on it is, or
// will be.
func (s *sources) endpointsKnown() bool {
	s.want.Do(func() { close(s.wanted) })
	return s.forwards || s.slice.HasSynced() // a node that forwards waits for them when it starts
}

// objects returns the configuration of the caches.
func (s *sources) objects() config.Objects {
	return config.Objects{
		Pools:                client.Stored[*v1alpha1.LoadBalancerPool](s.pool),
		SegmentAnnouncements: client.Stored[*v1alpha1.SegmentAnnouncement](s.segments),
		RouteAnnouncements:   client.Stored[*v1alpha1.RouteAnnouncement](s.routes),
		BGPNeighbors:         client.Stored[*v1alpha1.BGPNeighbor](s.peer),
		Passwords:            client.Passwords(s.password),
	}
}

// serviceOf returns namespace/name of the Service that an EndpointSlice belongs
// to, "" if it belongs to none.
func serviceOf(o any) string {
	if tombstone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = tombstone.Obj
	}
	if slice, ok := o.(*stored.EndpointSlice); ok {
		return slice.Service()
	}
	return ""
}

// view returns what a plan needs to know of the Service, without addresses if Berth does not serve
// it: only what the controller gave is announced, by the record that one of the keys signed.
func (s *sources) view(key string, recordKeys [][]byte) plan.Service {
	o, exists, err := s.service.GetStore().GetByKey(key)
	svc, ok := o.(*stored.Service)
	if err != nil || !exists || !ok {
		return plan.Service{Name: key}
	}
	return svc.View(recordKeys)
}

// nodeUID returns the UID of a Node; false: there is none.
func (s *sources) nodeUID(name string) (types.UID, bool) {
	if node := s.node.Get(name); node != nil {
		return node.UID, true
	}
	return "", false
}

// endpoints returns where the Service has endpoints.
func (s *sources) endpoints(key string) candidate.Endpoints { return candidate.Of(s.slices(key)) }

// backends returns where connections to the Service can go.
func (s *sources) backends(key string) []plan.Backend { return object.Backends(s.slices(key)) }

// slices returns the EndpointSlices of a Service, as far as they are kept.
func (s *sources) slices(key string) []*discoveryv1.EndpointSlice {
	found, err := s.slice.GetIndexer().ByIndex(byService, key)
	if err != nil {
		return nil // there is no such index, and nobody to tell
	}
	var its []*discoveryv1.EndpointSlice
	for _, o := range found {
		if slice, ok := o.(*stored.EndpointSlice); ok {
			its = append(its, slice.Object())
		}
	}
	return its
}

// nodes returns what plans need to know of the nodes.
func (s *sources) nodes() map[string]plan.Node {
	nodes := map[string]plan.Node{}
	for _, n := range s.node.All() {
		nodes[n.Name] = plan.Node{Labels: n.Labels, Excluded: candidate.Exclusion(n)}
	}
	return nodes
}

// addresses returns the InternalIPs of all nodes.
func (s *sources) addresses() map[string][]netip.Addr {
	addresses := map[string][]netip.Addr{}
	for _, n := range s.node.All() {
		addresses[n.Name] = object.InternalIPs(n)
	}
	return addresses
}

// self returns this node's Speaker, an empty one if there is none.
func (s *sources) self(name string) *v1alpha1.Speaker {
	o, exists, err := s.status.GetStore().GetByKey(name)
	speaker, ok := o.(*v1alpha1.Speaker)
	if err != nil || !exists || !ok {
		return &v1alpha1.Speaker{}
	}
	return speaker
}

// nodeAddresses returns the InternalIPs of a node; none if there is no such node.
func (s *sources) nodeAddresses(name string) []netip.Addr {
	node := s.node.Get(name)
	if node == nil {
		return nil
	}
	return object.InternalIPs(node)
}

// awaitKubeProxy waits until kube-proxy is to forward for these addresses: until the status of no
// Service asks it to leave one of them alone.
func (s *sources) awaitKubeProxy(ctx context.Context, addresses []netip.Addr) error {
	changed := async.NewSignal()
	registration, err := s.service.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { changed.Notify() }, UpdateFunc: func(any, any) { changed.Notify() },
		DeleteFunc: func(any) { changed.Notify() },
	})
	if err != nil {
		return fmt.Errorf("watch Services: %w", err)
	}
	defer func() { _ = s.service.RemoveEventHandler(registration) }()
	for s.proxied(addresses) {
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// proxied reports whether kube-proxy still leaves one of the addresses alone.
func (s *sources) proxied(addresses []netip.Addr) bool {
	return slices.ContainsFunc(
		client.Stored[*stored.Service](s.service),
		func(svc *stored.Service) bool { return svc.Proxied(addresses) },
	)
}

// nodeReady reports whether the API calls the Node ready.
func (s *sources) nodeReady(name string) bool {
	node := s.node.Get(name)
	return node != nil && isReady(node)
}

func isReady(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// apiServers returns the EndpointSlices of the API server.
func (s *sources) apiServers() []*discoveryv1.EndpointSlice {
	return client.Stored[*discoveryv1.EndpointSlice](s.apiServer)
}
