package speaker

import (
	"maps"
	"math/rand/v2"

	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/config/v1alpha1/v1alpha1test"
)

// largeNode returns a node of a cluster of so many nodes and groups, of which each tenth is of
// policy Local with endpoints on two nodes. A SegmentAnnouncement and a RouteAnnouncement select
// nodes by the label rack.
func largeNode(t testing.TB, nodes, groups int) node {
	t.Helper()
	n := idleNode(t)
	add := func(store interface{ Add(any) error }, o any) {
		if err := store.Add(o); err != nil {
			t.Fatal(err)
		}
	}
	for i := range nodes {
		add(nodesOf(n.sources), numberedNode(i))
	}
	racked := &v1alpha1.Selector{MatchLabels: map[string]string{"rack": "a"}}
	segments := v1alpha1test.SelectsAll(&v1alpha1.SegmentAnnouncement{ObjectMeta: named("all")})
	segments.Spec.NodeSelector = racked
	routes := v1alpha1test.SelectsAll(&v1alpha1.RouteAnnouncement{ObjectMeta: named("all")})
	routes.Spec.NodeSelector = racked
	add(n.sources.segments.GetStore(), segments)
	add(n.sources.routes.GetStore(), routes)
	add(n.sources.pool.GetStore(), v1alpha1test.SelectsAll(&v1alpha1.LoadBalancerPool{
		ObjectMeta: named(
			"ours",
		), Spec: v1alpha1.LoadBalancerPoolSpec{Addresses: []v1alpha1.AddressRange{"10.0.0.0/16"}},
	}))
	address := netip.MustParseAddr("10.0.0.1")
	for i := range groups {
		svc := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: fmt.Sprintf("team-%d", i%100), Name: fmt.Sprintf("service-%d", i), UID: "1",
				CreationTimestamp: metav1.Time{Time: time.Unix(int64(i), 0)},
			},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Name: "http", Port: 80}},
			},
			Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{
				Ingress: []corev1.LoadBalancerIngress{{IP: address.String()}},
			}},
		}
		if i%10 == 0 {
			svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
			add(n.sources.slice.GetStore(), kept(sliceOn(svc, numberedNode(i%nodes).Name, numberedNode((i+1)%nodes).Name)))
		}
		sign(n.planner, svc, address.String())
		add(n.sources.service.GetStore(), kept(svc))
		address = address.Next()
	}
	return n
}

func sliceOn(svc *corev1.Service, nodes ...string) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
		Namespace: svc.Namespace, Name: svc.Name + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name},
	}}
	for _, node := range nodes {
		slice.Endpoints = append(
			slice.Endpoints,
			discoveryv1.Endpoint{Addresses: []string{"10.244.0.1"}, NodeName: &node},
		)
	}
	return slice
}

// numberedNode returns the node of a number, from 0; that of 0 is this node.
func numberedNode(i int) *corev1.Node {
	name := fmt.Sprintf("n%d", i+1)
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "rack": "a",
	}}}
}

// BenchmarkNodeChange is what a speaker computes when a label of another node changes, beside
// 10 000 groups. It must not grow with nodes times groups.
func BenchmarkNodeChange(b *testing.B) {
	for _, nodes := range []int{3, 50, 500} {
		n := largeNode(b, nodes, 10_000)
		n.begin()
		if got := len(n.l2.synced); got != 10_000 {
			b.Fatalf("%d addresses are announced", got)
		}
		for _, c := range []struct{ name, label string }{{"nobody reads it", "note"}, {"a selector reads it", "rack"}} {
			b.Run(fmt.Sprintf("%d nodes/%s", nodes, c.name), func(b *testing.B) {
				b.ReportAllocs()
				values := []string{"b", "a"}
				for i := 0; b.Loop(); i++ {
					changed := numberedNode(1)
					changed.Labels[c.label] = values[i%2]
					if err := nodesOf(n.sources).Update(changed); err != nil {
						b.Fatal(err)
					}
					n.do(task{kind: nodesChanged})
				}
			})
		}
	}
}

// What is planned after changes of nodes one by one is what is planned from nothing.
func TestNodesChange(t *testing.T) {
	const nodes, groups = 6, 40
	n := largeNode(t, nodes, groups)
	preferring := v1alpha1test.SelectsAll(&v1alpha1.SegmentAnnouncement{ObjectMeta: named("preferring")})
	preferring.Spec.NodeSelector = &v1alpha1.Selector{MatchLabels: map[string]string{"rack": "b"}}
	preferring.Spec.PreferredNodes = []v1alpha1.PreferredNode{{
		Weight: 7, NodeSelector: &v1alpha1.Selector{MatchLabels: map[string]string{"fast": "a"}},
	}}
	if err := n.sources.segments.GetStore().Add(preferring); err != nil {
		t.Fatal(err)
	}
	n.begin()
	r := rand.New(rand.NewPCG(1, 2))
	for step := range 300 {
		changed := numberedNode(r.IntN(nodes))
		changed.Labels["rack"] = []string{"a", "b", "c"}[r.IntN(3)]
		changed.Labels["fast"] = []string{"a", "b"}[r.IntN(2)]
		if r.IntN(4) == 0 {
			changed.Labels[corev1.LabelNodeExcludeBalancers] = ""
		}
		store := nodesOf(n.sources)
		update := store.Update
		if changed.Name != n.Node && r.IntN(6) == 0 {
			update = store.Delete
		}
		if err := update(changed); err != nil {
			t.Fatal(err)
		}
		n.do(task{kind: nodesChanged})
		got, routes := maps.Clone(n.l2.synced), maps.Clone(n.bgp.synced)
		n.do(task{kind: settingsChanged}) // plans everything again
		if diff := cmp.Diff(n.l2.synced, got); diff != "" {
			t.Fatalf("step %d, %v: layer 2 (-all again +by the change):\n%s", step, changed.Labels, diff)
		}
		if diff := cmp.Diff(n.bgp.synced, routes, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Fatalf("step %d, %v: routes (-all again +by the change):\n%s", step, changed.Labels, diff)
		}
	}
}
