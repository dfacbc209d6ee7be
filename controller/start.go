package controller

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/allocation"
	"github.com/berth-lb/berth/controller/announcement"
	"github.com/berth-lb/berth/controller/fair"
	"github.com/berth-lb/berth/controller/fence"
	"github.com/berth-lb/berth/controller/nodedigest"
	"github.com/berth-lb/berth/controller/pace"
	"github.com/berth-lb/berth/controller/verdict"
)

// New returns a controller that does nothing yet.
func New(o Options) (*Controller, error) {
	if o.Workers <= 0 {
		o.Workers = DefaultWorkers
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
			segments:    client.NewInformer(o.Berth.SegmentAnnouncements, &v1alpha1.SegmentAnnouncement{}),
			routes:      client.NewInformer(o.Berth.RouteAnnouncements, &v1alpha1.RouteAnnouncement{}),
			peer:        client.NewInformer(o.Berth.BGPNeighbors, &v1alpha1.BGPNeighbor{}),
			password:    password,
			reservation: client.NewInformer(o.Berth.AddressReservations(""), &v1alpha1.AddressReservation{}),
			serviceCIDR: client.NewInformer(o.Kubernetes.NetworkingV1().ServiceCIDRs(), &networkingv1.ServiceCIDR{}),
			speaker:     client.NewInformer(o.Berth.Speakers, &v1alpha1.Speaker{}),
		},
		tasks:      newQueue[task]("configuration"),
		publishing: newQueue[publication]("publications"),
		reserving:  newFairQueue("reservations", nil),
		pace:       pace.New(changesPerSecond, changesAtOnce, changesSettle),
		lag:        verdict.Lag{},
		successors: successors{},
		usage:      map[string]allocation.Usage{},
	}
	c.services = newFairQueue("services", c.newcomer)
	c.allocations = allocation.New(allocation.Config{
		Queue: queues{c}, Logger: o.Logger, Services: c.informers.services,
		Honored: o.Honored, Rest: o.Rest, Settling: settling(o.Rest),
		ReleaseOutside: o.ReleaseOutside, RetryApart: retryApart,
		ReservationsPerNamespace: o.ReservationsPerNamespace,
	})
	c.recordKey.Store(&[]byte{})
	c.snapshot.Store(&config.Snapshot{})
	c.view.Store(&announcement.View{})
	c.conflicts.Store(&map[netip.Addr]announcement.Holder{})
	if c.metrics, err = newMetrics(o.Metrics, c.scraped()); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	c.metrics.newcomers.classes = func(svc *corev1.Service) bool { return c.classes().Selects(svc) }
	c.writes.Lost = c.metrics.overwritten.Inc
	if c.digests, err = nodedigest.New(nodedigest.Config{
		Kubernetes: o.Kubernetes, Namespace: o.Namespace, Nodes: c.informers.node, Logger: o.Logger,
	}); err != nil {
		return nil, err
	}
	if o.Fence {
		c.fencer, err = fence.New(fence.Config{
			Kubernetes: o.Kubernetes, Nodes: c.informers.node, Speakers: c.informers.speaker, Services: c.informers.service,
			Serves: c.classes().Selects, Events: o.Events, Logger: o.Logger, Metrics: o.Metrics, DryRun: o.FenceDryRun,
		})
		if err != nil {
			return nil, err
		}
	}
	return c, c.watch()
}

// newQueue returns a queue whose metrics have the name.
func newQueue[T comparable](name string) workqueue.TypedRateLimitingInterface[T] {
	return workqueue.NewTypedRateLimitingQueueWithConfig(
		workqueue.NewTypedItemExponentialFailureRateLimiter[T](10*time.Millisecond, 30*time.Second),
		workqueue.TypedRateLimitingQueueConfig[T]{Name: name},
	)
}

// newFairQueue returns a queue of keys of objects whose namespaces take turns. goesFirst reports
// whether a key goes before others; nil: none does. Its metrics have the name.
func newFairQueue(name string, goesFirst func(key string) bool) workqueue.TypedRateLimitingInterface[string] {
	turns := workqueue.NewTypedWithConfig(
		workqueue.TypedQueueConfig[string]{Name: name, Queue: fair.New(namespaceOf, goesFirst)},
	)
	return workqueue.NewTypedRateLimitingQueueWithConfig(
		workqueue.NewTypedItemExponentialFailureRateLimiter[string](10*time.Millisecond, 30*time.Second),
		workqueue.TypedRateLimitingQueueConfig[string]{
			DelayingQueue: workqueue.NewTypedDelayingQueueWithConfig(
				workqueue.TypedDelayingQueueConfig[string]{Name: name, Queue: turns},
			),
		})
}

// watch makes the informers' events requeue what they concern.
func (c *Controller) watch() error {
	service := func(o any) {
		key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o)
		if err != nil {
			return
		}
		if svc, ok := o.(*corev1.Service); ok {
			// Do it at once, so that nobody else gets what it asks for by name, or has from another
			// implementation, while it is in the queue.
			whose, _ := c.judge(svc)
			c.notePins(key, whose, c.requestOf(svc, whose))
			c.noteOthers(key, whose, svc)
		}
		c.services.Add(key)
	}
	reservation := func(o any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o); err == nil {
			c.reserving.Add(key)
		}
		// The Service that the reservation names asks for its address.
		if r, ok := o.(*v1alpha1.AddressReservation); ok && r.Spec.ServiceName != "" {
			c.services.Add(r.Namespace + "/" + r.Spec.ServiceName)
		}
	}
	to := func(t task) func(any) { return func(any) { c.tasks.Add(t) } }
	review := func(any) { c.tasks.AddAfter(reviewNodes, reviewsApart) }
	rekey := func(any) { c.publishing.Add(ensureKey) }
	handlers := []struct {
		informer cache.SharedIndexInformer
		handle   func(any)
		// matters reports whether an update is more than the controller's own write of a status.
		matters func(before, after metav1.Object) bool
	}{
		{c.informers.service, service, always},
		{c.informers.namespace, c.enqueueNamespace, relabeled},
		{c.informers.reservation, reservation, respecified},
		{c.informers.secret, rekey, always},
		{c.informers.node, to(reviewUsed), addressed},
		{c.informers.serviceCIDR, to(reviewUsed), always},
		{c.informers.slice, c.watchAPIServer, always},
		{c.informers.node, review, nodeMatters},
		{c.informers.speaker, review, always},
		{c.informers.speaker, to(reviewUsed), renetworked},
		{c.informers.speaker, rekey, rekeyed},
		{c.informers.pool, to(compileAll), config.Differ},
		{c.informers.segments, to(compileAll), config.Differ},
		{c.informers.routes, to(compileAll), config.Differ},
		{c.informers.peer, to(compileAll), config.Differ},
		{c.informers.password, to(compileAll), always},
	}
	for _, h := range handlers {
		handle := c.ifLeading(h.handle)
		if _, err := h.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: handle,
			UpdateFunc: func(before, after any) {
				b, okB := before.(metav1.Object)
				a, okA := after.(metav1.Object)
				if okA && okB && h.matters(b, a) {
					handle(after)
				}
			},
			DeleteFunc: handle,
		}); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
	}
	if _, err := c.informers.service.AddEventHandler(c.metrics.newcomers); err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	if err := c.watchAnnouncing(); err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	return c.slim()
}

// slim makes the caches keep only what the controller reads, and index it.
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

// The functions below say which updates of an object matter.

func always(_, _ metav1.Object) bool { return true }

// nodeMatters reports whether a Node changed in what selects nodes, or in its readiness.
func nodeMatters(before, after metav1.Object) bool {
	b, okB := before.(*corev1.Node)
	a, okA := after.(*corev1.Node)
	return okA && okB && (!candidate.Same(b, a) || candidate.ReadyStatus(b) != candidate.ReadyStatus(a))
}

// renetworked reports whether a speaker reports other addresses in use.
func renetworked(before, after metav1.Object) bool {
	b, okB := before.(*v1alpha1.Speaker)
	a, okA := after.(*v1alpha1.Speaker)
	sameSubnets := func(x, y v1alpha1.SegmentReport) bool { return slices.Equal(x.Subnets, y.Subnets) }
	return okA && okB && !(slices.Equal(b.Status.Addresses, a.Status.Addresses) &&
		slices.Equal(b.Status.Gateways, a.Status.Gateways) &&
		slices.EqualFunc(b.Status.Segments, a.Status.Segments, sameSubnets))
}

// addressed reports whether a Node changed in its addresses or in those of its pods.
func addressed(before, after metav1.Object) bool {
	b, okB := before.(*corev1.Node)
	a, okA := after.(*corev1.Node)
	return okA && okB && !(slices.Equal(b.Status.Addresses, a.Status.Addresses) &&
		slices.Equal(b.Spec.PodCIDRs, a.Spec.PodCIDRs))
}

func respecified(before, after metav1.Object) bool {
	return before.GetGeneration() != after.GetGeneration() || before.GetUID() != after.GetUID()
}
