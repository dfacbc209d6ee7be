package speaker

import (
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/record"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/speaker/stored"
)

// BenchmarkMemory reports what a speaker keeps of so many nodes and Services, as its clients decode
// them, in MiB of live heap: of each cache, and of the plans.
func BenchmarkMemory(b *testing.B) {
	const services = 10_000
	for _, nodes := range []int{3, 500} {
		b.Run(fmt.Sprintf("%d nodes", nodes), func(b *testing.B) {
			for b.Loop() {
				measureMemory(b, nodes, services)
			}
		})
	}
}

// message is an object as it comes over the wire.
type message interface {
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

func measureMemory(b *testing.B, nodes, services int) {
	n := largeNode(b, 0, 0) // its configuration
	n.planner.Options.IPVS, n.planner.world.Forwards = false, false
	n.planner.recordKeys = [][]byte{recordKey}
	last := liveHeap()
	part := func(name string) {
		heap := liveHeap()
		b.ReportMetric(float64(heap-last)/(1<<20), name+"-MiB")
		last = heap
	}
	keep := func(store cache.Store, keep func() any, o, decoded message) {
		encoded, err := o.Marshal()
		if err == nil {
			err = decoded.Unmarshal(encoded) // its strings are its own
		}
		if err != nil {
			b.Fatal(err)
		}
		if err := store.Add(keep()); err != nil {
			b.Fatal(err)
		}
	}
	for i := range nodes {
		node := &corev1.Node{}
		keep(nodesOf(n.sources), func() any { return candidate.SlimNode(node) }, fullNode(i), node)
	}
	part("nodes")
	for i := range services {
		svc := &corev1.Service{}
		keep(n.sources.service.GetStore(), func() any { return stored.NewService(svc, false) }, fullService(i), svc)
	}
	part("services")
	for i := range services {
		slice := &discoveryv1.EndpointSlice{}
		keep(
			n.sources.slice.GetStore(),
			func() any { return stored.NewEndpointSlice(slice) },
			fullSlice(i, nodes),
			slice,
		)
	}
	part("slices")
	n.begin()
	if got := len(n.l2.synced); got != services {
		b.Fatalf("%d addresses are announced, want %d", got, services)
	}
	part("plans")
	runtime.KeepAlive(n)
}

// liveHeap returns how many bytes are reachable.
func liveHeap() int64 {
	runtime.GC()
	runtime.GC() // what finalizers kept
	var now runtime.MemStats
	runtime.ReadMemStats(&now)
	return int64(now.HeapAlloc)
}

// fullService is a Service as an API server has it: made by Helm, given an address.
func fullService(i int) *corev1.Service {
	proto, vip := corev1.ProtocolTCP, corev1.LoadBalancerIPModeVIP
	release := fmt.Sprintf("shop-%05d", i)
	app := map[string]string{
		"app.kubernetes.io/name": fmt.Sprintf("shop-%d", i%50), "app.kubernetes.io/instance": release,
	}
	labels := map[string]string{"app.kubernetes.io/managed-by": "Helm", "helm.sh/chart": "shop-1.2.3"}
	for k, v := range app {
		labels[k] = v
	}
	address := netip.AddrFrom4([4]byte{10, 0, byte((i + 1) >> 8), byte(i + 1)})
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: fmt.Sprintf("team-%d", i%20), Name: "service-" + release, UID: fullUID("5e", i),
			ResourceVersion: fmt.Sprint(1_000_000 + i), Labels: labels,
			Annotations: map[string]string{
				"meta.helm.sh/release-name": release, "meta.helm.sh/release-namespace": fmt.Sprintf("team-%d", i%20),
			},
			CreationTimestamp: metav1.NewTime(time.Unix(int64(1_700_000_000+i), 0)),
			ManagedFields:     managedBy("helm", "berth-controller"),
		},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, Selector: app,
			ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1"},
			Ports: []corev1.ServicePort{
				{Name: "http", Port: 80, Protocol: proto, TargetPort: intstr.FromString("http")},
				{Name: "https", Port: 443, Protocol: proto, TargetPort: intstr.FromString("https")},
			},
		},
		Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{
			Ingress: []corev1.LoadBalancerIngress{{IP: address.String(), IPMode: &vip}},
		}},
	}
	svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	if i%10 == 0 {
		svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	given := record.Record{UID: svc.UID, Request: record.RequestOf(nil), Addresses: []netip.Addr{address}}
	svc.Status.Conditions = []metav1.Condition{
		{
			Type:   v1alpha1.ServiceAllocated,
			Status: metav1.ConditionTrue,
			Reason: "Allocated",
			Message: address.String() +
				" from LoadBalancerPool ours",
		},
		given.Condition(recordKey, metav1.Time{}),
	}
	return svc
}

// fullSlice is the EndpointSlice of such a Service, as its controller makes it.
func fullSlice(i, nodes int) *discoveryv1.EndpointSlice {
	svc := fullService(i)
	yes, zone := true, "zone-a"
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: svc.Namespace, Name: svc.Name + "-abcde", GenerateName: svc.Name + "-", UID: fullUID("e5", i),
			ResourceVersion: fmt.Sprint(2_000_000 + i), Labels: svc.Labels,
			ManagedFields: managedBy("kube-controller-manager"),
		},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	slice.Labels[discoveryv1.LabelServiceName] = svc.Name
	for _, p := range svc.Spec.Ports {
		port := p.Port + 8000
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &p.Name, Port: &port, Protocol: &p.Protocol})
	}
	for e := range 3 {
		node := numberedNode((i + 7*e) % nodes).Name
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.%d.%d.%d", 128+e, i>>8, i&255)}, NodeName: &node, Zone: &zone,
			Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes},
			TargetRef: &corev1.ObjectReference{
				Kind: "Pod", Namespace: svc.Namespace, Name: fmt.Sprintf("shop-%05d-7d4b9c6f8-x%dk2p", i, e), UID: fullUID("90", i),
			},
		})
	}
	return slice
}

// fullNode is numberedNode as a kubelet and the controllers around it fill it.
func fullNode(i int) *corev1.Node {
	node := numberedNode(i)
	node.UID, node.ResourceVersion = fullUID("0d", i), fmt.Sprint(3_000_000+i)
	node.ManagedFields = managedBy("kubelet", "kube-controller-manager")
	for name, value := range map[string]string{
		"beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "amd64", "node.kubernetes.io/instance-type": "metal",
		"topology.kubernetes.io/zone": "zone-a", "topology.kubernetes.io/region": "north",
		"node-role.kubernetes.io/worker": "",
	} {
		node.Labels[name] = value
	}
	node.Spec.PodCIDR = fmt.Sprintf("10.%d.%d.0/24", 128+i>>8, i&255)
	node.Spec.PodCIDRs = []string{node.Spec.PodCIDR}
	node.Status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("192.168.%d.%d", i>>8, i&255)},
		{Type: corev1.NodeHostName, Address: node.Name},
	}
	for _, kind := range []corev1.NodeConditionType{
		corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure, corev1.NodeReady,
	} {
		node.Status.Conditions = append(node.Status.Conditions, corev1.NodeCondition{
			Type: kind, Status: corev1.ConditionTrue, Reason: "Kubelet", Message: "the kubelet says so",
		})
	}
	for image := range 40 {
		node.Status.Images = append(node.Status.Images, corev1.ContainerImage{
			Names: []string{fmt.Sprintf("registry.example/team/image-%d@sha256:%s", image, strings.Repeat("0", 64))},
		})
	}
	return node
}

func fullUID(kind string, i int) types.UID {
	return types.UID(fmt.Sprintf("%s%06d-7b1c-4a52-9d0e-%012d", kind, i, i))
}

func managedBy(managers ...string) (fields []metav1.ManagedFieldsEntry) {
	for _, m := range managers {
		fields = append(fields, metav1.ManagedFieldsEntry{
			Manager: m, Operation: metav1.ManagedFieldsOperationUpdate,
			FieldsV1: metav1.NewFieldsV1(strings.Repeat(`"f:key":{},`, 40)),
		})
	}
	return fields
}
