package speaker

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
	"github.com/berth-lb/berth/speaker/object"
	"github.com/berth-lb/berth/speaker/plan"
)

func TestReadForwarding(t *testing.T) {
	proxy, seconds := corev1.LoadBalancerIPModeProxy, int32(60)
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:   "d",
			Name:        "web",
			Annotations: map[string]string{v1alpha1.AnnotationIPVSScheduler: "sh", "other": "x"},
		},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, SessionAffinity: corev1.ServiceAffinityClientIP,
			SessionAffinityConfig:    &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}},
			LoadBalancerSourceRanges: []string{" 10.1.2.3/8 ", "bad"},
			Ports: []corev1.ServicePort{
				{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53},
				{Name: "x", Protocol: "QUIC", Port: 1},
			},
		},
		Status: corev1.ServiceStatus{
			LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "192.0.2.1", IPMode: &proxy}}},
		},
	}
	slim, err := slimForwarded(svc)
	if err != nil {
		t.Fatal(err)
	}
	got := plan.Service{Proxied: object.Proxied(svc.Status.LoadBalancer.Ingress[0])}
	object.ReadForwarding(&got, slim.(*corev1.Service))
	want := plan.Service{
		Proxied:      true,
		Scheduler:    "sh",
		Ports:        []plan.Port{{Name: "dns", Protocol: ipvs.UDP, Port: 53}},
		Persistence:  time.Minute,
		SourceRanges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	slim, err = slimService(svc)
	if err != nil {
		t.Fatal(err)
	}
	if kept := slim.(*corev1.Service); len(kept.Spec.Ports) > 0 ||
		kept.Annotations[v1alpha1.AnnotationIPVSScheduler] != "sh" {
		t.Errorf("a node that does not forward keeps %+v", kept)
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
			svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a})
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
		slim, err := slimService(x.svc)
		if err == nil {
			err = p.sources.service.GetStore().Add(slim)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(p.sources.view("d/web", p.recordKeys).Addresses); got != x.want {
			t.Errorf("%s: %s, want %s", name, got, x.want)
		}
	}
}
