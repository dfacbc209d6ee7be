package speaker

import (
	"errors"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/config/v1alpha1/v1alpha1test"
	"github.com/berth-lb/berth/speaker/plan"
	"github.com/berth-lb/berth/speaker/steer"
)

// A node announces what it steers, and only that, if it has no endpoint.
func TestPlanner_steering(t *testing.T) {
	n := idleNode(t)
	n.Steering, n.steering.lacking = true, ""
	service, slice := webService(n.planner)
	service.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	service.Status.LoadBalancer.Ingress[0].IPMode = nil
	on2 := "n2"
	slice.Endpoints[0].NodeName = &on2
	if err := errors.Join(
		nodesOf(n.sources).Add(&corev1.Node{ObjectMeta: named("n1")}),
		nodesOf(n.sources).Add(&corev1.Node{ObjectMeta: named("n2")}),
		n.sources.service.GetStore().Add(kept(service)),
		n.sources.slice.GetStore().Add(kept(slice)),
		n.sources.pool.GetStore().Add(v1alpha1test.SelectsAll(&v1alpha1.LoadBalancerPool{
			ObjectMeta: named("ours"), Spec: v1alpha1.LoadBalancerPoolSpec{
				Addresses: []v1alpha1.AddressRange{"192.0.2.0/24"}, Dataplane: v1alpha1.DataplaneSteering,
			}})),
		n.sources.segments.GetStore().Add(v1alpha1test.SelectsAll(&v1alpha1.SegmentAnnouncement{ObjectMeta: named("all")})),
		n.sources.routes.GetStore().Add(v1alpha1test.SelectsAll(&v1alpha1.RouteAnnouncement{ObjectMeta: named("all")})),
	); err != nil {
		t.Fatal(err)
	}
	expect := func(step string, candidates []string, routed, able bool) {
		t.Helper()
		got, routes, _ := n.announced()
		if !slices.Equal(got, candidates) || (routes > 0) != routed || n.l2.capabilities.Has(plan.Steers) != able {
			t.Errorf("%s: candidates %v, %d routes, capabilities %b", step, got, routes, n.l2.capabilities)
		}
	}
	n.steering.starting = true
	n.begin()
	if ports := n.steering.synced["d/web"]; len(ports) != 1 || len(ports[0].Members) != 1 ||
		ports[0].Members[0].Node != "n2" {
		t.Fatalf("it steers %+v", ports)
	}
	expect("the kernel has nothing yet", []string{"n2"}, false, true)
	n.steering.steers["d/web"], n.steering.starting = true, false
	n.do(task{kind: serviceChanged, service: "d/web"})
	expect("it steers", []string{"n1", "n2"}, true, true)
	n.steering.lacking = "the kernel is too old"
	n.do(task{kind: abilityChanged})
	expect("it cannot", []string{"n1", "n2"}, false, false)
	on1 := "n1"
	slice.Endpoints[0].NodeName = &on1
	if err := n.sources.slice.GetStore().Update(kept(slice)); err != nil {
		t.Fatal(err)
	}
	n.steering.steers["d/web"], n.steering.starting = false, true
	n.do(task{kind: serviceChanged, service: "d/web"})
	expect("it has an endpoint, and boots", []string{"n2"}, false, false)
	n.steering.starting = false
	n.do(task{kind: serviceChanged, service: "d/web"})
	expect("it has an endpoint, and does not steer", []string{"n1", "n2"}, true, false)
	if err := n.sources.service.GetStore().Delete(kept(service)); err != nil {
		t.Fatal(err)
	}
	n.do(task{kind: serviceChanged, service: "d/web"})
	if len(n.steering.synced) > 0 {
		t.Errorf("it steers %v, which is gone", n.steering.synced)
	}
}

// The annotation of the Secret of keys turns steering off, and the key of records is its seed.
func TestPlanner_reviewKey_steering(t *testing.T) {
	n := idleNode(t)
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: v1alpha1.HelloSecret},
		Data:       map[string][]byte{v1alpha1.HelloKey: recordKey, v1alpha1.RecordKey: recordKey},
	}
	for _, c := range []struct {
		value string
		off   bool
	}{{"", false}, {v1alpha1.SteeringDisabled, true}, {"Enabled", false}} {
		secret = secret.DeepCopy()
		secret.Annotations = map[string]string{v1alpha1.AnnotationSteering: c.value}
		if err := n.sources.secret.GetStore().Update(secret); err != nil {
			t.Fatal(err)
		}
		n.do(task{kind: keyChanged})
		if n.steering.off != c.off || n.steering.seed != steer.Seed(recordKey) {
			t.Errorf("%q: off %v, seed %x", c.value, n.steering.off, n.steering.seed)
		}
	}
}
