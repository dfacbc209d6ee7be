// Package kubeproxy_test compares what Berth's data plane makes of objects with what kube-proxy's
// own code makes of them.
package kubeproxy_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/proxy"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
	"github.com/berth-lb/berth/speaker/object"
	"github.com/berth-lb/berth/speaker/plan"
)

const (
	self    = "n1"
	address = "192.0.2.1"
	mark    = ipvs.Marks | 1
)

// scene is a Service with endpoints, as a node in a zone sees it.
type scene struct {
	Zone   string
	Policy corev1.ServiceExternalTrafficPolicy
	Slices []*discoveryv1.EndpointSlice
}

// draw makes a scene of few nodes and zones, so that hints meet. Most endpoints are ready and have
// hints of both kinds, as the controller of EndpointSlices writes them.
func draw(r *rand.Rand) scene {
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	s := scene{
		Zone: pick("", "a", "b", "c"),
		Policy: corev1.ServiceExternalTrafficPolicy(
			pick(
				string(corev1.ServiceExternalTrafficPolicyCluster),
				string(corev1.ServiceExternalTrafficPolicyLocal),
			),
		),
	}
	name, port, protocol := "http", int32(8080), corev1.ProtocolTCP
	for i := range 2 {
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "d", Name: fmt.Sprintf("web-%d", i), Labels: map[string]string{discoveryv1.LabelServiceName: "web"},
			},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}},
		}
		for j := range r.IntN(4) {
			node, ready := pick("n1", "n2", "n3"), r.IntN(4) > 0
			serving := ready || r.IntN(2) == 0
			terminating := !ready && r.IntN(3) > 0
			e := discoveryv1.Endpoint{
				Addresses: []string{fmt.Sprintf("10.0.%d.%d", i, j+1)}, NodeName: &node,
				Conditions: discoveryv1.EndpointConditions{
					Ready:       &ready,
					Serving:     &serving,
					Terminating: &terminating,
				},
			}
			if r.IntN(12) > 0 {
				e.Hints = &discoveryv1.EndpointHints{}
				for range min(1, r.IntN(8)) + r.IntN(5)/4 {
					e.Hints.ForZones = append(e.Hints.ForZones, discoveryv1.ForZone{Name: pick("a", "b")})
				}
				for range min(1, r.IntN(3)) + r.IntN(5)/4 {
					e.Hints.ForNodes = append(e.Hints.ForNodes, discoveryv1.ForNode{Name: pick("n1", "n2", "n3")})
				}
			}
			slice.Endpoints = append(slice.Endpoints, e)
		}
		s.Slices = append(s.Slices, slice)
	}
	return s
}

// service is one whose connections kube-proxy forwards, or by ipMode Proxy Berth.
func (s scene) service(mode corev1.LoadBalancerIPMode) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "web"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1"},
			ExternalTrafficPolicy: s.Policy, HealthCheckNodePort: 30000,
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}},
		},
		Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{
			Ingress: []corev1.LoadBalancerIngress{{IP: address, IPMode: &mode}},
		}},
	}
}

func (s scene) labels() map[string]string {
	if s.Zone == "" {
		return nil
	}
	return map[string]string{corev1.LabelTopologyZone: s.Zone}
}

// byKubeProxy returns the endpoints of new connections by kube-proxy: those of policy Cluster, and
// those of policy Local.
func (s scene) byKubeProxy(t *testing.T) (cluster, local []netip.AddrPort) {
	t.Helper()
	ports, endpoints := proxy.ServicePortMap{}, proxy.EndpointsMap{}
	services := proxy.NewServiceChangeTracker(corev1.IPv4Protocol, nil, nil)
	services.Update(nil, s.service(corev1.LoadBalancerIPModeVIP))
	ports.Update(services)
	changes := proxy.NewEndpointsChangeTracker(corev1.IPv4Protocol, self, nil, nil)
	for _, slice := range s.Slices {
		changes.EndpointSliceUpdate(slice, false)
	}
	endpoints.Update(changes)
	if len(ports) != 1 {
		t.Fatalf("kube-proxy has the ports %v", ports)
	}
	for name, port := range ports {
		c, l, _, _ := proxy.CategorizeEndpoints(endpoints[name], port, self, s.labels())
		cluster, local = parse(c), parse(l)
	}
	return cluster, local
}

func parse(endpoints []proxy.Endpoint) []netip.AddrPort {
	var found []netip.AddrPort
	for _, e := range endpoints {
		found = append(found, netip.MustParseAddrPort(e.String()))
	}
	return sorted(found)
}

// byBerth returns the endpoints of new connections by IPVS: those of clients, and those of the
// node's own pods, which under policy Local have a virtual server of their own.
func (s scene) byBerth() (clients, own []netip.AddrPort) {
	svc := object.Service(s.service(corev1.LoadBalancerIPModeProxy), []netip.Addr{netip.MustParseAddr(address)})
	front := ipvs.Frontend{Address: svc.Addresses[0], Port: 80, Protocol: ipvs.TCP}
	marks := map[ipvs.Frontend]uint32{}
	if svc.Local {
		marks[front] = mark
	}
	var kept []*discoveryv1.EndpointSlice
	for _, slice := range s.Slices {
		kept = append(kept, candidate.SlimBackends(slice))
	}
	f := plan.PlanForwarding(
		[]plan.ClassifiedService{{Service: svc, IPVSScheduler: "rr"}},
		map[string][]plan.Backend{svc.Name: object.Backends(kept)}, marks,
		plan.World{Self: self, Nodes: map[string]plan.Node{self: {Labels: s.labels()}}, Forwards: true},
	)
	of := func(f ipvs.VirtualServer) []netip.AddrPort {
		var found []netip.AddrPort
		for _, r := range f.RealServers {
			if r.Weight > 0 {
				found = append(found, netip.AddrPortFrom(r.Address, r.Port))
			}
		}
		return sorted(found)
	}
	return of(f.Table[front]), of(f.Table[ipvs.Marked(mark, front.Address)])
}

func sorted(all []netip.AddrPort) []netip.AddrPort {
	slices.SortFunc(all, netip.AddrPort.Compare)
	return all
}

// New connections go to the same endpoints by IPVS as by kube-proxy, whatever the hints.
func TestHintsCountAsForKubeProxy(t *testing.T) {
	const scenes = 5000
	narrowed := map[corev1.ServiceExternalTrafficPolicy]int{}
	for seed := range uint64(scenes) {
		s := draw(rand.New(rand.NewPCG(seed, 0)))
		cluster, local := s.byKubeProxy(t)
		clients, own := s.byBerth()
		told := func(what string, got, want []netip.AddrPort) {
			t.Helper()
			if !slices.Equal(got, want) {
				objects, _ := json.Marshal(s)
				t.Fatalf("seed %d: %s go to %v, by kube-proxy to %v, of\n%s", seed, what, got, want, objects)
			}
		}
		if s.Policy == corev1.ServiceExternalTrafficPolicyCluster {
			told("clients", clients, cluster)
		} else {
			told("the node's own pods", own, cluster)
			if s.hasOwn() {
				told("clients", clients, local)
			}
		}
		if len(cluster) < s.count(func(discoveryv1.Endpoint) bool { return true }) {
			narrowed[s.Policy]++
		}
	}
	for _, policy := range []corev1.ServiceExternalTrafficPolicy{
		corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal,
	} {
		t.Logf("hints left out endpoints in %d scenes of policy %s", narrowed[policy], policy)
		if narrowed[policy] < scenes/20 {
			t.Errorf("hints left out endpoints in %d scenes of policy %s, too few to tell", narrowed[policy], policy)
		}
	}
}

// hasOwn reports whether a ready endpoint is on the node. Without one clients do not come by policy
// Local, and IPVS serves the node's own pods.
func (s scene) hasOwn() bool {
	return s.count(func(e discoveryv1.Endpoint) bool { return *e.NodeName == self }) > 0
}

// count returns how many of the endpoints are ready.
func (s scene) count(those func(discoveryv1.Endpoint) bool) int {
	n := 0
	for _, slice := range s.Slices {
		for _, e := range slice.Endpoints {
			if *e.Conditions.Ready && those(e) {
				n++
			}
		}
	}
	return n
}
