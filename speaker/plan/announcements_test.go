package plan

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/bgp/route"
	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/inuse"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/config/v1alpha1/v1alpha1test"
	"github.com/berth-lb/berth/l2/election"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
)

func addrs(s ...string) []netip.Addr {
	var a []netip.Addr
	for _, x := range s {
		a = append(a, netip.MustParseAddr(x))
	}
	return a
}

func set(names ...string) map[string]bool {
	s := map[string]bool{}
	for _, n := range names {
		s[n] = true
	}
	return s
}

func rack(name string) *v1alpha1.Selector {
	return &v1alpha1.Selector{MatchLabels: map[string]string{"rack": name}}
}

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }

// The world of the tests: n1 and n2 in rack a, n3 in rack b, n4 excluded.
func world(self string) World {
	snapshot, _ := config.Compile(config.Objects{
		Pools: v1alpha1test.SelectAll([]*v1alpha1.LoadBalancerPool{
			{
				ObjectMeta: named("l2"),
				Spec: v1alpha1.LoadBalancerPoolSpec{
					Addresses: []v1alpha1.AddressRange{"192.0.2.0/24", "2001:db8:2::/64"},
				},
			},
			{
				ObjectMeta: named("l2-rack-a"),
				Spec:       v1alpha1.LoadBalancerPoolSpec{Addresses: []v1alpha1.AddressRange{"192.0.3.0/24"}},
			},
			{
				ObjectMeta: named("twice"),
				Spec:       v1alpha1.LoadBalancerPoolSpec{Addresses: []v1alpha1.AddressRange{"192.0.4.0/24"}},
			},
			{
				ObjectMeta: named("bgp"),
				Spec: v1alpha1.LoadBalancerPoolSpec{
					Addresses: []v1alpha1.AddressRange{"198.51.100.0/24", "2001:db8:100::/64"},
				},
			},
			{
				ObjectMeta: named("both"),
				Spec:       v1alpha1.LoadBalancerPoolSpec{Addresses: []v1alpha1.AddressRange{"203.0.113.0/24"}},
			},
			{
				ObjectMeta: named("picky"),
				Spec:       v1alpha1.LoadBalancerPoolSpec{Addresses: []v1alpha1.AddressRange{"192.0.5.0/24"}},
			},
			{
				ObjectMeta: named("silent"),
				Spec:       v1alpha1.LoadBalancerPoolSpec{Addresses: []v1alpha1.AddressRange{"10.0.0.0/24"}},
			},
		}),
		SegmentAnnouncements: v1alpha1test.SelectAll([]*v1alpha1.SegmentAnnouncement{
			{ObjectMeta: named("l2"), Spec: v1alpha1.SegmentAnnouncementSpec{PoolNames: []string{"l2", "both"}}},
			{
				ObjectMeta: named("rack-a"),
				Spec: v1alpha1.SegmentAnnouncementSpec{
					PoolNames:    []string{"l2-rack-a"},
					NodeSelector: rack("a"),
					Interfaces:   []string{"eth1"},
				},
			},
			{ObjectMeta: named("l2-too"), Spec: v1alpha1.SegmentAnnouncementSpec{PoolNames: []string{"twice"}}},
			{
				ObjectMeta: named("rack-a-too"),
				Spec: v1alpha1.SegmentAnnouncementSpec{
					PoolNames:    []string{"twice"},
					NodeSelector: rack("a"),
					Interfaces:   []string{"eth1"},
				},
			},
			{ObjectMeta: named("web-only"), Spec: v1alpha1.SegmentAnnouncementSpec{PoolNames: []string{"picky"},
				ServiceSelector: &v1alpha1.Selector{
					MatchExpressions: []v1alpha1.SelectorRequirement{
						{Key: "tier", Operator: v1alpha1.SelectorIn, Values: []string{"web", "edge"}},
					},
				},
				PreferredNodes: []v1alpha1.PreferredNode{
					{
						Weight:       10,
						NodeSelector: rack("a"),
					}, {
						Weight:       5,
						NodeSelector: &v1alpha1.Selector{MatchLabels: map[string]string{"fast": "yes"}},
					}, {Weight: 100, NodeSelector: rack("c")},
				}}},
		}),
		RouteAnnouncements: v1alpha1test.SelectAll([]*v1alpha1.RouteAnnouncement{
			{
				ObjectMeta: named("bgp"),
				Spec: v1alpha1.RouteAnnouncementSpec{
					PoolNames:     []string{"bgp"},
					NeighborNames: []string{"tor"},
				},
			},
			{
				ObjectMeta: named("both"),
				Spec:       v1alpha1.RouteAnnouncementSpec{PoolNames: []string{"both"}, NodeSelector: rack("b")},
			},
		}),
		BGPNeighbors: v1alpha1test.SelectAll(
			[]*v1alpha1.BGPNeighbor{
				{
					ObjectMeta: named("tor"),
					Spec:       v1alpha1.BGPNeighborSpec{Address: "192.0.2.254", LocalASN: 1, RemoteASN: 2},
				},
			},
		),
	})
	return World{Self: self, Snapshot: snapshot, Nodes: map[string]Node{
		"n1": {Labels: map[string]string{"rack": "a"}}, "n2": {Labels: map[string]string{"rack": "a", "fast": "yes"}},
		"n3": {
			Labels: map[string]string{"rack": "b"},
		}, "n4": {Labels: map[string]string{"rack": "a"}, Excluded: "has a label"},
	}}
}

// ready is what the kernel of a node shows that forwards as desired, or need not.
var ready = Readiness{Shown: true}

// announce plans all of a group, for a node with that readiness.
func announce(group Group, endpoints map[string]candidate.Endpoints, readiness Readiness, world World) Announcements {
	group, _ = group.Unused(world.Used)
	return PlanAnnouncements(group, Classify(group, world.Snapshot), endpoints, readiness, world)
}

// forward plans what a node forwards for a group.
func forward(group Group, backends map[string][]Backend, marks map[ipvs.Frontend]uint32, world World) Forwarding {
	group, _ = group.Unused(world.Used)
	return PlanForwarding(Classify(group, world.Snapshot), backends, marks, world)
}

var equalAddresses = cmp.Options{
	cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(ipvs.RealServer{}, ipvs.Settings{}),
	// How they are kept up to date: see TestNodesChange.
	cmpopts.IgnoreFields(Announcements{}, "Electors"), cmpopts.IgnoreFields(Segment{}, "Combination"),
	cmp.Comparer(
		func(a, b netip.Addr) bool { return a == b },
	), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func TestPlanAnnouncements(t *testing.T) {
	one := func(local bool, addresses ...string) Group {
		return Group{
			ID:        "g",
			Addresses: addrs(addresses...),
			Services:  []Service{{Name: "d/web", Local: local, Addresses: addrs(addresses...)}},
		}
	}
	labeled := func(g Group, key, value string) Group {
		g.Services[0].Labels = map[string]string{key: value}
		return g
	}
	routeTo := func(prefix string, peers ...string) route.Route {
		return route.Route{Prefix: netip.MustParsePrefix(prefix), Peers: peers}
	}
	l2plan := func(announcements string, addresses []netip.Addr, d election.Desired) map[netip.Addr]Segment {
		wanted := map[netip.Addr]Segment{}
		for _, a := range addresses {
			wanted[a] = Segment{Desired: d, AnnouncementNames: strings.Split(announcements, ",")}
		}
		return wanted
	}
	for _, c := range []struct {
		name      string
		self      string
		group     Group
		endpoints map[string]candidate.Endpoints
		want      Announcements
	}{
		{
			name:  "a Service of policy Cluster is announced by every node that is not excluded",
			self:  "n1",
			group: one(false, "192.0.2.1", "2001:db8:2::1"),
			want: Announcements{
				L2: l2plan("l2", addrs("192.0.2.1", "2001:db8:2::1"), election.Desired{
					Interfaces: []string{""},
					Candidates: []string{"n1", "n2", "n3"},
				}),
			},
		},
		{
			name:  "an address that nothing selects is not announced",
			self:  "n1",
			group: one(false, "10.0.0.1"),
		},
		{
			name:  "node selectors choose the candidates, and the interface is theirs",
			self:  "n1",
			group: one(false, "192.0.3.1"),
			want: Announcements{
				L2: l2plan("rack-a", addrs("192.0.3.1"), election.Desired{
					Interfaces: []string{"eth1"},
					Candidates: []string{"n1", "n2"},
				}),
			},
		},
		{
			name:  "routes go to the peers of the announcement",
			self:  "n3",
			group: one(false, "198.51.100.1", "2001:db8:100::1"),
			want: Announcements{
				BGP: route.Desired{Routes: []route.Route{routeTo("198.51.100.1/32", "tor"), routeTo("2001:db8:100::1/128", "tor")}},
			},
		},
		{
			name:  "an excluded node keeps its routes in the plan, for its driver to withdraw them cleanly",
			self:  "n4",
			group: one(false, "198.51.100.1"),
			want:  Announcements{BGP: route.Desired{Routes: []route.Route{routeTo("198.51.100.1/32", "tor")}}},
		},
		{
			name:  "a pool can be announced both ways",
			self:  "n3",
			group: one(false, "203.0.113.1"),
			want: Announcements{L2: l2plan("l2", addrs("203.0.113.1"), election.Desired{
				Interfaces: []string{""},
				Candidates: []string{"n1", "n2", "n3"},
			}),
				BGP: route.Desired{Routes: []route.Route{routeTo("203.0.113.1/32")}}},
		},
		{
			name:  "BGP honors node selectors",
			self:  "n1",
			group: one(false, "203.0.113.1"),
			want: Announcements{
				L2: l2plan("l2", addrs("203.0.113.1"), election.Desired{
					Interfaces: []string{""},
					Candidates: []string{"n1", "n2", "n3"},
				}),
			},
		},
		{
			name:      "policy Local: only nodes with a ready endpoint",
			self:      "n1",
			group:     one(true, "192.0.2.1"),
			endpoints: map[string]candidate.Endpoints{"d/web": {Ready: set("n2", "n4"), Serving: set("n1")}},
			want: Announcements{
				L2: l2plan("l2", addrs("192.0.2.1"), election.Desired{Interfaces: []string{""}, Candidates: []string{"n2"}}),
			},
		},
		{
			name:      "policy Local: nodes with a terminating endpoint that serves, when none is ready",
			self:      "n1",
			group:     one(true, "198.51.100.1"),
			endpoints: map[string]candidate.Endpoints{"d/web": {Serving: set("n1")}},
			want:      Announcements{BGP: route.Desired{Routes: []route.Route{routeTo("198.51.100.1/32", "tor")}}},
		},
		{
			name:  "policy Local without any endpoint is not announced",
			self:  "n1",
			group: one(true, "192.0.2.1"),
		},
		{
			name: "Services that share an address have one owner, which serves both",
			self: "n1",
			group: Group{ID: "g", Addresses: addrs("192.0.2.1", "192.0.2.2"), Services: []Service{
				{Name: "d/a", SharingKeys: []string{"k"}, Local: true, Addresses: addrs("192.0.2.1")}, {
					Name:        "d/b",
					SharingKeys: []string{"k"},
					Local:       true,
					Addresses:   addrs("192.0.2.1", "192.0.2.2"),
				}}},
			endpoints: map[string]candidate.Endpoints{"d/a": {Ready: set("n1", "n2")}, "d/b": {Ready: set("n2", "n3")}},
			want: Announcements{
				L2: l2plan("l2", addrs("192.0.2.1", "192.0.2.2"), election.Desired{
					Interfaces: []string{""},
					Candidates: []string{"n2"},
				}),
			},
		},
		{
			name:  "addresses that differ in their announcements are announced apart",
			self:  "n1",
			group: one(false, "192.0.2.1", "192.0.3.1"),
			want: Announcements{L2: map[netip.Addr]Segment{
				netip.MustParseAddr("192.0.2.1"): {
					Desired:           election.Desired{Interfaces: []string{""}, Candidates: []string{"n1", "n2", "n3"}},
					AnnouncementNames: []string{"l2"},
				},
				netip.MustParseAddr("192.0.3.1"): {
					Desired:           election.Desired{Interfaces: []string{"eth1"}, Candidates: []string{"n1", "n2"}},
					AnnouncementNames: []string{"rack-a"},
				},
			}},
		},
		{
			name:  "two announcements of one pool are both acted on",
			self:  "n1",
			group: one(false, "192.0.4.1"),
			want: Announcements{
				L2: l2plan("l2-too,rack-a-too", addrs("192.0.4.1"), election.Desired{
					Interfaces: []string{"", "eth1"},
					Candidates: []string{"n1", "n2", "n3"},
				}),
			},
		},
		{
			name: "an address given twice is announced for the older Service only",
			self: "n1",
			group: Group{ID: "g", Addresses: addrs("192.0.2.1"), Services: []Service{
				{
					Name:      "d/a",
					Local:     true,
					Addresses: addrs("192.0.2.1"),
					Created:   time.Unix(2, 0),
				}, {Name: "d/b", Local: true, Addresses: addrs("192.0.2.1"), Created: time.Unix(1, 0)}}},
			endpoints: map[string]candidate.Endpoints{"d/a": {Ready: set("n1")}, "d/b": {Ready: set("n2")}},
			want: Announcements{
				L2: l2plan("l2", addrs("192.0.2.1"), election.Desired{Interfaces: []string{""}, Candidates: []string{"n2"}}),
			},
		},
		{
			name:  "a Service whose labels nothing asks for is not announced",
			self:  "n1",
			group: labeled(one(false, "192.0.5.1"), "tier", "db"),
		},
		{
			name:  "nor one without labels",
			self:  "n1",
			group: one(false, "192.0.5.1"),
		},
		{
			name:  "a Service that one of the selectors matches is announced, rather from the nodes of most weight",
			self:  "n1",
			group: labeled(one(false, "192.0.5.1"), "tier", "edge"),
			want: Announcements{
				L2: l2plan("web-only", addrs("192.0.5.1"), election.Desired{
					Interfaces: []string{""},
					Candidates: []string{"n1", "n2", "n3"},
					Preferred:  map[string]int32{"n1": 10, "n2": 15},
				}),
			},
		},
		{
			name: "an address is announced when one of its Services is selected, and the group's others are not",
			self: "n1",
			group: Group{ID: "g", Addresses: addrs("192.0.5.1", "192.0.5.2"), Services: []Service{
				{Name: "d/a", SharingKeys: []string{"k"}, Addresses: addrs("192.0.5.1"), Labels: map[string]string{"tier": "web"}},
				{Name: "d/b", SharingKeys: []string{"k"}, Addresses: addrs("192.0.5.1", "192.0.5.2")}}},
			want: Announcements{
				L2: l2plan("web-only", addrs("192.0.5.1"), election.Desired{
					Interfaces: []string{""},
					Candidates: []string{"n1", "n2", "n3"},
					Preferred:  map[string]int32{"n1": 10, "n2": 15},
				}),
			},
		},
		{
			name:      "weights are the candidates' only",
			self:      "n3",
			group:     labeled(one(true, "192.0.5.1"), "tier", "web"),
			endpoints: map[string]candidate.Endpoints{"d/web": {Ready: set("n1", "n3")}},
			want: Announcements{
				L2: l2plan("web-only", addrs("192.0.5.1"), election.Desired{
					Interfaces: []string{""},
					Candidates: []string{"n1", "n3"},
					Preferred:  map[string]int32{"n1": 10},
				}),
			},
		},
		{
			name: "a sharer without endpoints does not silence the other",
			self: "n1",
			group: Group{ID: "g", Addresses: addrs("192.0.2.1"), Services: []Service{
				{
					Name:        "d/a",
					SharingKeys: []string{"k"},
					Local:       true,
					Addresses:   addrs("192.0.2.1"),
				}, {Name: "d/b", SharingKeys: []string{"k"}, Local: true, Addresses: addrs("192.0.2.1")}}},
			endpoints: map[string]candidate.Endpoints{"d/a": {Ready: set("n1")}},
			want: Announcements{
				L2: l2plan("l2", addrs("192.0.2.1"), election.Desired{Interfaces: []string{""}, Candidates: []string{"n1"}}),
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			for a, segment := range c.want.L2 {
				segment.Announced, segment.Rank = true, c.group.Addresses[0].String()
				c.want.L2[a] = segment
			}
			if diff := cmp.Diff(c.want, announce(c.group, c.endpoints, ready, world(c.self)), equalAddresses); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// While a node's kernel does not forward, the node has no routes and is not a candidate. It still
// wants the address: an owner answers for it until another node takes over.
func TestPlanAnnouncements_readiness(t *testing.T) {
	service := func(local, proxied bool) Group {
		s := Service{
			Name:      "d/web",
			Addresses: addrs("192.0.2.1"),
			Local:     local,
			Proxied:   proxied,
			Ports:     []Port{{"http", ipvs.TCP, 80}},
		}
		return Group{ID: "g", Addresses: s.Addresses, Services: []Service{s}}
	}
	both := map[string]candidate.Endpoints{"d/web": {Ready: set("n1", "n2")}}
	own := map[string]candidate.Endpoints{"d/web": {Ready: set("n1")}}
	for _, c := range []struct {
		name       string
		group      Group
		endpoints  map[string]candidate.Endpoints
		readiness  Readiness
		lacks      bool // the node cannot forward with any scheduler
		candidates []string
		routed     bool
	}{
		{
			name:       "ready",
			group:      service(false, true),
			readiness:  Readiness{Shown: true},
			candidates: []string{"n1", "n2"},
			routed:     true,
		},
		{
			name:       "not shown yet",
			group:      service(false, true),
			readiness:  Readiness{},
			candidates: []string{"n2"},
		},
		{
			name:       "failing within the grace",
			group:      service(false, true),
			readiness:  Readiness{Shown: true, Failing: FailureGrace - 1},
			candidates: []string{"n1", "n2"},
			routed:     true,
		},
		{
			name:       "failing beyond the grace: others take over, and routes are withdrawn",
			group:      service(false, true),
			readiness:  Readiness{Shown: true, Failing: FailureGrace},
			candidates: []string{"n2"},
		},
		{
			name:       "policy Local, ready",
			group:      service(true, true),
			endpoints:  both,
			readiness:  Readiness{Shown: true},
			candidates: []string{"n1", "n2"},
			routed:     true,
		},
		{
			name:       "policy Local, not shown yet",
			group:      service(true, true),
			endpoints:  both,
			readiness:  Readiness{},
			candidates: []string{"n2"},
		},
		{
			name:       "policy Local, failing within the grace",
			group:      service(true, true),
			endpoints:  both,
			readiness:  Readiness{Shown: true, Failing: time.Second},
			candidates: []string{"n1", "n2"},
			routed:     true,
		},
		{
			name:       "policy Local, failing beyond the grace, and no other node has an endpoint: an owner goes on to answer",
			group:      service(true, true),
			endpoints:  own,
			readiness:  Readiness{Shown: true, Failing: FailureGrace},
			candidates: []string{},
		},
		{
			name:       "kube-proxy still forwards: the kernel's IPVS does not matter",
			group:      service(false, false),
			readiness:  Readiness{},
			candidates: []string{"n1", "n2"},
			routed:     true,
		},
		{
			name:       "ready, but the scheduler is gone: the capability keeps the node from owning, and routes are withdrawn",
			group:      service(false, true),
			readiness:  Readiness{Shown: true},
			lacks:      true,
			candidates: []string{"n1", "n2"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := forwardingWorld()
			if c.lacks {
				w.Capabilities = 0
			}
			got := announce(c.group, c.endpoints, c.readiness, w)
			segment, announced := got.L2[c.group.Addresses[0]]
			if !announced || len(got.L2) != 1 || !slices.Equal(segment.Candidates, c.candidates) {
				t.Errorf("wanted %+v, want candidates %v", got.L2, c.candidates)
			}
			if c.group.Services[0].Proxied != (segment.Needs == Capability("wlc")) {
				t.Errorf("layer 2 needs %b", segment.Needs)
			}
			if routed := len(got.BGP.Routes) > 0; routed != c.routed || routed != (len(got.Routed()) > 0) {
				t.Errorf("routes %v, want some: %v", got.BGP.Routes, c.routed)
			}
		})
	}
}

// A new address is expected as a Service that asks for nothing gets it.
func TestPlanNext(t *testing.T) {
	w := world("n1")
	for address, want := range map[string]election.Desired{
		"192.0.2.7":     {Candidates: []string{"n1", "n2", "n3"}, Interfaces: []string{""}},
		"2001:db8:2::7": {Candidates: []string{"n1", "n2", "n3"}, Interfaces: []string{""}},
		"192.0.3.7":     {Candidates: []string{"n1", "n2"}, Interfaces: []string{"eth1"}},
		"192.0.4.7":     {Candidates: []string{"n1", "n2", "n3"}, Interfaces: []string{"", "eth1"}},
		"192.0.5.7":     {}, // only for Services with a label
		"198.51.100.7":  {}, // only by BGP
	} {
		if len(want.Candidates) > 0 {
			want.Announced, want.Rank = true, address
		}
		got, wanted := PlanNext(netip.MustParseAddr(address), w)
		if diff := cmp.Diff(want, got); diff != "" || wanted != want.Announced {
			t.Errorf("%s (-want +got):\n%s", address, diff)
		}
	}
	w.Used = inuse.Compile(inuse.Sources{PodCIDRs: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}})
	if got, wanted := PlanNext(netip.MustParseAddr("192.0.2.7"), w); wanted {
		t.Errorf("an address in use is expected: %+v", got)
	}
}
