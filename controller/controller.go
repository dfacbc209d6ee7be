// Package controller gives addresses to Services of type LoadBalancer, and tells
// on every object what is wrong with it. It is the only writer of Services and of
// the conditions of configuration objects.
package controller

import (
	"cmp"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/allocation"
	"github.com/berth-lb/berth/controller/announcement"
	"github.com/berth-lb/berth/controller/service"
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
	tasks     workqueue.TypedRateLimitingInterface[task]
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
	recordKey     atomic.Pointer[[]byte] // signs what Services were given
	writes        service.Writes
	allocations   *allocation.Allocations
	// serviceCIDRs tells whether the API server has such objects; nil: that is not known yet.
	serviceCIDRs atomic.Pointer[bool]
}

// task is a key of the queue of configuration work.
type task string

const (
	compileAll       task = "compile"  // an object of the configuration changed
	publishUsage     task = "usage"    // addresses were given or freed
	reviewNodes      task = "nodes"    // a node or its speaker changed
	publishSessions  task = "sessions" // likewise, a moment ago
	ensureKey        task = "key"      // the Secret of the hello key changed
	reviewUsed       task = "used"     // something changed that tells which addresses are in use
	wakeResting      task = "resting"  // freed addresses may have rested long enough
	usageInterval         = 500 * time.Millisecond
	sessionsInterval      = time.Second
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

// queues are the queues of a Controller, as its allocations know them.
type queues struct{ c *Controller }

func (q queues) Service(key string)            { q.c.services.Add(key) }
func (q queues) Reservation(key string)        { q.c.reserving.Add(key) }
func (q queues) UsageChanged()                 { q.c.tasks.AddAfter(publishUsage, usageInterval) }
func (q queues) WakeAfter(after time.Duration) { q.c.tasks.AddAfter(wakeResting, after) }

func namespaceOf(key string) string {
	namespace, _, _ := strings.Cut(key, "/")
	return namespace
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
	return cmp.Or(
		a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace),
		cmp.Compare(a.Name, b.Name),
	)
}

// successors are the speakers that have ended to be replaced, by node, and when that was seen.
type successors map[string]time.Time

// successorWithin is for how long the next process of a speaker is expected: an image may have to be pulled.
const successorWithin = 2 * time.Minute

// expected takes in what the speaker of a node says, and returns for how long the next one is expected still. Zero: it is not, since
// the speaker has not ended, or has ended for good, or its time is over.
func (s successors) expected(node string, r v1alpha1.SpeakerStatus, now time.Time) time.Duration {
	if state, _ := r.State(); state != v1alpha1.SpeakerReplaced || !r.IPVS.Asked() {
		delete(s, node)
		return 0
	}
	if _, known := s[node]; !known {
		s[node] = now
	}
	return max(0, s[node].Add(successorWithin).Sub(now))
}
