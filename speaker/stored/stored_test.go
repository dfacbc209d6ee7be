package stored

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/reference"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/record"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
	"github.com/berth-lb/berth/speaker/plan"
)

var recordKey = []byte(strings.Repeat("k", v1alpha1.ShortestHelloKey))

// service returns a Service that was given 192.0.2.1 and 2001:db8::1, with all that plans read.
func service() *corev1.Service {
	proxy, seconds := corev1.LoadBalancerIPModeProxy, int32(60)
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "d", Name: "web", UID: "1", ResourceVersion: "7",
			Labels: map[string]string{"app": "web"}, CreationTimestamp: metav1.NewTime(time.Unix(1, 0)),
			Annotations: map[string]string{
				v1alpha1.AnnotationIPVSScheduler: "sh", v1alpha1.AnnotationSharingKey: "together", "other": "x",
			},
		},
		Spec: corev1.ServiceSpec{
			Type:                  corev1.ServiceTypeLoadBalancer,
			ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal,
			SessionAffinity:       corev1.ServiceAffinityClientIP,
			SessionAffinityConfig: &corev1.SessionAffinityConfig{
				ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds},
			},
			LoadBalancerSourceRanges: []string{" 10.1.2.3/8 ", "bad"},
			Ports: []corev1.ServicePort{
				{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53}, {Name: "x", Protocol: "QUIC", Port: 1},
			},
		},
		Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{
			{IP: "192.0.2.1", IPMode: &proxy}, {IP: "2001:db8::1"}, {IP: "203.0.113.1"}, {Hostname: "web.example"},
		}}},
	}
	given := record.Record{UID: svc.UID, Request: record.RequestOf(nil), Addresses: []netip.Addr{
		netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"),
	}}
	svc.Status.Conditions = []metav1.Condition{
		{Type: v1alpha1.ServiceAllocated},
		given.Condition(recordKey, metav1.Time{}),
	}
	return svc
}

var equal = cmp.Options{
	cmp.Comparer(
		func(a, b netip.Prefix) bool { return a == b },
	), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
}

func TestService_View(t *testing.T) {
	want := plan.Service{
		Name: "d/web", Labels: map[string]string{"app": "web"}, SharingKeys: []string{"together"}, Local: true,
		Created: time.Unix(1, 0), Scheduler: "sh", Proxied: true,
		Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
	}
	keys := [][]byte{[]byte("another key of that length"), recordKey}
	if diff := cmp.Diff(want, NewService(service(), false).View(keys), equal); diff != "" {
		t.Errorf("a node that does not forward (-want +got):\n%s", diff)
	}
	want.Ports = []plan.Port{{Name: "dns", Protocol: ipvs.UDP, Port: 53}}
	want.Persistence, want.SourceRanges = time.Minute, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	kept := NewService(service(), true)
	for range 2 { // what is kept does not change
		if diff := cmp.Diff(want, kept.View(keys), equal); diff != "" {
			t.Errorf("a node that forwards (-want +got):\n%s", diff)
		}
	}
	for name, change := range map[string]func(*corev1.Service){
		"with an unknown key": func(*corev1.Service) { keys = [][]byte{[]byte("another key of that length")} },
		"of another UID":      func(svc *corev1.Service) { svc.UID = "2" },
		"without a record":    func(svc *corev1.Service) { svc.Status.Conditions = nil },
		"without a status":    func(svc *corev1.Service) { svc.Status.LoadBalancer.Ingress = nil },
		"of type ClusterIP":   func(svc *corev1.Service) { svc.Spec.Type = corev1.ServiceTypeClusterIP },
		"with another address": func(svc *corev1.Service) {
			svc.Status.LoadBalancer.Ingress = svc.Status.LoadBalancer.Ingress[2:]
		},
	} {
		svc := service()
		change(svc)
		if view := NewService(svc, true).View(keys); len(view.Addresses) > 0 || view.Proxied {
			t.Errorf("%s: %+v", name, view)
		}
		keys = [][]byte{recordKey}
	}
}

// A text that is only compared takes few bytes, and stays different from others.
func TestService_longAnnotations(t *testing.T) {
	key := func(text string) string {
		svc := service()
		svc.Annotations = map[string]string{v1alpha1.AnnotationSharingKey: text}
		return NewService(svc, false).View(nil).SharingKeys[0]
	}
	long := strings.Repeat("x", 1<<18)
	if a, b := key(long), key(long+"y"); len(a) > 32 || a == b || a != key(strings.Clone(long)) {
		t.Errorf("keys of %d and %d bytes, equal: %v", len(a), len(b), a == b)
	}
}

func TestService_bound(t *testing.T) {
	for annotation, want := range map[string]bool{
		"kube-vip.io/loadbalancerIPs": true, "purelb.io/allocated-from": true,
		"metallb.io/ip-allocated-from-pool": false, "example.com/kube-vip.io": false, "bound": false,
	} {
		svc := service()
		svc.Annotations = map[string]string{annotation: "x"}
		for _, forwards := range []bool{false, true} {
			if view := NewService(svc, forwards).View(nil); view.Bound != want {
				t.Errorf("%s: bound by others: %v, want %v", annotation, view.Bound, want)
			}
		}
	}
}

func TestService_Proxied(t *testing.T) {
	kept := NewService(service(), false)
	for address, want := range map[string]bool{"192.0.2.1": true, "2001:db8::1": false, "192.0.2.9": false} {
		if got := kept.Proxied([]netip.Addr{netip.MustParseAddr(address)}); got != want {
			t.Errorf("%s: kube-proxy leaves it alone: %v, want %v", address, got, want)
		}
	}
}

// An informer finds what is kept by its key, and an event can be about it.
func TestService_identity(t *testing.T) {
	kept := NewService(service(), false)
	if key, err := cache.MetaNamespaceKeyFunc(kept); err != nil || key != "d/web" {
		t.Errorf("key %q, %v", key, err)
	}
	got, err := reference.GetReference(runtime.NewScheme(), kept)
	want := &corev1.ObjectReference{
		APIVersion: "v1", Kind: "Service", Namespace: "d", Name: "web", UID: "1", ResourceVersion: "7",
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
}

// Where endpoints are is what the whole EndpointSlice says.
func TestEndpointSlice_Object(t *testing.T) {
	yes, no, n1, n2 := true, false, "n1", "n2"
	ending := discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "d", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"},
		},
		AddressType: discoveryv1.AddressTypeIPv6,
		Endpoints: []discoveryv1.Endpoint{
			{
				NodeName: &n1,
			}, {NodeName: &n1}, {NodeName: &n1, Conditions: ending}, {NodeName: &n2, Conditions: ending},
			{NodeName: &n2, Conditions: discoveryv1.EndpointConditions{Ready: &no}}, {}, {Conditions: ending},
		},
	}
	for name, kept := range map[string]*EndpointSlice{"places": NewEndpointSlice(slice), "backends": NewBackends(slice)} {
		want := candidate.Of([]*discoveryv1.EndpointSlice{slice})
		got := candidate.Of([]*discoveryv1.EndpointSlice{kept.Object()})
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(candidate.Endpoints{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if kept.Service() != "d/web" {
			t.Errorf("%s: of Service %q", name, kept.Service())
		}
	}
	if got := NewEndpointSlice(&discoveryv1.EndpointSlice{}).Service(); got != "" {
		t.Errorf("of Service %q, want none", got)
	}
}
