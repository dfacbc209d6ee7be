package speaker

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/config/v1alpha1/v1alpha1test"
	"github.com/berth-lb/berth/speaker/localnet"
)

func apiServerSlice(addresses ...string) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
		Namespace: "default", Name: "kubernetes", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"},
	}}
	for _, a := range addresses {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
	}
	return slice
}

func TestReportedNetwork(t *testing.T) {
	snapshot, _ := config.Compile(config.Objects{Pools: v1alpha1test.SelectAll([]*v1alpha1.LoadBalancerPool{
		{
			ObjectMeta: named("lan"),
			Spec: v1alpha1.LoadBalancerPoolSpec{
				Addresses: []v1alpha1.AddressRange{"192.0.2.0/24", "2001:db8:2::/64"},
			},
		},
	})})
	var network localnet.Network
	for _, a := range []struct{ address, iface string }{
		{"10.9.9.9/24", "eth0"}, {"192.0.2.11/24", "eth0"}, {"192.0.2.11/32", "eth0"}, {
			"192.0.2.12/32",
			"kube-ipvs0",
		}, {"2001:db8:2::11/64", "eth0"},
	} {
		network.Addresses = append(
			network.Addresses,
			localnet.Address{Prefix: netip.MustParsePrefix(a.address), Interface: a.iface},
		)
	}
	network.Gateways = addrs("10.9.9.1")
	addresses, gateways := reportedNetwork(network, snapshot)
	if diff := cmp.Diff([]v1alpha1.LocalAddress{
		{Address: "192.0.2.11", Interface: "eth0"},
		{Address: "2001:db8:2::11", Interface: "eth0"},
	}, addresses); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"10.9.9.1"}, gateways); diff != "" {
		t.Error(diff)
	}
	for i := range 100 {
		network.Addresses = append(
			network.Addresses,
			localnet.Address{Prefix: netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/32", 100+i)), Interface: "eth1"},
		)
		network.Gateways = append(network.Gateways, netip.MustParseAddr(fmt.Sprintf("10.9.9.%d", 100+i)))
	}
	if addresses, gateways = reportedNetwork(network, snapshot); len(addresses) != 64 || len(gateways) != 16 {
		t.Errorf("%d addresses and %d gateways are reported, want 64 and 16", len(addresses), len(gateways))
	}
}

func TestPlanner_reviewUsed(t *testing.T) {
	p := idleNode(t)
	node := &corev1.Node{ObjectMeta: named("n2"), Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.2.0/24"}}}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.12"}}
	for _, step := range []struct {
		name    string
		do      func() error
		address string // in use from then on
	}{
		{
			name:    "a Node",
			do:      func() error { return nodesOf(p.sources).Add(node) },
			address: "192.0.2.12",
		},
		{
			name:    "the API server",
			do:      func() error { return p.sources.apiServer.GetStore().Add(apiServerSlice("192.0.2.2")) },
			address: "192.0.2.2",
		},
		{
			name: "a BGPNeighbor",
			do: func() error {
				err := p.sources.peer.GetStore().Add(v1alpha1test.SelectsAll(&v1alpha1.BGPNeighbor{
					ObjectMeta: named("tor"),
					Spec:       v1alpha1.BGPNeighborSpec{Address: "192.0.2.254", LocalASN: 1, RemoteASN: 2},
				}))
				p.world.Snapshot, _ = config.Compile(p.sources.objects())
				return err
			},
			address: "192.0.2.254",
		},
	} {
		address := netip.MustParseAddr(step.address)
		_, before := p.world.Used.Of(address)
		err := step.do()
		_, changed := p.reviewUsed()
		_, now := p.world.Used.Of(address)
		if err != nil || before || !changed || !now {
			t.Errorf("%s: %s in use: %v, then %v; changed: %v; %v", step.name, step.address, before, now, changed, err)
		}
		if _, again := p.reviewUsed(); again {
			t.Errorf("%s: a second look sees another change", step.name)
		}
	}
	if use, _ := p.world.Used.Of(netip.MustParseAddr("10.244.2.7")); use.By != "in the pod CIDR 10.244.2.0/24 of node n2" {
		t.Errorf("of a pod's address it says %q", use.By)
	}
	if err := nodesOf(p.sources).Delete(node); err != nil {
		t.Fatal(err)
	}
	before, changed := p.reviewUsed()
	if _, used := before.Of(netip.MustParseAddr("192.0.2.12")); !changed || !used {
		t.Error("a Node that goes changes nothing")
	}
	if use, used := p.world.Used.Of(netip.MustParseAddr("192.0.2.12")); used {
		t.Errorf("the address of a Node that is gone is still in use: %v", use)
	}
}

func TestPlanner_do_addressInUse(t *testing.T) {
	for _, c := range []struct {
		name string
		task task
		do   func(p node) error
	}{
		{
			name: "a node joins with it",
			task: task{kind: nodesChanged},
			do: func(p node) error {
				n2 := &corev1.Node{ObjectMeta: named("n2")}
				n2.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}
				return nodesOf(p.sources).Add(n2)
			},
		},
		{
			name: "the API server moves to it",
			task: task{kind: networkChanged},
			do: func(p node) error {
				return p.sources.apiServer.GetStore().Add(apiServerSlice("192.0.2.1"))
			},
		},
	} {
		p := idleNode(t)
		web := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "web", UID: "1"},
			Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer},
			Status: corev1.ServiceStatus{
				LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}},
			},
		}
		sign(p.planner, web, "192.0.2.1")
		err := errors.Join(
			nodesOf(p.sources).Add(&corev1.Node{ObjectMeta: named("n1")}),
			p.sources.pool.GetStore().Add(
				v1alpha1test.SelectsAll(
					&v1alpha1.LoadBalancerPool{
						ObjectMeta: named("lan"),
						Spec:       v1alpha1.LoadBalancerPoolSpec{Addresses: []v1alpha1.AddressRange{"192.0.2.0/24"}},
					},
				),
			),
			p.sources.segments.GetStore().
				Add(v1alpha1test.SelectsAll(&v1alpha1.SegmentAnnouncement{ObjectMeta: named("lan")})),
			p.sources.service.GetStore().Add(kept(web)),
		)
		if err != nil {
			t.Fatal(err)
		}
		p.world.Nodes = p.sources.nodes()
		p.world.Snapshot, _ = config.Compile(p.sources.objects())
		p.reviewService("d/web")
		if len(p.wanted["d/web"]) != 1 {
			t.Fatalf("%s: before, it is announced as %v", c.name, p.wanted)
		}
		if err := c.do(p); err != nil {
			t.Fatal(err)
		}
		p.tasks.Add(c.task)
		p.tasks.ShutDown() // so that run ends when that is done
		p.work(nil)
		if len(p.wanted) != 0 {
			t.Errorf("%s: it is announced still, as %v", c.name, p.wanted)
		}
		if said := p.reporter.complaints["AddressInUse d/web"]; said.Reason != "AddressInUse" ||
			!strings.HasPrefix(said.Message, "Service d/web: not announced: 192.0.2.1 is ") {
			t.Errorf("%s: it says %v", c.name, said)
		}
	}
}
