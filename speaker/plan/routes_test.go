package plan

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/berth-lb/berth/bgp/community"
	"github.com/berth-lb/berth/bgp/route"
	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/config/v1alpha1/v1alpha1test"
)

func pointer[T any](v T) *T { return &v }

// bgpWorld is a world of two peers and these announcements.
func bgpWorld(announcements ...v1alpha1.RouteAnnouncementSpec) World {
	objects := config.Objects{
		Pools: v1alpha1test.SelectAll(
			[]*v1alpha1.LoadBalancerPool{
				{
					ObjectMeta: named("p"),
					Spec:       v1alpha1.LoadBalancerPoolSpec{Addresses: []v1alpha1.AddressRange{"198.51.100.0/24"}},
				},
			},
		),
		BGPNeighbors: v1alpha1test.SelectAll([]*v1alpha1.BGPNeighbor{
			{ObjectMeta: named("tor1"), Spec: v1alpha1.BGPNeighborSpec{Address: "192.0.2.1", LocalASN: 1, RemoteASN: 2}},
			{ObjectMeta: named("tor2"), Spec: v1alpha1.BGPNeighborSpec{Address: "192.0.2.2", LocalASN: 1, RemoteASN: 2}},
		}),
	}
	for i, spec := range announcements {
		objects.RouteAnnouncements = append(
			objects.RouteAnnouncements,
			v1alpha1test.SelectsAll(&v1alpha1.RouteAnnouncement{ObjectMeta: named(string(rune('a' + i))), Spec: spec}),
		)
	}
	snapshot, _ := config.Compile(objects)
	return World{Self: "n1", Snapshot: snapshot, Nodes: map[string]Node{"n1": {}, "n2": {}}}
}

func TestPlanAnnouncements_routes(t *testing.T) {
	group := Group{
		ID:        "g",
		Addresses: addrs("198.51.100.7"),
		Services: []Service{
			{Name: "d/web", Local: true, Addresses: addrs("198.51.100.7"), Labels: map[string]string{"tier": "web"}},
		},
	}
	node := "n1"
	endpoints := map[string]candidate.Endpoints{
		"d/web": candidate.Of(
			[]*discoveryv1.EndpointSlice{
				{
					AddressType: discoveryv1.AddressTypeIPv4,
					Endpoints:   []discoveryv1.Endpoint{{NodeName: &node}, {NodeName: &node}, {NodeName: &node}},
				},
			},
		),
	}
	prefix := netip.MustParsePrefix
	two := []community.Community{{A: 1, B: 1}, {A: 2, B: 2}}
	mail := &v1alpha1.Selector{MatchLabels: map[string]string{"tier": "mail"}}
	for _, c := range []struct {
		name          string
		announcements []v1alpha1.RouteAnnouncementSpec
		want          []route.Route
	}{
		{
			name: "one, to all peers",
			announcements: []v1alpha1.RouteAnnouncementSpec{
				{
					LocalPreference: pointer(int64(7)),
					MED:             pointer(int64(8)),
					Prepend:         pointer(int32(2)),
					Communities:     []string{"2:2", "1:1"},
				},
			},
			want: []route.Route{
				{
					Prefix:     prefix("198.51.100.7/32"),
					Attributes: route.Attributes{LocalPref: pointer(uint32(7)), MED: pointer(uint32(8)), Prepend: 2, Communities: two},
				},
			},
		},
		{
			name: "two to all peers: the older one's word, and all communities",
			announcements: []v1alpha1.RouteAnnouncementSpec{
				{MED: pointer(int64(8)), Communities: []string{"1:1"}},
				{MED: pointer(int64(9)), LocalPreference: pointer(int64(7)), Communities: []string{"2:2"}},
			},
			want: []route.Route{
				{
					Prefix:     prefix("198.51.100.7/32"),
					Attributes: route.Attributes{LocalPref: pointer(uint32(7)), MED: pointer(uint32(8)), Communities: two},
				},
			},
		},
		{
			name: "to one peer each",
			announcements: []v1alpha1.RouteAnnouncementSpec{
				{NeighborNames: []string{"tor1"}},
				{NeighborNames: []string{"tor2"}, Prepend: pointer(int32(3))},
			},
			want: []route.Route{
				{Prefix: prefix("198.51.100.7/32"), Peers: []string{"tor1"}},
				{Prefix: prefix("198.51.100.7/32"), Peers: []string{"tor2"}, Attributes: route.Attributes{Prepend: 3}},
			},
		},
		{
			name: "to one peer, and to all",
			announcements: []v1alpha1.RouteAnnouncementSpec{
				{NeighborNames: []string{"tor2"}, MED: pointer(int64(1))},
				{MED: pointer(int64(5))},
			},
			want: []route.Route{
				{Prefix: prefix("198.51.100.7/32"), Peers: []string{"tor1"}, Attributes: route.Attributes{MED: pointer(uint32(5))}},
				{Prefix: prefix("198.51.100.7/32"), Peers: []string{"tor2"}, Attributes: route.Attributes{MED: pointer(uint32(1))}},
			},
		},
		{
			name: "an aggregate with specifics",
			announcements: []v1alpha1.RouteAnnouncementSpec{
				{
					Aggregation: &v1alpha1.Aggregation{IPv4PrefixLength: 26, Specifics: v1alpha1.SpecificsAnnounce},
					MED:         pointer(int64(5)),
				},
			},
			want: []route.Route{
				{Prefix: prefix("198.51.100.0/26"), Attributes: route.Attributes{MED: pointer(uint32(5))}},
				{Prefix: prefix("198.51.100.7/32"), Attributes: route.Attributes{MED: pointer(uint32(5))}},
			},
		},
		{
			name:          "by weight",
			announcements: []v1alpha1.RouteAnnouncementSpec{{WeightBy: v1alpha1.WeightByLocalEndpoints}},
			want:          []route.Route{{Prefix: prefix("198.51.100.7/32"), Attributes: route.Attributes{Weight: 3}}},
		},
		{
			name: "by weight, where the older one has no say",
			announcements: []v1alpha1.RouteAnnouncementSpec{
				{MED: pointer(int64(1))},
				{WeightBy: v1alpha1.WeightByLocalEndpoints, Prepend: pointer(int32(2))},
			},
			want: []route.Route{
				{
					Prefix:     prefix("198.51.100.7/32"),
					Attributes: route.Attributes{MED: pointer(uint32(1)), Prepend: 2, Weight: 3},
				},
			},
		},
		{
			name: "without weight and prepending, as the older one says",
			announcements: []v1alpha1.RouteAnnouncementSpec{
				{WeightBy: v1alpha1.WeightByNone, Prepend: pointer(int32(0))},
				{WeightBy: v1alpha1.WeightByLocalEndpoints, Prepend: pointer(int32(2))},
			},
			want: []route.Route{{Prefix: prefix("198.51.100.7/32")}},
		},
		{
			name:          "to peers that there are none of",
			announcements: []v1alpha1.RouteAnnouncementSpec{{NeighborSelector: mail}, {NeighborNames: []string{"nobody"}}},
		},
		{
			name:          "for other Services",
			announcements: []v1alpha1.RouteAnnouncementSpec{{ServiceSelector: mail}},
		},
	} {
		world := bgpWorld(c.announcements...)
		got := announce(group, endpoints, ready, world).BGP.Routes
		if diff := cmp.Diff(c.want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", c.name, diff)
		}
	}
}

func TestPlanPeers(t *testing.T) {
	snapshot, _ := config.Compile(config.Objects{BGPNeighbors: v1alpha1test.SelectAll([]*v1alpha1.BGPNeighbor{
		{
			ObjectMeta: named("tor"),
			Spec: v1alpha1.BGPNeighborSpec{
				Address:   "192.0.2.1",
				Connect:   v1alpha1.ConnectAccept,
				LocalASN:  1,
				RemoteASN: 2,
			},
		},
		{ObjectMeta: named("racks"), Spec: v1alpha1.BGPNeighborSpec{AddressPrefix: "10.0.0.0/24", LocalASN: 1, RemoteASN: 2}},
	})})
	var got []string
	for _, p := range PlanPeers(World{Self: "n1", Snapshot: snapshot, Nodes: map[string]Node{"n1": {}}}) {
		if err := p.Validate(); err != nil {
			t.Error(err)
		}
		got = append(got, fmt.Sprintf("%s passive %v address %s prefix %s", p.Name, p.Passive, p.Address, p.Prefix))
	}
	want := []string{
		"racks passive false address invalid IP prefix 10.0.0.0/24",
		"tor passive true address 192.0.2.1 prefix invalid Prefix",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPlanAnnouncements_weight(t *testing.T) {
	group := Group{
		ID:        "g",
		Addresses: addrs("198.51.100.7"),
		Services:  []Service{{Name: "d/web", Addresses: addrs("198.51.100.7")}},
	}
	routes := announce(
		group,
		nil,
		ready,
		bgpWorld(v1alpha1.RouteAnnouncementSpec{WeightBy: v1alpha1.WeightByLocalEndpoints}),
	).BGP.Routes
	if len(routes) != 1 || routes[0].Weight != 0 {
		t.Errorf("routes %+v, want one without weight", routes)
	}
}
