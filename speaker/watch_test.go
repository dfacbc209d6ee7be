package speaker

import (
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
	"github.com/berth-lb/berth/speaker/plan"
)

func TestWhatTheAPISaysOfForwarding(t *testing.T) {
	proxy, seconds := corev1.LoadBalancerIPModeProxy, int32(60)
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "web", Annotations: map[string]string{v1alpha1.AnnotationIPVSScheduler: "sh", "other": "x"}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, SessionAffinity: corev1.ServiceAffinityClientIP,
			SessionAffinityConfig:    &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}},
			LoadBalancerSourceRanges: []string{" 10.1.2.3/8 ", "bad"},
			Ports:                    []corev1.ServicePort{{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53}, {Name: "x", Protocol: "QUIC", Port: 1}},
		},
		Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "192.0.2.1", IPMode: &proxy}}}},
	}
	slim, err := slimForwarded(svc)
	if err != nil {
		t.Fatal(err)
	}
	got := plan.Service{Proxied: proxied(svc.Status.LoadBalancer.Ingress[0])}
	readForwarding(&got, slim.(*corev1.Service))
	want := plan.Service{Proxied: true, Scheduler: "sh", Ports: []plan.Port{{Name: "dns", Protocol: ipvs.UDP, Port: 53}}, Persistence: time.Minute, SourceRanges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	slim, err = slimService(svc)
	if err != nil {
		t.Fatal(err)
	}
	if kept := slim.(*corev1.Service); len(kept.Spec.Ports) > 0 || kept.Annotations[v1alpha1.AnnotationIPVSScheduler] != "sh" {
		t.Errorf("a node that does not forward keeps %+v", kept)
	}
}

func TestBackendsOfEndpointSlices(t *testing.T) {
	yes, no, node, name, port := true, false, "n1", "http", int32(8080)
	slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port}, {Port: nil}}, Endpoints: []discoveryv1.Endpoint{
		{Addresses: []string{"10.0.1.1", "10.0.1.9"}, NodeName: &node},
		{Addresses: []string{"10.0.1.2"}, Conditions: discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}},
		{Addresses: []string{"10.0.1.3"}, Conditions: discoveryv1.EndpointConditions{Ready: &no, Terminating: &no}},
		{Addresses: []string{"pod.example"}},
		{},
	}}
	got := backendsOf([]*discoveryv1.EndpointSlice{candidate.SlimBackends(slice)})
	terminating := backend("http", "10.0.1.2:8080", "", candidate.Serving)
	terminating.Terminates = true
	want := []plan.Backend{backend("http", "10.0.1.1:8080", "n1", candidate.Ready), terminating, backend("http", "10.0.1.3:8080", "", candidate.Useless)}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}
