package speaker

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	typedappsv1 "k8s.io/client-go/kubernetes/typed/apps/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/record"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/speaker/contact"
	"github.com/berth-lb/berth/speaker/object"
	"github.com/berth-lb/berth/speaker/plan"
)

// sources are the informers that a speaker reads from.
type sources struct {
	factories []informers.SharedInformerFactory // of the informers of Kubernetes' own kinds

	service  cache.SharedIndexInformer
	slice    cache.SharedIndexInformer
	node     cache.SharedIndexInformer
	secret   cache.SharedIndexInformer
	status   cache.SharedIndexInformer // this speaker's Speaker
	pool     cache.SharedIndexInformer
	segments cache.SharedIndexInformer
	routes   cache.SharedIndexInformer
	peer     cache.SharedIndexInformer
	password cache.SharedIndexInformer
	settings []cache.SharedIndexInformer // pool, segments, routes and peer

	// daemonSet is the one that this process belongs to. The speaker works without: it need not be
	// readable, nor there.
	daemonSet     cache.SharedIndexInformer
	daemonSetKey  string
	daemonSetSeen atomic.Bool
}

// byService indexes EndpointSlices by namespace/name of their Service.
const byService = "service"

func newSources(o Options) (*sources, error) {
	services := selecting(o, "spec.type="+string(corev1.ServiceTypeLoadBalancer), "")
	exposed := selecting(o, "", "!"+corev1.IsHeadlessService)
	nodes := selecting(o, "", "")
	keys := selecting(o, "metadata.name="+v1alpha1.HelloSecret, "", informers.WithNamespace(o.Namespace))
	s := &sources{
		factories: []informers.SharedInformerFactory{services, exposed, nodes, keys},

		service:  services.Core().V1().Services().Informer(),
		slice:    exposed.Discovery().V1().EndpointSlices().Informer(),
		node:     nodes.Core().V1().Nodes().Informer(),
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
	s.settings = []cache.SharedIndexInformer{s.pool, s.segments, s.routes, s.peer}
	if err := s.slice.AddIndexers(cache.Indexers{byService: func(o any) ([]string, error) {
		if name := serviceOf(o); name != "" {
			return []string{name}, nil
		}
		return nil, nil
	}}); err != nil {
		return nil, fmt.Errorf("index EndpointSlices: %w", err)
	}
	ofServices, ofSlices := slimService, slimSlice
	if o.IPVS || o.Steering {
		ofServices, ofSlices = slimForwarded, slimBackends
	}
	for informer, slim := range map[cache.SharedIndexInformer]cache.TransformFunc{
		s.service: ofServices, s.slice: ofSlices, s.node: slimNode, s.daemonSet: slimDaemonSet,
	} {
		if err := informer.SetTransform(slim); err != nil {
			return nil, fmt.Errorf("watch: %w", err)
		}
	}
	return s, nil
}

// selecting returns a factory of informers of the objects that match these selectors: what a
// speaker has no use for costs the API server, the network and each speaker as much as what it has.
func selecting(
	o Options,
	fields, labels string,
	more ...informers.SharedInformerOption,
) informers.SharedInformerFactory {
	return informers.NewSharedInformerFactoryWithOptions(o.Kubernetes, 0, append(
		more,
		informers.WithTweakListOptions(
			func(l *metav1.ListOptions) { l.FieldSelector, l.LabelSelector = fields, labels },
		),
	)...)
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
	for _, i := range append(s.settings, s.status, s.password, s.daemonSet) {
		group.Go(func() error { i.RunWithContext(ctx); return nil })
	}
	<-ctx.Done()
	for _, f := range s.factories {
		f.Shutdown()
	}
	return group.Wait()
}

func (s *sources) synced() bool {
	all := []cache.SharedIndexInformer{s.service, s.slice, s.node, s.secret, s.status, s.password}
	for _, i := range append(all, s.settings...) {
		if !i.HasSynced() {
			return false
		}
	}
	return true
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
	if slice, ok := o.(*discoveryv1.EndpointSlice); ok {
		return candidate.ServiceOf(slice)
	}
	return ""
}

// view returns what a plan needs to know of the Service, without addresses if Berth does not serve
// it: only what the controller gave is announced, by the record that one of the keys signed.
func (s *sources) view(key string, recordKeys [][]byte) plan.Service {
	view := plan.Service{Name: key}
	o, exists, err := s.service.GetStore().GetByKey(key)
	svc, ok := o.(*corev1.Service)
	if err != nil || !exists || !ok || svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return view
	}
	view = object.Service(svc, givenTo(svc, recordKeys))
	_, view.Bound = svc.Annotations[annotationBound]
	return view
}

// givenTo returns the addresses that the controller gave the Service.
func givenTo(svc *corev1.Service, recordKeys [][]byte) []netip.Addr {
	for _, key := range recordKeys {
		if given, err := record.Of(svc, key); err == nil {
			return given.Addresses
		}
	}
	return nil
}

// nodeUID returns the UID of a Node; false: there is none.
func (s *sources) nodeUID(name string) (types.UID, bool) {
	if node := s.nodeObject(name); node != nil {
		return node.UID, true
	}
	return "", false
}

// endpoints returns where the Service has endpoints.
func (s *sources) endpoints(key string) candidate.Endpoints {
	slices, err := s.slice.GetIndexer().ByIndex(byService, key)
	if err != nil {
		slices = nil // there is no such index, and nobody to tell
	}
	return candidate.Of(slices)
}

// backends returns where connections to the Service can go.
func (s *sources) backends(key string) []plan.Backend {
	found, err := s.slice.GetIndexer().ByIndex(byService, key)
	if err != nil {
		return nil
	}
	var endpointSlices []*discoveryv1.EndpointSlice
	for _, o := range found {
		if slice, ok := o.(*discoveryv1.EndpointSlice); ok {
			endpointSlices = append(endpointSlices, slice)
		}
	}
	return object.Backends(endpointSlices)
}

// nodes returns what plans need to know of the nodes.
func (s *sources) nodes() map[string]plan.Node {
	nodes := map[string]plan.Node{}
	for _, n := range client.Stored[*corev1.Node](s.node) {
		nodes[n.Name] = plan.Node{Labels: n.Labels, Excluded: candidate.Exclusion(n)}
	}
	return nodes
}

// addresses returns the InternalIPs of all nodes.
func (s *sources) addresses() map[string][]netip.Addr {
	addresses := map[string][]netip.Addr{}
	for _, n := range client.Stored[*corev1.Node](s.node) {
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

// nodeObject returns the Node of that name, or nil.
func (s *sources) nodeObject(name string) *corev1.Node {
	o, exists, err := s.node.GetStore().GetByKey(name)
	node, ok := o.(*corev1.Node)
	if err != nil || !exists || !ok {
		return nil
	}
	return node
}

// nodeAddresses returns the InternalIPs of a node; none if there is no such node.
func (s *sources) nodeAddresses(name string) []netip.Addr {
	node := s.nodeObject(name)
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
	return slices.ContainsFunc(s.service.GetStore().List(), func(o any) bool {
		svc, ok := o.(*corev1.Service)
		return ok && slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(i corev1.LoadBalancerIngress) bool {
			a, err := netip.ParseAddr(i.IP)
			return err == nil && object.Proxied(i) && slices.Contains(addresses, a)
		})
	})
}

// nodeReady reports whether the API calls the Node ready.
func (s *sources) nodeReady(name string) bool {
	node := s.nodeObject(name)
	return node != nil && isReady(node)
}

func isReady(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// apiServer returns the EndpointSlices of the API server.
func (s *sources) apiServer() []*discoveryv1.EndpointSlice {
	found, err := s.slice.GetIndexer().ByIndex(byService, apiServerService)
	if err != nil {
		return nil // there is no such index, and nobody to tell
	}
	var slices []*discoveryv1.EndpointSlice
	for _, o := range found {
		if slice, ok := o.(*discoveryv1.EndpointSlice); ok {
			slices = append(slices, slice)
		}
	}
	return slices
}
