package controller

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"

	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/config/v1alpha1/v1alpha1test"
	"github.com/berth-lb/berth/controller/announcement"
	"github.com/berth-lb/berth/controller/verdict"
)

// pools are those in the cache of a Controller, which nobody runs, with Services to reconcile.
type pools struct {
	*Controller
	t *testing.T
}

func newPools(t *testing.T, services ...string) pools {
	t.Helper()
	return newPoolsOf(t, "http://127.0.0.1:1", services...)
}

// newPoolsOf is newPools with an API server for Berth's objects.
func newPoolsOf(t *testing.T, host string, services ...string) pools {
	t.Helper()
	berth, err := client.New(&rest.Config{Host: host})
	if err != nil {
		t.Fatal(err)
	}
	p := pools{t: t}
	kubernetes := fake.NewClientset()
	if p.Controller, err = New(Options{
		Kubernetes: kubernetes, Berth: berth, Events: &told{}, Logger: slog.New(slog.DiscardHandler),
		Metrics: prometheus.NewRegistry(), Namespace: "berth-system", Classless: true,
		Rest: time.Minute,
	}); err != nil {
		t.Fatal(err)
	}
	p.served = func(string) (bool, error) { return true, nil }
	p.recordKey.Store(new(slices.Repeat([]byte("k"), 32)))
	for _, name := range services {
		svc := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, UID: types.UID(name), ResourceVersion: "1"},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			},
		}
		if _, err := kubernetes.CoreV1().Services("a").Create(t.Context(), svc, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		p.stores(p.informers.service.GetStore().Add(svc))
	}
	return p
}

func (p pools) stores(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func poolOf(addresses ...v1alpha1.AddressRange) *v1alpha1.LoadBalancerPool {
	return v1alpha1test.SelectsAll(&v1alpha1.LoadBalancerPool{
		ObjectMeta: metav1.ObjectMeta{Name: "old", UID: "old", Generation: 1},
		Spec:       v1alpha1.LoadBalancerPoolSpec{Addresses: addresses},
	})
}

// gets reconciles a Service, and returns how many addresses it has then.
func (p pools) gets(service string) int {
	p.t.Helper()
	if err := p.reconcile(p.t.Context(), "a/"+service); err != nil {
		p.t.Fatal(err)
	}
	return len(p.allocations.Holdings("a/" + service))
}

// look reconciles the Services, and returns what each is told of its addresses, and how many it
// has.
func (p pools) look(services ...string) (messages []string, addresses []int) {
	p.t.Helper()
	for _, name := range services {
		addresses = append(addresses, p.gets(name))
		svc, err := p.Kubernetes.CoreV1().Services("a").Get(p.t.Context(), name, metav1.GetOptions{})
		p.stores(err)
		p.stores(p.informers.service.GetStore().Update(svc))
		messages = append(messages, meta.FindStatusCondition(svc.Status.Conditions, v1alpha1.ServiceAllocated).Message)
	}
	return messages, addresses
}

// writes returns how many statuses of Services were written.
func (p pools) writes() (n int) {
	for _, a := range p.Kubernetes.(*fake.Clientset).Actions() {
		if a.Matches("update", "services/status") {
			n++
		}
	}
	return n
}

// A pool gives nothing from when it is seen to be gone, while the API server is asked why, until it
// is known that its kind is gone, too.
func TestController_poolsThatAreGone(t *testing.T) {
	p := newPools(t, "before", "asking", "after", "held")
	pool := poolOf("192.0.2.1-192.0.2.9")
	p.stores(p.informers.pool.GetStore().Add(pool))
	p.compile()
	has := map[string]int{"before": p.gets("before")}
	p.stores(p.informers.pool.GetStore().Delete(pool))
	p.served = func(string) (bool, error) {
		has["asking"] = p.gets("asking")
		return true, nil
	}
	p.compile()
	has["after"] = p.gets("after")
	kept := p.retained.Kept()
	if p.compile(); !slices.Equal(kept, p.retained.Kept()) {
		t.Errorf("kept %v, and when it looked again %v", kept, p.retained.Kept())
	}
	p.served = func(string) (bool, error) { return false, nil }
	if p.compile(); slices.Equal(kept, p.retained.Kept()) {
		t.Errorf("kept %v still, although the kind is gone", kept)
	}
	has["held"] = p.gets("held")
	for service, want := range map[string]int{"before": 1, "asking": 0, "after": 0, "held": 1} {
		if has[service] != want {
			t.Errorf("Service %s has %d addresses, want %d", service, has[service], want)
		}
	}
}

// A pool that waits for a finalizer gives nothing.
func TestController_poolsThatAreBeingDeleted(t *testing.T) {
	p := newPools(t, "new")
	pool := poolOf("192.0.2.1-192.0.2.9")
	pool.DeletionTimestamp, pool.Finalizers = new(metav1.Now()), []string{"foregroundDeletion"}
	p.stores(p.informers.pool.GetStore().Add(pool))
	p.compile()
	if n := p.gets("new"); n > 0 {
		t.Errorf("it has %d addresses of a pool that is being deleted", n)
	}
}

// An address that wakes is news to the Service that gets it. What all others are told stays as it
// is: else each address that wakes would have the statuses of all that wait written.
func TestController_waitingWhileAddressesRest(t *testing.T) {
	p := newPools(t, "first", "second", "third")
	pool, now := poolOf("192.0.2.1-192.0.2.3"), time.Now()
	for i, address := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.3"} {
		until := metav1.NewTime(now.Add(time.Duration(i+1) * 10 * time.Second))
		pool.Status.Resting = append(pool.Status.Resting, v1alpha1.RestingAddress{Address: address, UntilTime: &until})
	}
	p.stores(p.informers.pool.GetStore().Add(pool))
	p.compile()
	p.allocations.RestoreResting([]*v1alpha1.LoadBalancerPool{pool}, now)
	before, _ := p.look("first", "second", "third")
	begun := p.writes()
	p.allocations.Wake(now.Add(15 * time.Second))
	after, addresses := p.look("first", "second", "third")
	if !slices.Equal(addresses, []int{1, 0, 0}) || !slices.Equal(before[1:], after[1:]) || p.writes() != begun+1 {
		t.Errorf("%v addresses, and %d statuses written when one woke, want 1; told before and after: %q, %q",
			addresses, p.writes()-begun, before, after)
	}
}

// A Service that gives back an address of a full pool, and may take it again, is no news to those
// that wait for any.
func TestController_waitingWhileAnAddressIsFreed(t *testing.T) {
	p := newPools(t, "first", "any", "both")
	p.stores(p.informers.pool.GetStore().Add(poolOf("192.0.2.1", "2001:db8::/120")))
	p.compile()
	services := p.Kubernetes.CoreV1().Services("a")
	both, err := services.Get(t.Context(), "both", metav1.GetOptions{})
	p.stores(err)
	both.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	both.Spec.IPFamilyPolicy = new(corev1.IPFamilyPolicyPreferDualStack)
	_, err = services.Update(t.Context(), both, metav1.UpdateOptions{})
	p.stores(err)
	p.stores(p.informers.service.GetStore().Update(both))
	first, err := services.Get(t.Context(), "first", metav1.GetOptions{})
	p.stores(err)

	p.gets("first")
	before, addresses := p.look("any", "both")
	if !slices.Equal(addresses, []int{0, 1}) {
		t.Fatalf("%v addresses of a full pool", addresses)
	}
	begun := p.writes()
	p.stores(p.informers.service.GetStore().Delete(first))
	p.gets("first")
	if rests, _ := p.look("any", "both"); p.writes() != begun {
		t.Errorf("%d statuses written when an address was freed: told before and after: %q, %q",
			p.writes()-begun, before, rests)
	}
	p.stores(p.informers.service.GetStore().Add(first))
	if p.gets("first") != 1 {
		t.Error("who had the address did not get it back")
	}
	begun = p.writes()
	if held, _ := p.look("any", "both"); p.writes() != begun || !slices.Equal(before, held) {
		t.Errorf("told %q when the address was taken again, and %q before", held, before)
	}
}

type writtenPool struct {
	status v1alpha1.LoadBalancerPoolStatus
}

func (w *writtenPool) UpdateStatus(
	_ context.Context, p *v1alpha1.LoadBalancerPool, _ metav1.UpdateOptions,
) (*v1alpha1.LoadBalancerPool, error) {
	w.status = p.Status
	return p, nil
}

// What was found of one generation is not said of the next.
func TestPublishOne_generations(t *testing.T) {
	p := newPools(t)
	pool := poolOf("192.0.2.1-192.0.2.9")
	p.stores(p.informers.pool.GetStore().Add(pool))
	p.compile()
	before := p.compiled.Load()
	pool = poolOf("192.0.2.1-192.0.2.9", "nonsense")
	pool.Generation = 2
	p.stores(p.informers.pool.GetStore().Update(pool))
	p.compile()
	for _, c := range []struct {
		name string
		of   *compiled
		want bool
	}{{"before the change", before, false}, {"after it", p.compiled.Load(), true}} {
		w := &writtenPool{}
		describe := func(d *v1alpha1.LoadBalancerPool) { p.describePool(d, c.of) }
		if err := publishOne(t.Context(), p.Controller, w, "LoadBalancerPool", pool, c.of, describe); err != nil {
			t.Fatal(err)
		}
		if got := meta.FindStatusCondition(w.status.Conditions, v1alpha1.ConditionReady) != nil; got != c.want {
			t.Errorf("what was compiled %s: says whether it is ready: %t, want %t", c.name, got, c.want)
		}
	}
}

// The status of a BGPNeighbor may be a little behind. No write arrives here, so each one fails.
func TestController_publishNeighbors(t *testing.T) {
	p := newPools(t)
	tor := v1alpha1test.SelectsAll(&v1alpha1.BGPNeighbor{
		ObjectMeta: metav1.ObjectMeta{Name: "tor", Generation: 1},
		Spec:       v1alpha1.BGPNeighborSpec{Address: "192.0.2.1", LocalASN: 1, RemoteASN: 2},
	})
	p.stores(p.informers.peer.GetStore().Add(tor))
	p.compile()
	nodes := map[string]announcement.Node{}
	p.view.Store(&announcement.View{Nodes: nodes})
	down := func(down int, why string) {
		for i := range 20 {
			name := fmt.Sprintf("n%d", i)
			nodes[name] = announcement.Node{Alive: true, Speaker: v1alpha1.SpeakerAnnouncing}
			session := v1alpha1.SessionReport{NeighborName: "tor", State: v1alpha1.SessionEstablished}
			if i < down {
				session.State, session.LastError = v1alpha1.SessionDown, why
			}
			p.stores(p.informers.speaker.GetStore().Add(&v1alpha1.Speaker{
				ObjectMeta: metav1.ObjectMeta{Name: name},
				Status:     v1alpha1.SpeakerStatus{Sessions: []v1alpha1.SessionReport{session}},
			}))
		}
	}
	down(1, "refused")
	verdict.Gather(p.snapshot.Load(), nodes, p.reports())["tor"].Describe(tor)
	for _, step := range []struct {
		down   int
		why    string
		writes bool
	}{{1, "refused", false}, {1, "no route", false}, {2, "no route", false}, {5, "no route", true}, {0, "", true}} {
		down(step.down, step.why)
		if err := p.publishNeighbors(t.Context(), nil); (err != nil) != step.writes {
			t.Errorf("%d of 20 sessions down, %q: writes %v, want %v", step.down, step.why, err, step.writes)
		}
	}
}
