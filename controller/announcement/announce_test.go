package announcement

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/config/v1alpha1/v1alpha1test"
	"github.com/berth-lb/berth/controller/condition"
)

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }

// announced returns the configuration for the tests of the condition Announced.
func announced() *config.Snapshot {
	snapshot, _ := config.Compile(config.Objects{
		Pools: v1alpha1test.SelectAll([]*v1alpha1.LoadBalancerPool{
			{
				ObjectMeta: named("rack"),
				Spec:       v1alpha1.LoadBalancerPoolSpec{Addresses: []v1alpha1.AddressRange{"192.0.2.0/24", "2001:db8::/64"}},
			},
			{
				ObjectMeta: named("routed"),
				Spec:       v1alpha1.LoadBalancerPoolSpec{Addresses: []v1alpha1.AddressRange{"198.51.100.0/24"}},
			},
			{ObjectMeta: named("picky"), Spec: v1alpha1.LoadBalancerPoolSpec{Addresses: []v1alpha1.AddressRange{"10.0.1.0/24"}}},
			{ObjectMeta: named("far"), Spec: v1alpha1.LoadBalancerPoolSpec{Addresses: []v1alpha1.AddressRange{"10.0.2.0/24"}}},
			{
				ObjectMeta: named("silent"),
				Spec:       v1alpha1.LoadBalancerPoolSpec{Addresses: []v1alpha1.AddressRange{"203.0.113.0/24"}},
			},
		}),
		SegmentAnnouncements: v1alpha1test.SelectAll([]*v1alpha1.SegmentAnnouncement{
			{
				ObjectMeta: named("l2"),
				Spec:       v1alpha1.SegmentAnnouncementSpec{PoolNames: []string{"rack"}, Interfaces: []string{"eth0", "bond*"}},
			},
			{
				ObjectMeta: named("web"),
				Spec: v1alpha1.SegmentAnnouncementSpec{
					PoolNames:       []string{"picky"},
					ServiceSelector: &v1alpha1.Selector{MatchLabels: map[string]string{"tier": "web"}},
				},
			},
			{
				ObjectMeta: named("far"),
				Spec: v1alpha1.SegmentAnnouncementSpec{
					PoolNames:    []string{"far"},
					NodeSelector: &v1alpha1.Selector{MatchLabels: map[string]string{"rack": "far"}},
				},
			},
		}),
		RouteAnnouncements: v1alpha1test.SelectAll(
			[]*v1alpha1.RouteAnnouncement{
				{
					ObjectMeta: named("bgp"),
					Spec:       v1alpha1.RouteAnnouncementSpec{PoolNames: []string{"routed"}, NeighborNames: []string{"tor"}},
				},
			},
		),
		BGPNeighbors: v1alpha1test.SelectAll(
			[]*v1alpha1.BGPNeighbor{
				{ObjectMeta: named("tor"), Spec: v1alpha1.BGPNeighborSpec{Address: "192.0.2.254", LocalASN: 1, RemoteASN: 2}},
			},
		),
	})
	return snapshot
}

func addresses(texts ...string) []netip.Addr {
	var found []netip.Addr
	for _, t := range texts {
		found = append(found, netip.MustParseAddr(t))
	}
	return found
}

// The condition Announced says which announcements announce the addresses, or why none does.
func TestServiceCondition(t *testing.T) {
	up := Node{
		Alive:    true,
		Speaker:  v1alpha1.SpeakerAnnouncing,
		segments: []string{"eth0"},
		sessions: []session{{"tor", true, true}},
	}
	with := func(change func(*Node)) Node { n := up; change(&n); return n }
	excluded := with(func(n *Node) { n.Excluded = "has the label exclude" })
	leaving := with(func(n *Node) { n.Speaker, n.leaves = v1alpha1.SpeakerLeaving, "kube-proxy is unhealthy" })
	dead := with(func(n *Node) { n.Alive = false })
	one := map[string]Node{"n1": up}
	address := netip.MustParseAddr("192.0.2.1")
	ready := func(nodes ...string) candidate.Endpoints {
		e := candidate.Endpoints{Ready: map[string]bool{}, Some: true}
		for _, n := range nodes {
			e.Ready[n] = true
		}
		return e
	}
	some := candidate.Endpoints{Some: true}
	for _, c := range []struct {
		name    string
		outlook Service
		ok      bool
		reason  string
		message string
	}{
		{
			name:    "a speaker is on a segment",
			outlook: Service{Addresses: addresses("192.0.2.1"), Nodes: one, Endpoints: some},
			ok:      true,
			reason:  "Announced",
			message: "by SegmentAnnouncement l2",
		},
		{
			name:    "both families",
			outlook: Service{Addresses: addresses("192.0.2.1", "2001:db8::1"), Nodes: one, Endpoints: some},
			ok:      true,
			reason:  "Announced",
			message: "by SegmentAnnouncement l2",
		},
		{
			name: "on a segment and by BGP",
			outlook: Service{
				Addresses: addresses("192.0.2.1", "198.51.100.1"), Nodes: map[string]Node{"n1": up, "n2": up}, Endpoints: some,
			},
			ok:      true,
			reason:  "Announced",
			message: "by SegmentAnnouncement l2, RouteAnnouncement bgp",
		},
		{
			name:    "a node is dead, and another may announce",
			outlook: Service{Addresses: addresses("192.0.2.1"), Nodes: map[string]Node{"n1": dead, "n2": up}, Endpoints: some},
			ok:      true,
			reason:  "Announced",
			message: "by SegmentAnnouncement l2",
		},
		{
			name: "replies go another way",
			outlook: Service{
				Addresses: addresses("192.0.2.1"),
				Nodes:     map[string]Node{"n1": with(func(n *Node) { n.oneWay = []string{"eth0"} })}, Endpoints: some,
			},
			ok:      true,
			reason:  "Announced",
			message: "by SegmentAnnouncement l2; clients beyond the segment may get no reply from some nodes, whose routes to them leave by another interface (spec.nodeSelector can leave those out; see returnPath in kubectl get speakers.berth.dev -o yaml)",
		},
		{
			name: "replies go another way where nobody answers",
			outlook: Service{
				Addresses: addresses("192.0.2.1"),
				Nodes: map[string]Node{
					"n1": with(func(n *Node) { n.oneWay = []string{"eth1"} }),
					"n2": with(func(n *Node) { n.oneWay, n.Excluded = []string{"eth0"}, "has the label exclude" }),
				},
				Endpoints: some,
			},
			ok:      true,
			reason:  "Announced",
			message: "by SegmentAnnouncement l2",
		},
		{
			name: "a router answers for all",
			outlook: Service{
				Addresses: addresses("192.0.2.1"),
				Nodes: map[string]Node{
					"n1": with(func(n *Node) { n.proxies = map[string]string{"eth0": "02:00:00:00:00:fe"} }),
				},
				Endpoints: some,
			},
			ok:      true,
			reason:  "Announced",
			message: "by SegmentAnnouncement l2; some clients may not reach it, since a router answers ARP for every address on a segment (proxy ARP); turn that off there (see proxyARPMAC in kubectl get speakers.berth.dev -o yaml)",
		},
		{
			name:    "policy Cluster without endpoints",
			outlook: Service{Addresses: addresses("192.0.2.1"), Nodes: one},
			ok:      true,
			reason:  "Announced",
			message: "by SegmentAnnouncement l2; it has no endpoint that is ready or serves, so connections are refused",
		},
		{
			name:    "a Service so new that its endpoints are not known",
			outlook: Service{Addresses: addresses("192.0.2.1"), Nodes: one, Unknown: true},
			ok:      true,
			reason:  "Announced",
			message: "by SegmentAnnouncement l2",
		},
		{
			name:    "policy Local",
			outlook: Service{Addresses: addresses("192.0.2.1"), Nodes: one, Local: true, Endpoints: ready("n1")},
			ok:      true,
			reason:  "Announced",
			message: "by SegmentAnnouncement l2, from nodes with a ready Pod (externalTrafficPolicy Local)",
		},
		{
			name:    "policy Local without endpoints",
			outlook: Service{Addresses: addresses("192.0.2.1"), Nodes: one, Local: true},
			reason:  "NoEndpoints",
			message: "192.0.2.1 is selected by SegmentAnnouncement l2, but no node has an endpoint of the Service that is ready, or terminating and serving (externalTrafficPolicy Local); see its EndpointSlices",
		},
		{
			name: "policy Local, with endpoints where nothing may announce",
			outlook: Service{
				Addresses: addresses("192.0.2.1"), Nodes: map[string]Node{"n1": up, "n2": excluded}, Local: true,
				Endpoints: ready("n2"),
			},
			reason:  "NoCandidate",
			message: "192.0.2.1 is selected by SegmentAnnouncement l2, but no selected node may announce it: n1 has no ready endpoint, n2 has the label exclude",
		},
		{
			name:    "nothing selects the pool",
			outlook: Service{Addresses: addresses("203.0.113.1"), Nodes: one},
			reason:  "NoAnnouncement",
			message: "203.0.113.1 answers nowhere: no SegmentAnnouncement or RouteAnnouncement selects LoadBalancerPool silent; create one, or have one select it",
		},
		{
			name: "nothing selects the Service",
			outlook: Service{
				Addresses: addresses("10.0.1.1"), Nodes: one,
				Labels: map[netip.Addr][]labels.Set{netip.MustParseAddr("10.0.1.1"): {{"tier": "db"}}},
			},
			reason:  "NoAnnouncement",
			message: "10.0.1.1 answers nowhere: SegmentAnnouncement web selects LoadBalancerPool picky, but not this Service, by its serviceSelector; change that, or the labels of the Service",
		},
		{
			name: "the Service, or one that shares the address, is selected",
			outlook: Service{
				Addresses: addresses("10.0.1.1"), Nodes: one, Endpoints: some,
				Labels: map[netip.Addr][]labels.Set{netip.MustParseAddr("10.0.1.1"): {{"tier": "db"}, {"tier": "web"}}},
			},
			ok:      true,
			reason:  "Announced",
			message: "by SegmentAnnouncement web",
		},
		{
			name:    "in no pool",
			outlook: Service{Addresses: addresses("10.0.0.1"), Nodes: one},
			reason:  "NoAnnouncement",
			message: "10.0.0.1 answers nowhere: it is in no LoadBalancerPool, and no SegmentAnnouncement or RouteAnnouncement selects all pools; add it to a pool that is announced",
		},
		{
			name:    "no node is selected",
			outlook: Service{Addresses: addresses("10.0.2.1"), Nodes: one},
			reason:  "NoCandidate",
			message: "10.0.2.1 is selected by SegmentAnnouncement far, but no node is matched by its nodeSelector",
		},
		{
			name:    "every node is ruled out",
			outlook: Service{Addresses: addresses("192.0.2.1"), Nodes: map[string]Node{"n1": excluded, "n2": leaving}},
			reason:  "NoCandidate",
			message: "192.0.2.1 is selected by SegmentAnnouncement l2, but no selected node may announce it: n1 has the label exclude, n2 leaves: kube-proxy is unhealthy",
		},
		{
			name: "of many nodes the first are named",
			outlook: Service{
				Addresses: addresses("192.0.2.1"),
				Nodes: map[string]Node{
					"n1": excluded, "n2": excluded, "n3": excluded, "n4": excluded,
					"n5": excluded, "n6": excluded, "n7": excluded,
				},
			},
			reason:  "NoCandidate",
			message: "192.0.2.1 is selected by SegmentAnnouncement l2, but no selected node may announce it: each of n1, n2, n3, n4, n5 and 2 more has the label exclude; take the label off, or select other nodes",
		},
		{
			name: "an interface that no node has",
			outlook: Service{
				Addresses: addresses("192.0.2.1"),
				Nodes:     map[string]Node{"n1": with(func(n *Node) { n.segments = []string{"eth1"} })},
			},
			reason:  "NoSpeaker",
			message: "192.0.2.1 is selected by SegmentAnnouncement l2, but no speaker on a selected node announces: n1 announces on eth1, and spec.interfaces there says eth0, bond*; see kubectl get speakers.berth.dev",
		},
		{
			name: "speakers that do not announce",
			outlook: Service{
				Addresses: addresses("192.0.2.1"),
				Nodes: map[string]Node{
					"n1": dead,
					"n2": {Alive: true},
					"n3": with(func(n *Node) { n.Speaker = v1alpha1.SpeakerStarting }),
					"n4": excluded,
				},
			},
			reason:  "NoSpeaker",
			message: "192.0.2.1 is selected by SegmentAnnouncement l2, but no speaker on a selected node announces: n1 is not ready, n2 has no speaker, n3 has a speaker that is Starting, n4 has the label exclude; see kubectl get speakers.berth.dev",
		},
		{
			name: "no session with the peer",
			outlook: Service{
				Addresses: addresses("198.51.100.1"),
				Nodes:     map[string]Node{"n1": with(func(n *Node) { n.sessions = []session{{"other", true, true}} }), "n2": dead},
			},
			reason:  "NoSession",
			message: "198.51.100.1 is selected by RouteAnnouncement bgp, but no selected node has a session for it: n1 has no established session with a neighbor selected there, n2 is not ready; see kubectl get speakers.berth.dev",
		},
		{
			name: "a session that does not carry the family",
			outlook: Service{
				Addresses: addresses("198.51.100.1"),
				Nodes:     map[string]Node{"n1": with(func(n *Node) { n.sessions = []session{{"tor", false, true}} })},
			},
			reason:  "NoSession",
			message: "198.51.100.1 is selected by RouteAnnouncement bgp, but no selected node has a session for it: n1 has no session there that carries IPv4; see kubectl get speakers.berth.dev",
		},
		{
			name: "by BGP those nodes count that announce it",
			outlook: Service{Addresses: addresses("198.51.100.1"), Endpoints: some, Nodes: map[string]Node{
				"n1": up, "n2": excluded, "n3": dead, "n4": leaving,
				"n5": with(func(n *Node) { n.sessions = []session{{"other", true, true}, {"tor", true, false}} }),
				"n6": with(func(n *Node) { n.sessions = nil }),
				"n7": with(func(n *Node) { n.sessions = []session{{"tor", false, true}} }),
			}},
			ok:      true,
			reason:  "Announced",
			message: "by RouteAnnouncement bgp",
		},
		{
			name: "by BGP under policy Local",
			outlook: Service{
				Addresses: addresses("198.51.100.1"), Local: true, Endpoints: ready("n2", "n9"),
				Nodes: map[string]Node{"n1": up, "n2": up},
			},
			ok:      true,
			reason:  "Announced",
			message: "by RouteAnnouncement bgp, from nodes with a ready Pod (externalTrafficPolicy Local)",
		},
		{
			name: "a foreign host has the address",
			outlook: Service{
				Addresses: addresses("192.0.2.1"), Nodes: one,
				Conflicts: map[netip.Addr]Holder{address: {MAC: "02:00:00:00:00:99", Owner: "", Node: "n1", Interface: "eth0"}},
			},
			reason:  "AddressConflict",
			message: "192.0.2.1 is announced by 02:00:00:00:00:99 too, heard on eth0 of node n1: a host that is not Berth's has the address; take it from that host, or exclude it with spec.reserved of its LoadBalancerPool and ask for another",
		},
		{
			name: "a node has the address, and its speaker does not announce it",
			outlook: Service{
				Addresses: addresses("192.0.2.1"), Nodes: one,
				Conflicts: map[netip.Addr]Holder{address: {MAC: "02:00:00:00:00:02", Owner: "n2", Node: "n1", Interface: "eth0"}},
			},
			reason:  "AddressConflict",
			message: "192.0.2.1 is answered for by node n2 (02:00:00:00:00:02), heard on eth0 of node n1, though its speaker does not announce it: an interface of that node has the address, or another load balancer there (MetalLB's speaker, kube-vip) announces it; it is announced once that ends",
		},
		{
			name:    "nothing to announce",
			outlook: Service{Nodes: one},
			reason:  "NoAddress",
			message: "no address to announce: see condition berth.dev/Allocated",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.outlook.Snapshot = announced()
			want := condition.Condition{Kind: v1alpha1.ServiceAnnounced, OK: c.ok, Reason: c.reason, Message: c.message}
			if diff := cmp.Diff(want, c.outlook.Condition(), cmp.AllowUnexported(condition.Condition{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A Service without a session says why there is none.
func TestServiceConditionSessionErrors(t *testing.T) {
	o := Service{
		Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.1")}, Snapshot: announced(),
		Nodes: map[string]Node{
			"n1": {Alive: true, Speaker: v1alpha1.SpeakerAnnouncing, Failing: []string{"other", "tor"}},
			"n2": {Alive: true, Speaker: v1alpha1.SpeakerAnnouncing},
		},
		Errors: SessionErrors{
			"tor":   {"n1": "peer says AS 64513, configured 64999"},
			"other": {"n1": "cannot connect: i/o timeout"},
		},
	}
	got := o.Condition()
	want := "198.51.100.1 is selected by RouteAnnouncement bgp, but no selected node has a session for it: " +
		"n1 has no established session with a neighbor selected there (BGPNeighbor tor: peer says AS 64513, configured 64999), " +
		"n2 has no established session with a neighbor selected there; see kubectl get speakers.berth.dev"
	if got.Reason != "NoSession" || got.Message != want {
		t.Errorf("%s: %s\nwant %s", got.Reason, got.Message, want)
	}
}
