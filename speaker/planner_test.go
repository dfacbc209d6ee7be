package speaker

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/record"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/config/v1alpha1/v1alpha1test"
)

// idlePlanner returns a planner whose informers and drivers do not run.
func idlePlanner(t *testing.T) *planner {
	t.Helper()
	berth, errBerth := client.New(&rest.Config{})
	kube, errKube := kubernetes.NewForConfig(&rest.Config{})
	if err := errors.Join(errBerth, errKube); err != nil {
		t.Fatal(err)
	}
	s, err := New(Options{Kubernetes: kube, Berth: berth, Logger: slog.New(slog.DiscardHandler), Node: "n1", Namespace: "berth-system", IPVS: true})
	if err != nil {
		t.Fatal(err)
	}
	node := &corev1.Node{Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.11"}}}}
	p, _, err := s.assemble(node, "cluster")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.tasks.ShutDown)
	return p
}

var recordKey = []byte("0123456789abcdef0123456789abcdef")

// sign records in the status of the Service that the controller gave these addresses.
func sign(p *planner, svc *corev1.Service, addresses ...string) {
	p.recordKeys = [][]byte{recordKey}
	given := record.Record{UID: svc.UID, Request: record.RequestOf(nil)}
	for _, a := range addresses {
		given.Addresses = append(given.Addresses, netip.MustParseAddr(a))
	}
	svc.Status.Conditions = []metav1.Condition{given.Condition(recordKey, metav1.Time{})}
}

func TestOnlyWhatTheControllerGaveIsAnnounced(t *testing.T) {
	p := idlePlanner(t)
	service := func(uid types.UID, ingress ...string) *corev1.Service {
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "web", UID: uid}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}}
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
		"of which the status shows nothing": {withdrawn, "[]"},
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

func TestAServiceIsPlannedAnewWhenTheTimeOfAnEndpointIsUp(t *testing.T) {
	p := idlePlanner(t)
	proxy, yes, no, name, port := corev1.LoadBalancerIPModeProxy, true, false, "http", int32(8080)
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "web", UID: "1"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Name: name, Port: 80}}},
		Status: corev1.ServiceStatus{
			LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "192.0.2.1", IPMode: &proxy}}},
		},
	}
	sign(p, service, "192.0.2.1")
	if err := errors.Join(
		p.sources.service.GetStore().Add(service),
		p.sources.slice.GetStore().Add(&discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
			Ports:      []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
			Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{"10.0.1.1"}, Conditions: discoveryv1.EndpointConditions{Ready: &no, Terminating: &yes}}},
		}),
		p.sources.pool.GetStore().Add(v1alpha1test.SelectsAll(&v1alpha1.LoadBalancerPool{ObjectMeta: named("ours"), Spec: v1alpha1.LoadBalancerPoolSpec{
			Addresses: []v1alpha1.AddressRange{"192.0.2.0/24"}, Dataplane: v1alpha1.DataplaneIPVS,
			IPVS: &v1alpha1.IPVSSettings{DrainTimeout: "1ms"},
		}})),
	); err != nil {
		t.Fatal(err)
	}
	compiled, _ := config.Compile(p.sources.objects())
	p.world.Snapshot = compiled

	defer time.AfterFunc(10*time.Second, p.tasks.ShutDown).Stop()
	p.reviewService("d/web")
	if got, _ := p.tasks.Get(); got != (task{serviceChanged, "d/web"}) {
		t.Errorf("to do when the time is up: %v", got)
	}
	for _, step := range []struct {
		name       string
		change     func() error
		remembered int
	}{
		{"that kube-proxy serves", func() error {
			service.Status.LoadBalancer.Ingress[0].IPMode, p.world.Snapshot = nil, &config.Snapshot{}
			return nil
		}, 0},
		{"that Berth serves", func() error {
			service.Status.LoadBalancer.Ingress[0].IPMode, p.world.Snapshot = &proxy, compiled
			return nil
		}, 1},
		{"that is gone", func() error { return p.sources.service.GetStore().Delete(service) }, 0},
	} {
		if err := step.change(); err != nil {
			t.Fatal(err)
		}
		p.reviewService("d/web")
		if len(p.carried.drains.services) != step.remembered {
			t.Errorf("of a Service %s is remembered: %v", step.name, p.carried.drains.services)
		}
	}
}
