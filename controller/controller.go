// Package controller gives addresses to Services of type LoadBalancer, and tells
// on every object what is wrong with it. It is the only writer of Services and of
// the conditions of configuration objects.
package controller

import (
	"cmp"
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

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/inuse"
	"github.com/berth-lb/berth/config/record"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/announcement"
	"github.com/berth-lb/berth/controller/fair"
	"github.com/berth-lb/berth/controller/service"
	"github.com/berth-lb/berth/ipam"
)

// Options of a Controller.
type Options struct {
	Kubernetes kubernetes.Interface
	Berth      *client.Interface
	Events     events.EventRecorder
	Logger     *slog.Logger
	Metrics    prometheus.Registerer
	// Namespace of Berth's own objects.
	Namespace string
	// Classes of Services that are served. Empty: v1alpha1.LoadBalancerClass.
	Classes []string
	// Classless: serve Services without a loadBalancerClass too, unless another implementation does.
	Classless bool
	// Rest is for how long a freed address is given to nobody but the Service that had it. 0: not at all.
	Rest time.Duration
	// ServiceCIDRs and PodCIDRs are ranges that no Service of type LoadBalancer may have an address of, beside those that
	// the API server and the Nodes tell.
	ServiceCIDRs, PodCIDRs []netip.Prefix
	// ReservationsPerNamespace is how many AddressReservations of a namespace are in effect at most. 0: 64.
	ReservationsPerNamespace int
	// ReleaseOutside: addresses that are in no pool any more are taken away at once.
	// Otherwise they stay in service until a pool covers them or the annotation
	// berth.dev/release names them.
	ReleaseOutside bool
	// Workers reconciling Services, at least 1. Default 4.
	Workers int
}

// Controller is the controller. Make one with New.
type Controller struct {
	Options
	informers sources
	services  workqueue.TypedRateLimitingInterface[string]
	settings  workqueue.TypedRateLimitingInterface[setting]
	reserving workqueue.TypedRateLimitingInterface[string] // AddressReservations
	metrics   *metrics

	led        atomic.Bool
	snapshot   atomic.Pointer[config.Snapshot]
	nodes      atomic.Pointer[map[string]announcement.Node]
	successors successors // of reviewNodes alone
	// conflicts are the addresses that foreign hosts announce.
	conflicts atomic.Pointer[map[netip.Addr]announcement.Holder]
	// sessionErrors are why sessions are not established.
	sessionErrors atomic.Pointer[announcement.SessionErrors]
	used          atomic.Pointer[inuse.Set] // addresses that somebody else has
	recordKey     atomic.Pointer[[]byte]    // signs what Services were given
	contested     service.Contests
	// serviceCIDRs tells whether the API server has such objects; nil: that is not known yet.
	serviceCIDRs atomic.Pointer[bool]

	mu           sync.Mutex // guards what follows; never held across I/O
	allocator    *ipam.Allocator
	waiting      map[string]bool          // Services without all they ask for
	outside      map[string]bool          // Services with addresses in no pool
	reservations map[string]reservation   // in effect, by namespace/name
	reservedBy   map[string]int           // how many are in effect, by namespace
	unkept       map[string]bool          // AddressReservations that are not in effect
	superseded   map[string]string        // resourceVersion that we wrote over last, by Service
	given        map[string]record.Record // what Services were given, and for which request
	left         map[string]types.UID     // Services of others that were told of it
	chances      int                      // times that something was freed
}

// setting is a key of the queue of configuration work.
type setting string

const (
	compileAll       setting = "compile"  // an object of the configuration changed
	publishUsage     setting = "usage"    // addresses were given or freed
	reviewNodes      setting = "nodes"    // a node or its speaker changed
	publishSessions  setting = "sessions" // likewise, a moment ago
	ensureKey        setting = "key"      // the Secret of the hello key changed
	reviewUsed       setting = "used"     // something changed that tells which addresses are in use
	wakeResting      setting = "resting"  // freed addresses may have rested long enough
	usageInterval            = 500 * time.Millisecond
	sessionsInterval         = time.Second
)

// sources are the informers that the controller reads from.
type sources struct {
	factory     informers.SharedInformerFactory
	namespace   cache.SharedIndexInformer
	service     cache.SharedIndexInformer
	services    corelisters.ServiceLister
	node        cache.SharedIndexInformer
	slice       cache.SharedIndexInformer
	secret      cache.SharedIndexInformer // of the hello key
	ownFactory  informers.SharedInformerFactory
	pool        cache.SharedIndexInformer
	l2          cache.SharedIndexInformer
	bgp         cache.SharedIndexInformer
	peer        cache.SharedIndexInformer
	password    cache.SharedIndexInformer
	speaker     cache.SharedIndexInformer
	reservation cache.SharedIndexInformer
	serviceCIDR cache.SharedIndexInformer // not every API server has them
}

func (s *sources) own() []cache.SharedIndexInformer {
	return []cache.SharedIndexInformer{s.pool, s.l2, s.bgp, s.peer, s.password, s.speaker, s.reservation}
}

// New returns a controller that does nothing yet.
func New(o Options) (*Controller, error) {
	if o.Workers <= 0 {
		o.Workers = 4
	}
	if len(o.Classes) == 0 {
		o.Classes = []string{v1alpha1.LoadBalancerClass}
	}
	if o.ReservationsPerNamespace <= 0 {
		o.ReservationsPerNamespace = 64
	}
	factory := informers.NewSharedInformerFactory(o.Kubernetes, 0)
	own := informers.NewSharedInformerFactoryWithOptions(o.Kubernetes, 0, informers.WithNamespace(o.Namespace),
		informers.WithTweakListOptions(func(l *metav1.ListOptions) {
			l.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, v1alpha1.HelloSecret).String()
		}))
	password, err := client.NewPasswordInformer(o.Kubernetes, o.Namespace)
	if err != nil {
		return nil, err
	}
	c := &Controller{
		Options: o,
		informers: sources{
			factory:     factory,
			namespace:   factory.Core().V1().Namespaces().Informer(),
			service:     factory.Core().V1().Services().Informer(),
			services:    factory.Core().V1().Services().Lister(),
			node:        factory.Core().V1().Nodes().Informer(),
			slice:       factory.Discovery().V1().EndpointSlices().Informer(),
			secret:      own.Core().V1().Secrets().Informer(),
			ownFactory:  own,
			pool:        client.NewInformer(o.Berth.LoadBalancerPools, &v1alpha1.LoadBalancerPool{}),
			l2:          client.NewInformer(o.Berth.SegmentAnnouncements, &v1alpha1.SegmentAnnouncement{}),
			bgp:         client.NewInformer(o.Berth.RouteAnnouncements, &v1alpha1.RouteAnnouncement{}),
			peer:        client.NewInformer(o.Berth.BGPNeighbors, &v1alpha1.BGPNeighbor{}),
			password:    password,
			reservation: client.NewInformer(o.Berth.AddressReservations(""), &v1alpha1.AddressReservation{}),
			serviceCIDR: client.NewInformer(o.Kubernetes.NetworkingV1().ServiceCIDRs(), &networkingv1.ServiceCIDR{}),
			speaker:     client.NewInformer(o.Berth.Speakers, &v1alpha1.Speaker{}),
		},
		services:     newFairQueue(),
		settings:     newQueue[setting](),
		reserving:    newFairQueue(),
		allocator:    ipam.New(),
		successors:   successors{},
		waiting:      map[string]bool{},
		outside:      map[string]bool{},
		reservations: map[string]reservation{},
		reservedBy:   map[string]int{},
		unkept:       map[string]bool{},
		superseded:   map[string]string{},
		given:        map[string]record.Record{},
		left:         map[string]types.UID{},
	}
	c.used.Store(inuse.Compile(inuse.Sources{}))
	c.recordKey.Store(&[]byte{})
	c.snapshot.Store(&config.Snapshot{})
	c.nodes.Store(&map[string]announcement.Node{})
	c.conflicts.Store(&map[netip.Addr]announcement.Holder{})
	c.sessionErrors.Store(&announcement.SessionErrors{})
	if c.metrics, err = newMetrics(o.Metrics, c.countOutside); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	c.contested.Lost = c.metrics.overwritten.Inc
	return c, c.watch()
}

// countOutside counts the Services with addresses in no pool.
func (c *Controller) countOutside() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return float64(len(c.outside))
}

func newQueue[T comparable]() workqueue.TypedRateLimitingInterface[T] {
	return workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[T](10*time.Millisecond, 30*time.Second))
}

// newFairQueue returns a queue of objects' keys whose namespaces take turns.
func newFairQueue() workqueue.TypedRateLimitingInterface[string] {
	turns := workqueue.NewTypedWithConfig(workqueue.TypedQueueConfig[string]{Queue: fair.New(namespaceOf)})
	return workqueue.NewTypedRateLimitingQueueWithConfig(
		workqueue.NewTypedItemExponentialFailureRateLimiter[string](10*time.Millisecond, 30*time.Second),
		workqueue.TypedRateLimitingQueueConfig[string]{
			DelayingQueue: workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[string]{Queue: turns}),
		})
}

func namespaceOf(key string) string {
	namespace, _, _ := strings.Cut(key, "/")
	return namespace
}

// watch turns what the informers see into keys of the two queues.
func (c *Controller) watch() error {
	service := func(o any) {
		key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o)
		if err != nil {
			return
		}
		if svc, ok := o.(*corev1.Service); ok && c.led.Load() {
			// At once, so that nobody takes what it asks for by name while it waits for its turn.
			whose, _ := c.judge(key, svc)
			c.notePins(key, svc, whose)
		}
		c.services.Add(key)
	}
	reservation := func(o any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o); err == nil {
			c.reserving.Add(key)
		}
		// The Service that it names asks for its address by it.
		if r, ok := o.(*v1alpha1.AddressReservation); ok && r.Spec.ServiceName != "" {
			c.services.Add(r.Namespace + "/" + r.Spec.ServiceName)
		}
	}
	to := func(s setting) func(any) { return func(any) { c.settings.Add(s) } }
	handlers := []struct {
		informer cache.SharedIndexInformer
		handle   func(any)
		// matters tells whether an update is more than our own writing of a status.
		matters func(before, after metav1.Object) bool
	}{
		{c.informers.service, service, always},
		{c.informers.namespace, c.enqueueNamespace, relabelled},
		{c.informers.reservation, reservation, respecified},
		{c.informers.secret, to(ensureKey), always},
		{c.informers.node, to(reviewUsed), addressed},
		{c.informers.serviceCIDR, to(reviewUsed), always},
		{c.informers.slice, c.watchAPIServer, always},
		{c.informers.node, to(reviewNodes), nodeMatters},
		{c.informers.speaker, to(reviewNodes), always},
		{c.informers.speaker, to(reviewUsed), renetworked},
		{c.informers.speaker, to(ensureKey), rekeyed},
		{c.informers.pool, to(compileAll), config.Differ},
		{c.informers.l2, to(compileAll), config.Differ},
		{c.informers.bgp, to(compileAll), config.Differ},
		{c.informers.peer, to(compileAll), config.Differ},
		{c.informers.password, to(compileAll), always},
	}
	for _, h := range handlers {
		if _, err := h.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: h.handle,
			UpdateFunc: func(before, after any) {
				b, okB := before.(metav1.Object)
				a, okA := after.(metav1.Object)
				if okA && okB && h.matters(b, a) {
					h.handle(after)
				}
			},
			DeleteFunc: h.handle,
		}); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
	}
	if err := c.watchAnnouncing(); err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	return c.slim()
}

// slim has the caches keep no more than the controller reads, and find it.
func (c *Controller) slim() error {
	return errors.Join(
		c.informers.slice.AddIndexers(cache.Indexers{byService: serviceOf}),
		c.informers.node.SetTransform(func(o any) (any, error) {
			if n, ok := o.(*corev1.Node); ok {
				return candidate.SlimNode(n), nil
			}
			return o, nil
		}),
		c.informers.slice.SetTransform(func(o any) (any, error) {
			s, ok := o.(*discoveryv1.EndpointSlice)
			switch {
			case ok && candidate.ServiceOf(s) == apiServer:
				return candidate.SlimBackends(s), nil // its addresses are in use
			case ok:
				return candidate.SlimSlice(s, false), nil
			}
			return o, nil
		}),
	)
}

func always(_, _ metav1.Object) bool { return true }

func relabelled(before, after metav1.Object) bool {
	return !maps.Equal(before.GetLabels(), after.GetLabels())
}

// nodeMatters tells whether a Node changed in what chooses among nodes, or in its
// readiness.
func nodeMatters(before, after metav1.Object) bool {
	b, okB := before.(*corev1.Node)
	a, okA := after.(*corev1.Node)
	return okA && okB && (!candidate.Same(b, a) || readyStatus(b) != readyStatus(a))
}

// readyStatus returns the status of the Node's condition Ready.
func readyStatus(n *corev1.Node) corev1.ConditionStatus {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return corev1.ConditionUnknown
}

// renetworked reports whether a speaker tells of other addresses in use.
func renetworked(before, after metav1.Object) bool {
	b, okB := before.(*v1alpha1.Speaker)
	a, okA := after.(*v1alpha1.Speaker)
	return okA && okB && !(slices.Equal(b.Status.Addresses, a.Status.Addresses) && slices.Equal(b.Status.Gateways, a.Status.Gateways) &&
		slices.EqualFunc(b.Status.Segments, a.Status.Segments, func(x, y v1alpha1.SegmentReport) bool { return slices.Equal(x.Subnets, y.Subnets) }))
}

// addressed reports whether a Node changed in its addresses or in those of its pods.
func addressed(before, after metav1.Object) bool {
	b, okB := before.(*corev1.Node)
	a, okA := after.(*corev1.Node)
	return okA && okB && !(slices.Equal(b.Status.Addresses, a.Status.Addresses) && slices.Equal(b.Spec.PodCIDRs, a.Spec.PodCIDRs))
}

func respecified(before, after metav1.Object) bool {
	return before.GetGeneration() != after.GetGeneration() || before.GetUID() != after.GetUID()
}

// Watch fills the caches until the context ends, so that a standby is warm.
func (c *Controller) Watch(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.watchServiceCIDRs(ctx) })
	c.informers.factory.StartWithContext(ctx)
	c.informers.ownFactory.StartWithContext(ctx)
	for _, i := range c.informers.own() {
		group.Go(func() error { i.RunWithContext(ctx); return nil })
	}
	<-ctx.Done()
	c.informers.factory.Shutdown()
	c.informers.ownFactory.Shutdown()
	return group.Wait()
}

// Synced tells whether the caches hold everything.
func (c *Controller) Synced() bool {
	for _, i := range append(c.informers.own(), c.informers.service, c.informers.namespace, c.informers.node, c.informers.slice, c.informers.secret) {
		if !i.HasSynced() {
			return false
		}
	}
	return c.knowsServiceCIDRs()
}

// Lead does the work of the leader until the context ends. Watch must be running.
func (c *Controller) Lead(ctx context.Context) error { return c.lead(ctx, c.reconcile) }

var errLed = errors.New("a Controller leads once, by its own reconcilers or as a cloud provider")

// lead does the work of the leader with this way of reconciling Services, and what
// goes with it, until the context ends.
func (c *Controller) lead(ctx context.Context, reconcile func(context.Context, string) error, beside ...func(context.Context) error) error {
	if !c.led.CompareAndSwap(false, true) {
		return errLed
	}
	if !cache.WaitForCacheSync(ctx.Done(), c.Synced) {
		return ctx.Err()
	}
	if err := c.ensureHelloKey(ctx); err != nil {
		return err
	}
	c.compile()
	c.reviewNodes()
	if err := c.rebuild(ctx); err != nil {
		return err
	}
	c.reviewUsed() // afterwards: what is bound to an interface may be bound since a Service has it
	c.reserveKnown()
	c.restoreResting(time.Now())
	c.settings.Add(compileAll)
	c.enqueueAll()

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { work(ctx, c.settings, c.configure, retried[setting](c, "configuration")); return nil })
	group.Go(func() error {
		work(ctx, c.reserving, c.reconcileReservation, retried[string](c, "reservation"))
		return nil
	})
	for range c.Workers {
		group.Go(func() error { work(ctx, c.services, reconcile, retried[string](c, "service")); return nil })
	}
	for _, run := range beside {
		group.Go(func() error { return run(ctx) })
	}
	c.Logger.Info("leading", "services", len(c.informers.service.GetStore().ListKeys()))
	<-ctx.Done()
	c.services.ShutDown()
	c.settings.ShutDown()
	c.reserving.ShutDown()
	return group.Wait()
}

// work takes keys from the queue until it is shut down. A key whose work failed
// comes back with a growing delay.
func work[T comparable](ctx context.Context, queue workqueue.TypedRateLimitingInterface[T], do func(context.Context, T) error, failed func(T, error)) {
	for {
		key, down := queue.Get()
		if down {
			return
		}
		if err := do(ctx, key); err != nil {
			failed(key, err)
			queue.AddRateLimited(key)
		} else {
			queue.Forget(key)
		}
		queue.Done(key)
	}
}

// retried returns what to do about work that failed.
func retried[T comparable](c *Controller, what string) func(T, error) {
	return func(key T, err error) {
		if conflict(err) || errors.Is(err, context.Canceled) {
			return // the cache is a moment behind, or we are ending
		}
		c.metrics.failures.Inc()
		c.Logger.Warn("will be tried again", what, key, "error", err)
	}
}

// enqueueNamespace has the Services of a namespace looked at again.
func (c *Controller) enqueueNamespace(o any) {
	name, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o)
	if err != nil {
		return
	}
	list, err := c.informers.services.Services(name).List(labels.Everything())
	if err != nil {
		return
	}
	for _, svc := range list {
		c.services.Add(svc.Namespace + "/" + svc.Name)
	}
}

// enqueueAll has every Service and every reservation looked at again: those first that have an address, then those that
// ask for one by name, then the rest; the older first.
func (c *Controller) enqueueAll() {
	for _, key := range c.informers.reservation.GetStore().ListKeys() {
		c.reserving.Add(key)
	}
	all := client.Stored[*corev1.Service](c.informers.service)
	rank := func(svc *corev1.Service) int {
		switch {
		case len(svc.Status.LoadBalancer.Ingress) > 0:
			return 0
		case svc.Spec.LoadBalancerIP != "" || svc.Annotations[v1alpha1.AnnotationAddresses] != "":
			return 1
		}
		return 2
	}
	slices.SortFunc(all, func(a, b *corev1.Service) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), older(a, b))
	})
	for _, svc := range all {
		c.services.Add(svc.Namespace + "/" + svc.Name)
	}
}

// older orders Services by age, then by name.
func older(a, b *corev1.Service) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
