package speaker

import (
	"maps"
	"math/rand/v2"
	"reflect"

	"fmt"
	"net/netip"
	"slices"
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
	}, Ports: []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080))}}}
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
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "rack": "a",
	}}}
	uses(n, fmt.Sprintf("172.30.%d.%d", i/256, i%256), fmt.Sprintf("10.%d.%d.0/24", 128+i/256, i%256))
	return n
}

// uses gives a node an address and a range for its pods.
func uses(n *corev1.Node, address, pods string) {
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}
	n.Spec.PodCIDRs = []string{pods}
}

// BenchmarkNodeChange is what a speaker computes when a label of another node changes, or the range
// of its pods, beside 10 000 groups. It must not grow with nodes times groups.
func BenchmarkNodeChange(b *testing.B) {
	for _, nodes := range []int{3, 50, 500} {
		n := largeNode(b, nodes, 10_000)
		n.begin()
		if got := len(n.l2.synced); got != 10_000 {
			b.Fatalf("%d addresses are announced", got)
		}
		label := func(name string) func(*corev1.Node, bool) {
			return func(n *corev1.Node, odd bool) {
				if n.Labels[name] = "b"; odd {
					n.Labels[name] = "a"
				}
			}
		}
		for _, c := range []struct {
			name   string
			change func(n *corev1.Node, odd bool)
		}{
			{"nobody reads it", label("note")},
			{"a selector reads it", label("rack")},
			{"range of its pods", func(n *corev1.Node, odd bool) {
				if odd {
					n.Spec.PodCIDRs = nil
				}
			}},
		} {
			b.Run(fmt.Sprintf("%d nodes/%s", nodes, c.name), func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					changed := numberedNode(1)
					c.change(changed, i%2 == 1)
					if err := nodesOf(n.sources).Update(changed); err != nil {
						b.Fatal(err)
					}
					n.do(task{kind: nodesChanged})
				}
			})
		}
	}
}

// A node that dies, or is back, has those groups planned again that are forwarded to it.
func TestSetDead(t *testing.T) {
	n := largeNode(t, 6, 40)
	pool := v1alpha1test.SelectsAll(&v1alpha1.LoadBalancerPool{ObjectMeta: named("ours")})
	pool.Spec.Addresses, pool.Spec.Dataplane = []v1alpha1.AddressRange{"10.0.0.0/16"}, v1alpha1.DataplaneIPVS
	if err := n.sources.pool.GetStore().Update(pool); err != nil {
		t.Fatal(err)
	}
	n.begin()
	for _, step := range []struct {
		dead []string
		want []int // the Services that are planned again
	}{
		{[]string{"n5"}, []int{10}},
		{[]string{"n5", "n7"}, nil},
		{[]string{"n4", "n6", "n7"}, []int{10, 20}},
		{[]string{"n4"}, []int{10}},
		{[]string{"n1", "n4"}, []int{0, 30}},
		{nil, []int{0, 20, 30}},
	} {
		clear(n.dataplane.synced)
		dead := map[string]bool{}
		for _, node := range step.dead {
			dead[node] = true
		}
		n.setDead(dead)
		got := maps.Clone(n.dataplane.synced)
		var want []string
		for _, i := range step.want {
			want = append(want, fmt.Sprintf("team-%d/service-%d", i, i))
		}
		slices.Sort(want)
		if planned := slices.Sorted(maps.Keys(got)); !slices.Equal(planned, want) {
			t.Errorf("dead are %v: planned are %v, want %v", step.dead, planned, want)
		}
		n.do(task{kind: settingsChanged}) // plans everything again
		for group, f := range got {
			if again := n.dataplane.synced[group]; len(f.Table) == 0 || !reflect.DeepEqual(f, again) {
				t.Errorf("dead are %v: %s is forwarded as %v, and if all is planned again as %v", step.dead, group, f, again)
			}
		}
	}
}

// BenchmarkNodeDies is what a speaker computes when another node dies, beside 10 000 groups. It
// must not grow with those that are not forwarded to it.
func BenchmarkNodeDies(b *testing.B) {
	n := largeNode(b, 500, 10_000)
	n.begin()
	for i := 0; b.Loop(); i++ {
		dead := map[string]bool{}
		if i%2 == 0 {
			dead["n1"] = true
		}
		n.setDead(dead)
	}
}

// aggregated returns a RouteAnnouncement of /28s.
func aggregated() *v1alpha1.RouteAnnouncement {
	a := v1alpha1test.SelectsAll(&v1alpha1.RouteAnnouncement{ObjectMeta: named("aggregated")})
	a.Spec.Aggregation = &v1alpha1.Aggregation{IPv4PrefixLength: 28}
	return a
}

// A node that joins, gets a range for its pods, or leaves has those groups planned again whose
// addresses it uses, or whose aggregates hold what it uses; the others are told who may own them.
func TestNodesChange_used(t *testing.T) {
	n := largeNode(t, 3, 40)
	if err := n.sources.routes.GetStore().Add(aggregated()); err != nil {
		t.Fatal(err)
	}
	n.begin()
	store := nodesOf(n.sources)
	joins := func(address, pods string) *corev1.Node {
		o := numberedNode(3)
		uses(o, address, pods)
		return o
	}
	for _, step := range []struct {
		name string
		node *corev1.Node
		do   func(any) error
		want [][2]int // the first and the last of Services that are planned again
	}{
		{"joins with nothing of ours", joins("172.30.0.3", ""), store.Add, nil},
		{"gets a range of nothing of ours", joins("172.30.0.3", "10.128.3.0/24"), store.Update, nil},
		{"gets a range of the last /28", joins("172.30.0.3", "10.0.0.44/30"), store.Update, [][2]int{{31, 39}}},
		{"gets an address of that, too", joins("10.0.0.40", "10.0.0.44/30"), store.Update, [][2]int{{39, 39}}},
		{"gets one of the first", joins("10.0.0.5", "10.0.0.44/30"), store.Update, [][2]int{{0, 14}, {39, 39}}},
		{"leaves", joins("10.0.0.5", "10.0.0.44/30"), store.Delete, [][2]int{{0, 14}, {31, 39}}},
	} {
		clear(n.dataplane.synced)
		if err := step.do(step.node); err != nil {
			t.Fatal(err)
		}
		n.do(task{kind: nodesChanged})
		var want []string
		for _, some := range step.want {
			for i := some[0]; i <= some[1]; i++ {
				want = append(want, fmt.Sprintf("team-%d/service-%d", i, i))
			}
		}
		slices.Sort(want)
		if got := slices.Sorted(maps.Keys(n.dataplane.synced)); !slices.Equal(got, want) {
			t.Errorf("a node %s: planned are %v, want %v", step.name, got, want)
		}
		_, joined := n.world.Nodes[step.node.Name]
		if got := slices.Contains(n.l2.synced[netip.MustParseAddr("10.0.0.2")].Candidates, "n4"); got != joined {
			t.Errorf("a node %s: a candidate for other addresses: %t, want %t", step.name, got, joined)
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
	if err := n.sources.routes.GetStore().Add(aggregated()); err != nil {
		t.Fatal(err)
	}
	n.begin()
	r := rand.New(rand.NewPCG(1, 2))
	for step := range 300 {
		changed := numberedNode(r.IntN(nodes))
		changed.Labels["rack"] = []string{"a", "b", "c"}[r.IntN(3)]
		changed.Labels["fast"] = []string{"a", "b"}[r.IntN(2)]
		if r.IntN(3) == 0 {
			uses(changed, fmt.Sprintf("10.0.0.%d", r.IntN(64)), fmt.Sprintf("10.0.0.%d/30", r.IntN(64)))
		}
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
