package speaker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/config/v1alpha1/v1alpha1test"
	"github.com/berth-lb/berth/speaker/stored"
)

// EndpointSlices are watched when the first Service depends on where its endpoints are. Until they
// are known, what was planned for it stays.
func TestPlanner_endpointsUnknown(t *testing.T) {
	asked := make(chan string, 8)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Query().Get("watch") != "" {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		_, _ = io.WriteString(w, `{"metadata": {"resourceVersion": "1"}, "items": [{
			"metadata": {"namespace": "d", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
			"endpoints": [{"addresses": ["10.0.1.1"], "nodeName": "n2"}]}]}`)
	}))
	t.Cleanup(server.Close) // after the informer, which the test's context ends
	n := nodeAt(t, &rest.Config{Host: server.URL}, false)
	service, _ := webService(n.planner)
	service.Status.LoadBalancer.Ingress[0].IPMode = nil
	store := func(name string) {
		service.Name, service.UID = name, types.UID(name)
		sign(n.planner, service, service.Status.LoadBalancer.Ingress[0].IP)
		if err := n.sources.service.GetStore().Add(stored.NewService(service, false)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(
		nodesOf(n.sources).Add(&corev1.Node{ObjectMeta: named("n1")}),
		nodesOf(n.sources).Add(&corev1.Node{ObjectMeta: named("n2")}),
		n.sources.pool.GetStore().Add(v1alpha1test.SelectsAll(&v1alpha1.LoadBalancerPool{
			ObjectMeta: named("ours"), Spec: v1alpha1.LoadBalancerPoolSpec{Addresses: []v1alpha1.AddressRange{"192.0.2.0/24"}},
		})),
		n.sources.segments.GetStore().Add(v1alpha1test.SelectsAll(&v1alpha1.SegmentAnnouncement{ObjectMeta: named("all")})),
	); err != nil {
		t.Fatal(err)
	}
	expect := func(step string, wanted bool, candidates ...string) {
		t.Helper()
		is := false
		select {
		case <-n.sources.wanted:
			is = true
		default:
		}
		if got := n.l2.synced[webAddress].Candidates; is != wanted || !slices.Equal(got, candidates) {
			t.Errorf("%s: watched: %v, candidates %v", step, is, got)
		}
	}
	store("web")
	n.begin()
	if n.sources.byEndpoints() {
		t.Error("something depends on endpoints")
	}
	expect("policy Cluster", false, "n1", "n2")
	service.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	store("web")
	if !n.sources.byEndpoints() {
		t.Error("nothing depends on endpoints")
	}
	n.do(task{kind: serviceChanged, service: "d/web"})
	expect("policy Local", true, "n1", "n2")
	n.do(task{kind: settingsChanged})
	expect("and everything is planned again", true, "n1", "n2")
	service.Status.LoadBalancer.Ingress[0].IP = "192.0.2.2"
	store("new")
	n.do(task{kind: serviceChanged, service: "d/new"})
	if got := n.l2.synced; len(got) != 1 {
		t.Errorf("of a new Service: %v", got)
	}

	var running sync.WaitGroup
	ctx, end := context.WithCancel(t.Context())
	defer running.Wait()
	defer end()
	running.Go(func() { n.sources.runSlices(ctx) })
	<-n.sources.filled
	n.do(task{kind: endpointsFilled})
	expect("endpoints are known", true, "n2")
	if len(n.waiting) > 0 {
		t.Errorf("%v wait", n.waiting)
	}
	if got := <-asked; got != "/apis/discovery.k8s.io/v1/endpointslices" {
		t.Errorf("asked for %s", got)
	}
}

func TestSources_view(t *testing.T) {
	p := idleNode(t).planner
	service := func(uid types.UID, ingress ...string) *corev1.Service {
		svc := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "web", UID: uid},
			Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer},
		}
		for _, a := range ingress {
			svc.Status.LoadBalancer.Ingress = append(
				svc.Status.LoadBalancer.Ingress,
				corev1.LoadBalancerIngress{IP: a},
			)
		}
		return svc
	}
	forged := service("1", "192.0.2.1")
	forged.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ServiceAllocated, Status: metav1.ConditionTrue}}
	recorded := service("1", "192.0.2.1")
	extended := service("1", "172.30.0.12", "192.0.2.1")
	copied := service("2", "192.0.2.1")
	withdrawn := service("1")
	for _, svc := range []*corev1.Service{recorded, extended, withdrawn} {
		sign(p, svc, "192.0.2.1")
	}
	copied.Status.Conditions = recorded.Status.Conditions
	for name, x := range map[string]struct {
		svc  *corev1.Service
		want string
	}{
		"as recorded": {recorded, "[192.0.2.1]"}, "with an address that somebody added": {extended, "[192.0.2.1]"},
		"with the record of another Service": {copied, "[]"}, "with a condition that anybody can write": {forged, "[]"},
		"whose status shows nothing": {withdrawn, "[]"},
	} {
		if err := p.sources.service.GetStore().Add(kept(x.svc)); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(p.sources.view("d/web", p.recordKeys).Addresses); got != x.want {
			t.Errorf("%s: %s, want %s", name, got, x.want)
		}
	}
}
