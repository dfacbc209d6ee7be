package controller

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/config/dialect"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/config/v1alpha1/v1alpha1test"
	"github.com/berth-lb/berth/controller/announcement"
	"github.com/berth-lb/berth/controller/condition"
	"github.com/berth-lb/berth/internal/liveness"
)

// The next process of a speaker is expected for a while.
func TestSuccessorsExpected(t *testing.T) {
	report := func(state v1alpha1.SpeakerState) v1alpha1.SpeakerStatus {
		return v1alpha1.SpeakerStatus{
			Conditions: v1alpha1test.InState(state),
			IPVS:       v1alpha1.IPVSReport{Schedulers: []string{"rr"}, VirtualServers: new(int32)},
		}
	}
	s, begun := successors{}, time.Now()
	for _, c := range []struct {
		after  time.Duration
		report v1alpha1.SpeakerStatus
		want   time.Duration
	}{
		{
			report: report(v1alpha1.SpeakerRestarting),
		},
		{
			after:  time.Second,
			report: report(v1alpha1.SpeakerStopped),
		},
		{
			after:  2 * time.Second,
			report: v1alpha1.SpeakerStatus{Conditions: v1alpha1test.InState(v1alpha1.SpeakerReplaced)},
		},
		{
			after:  3 * time.Second,
			report: report(v1alpha1.SpeakerReplaced),
			want:   successorWithin,
		},
		{
			after:  13 * time.Second,
			report: report(v1alpha1.SpeakerReplaced),
			want:   successorWithin - 10*time.Second,
		},
		{
			after:  time.Hour,
			report: report(v1alpha1.SpeakerReplaced),
		},
		{
			after:  2 * time.Hour,
			report: report(v1alpha1.SpeakerStarting),
		},
		{
			after:  3 * time.Hour,
			report: report(v1alpha1.SpeakerReplaced),
			want:   successorWithin,
		},
	} {
		if got := s.expected("n1", c.report, begun.Add(c.after)); got != c.want {
			t.Errorf(
				"after %s, %s: the next process is expected for %s, want %s",
				c.after,
				c.report.Conditions[0].Reason,
				got,
				c.want,
			)
		}
	}
}

// told collects the types and reasons of events.
type told []string

func (l *told) Eventf(_, _ runtime.Object, kind, reason, _, _ string, _ ...any) {
	*l = append(*l, kind+" "+reason)
}

func TestTellNews(t *testing.T) {
	allocated := condition.Condition{Kind: v1alpha1.ServiceAllocated, OK: true, Reason: "Allocated"}
	nowhere := condition.Condition{Kind: v1alpha1.ServiceAnnounced, Reason: announcement.ReasonNoEndpoints}
	announced := condition.Condition{Kind: v1alpha1.ServiceAnnounced, OK: true, Reason: announcement.ReasonAnnounced}
	type step struct {
		after time.Duration // since the step before
		has   condition.Condition
		is    bool // has is not news
	}
	for _, c := range []struct {
		name    string
		steps   []step
		deletes string // what is being deleted
		want    []string
	}{
		{
			name: "endpoints that become ready",
			steps: []step{
				{has: nowhere},
				{after: 20 * time.Second, has: announced},
				{after: time.Minute, has: announced, is: true},
			},
			want: []string{"Normal Allocated", "Normal NoEndpoints", "Normal Announced"},
		},
		{
			name: "endpoints that do not become ready",
			steps: []step{
				{has: nowhere},
				{after: 20 * time.Second, has: nowhere, is: true},
				{after: 10 * time.Second, has: nowhere, is: true},
				{after: time.Second, has: nowhere, is: true},
			},
			want: []string{"Normal Allocated", "Normal NoEndpoints", "Warning NoEndpoints"},
		},
		{
			name:  "endpoints that end later",
			steps: []step{{has: announced}, {after: time.Minute, has: nowhere}},
			want:  []string{"Normal Allocated", "Normal Announced", "Warning NoEndpoints"},
		},
		{
			name:    "a Service that is being deleted",
			deletes: "Service",
			steps:   []step{{has: announced}, {after: time.Minute, has: nowhere}},
		},
		{
			name:    "a namespace that is being deleted",
			deletes: "Namespace",
			steps:   []step{{has: announced}, {after: time.Minute, has: nowhere}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got told
				ctl := &Controller{
					Options:  Options{Events: &got, Logger: slog.New(slog.DiscardHandler)},
					services: newFairQueue("", nil),
				}
				defer ctl.services.ShutDown()
				ctl.view.Store(&announcement.View{})
				ctl.informers.namespace = informers.NewSharedInformerFactory(fake.NewClientset(), 0).
					Core().
					V1().
					Namespaces().
					Informer()
				ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
				svc := &corev1.Service{
					ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web", CreationTimestamp: metav1.Now()},
					Spec:       corev1.ServiceSpec{ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal},
				}
				switch c.deletes {
				case "Service":
					svc.DeletionTimestamp = new(metav1.Now())
				case "Namespace":
					ns.DeletionTimestamp = new(metav1.Now())
				}
				if err := ctl.informers.namespace.GetStore().Add(ns); err != nil {
					t.Fatal(err)
				}
				for i, s := range c.steps {
					<-time.After(s.after) // of the test's own clock
					conditions := []condition.Condition{allocated, s.has}
					news := conditions
					switch {
					case s.is:
						news = nil
					case i > 0:
						news = conditions[1:]
					}
					ctl.tellNews("a/web", svc, conditions, news)
				}
				if !slices.Equal(got, c.want) {
					t.Errorf("events %v, want %v", got, c.want)
				}
			})
		})
	}
}

// A Service whose endpoints are expected is requeued for the end of the time.
func TestTellNewsLooksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctl := &Controller{
			Options:  Options{Events: new(told), Logger: slog.New(slog.DiscardHandler)},
			services: newFairQueue("", nil),
		}
		defer ctl.services.ShutDown()
		ctl.view.Store(&announcement.View{})
		ctl.informers.namespace = informers.NewSharedInformerFactory(fake.NewClientset(), 0).
			Core().
			V1().
			Namespaces().
			Informer()
		svc := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web", CreationTimestamp: metav1.Now()},
			Spec:       corev1.ServiceSpec{ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal},
		}
		begun := time.Now()
		nowhere := condition.Condition{Kind: v1alpha1.ServiceAnnounced, Reason: announcement.ReasonNoEndpoints}
		ctl.tellNews("a/web", svc, []condition.Condition{nowhere}, nil)
		key, _ := ctl.services.Get()
		if got := fmt.Sprint(key, " after ", time.Since(begun)); got != "a/web after 30s" {
			t.Errorf("is requeued for %s", got)
		}
		ctl.services.Done(key)
	})
}

// An API server that is slow does not make a worker stuck. One request that never ends does.
func TestWork_stuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		loops := liveness.New()
		ctx := loops.Context(t.Context())
		queue := newQueue[task]("")
		released := make(chan struct{})
		do := func(ctx context.Context, _ task) error {
			for range 60 {
				<-time.After(59 * time.Second)
				liveness.Progress(ctx) // as the transport of the clients notes
				if stuck := loops.Stuck(); len(stuck) > 0 {
					t.Errorf("stuck though it goes on: %v", stuck)
				}
			}
			<-released
			return nil
		}
		var running sync.WaitGroup
		running.Go(func() { work(ctx, "configuration", queue, do, func(task, error) {}) })
		queue.Add(compileAll)
		<-time.After(time.Hour + passAtMost)
		if stuck := loops.Stuck(); len(stuck) != 1 || stuck[0].Loop != "configuration" {
			t.Errorf("stuck: %v, want the worker", stuck)
		}
		close(released)
		queue.ShutDown()
		running.Wait()
		if stuck := loops.Stuck(); len(stuck) > 0 {
			t.Errorf("stuck at the end: %v", stuck)
		}
	})
}

// Who waits for a first address goes before others: not a Service that has one, nor one that knows
// why it has none, nor one that Berth does not serve.
func TestNewcomer(t *testing.T) {
	ctl := &Controller{Options: Options{Classes: []string{v1alpha1.LoadBalancerClass}, Classless: true}}
	ctl.informers.service = informers.NewSharedInformerFactory(fake.NewClientset(), 0).
		Core().
		V1().
		Services().
		Informer()
	balanced := corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}
	for name, svc := range map[string]*corev1.Service{
		"new":   {Spec: balanced},
		"other": {Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP}},
		"has": {Spec: balanced, Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{
			Ingress: []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}},
		}}},
		"told": {Spec: balanced, Status: corev1.ServiceStatus{
			Conditions: []metav1.Condition{{Type: v1alpha1.ServiceAllocated, Status: metav1.ConditionFalse}},
		}},
	} {
		svc.Namespace, svc.Name = "a", name
		if err := ctl.informers.service.GetStore().Add(svc); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]bool{"new": true, "other": false, "has": false, "told": false, "gone": false} {
		if got := ctl.newcomer("a/" + name); got != want {
			t.Errorf("%s goes first: %t, want %t", name, got, want)
		}
	}
}

// queueing returns a Controller that only queues, with these Services in its cache.
func queueing(t testing.TB, services ...*corev1.Service) *Controller {
	t.Helper()
	ctl := &Controller{
		Options: Options{
			Classes: []string{v1alpha1.LoadBalancerClass}, Classless: true, Honored: dialect.Honored{dialect.MetalLB},
		},
		services: newFairQueue("", nil), reserving: newFairQueue("", nil),
	}
	factory := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	ctl.informers.service = factory.Core().V1().Services().Informer()
	ctl.informers.reservation = factory.Core().V1().Secrets().Informer() // any that is empty
	for _, svc := range services {
		if err := ctl.informers.service.GetStore().Add(svc); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { ctl.services.ShutDown(); ctl.reserving.ShutDown() })
	return ctl
}

// queued takes everything from the queue of Services.
func (c *Controller) queued() (names []string) {
	for c.services.Len() > 0 {
		key, _ := c.services.Get()
		c.services.Done(key)
		names = append(names, strings.TrimPrefix(key, "a/"))
	}
	return names
}

// When all are looked at, those that nobody needs to look at are not, and the others come in turn.
func TestEnqueueAll(t *testing.T) {
	age := 0
	named := func(name string, kind corev1.ServiceType, change func(*corev1.Service)) *corev1.Service {
		age++
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{
			Namespace: "a", Name: name, CreationTimestamp: metav1.Unix(int64(age), 0),
		}}
		svc.Spec.Type = kind
		change(svc)
		return svc
	}
	plain := func(*corev1.Service) {}
	has := func(svc *corev1.Service) {
		svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}
	}
	told := func(svc *corev1.Service) {
		svc.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ServiceAllocated, Status: metav1.ConditionFalse}}
	}
	ctl := queueing(t,
		named("any", corev1.ServiceTypeLoadBalancer, plain),
		named("inside", corev1.ServiceTypeClusterIP, plain),
		named("another", corev1.ServiceTypeLoadBalancer, func(svc *corev1.Service) {
			svc.Spec.LoadBalancerClass = new("example.com/other")
		}),
		named("left", corev1.ServiceTypeLoadBalancer, func(svc *corev1.Service) {
			svc.Spec.LoadBalancerClass = new("example.com/other")
			has(svc)
		}),
		named("was", corev1.ServiceTypeClusterIP, told),
		named("annotated", corev1.ServiceTypeLoadBalancer, func(svc *corev1.Service) {
			svc.Annotations = map[string]string{"metallb.io/loadBalancerIPs": "192.0.2.2"}
		}),
		named("pinned", corev1.ServiceTypeLoadBalancer, func(svc *corev1.Service) { svc.Spec.LoadBalancerIP = "192.0.2.3" }),
		named("has", corev1.ServiceTypeLoadBalancer, has),
	)
	ctl.enqueueAll()
	if got, want := ctl.queued(), []string{"left", "has", "annotated", "pinned", "any", "was"}; !slices.Equal(got, want) {
		t.Errorf("queued %v, want %v", got, want)
	}
}

// What it costs to look at all again, but for the work on each.
func BenchmarkEnqueueAll(b *testing.B) {
	var services []*corev1.Service
	for i := range 30_000 {
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{
			Namespace: fmt.Sprint("n", i%100), Name: fmt.Sprint("s", i), CreationTimestamp: metav1.Unix(int64(i*7919%30_000), 0),
			Annotations: map[string]string{"example.com/team": "web"},
		}}
		svc.Spec.Type = corev1.ServiceTypeClusterIP
		if i%3 == 0 {
			svc.Spec.Type = corev1.ServiceTypeLoadBalancer
			svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}
		}
		services = append(services, svc)
	}
	ctl := queueing(b, services...)
	for b.Loop() {
		ctl.enqueueAll()
		b.ReportMetric(float64(len(ctl.queued())), "keys/op")
	}
}

// handled is an informer that only takes its handlers.
type handled struct {
	cache.SharedIndexInformer
	handlers *[]cache.ResourceEventHandler
}

func (h handled) AddEventHandler(by cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	*h.handlers = append(*h.handlers, by)
	return nil, nil //nolint:nilnil // nobody asks for it
}

func (handled) AddIndexers(cache.Indexers) error { return nil }

// A standby, whose queues nobody works off, queues nothing; what happens to a leader is queued.
func TestController_watch_standby(t *testing.T) {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web"}}
	svc.Spec.Type = corev1.ServiceTypeLoadBalancer
	type informer = *cache.SharedIndexInformer
	for _, c := range []struct {
		name     string
		informer func(*sources) informer
		object   metav1.Object
	}{
		{"a Service", func(s *sources) informer { return &s.service }, svc},
		{"an AddressReservation", func(s *sources) informer { return &s.reservation }, &v1alpha1.AddressReservation{
			ObjectMeta: svc.ObjectMeta, Spec: v1alpha1.AddressReservationSpec{ServiceName: "web"},
		}},
		{"endpoints", func(s *sources) informer { return &s.slice }, &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
			Namespace: "a", Name: "web-x", Labels: map[string]string{discoveryv1.LabelServiceName: "web"},
		}}},
		{"a namespace", func(s *sources) informer { return &s.namespace }, &corev1.Namespace{
			ObjectMeta: metav1.ObjectMeta{Name: "a"},
		}},
		{"a pool", func(s *sources) informer { return &s.pool }, poolOf("192.0.2.1")},
		{"the hello key", func(s *sources) informer { return &s.secret }, &corev1.Secret{}},
	} {
		p := newPools(t, "web")
		var handlers []cache.ResourceEventHandler
		of := c.informer(&p.informers)
		*of = handled{*of, &handlers}
		if indexed := &p.informers.slice; indexed != of { // it is, and cannot be twice
			*indexed = handled{*indexed, new([]cache.ResourceEventHandler)}
		}
		p.stores(p.watch())
		for _, leads := range []bool{false, true} {
			p.led.Store(leads)
			for _, h := range handlers {
				h.OnAdd(c.object, false)
				h.OnDelete(c.object)
			}
			if n := p.services.Len() + p.reserving.Len() + p.tasks.Len() + p.publishing.Len(); (n > 0) != leads {
				t.Errorf("%s, leads %t: %d keys are queued", c.name, leads, n)
			}
		}
	}
}

// A namespace that comes, or gets other labels, may let its reservations have what they ask for.
func TestController_enqueueNamespace(t *testing.T) {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web"}}
	ctl := queueing(t, svc)
	ctl.informers.services = corelisters.NewServiceLister(ctl.informers.service.GetIndexer())
	for _, namespace := range []string{"a", "ab"} {
		if err := ctl.informers.reservation.GetStore().Add(&v1alpha1.AddressReservation{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "front"},
		}); err != nil {
			t.Fatal(err)
		}
	}
	ctl.enqueueNamespace(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
	if services, reservations := ctl.services.Len(), ctl.reserving.Len(); services != 1 || reservations != 1 {
		t.Errorf("%d Services and %d AddressReservations are looked at, want those of the namespace", services, reservations)
	}
}
