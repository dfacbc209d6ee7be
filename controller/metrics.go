package controller

import (
	"errors"
	"math/big"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/allocation"
	"github.com/berth-lb/berth/controller/announcement"
	"github.com/berth-lb/berth/controller/service"
)

// metrics reads what is known of pools, Services and nodes when it is scraped, so that what is gone
// leaves no series behind, and what is there has its series at all times. It counts what the
// controller does.
type metrics struct {
	from                                                                   scraped
	pool, exhausted, outside, services, service, objects, speakers, leader *prometheus.Desc

	allocations prometheus.Counter
	writes      prometheus.Counter
	failures    prometheus.Counter
	overwritten prometheus.Counter
	newcomers   *newcomers
}

// scraped is where metrics are read from.
type scraped struct {
	addresses *allocation.Allocations
	snapshot  func() *config.Snapshot
	nodes     func() map[string]announcement.Node
	services  func() []*corev1.Service
	objects   func() map[string][]v1alpha1.Object // the configuration, by kind
	leads     func() bool
	// perService has one series for each Service.
	perService bool
}

func (c *Controller) scraped() scraped {
	return scraped{
		addresses: c.allocations,
		snapshot:  c.snapshot.Load,
		nodes:     func() map[string]announcement.Node { return c.view.Load().Nodes },
		services:  func() []*corev1.Service { return client.Stored[*corev1.Service](c.informers.service) },
		objects: func() map[string][]v1alpha1.Object {
			return map[string][]v1alpha1.Object{
				"LoadBalancerPool":    client.Stored[v1alpha1.Object](c.informers.pool),
				"SegmentAnnouncement": client.Stored[v1alpha1.Object](c.informers.segments),
				"RouteAnnouncement":   client.Stored[v1alpha1.Object](c.informers.routes),
				"BGPNeighbor":         client.Stored[v1alpha1.Object](c.informers.peer),
			}
		},
		leads:      c.led.Load,
		perService: c.MetricsPerService,
	}
}

func newMetrics(r prometheus.Registerer, from scraped) (*metrics, error) {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &metrics{
		from: from,
		pool: desc("berth_pool_addresses", "Addresses of a pool, by state: assigned, reserved, excluded, resting or free.",
			"pool", "family", "state"),
		exhausted: desc("berth_pool_exhausted", "1 if a Service that names no address gets none of the pool.",
			"pool", "family"),
		outside: desc("berth_services_outside_pools", "Services with addresses that are in no pool any longer."),
		services: desc("berth_services", "Services by condition, its status and its reason.",
			"condition", "status", "reason"),
		service: desc("berth_service_condition", "1 for the reason that a condition of a Service has.",
			"namespace", "service", "condition", "status", "reason"),
		objects: desc("berth_configuration_objects",
			"Objects of the configuration, by state: accepted, partial, rejected or pending.", "kind", "state"),
		speakers: desc("berth_speakers", "Nodes, by the state that their speaker reports.", "state"),
		leader:   desc("berth_leader", "1 if this controller leads."),

		allocations: counter("berth_allocations_total", "Times that a Service was given an address."),
		writes:      counter("berth_service_status_writes_total", "Writes of Services' statuses."),
		overwritten: counter("berth_service_status_overwritten_total",
			"Statuses of Services that another controller overwrote."),
		failures: counter("berth_reconcile_failures_total",
			"Work that failed and was queued again. Conflicts of resourceVersions are not counted."),
		newcomers: newNewcomers(from.leads),
	}
	var failed []error
	all := []prometheus.Collector{
		m, m.allocations, m.writes, m.failures, m.overwritten, m.newcomers.addressed, m.newcomers.announced,
	}
	for _, c := range all {
		failed = append(failed, r.Register(c))
	}
	return m, errors.Join(failed...)
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		m.pool, m.exhausted, m.outside, m.services, m.service, m.objects, m.speakers, m.leader,
	} {
		to <- d
	}
}

// Collect implements prometheus.Collector. A controller that waits to lead has only the metric that
// says so: the sums over all controllers are those of the leader.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	gauge(m.leader, truth(m.from.leads()))
	gauge(m.outside, float64(m.from.addresses.Outside()))
	m.collectPools(gauge)
	if !m.from.leads() {
		return
	}
	m.collectServices(gauge)
	for kind, objects := range m.from.objects() {
		counts := map[string]int{"accepted": 0, "partial": 0, "rejected": 0, "pending": 0}
		for _, o := range objects {
			counts[effectOf(*o.ConditionList())]++
		}
		for state, n := range counts {
			gauge(m.objects, float64(n), kind, state)
		}
	}
	for state, n := range countSpeakers(m.from.nodes()) {
		gauge(m.speakers, float64(n), state)
	}
}

func (m *metrics) collectPools(gauge func(*prometheus.Desc, float64, ...string)) {
	for _, pool := range m.from.snapshot().Pools {
		counts, full := m.from.addresses.Counts(pool.Name)
		for family, u := range counts {
			excluded := u.Excluded
			if excluded == nil {
				excluded = new(big.Int)
			}
			total, _ := new(big.Float).SetInt(u.Total).Float64()
			out, _ := new(big.Float).SetInt(excluded).Float64()
			busy := float64(u.Assigned) + float64(u.Reserved) + float64(u.Resting)
			for state, n := range map[string]float64{
				"assigned": float64(u.Assigned), "reserved": float64(u.Reserved), "resting": float64(u.Resting),
				"excluded": out, "free": total - out - busy,
			} {
				gauge(m.pool, n, pool.Name, family.String(), state)
			}
			gauge(m.exhausted, truth(slices.Contains(full, family)), pool.Name, family.String())
		}
	}
}

// conditionCount is what Services are counted by.
type conditionCount struct{ condition, status, reason string }

func (m *metrics) collectServices(gauge func(*prometheus.Desc, float64, ...string)) {
	counts := map[conditionCount]int{}
	for _, svc := range m.from.services() {
		for _, c := range svc.Status.Conditions {
			if c.Type != v1alpha1.ServiceAllocated && c.Type != v1alpha1.ServiceAnnounced {
				continue
			}
			// Who may write a status can write any reason there, until it is overwritten.
			reason := c.Reason
			if !service.KnownReason(reason) && !announcement.KnownReason(reason) {
				reason = "Other"
			}
			counts[conditionCount{c.Type, string(c.Status), reason}]++
			if m.from.perService {
				gauge(m.service, 1, svc.Namespace, svc.Name, c.Type, string(c.Status), reason)
			}
		}
	}
	for k, n := range counts {
		gauge(m.services, float64(n), k.condition, k.status, k.reason)
	}
}

// effectOf returns how far an object of the configuration is in effect, by its conditions.
func effectOf(conditions []metav1.Condition) string {
	switch {
	case meta.IsStatusConditionTrue(conditions, v1alpha1.ConditionPartiallyInvalid):
		return "partial"
	case meta.IsStatusConditionTrue(conditions, v1alpha1.ConditionAccepted):
		return "accepted"
	case meta.IsStatusConditionFalse(conditions, v1alpha1.ConditionAccepted):
		return "rejected"
	}
	return "pending"
}

// States of nodes that no speaker reports.
const (
	noSpeaker    = "None"         // it has no Speaker object
	nodeNotReady = "NodeNotReady" // what its speaker last said does not count
)

// countSpeakers counts the nodes by the states of their speakers. Each state is there.
func countSpeakers(nodes map[string]announcement.Node) map[string]int {
	counts := map[string]int{noSpeaker: 0, nodeNotReady: 0}
	for _, state := range []v1alpha1.SpeakerState{
		v1alpha1.SpeakerPending, v1alpha1.SpeakerStarting, v1alpha1.SpeakerAnnouncing, v1alpha1.SpeakerLeaving,
		v1alpha1.SpeakerRestarting, v1alpha1.SpeakerReplaced, v1alpha1.SpeakerStopped,
	} {
		counts[string(state)] = 0
	}
	for _, n := range nodes {
		switch {
		case n.Speaker == "":
			counts[noSpeaker]++
		case !n.Alive:
			counts[nodeNotReady]++
		default:
			counts[string(n.Speaker)]++
		}
	}
	return counts
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// newcomers measures how long new Services wait: those that this controller saw come while it led.
// It is an event handler of the Services' informer, which calls it from one goroutine.
type newcomers struct {
	classes   func(*corev1.Service) bool
	leads     func() bool
	now       func() time.Time
	addressed prometheus.Histogram
	announced prometheus.Histogram

	mu      sync.Mutex
	waiting map[string]*newcomer // guarded by mu; by Service
}

// newcomer is a Service that is not announced yet.
type newcomer struct {
	seen      time.Time
	addressed bool
}

func newNewcomers(leads func() bool) *newcomers {
	buckets := []float64{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300}
	return &newcomers{
		classes: func(*corev1.Service) bool { return true },
		leads:   leads,
		now:     time.Now,
		addressed: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "berth_service_address_seconds",
			Help:    "From when the controller first saw a new Service until it had its address.",
			Buckets: buckets,
		}),
		announced: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "berth_service_announced_seconds",
			Help:    "From when the controller first saw a new Service until it was announced.",
			Buckets: buckets,
		}),
		waiting: map[string]*newcomer{},
	}
}

// OnAdd implements cache.ResourceEventHandler.
func (n *newcomers) OnAdd(o any, initial bool) {
	svc, ok := o.(*corev1.Service)
	if !ok || initial || !n.leads() || !n.classes(svc) || len(svc.Status.LoadBalancer.Ingress) > 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.waiting[svc.Namespace+"/"+svc.Name] = &newcomer{seen: n.now()}
}

// OnUpdate implements cache.ResourceEventHandler.
func (n *newcomers) OnUpdate(_, o any) {
	svc, ok := o.(*corev1.Service)
	if !ok {
		return
	}
	key := svc.Namespace + "/" + svc.Name
	n.mu.Lock()
	defer n.mu.Unlock()
	who := n.waiting[key]
	if who == nil {
		return
	}
	has := len(svc.Status.LoadBalancer.Ingress) > 0
	if has && !service.Marked(svc) || !n.classes(svc) {
		delete(n.waiting, key) // it is another implementation's
		return
	}
	waited := n.now().Sub(who.seen).Seconds()
	if has && !who.addressed {
		who.addressed = true
		n.addressed.Observe(waited)
	}
	if has && meta.IsStatusConditionTrue(svc.Status.Conditions, v1alpha1.ServiceAnnounced) {
		n.announced.Observe(waited)
		delete(n.waiting, key)
	}
}

// OnDelete implements cache.ResourceEventHandler.
func (n *newcomers) OnDelete(o any) {
	if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o); err == nil {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.waiting, key)
	}
}
