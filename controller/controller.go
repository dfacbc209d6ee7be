package controller

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/dialect"
	"github.com/berth-lb/berth/config/retain"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/allocation"
	"github.com/berth-lb/berth/controller/announcement"
	"github.com/berth-lb/berth/controller/fence"
	"github.com/berth-lb/berth/controller/nodedigest"
	"github.com/berth-lb/berth/controller/pace"
	"github.com/berth-lb/berth/controller/service"
	"github.com/berth-lb/berth/controller/verdict"
)

// DefaultWorkers is how many goroutines reconcile Services. Mostly they wait for the API server:
// four write no more than two statuses a second if it takes two seconds for each.
const DefaultWorkers = 16

// Options of a Controller.
type Options struct {
	Kubernetes kubernetes.Interface
	Berth      *client.Interface
	Events     events.EventRecorder
	Logger     *slog.Logger
	Metrics    prometheus.Registerer
	// Namespace is that of Berth's own objects.
	Namespace string
	// Classes are the classes of Services that are served. Empty: v1alpha1.LoadBalancerClass.
	Classes []string
	// Classless says to serve Services without a loadBalancerClass as well, unless another
	// implementation serves them.
	Classless bool
	// Rest is how long a freed address is given only to the Service that had it. Zero: it is not.
	Rest time.Duration
	// ServiceCIDRs and PodCIDRs are ranges whose addresses are not given to Services of type
	// LoadBalancer, in addition to those that the API server and the Nodes report.
	ServiceCIDRs, PodCIDRs []netip.Prefix
	// ReservationsPerNamespace is how many AddressReservations of a namespace take effect at most. 0:
	// 64.
	ReservationsPerNamespace int
	// ReleaseOutside takes away addresses at once that are no longer in a pool. Otherwise they stay in
	// service until a pool covers them or the annotation berth.dev/release names them.
	ReleaseOutside bool
	// Honored are the load balancers whose annotations on Services count beside Berth's own, while a
	// cluster changes over.
	Honored dialect.Honored
	// Fence has the pods of dead nodes taken out of Services; FenceDryRun has it only said.
	Fence, FenceDryRun bool
	// MetricsPerService adds metrics with one series for each Service.
	MetricsPerService bool
	// Workers is how many goroutines reconcile Services, at least 1. Default: DefaultWorkers.
	Workers int
}

// Controller is the controller. New makes one.
type Controller struct {
	Options
	informers  sources
	services   workqueue.TypedRateLimitingInterface[string]
	tasks      workqueue.TypedRateLimitingInterface[task]
	publishing workqueue.TypedRateLimitingInterface[publication]
	reserving  workqueue.TypedRateLimitingInterface[string] // AddressReservations
	pace       *pace.Pacer                                  // of writes that only tell Services of changed conditions
	lag        verdict.Lag                                  // of the status of BGPNeighbors; of publish
	metrics    *metrics
	digests    *nodedigest.Publisher
	fencer     *fence.Fencer // nil: nobody fences dead nodes

	led        atomic.Bool
	leads      time.Time // since when; set before the work begins
	snapshot   atomic.Pointer[config.Snapshot]
	view       atomic.Pointer[announcement.View]
	successors successors // used by reviewNodes only
	// conflicts are the addresses that hosts outside Berth announce.
	conflicts   atomic.Pointer[map[netip.Addr]announcement.Holder]
	recordKey   atomic.Pointer[[]byte] // signs the records of what Services were given
	writes      service.Writes
	awaited     announcement.Awaited
	allocations *allocation.Allocations
	usageDue    atomic.Bool // it changed since it was published
	usagePause  pace.Pause
	usage       map[string]allocation.Usage // that was published last, by pool; of publish
	// serviceCIDRs reports whether the API server has ServiceCIDRs; nil: not known yet.
	serviceCIDRs atomic.Pointer[bool]

	served   retain.Served            // set before the work begins
	retained retain.Configuration     // what is in effect; of compile
	compiled atomic.Pointer[compiled] // of compile, which stores it before anybody publishes
	gone     []string                 // the resources that it is kept of although their kinds are gone; of compile
	missing  retain.Missing           // AddressReservations; of reconcileReservation
}

// compiled is the configuration as it was compiled, and what is wrong with it.
type compiled struct {
	snapshot    *config.Snapshot
	problems    map[config.Key][]config.Problem
	generations map[config.Key]int64
}

// problemsOf returns what is wrong with an object, and whether that is known of its generation.
func (c *compiled) problemsOf(kind string, o metav1.Object) (found []config.Problem, known bool) {
	if c == nil {
		return nil, false
	}
	key := config.Key{Kind: kind, Name: o.GetName()}
	found, known = c.problems[key]
	return found, known && c.generations[key] == o.GetGeneration()
}

// task is a key of the queue of configuration tasks.
type task string

const (
	lookAgain   task = "again"   // something of the configuration is gone
	compileAll  task = "compile" // an object of the configuration changed
	reviewNodes task = "nodes"   // a node or its speaker changed
	reviewUsed  task = "used"    // the addresses in use elsewhere may have changed
	wakeResting task = "resting" // freed addresses may have rested long enough
)

// publication is a key of the queue of what is to be written about the configuration.
type publication string

const (
	publishAll       publication = "all"      // the configuration was compiled
	publishUsage     publication = "usage"    // addresses were given or freed, or are in use elsewhere
	publishSessions  publication = "sessions" // a node or its speaker changed a moment ago
	ensureKey        publication = "key"      // the Secret of the hello key changed
	sessionsInterval             = time.Second
)

// settling returns for how long what is freed rests at least after a leader began. The API server
// may have been away before. Nodes that reach it again, the last ones a minute later, give those
// that do not 60 s before they take over what these still answer for. Where addresses are to rest
// for less than the 27 s that this takes otherwise, they rest for less here, too.
func settling(rest time.Duration) time.Duration {
	if rest < 27*time.Second {
		return 5 * rest / 2
	}
	return max(rest, 150*time.Second)
}

// retryApart is how often those that wait for an address are looked at while many are freed.
const retryApart = 300 * time.Millisecond

// Pace of writes that give and take nothing, and only change the conditions of Services that have
// an address: each is sent to everybody who watches Services, such as kube-proxy on every node. Few
// are written at once. Of many, those that do not tell that all is well wait, since what is away
// may come back: a router that is restarted, for example. Its BGPNeighbor says so at once.
const (
	changesPerSecond = 50
	changesAtOnce    = 200
	changesSettle    = 90 * time.Second
)

// sources are the informers that the controller reads from.
type sources struct {
	factory     informers.SharedInformerFactory
	namespace   cache.SharedIndexInformer
	service     cache.SharedIndexInformer
	services    corelisters.ServiceLister
	node        cache.SharedIndexInformer
	slice       cache.SharedIndexInformer
	secret      cache.SharedIndexInformer // the hello key
	ownFactory  informers.SharedInformerFactory
	pool        cache.SharedIndexInformer
	segments    cache.SharedIndexInformer
	routes      cache.SharedIndexInformer
	peer        cache.SharedIndexInformer
	password    cache.SharedIndexInformer
	speaker     cache.SharedIndexInformer
	reservation cache.SharedIndexInformer
	serviceCIDR cache.SharedIndexInformer // not every API server has them
}

func (s *sources) own() []cache.SharedIndexInformer {
	return []cache.SharedIndexInformer{s.pool, s.segments, s.routes, s.peer, s.password, s.speaker, s.reservation}
}

// queues gives allocations the queues of a Controller.
type queues struct{ c *Controller }

func (q queues) Service(key string)            { q.c.services.Add(key) }
func (q queues) Reservation(key string)        { q.c.reserving.Add(key) }
func (q queues) WakeAfter(after time.Duration) { q.c.tasks.AddAfter(wakeResting, after) }

func (q queues) UsageChanged() {
	q.c.usageDue.Store(true)
	q.c.publishing.AddAfter(publishUsage, q.c.usagePause.Wait(time.Now()))
}

func namespaceOf(key string) string {
	namespace, _, _ := strings.Cut(key, "/")
	return namespace
}

// ifLeading has a standby ignore events, since it has no workers: its queues would grow for ever.
// Nothing is lost. The cache shows what happened before the event is handled, and lead sets led
// before it looks at all objects.
func (c *Controller) ifLeading(handle func(any)) func(any) {
	return func(o any) {
		if c.led.Load() {
			handle(o)
		}
	}
}

func (c *Controller) classes() service.Classes {
	return service.Classes{Names: c.Classes, Classless: c.Classless}
}

// enqueueNamespace requeues the Services and AddressReservations of a namespace.
func (c *Controller) enqueueNamespace(o any) {
	name, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o)
	if err != nil {
		return
	}
	for _, key := range c.informers.reservation.GetStore().ListKeys() {
		if namespaceOf(key) == name {
			c.reserving.Add(key)
		}
	}
	list, err := c.informers.services.Services(name).List(labels.Everything())
	if err != nil {
		return
	}
	for _, svc := range list {
		c.services.Add(svc.Namespace + "/" + svc.Name)
	}
}

// enqueueAll requeues every reservation and every Service that may be served, was, or has an
// address: first the Services that have an address, then those that ask for one by name, then the
// rest, older ones first. What is done about others depends on nothing but the Service, whose
// events requeue it.
func (c *Controller) enqueueAll() {
	for _, key := range c.informers.reservation.GetStore().ListKeys() {
		c.reserving.Add(key)
	}
	classes := c.classes()
	all := slices.DeleteFunc(client.Stored[*corev1.Service](c.informers.service), func(svc *corev1.Service) bool {
		return !classes.Selects(svc) && !service.Marked(svc) && len(svc.Status.LoadBalancer.Ingress) == 0
	})
	service.InTurn(all, c.Honored)
	for _, svc := range all {
		c.services.Add(svc.Namespace + "/" + svc.Name)
	}
}

// successors are the nodes whose speakers ended to be replaced, and when that was seen.
type successors map[string]time.Time

// successorWithin is how long the next process of a speaker is expected: an image may have to be
// pulled.
const successorWithin = 2 * time.Minute

// expected updates the successors by the status of a node's speaker, and returns how much longer
// the next process is expected. Zero: it is not, since the speaker has not ended, or has ended for
// good, or the time is over.
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
