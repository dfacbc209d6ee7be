package plan

import (
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/inuse"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/config/v1alpha1/v1alpha1test"
	"github.com/berth-lb/berth/internal/scheduler"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
)

// Nodes rank the addresses of a group alike, whatever is in use on one of them.
func TestPlanAnnouncements_rankOfUnused(t *testing.T) {
	service := Service{Name: "d/web", Addresses: addrs("192.0.2.1", "192.0.2.2")}
	group := Group{ID: "g", Addresses: service.Addresses, Services: []Service{service}}
	w := world("n1")
	second := netip.MustParseAddr("192.0.2.2")
	before := announce(group, nil, ready, w).L2[second].Rank
	w.Used = inuse.Compile(inuse.Sources{PodCIDRs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}})
	after := announce(group, nil, ready, w).L2
	if len(after) != 1 || after[second].Rank != before {
		t.Errorf("ranked by %s, and with the first address in use %v; want the same", before, after)
	}
}

// announced returns what a plan announces on segments, by BGP, and forwards.
func announced(group Group, world World) (l2, routes, forwarded []string) {
	p := announce(group, nil, ready, world)
	for a := range p.L2 {
		l2 = append(l2, a.String())
	}
	for _, prefix := range p.Routed() {
		routes = append(routes, prefix.String())
	}
	for f := range forward(group, nil, nil, world).Table {
		forwarded = append(forwarded, f.Address.String())
	}
	slices.Sort(l2)
	slices.Sort(forwarded)
	return l2, routes, forwarded
}

func TestGroup_Unused(t *testing.T) {
	node := func(address string) inuse.Sources {
		n := &corev1.Node{ObjectMeta: named("n2")}
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}
		return inuse.Sources{Nodes: []*corev1.Node{n}}
	}
	local := func(address string) inuse.Sources {
		n1 := &v1alpha1.Speaker{ObjectMeta: named("n1")}
		n1.Status.Addresses = []v1alpha1.LocalAddress{{Address: address, Interface: "eth0"}}
		return inuse.Sources{Speakers: []*v1alpha1.Speaker{n1}}
	}
	for _, c := range []struct {
		name          string
		used          inuse.Sources
		bound         bool
		l2, bgp, ipvs []string
		complaint     string
	}{
		{
			name: "nothing",
			used: inuse.Sources{},
			l2:   []string{"203.0.113.1", "203.0.113.2"},
			bgp:  []string{"203.0.113.1/32", "203.0.113.2/32"},
			ipvs: []string{"203.0.113.1", "203.0.113.2"},
		},
		{
			name:      "an address of a node",
			used:      node("203.0.113.1"),
			l2:        []string{"203.0.113.2"},
			bgp:       []string{"203.0.113.2/32"},
			ipvs:      []string{"203.0.113.2"},
			complaint: "Service d/web: not announced: 203.0.113.1 is the InternalIP of node n2",
		},
		{
			name:      "an address of a node, also if another implementation serves the Service",
			used:      node("203.0.113.1"),
			bound:     true,
			l2:        []string{"203.0.113.2"},
			bgp:       []string{"203.0.113.2/32"},
			ipvs:      []string{"203.0.113.2"},
			complaint: "Service d/web: not announced: 203.0.113.1 is the InternalIP of node n2",
		},
		{
			name:      "an address on an interface",
			used:      local("203.0.113.2"),
			l2:        []string{"203.0.113.1"},
			bgp:       []string{"203.0.113.1/32"},
			ipvs:      []string{"203.0.113.1"},
			complaint: "Service d/web: not announced: 203.0.113.2 is on interface eth0 of node n1",
		},
		{
			name:  "an address that is bound because the Service has it",
			used:  local("203.0.113.2"),
			bound: true,
			l2:    []string{"203.0.113.1", "203.0.113.2"},
			bgp:   []string{"203.0.113.1/32", "203.0.113.2/32"},
			ipvs:  []string{"203.0.113.1", "203.0.113.2"},
		},
		{
			name:      "both",
			used:      inuse.Sources{PodCIDRs: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}},
			complaint: "Service d/web: not announced: 203.0.113.1 is in the pod CIDR 203.0.113.0/24, 203.0.113.2 is in the pod CIDR 203.0.113.0/24",
		},
	} {
		w := world("n3")
		w.Forwards, w.Used = true, inuse.Compile(c.used)
		w.Capabilities = Capability(scheduler.Names()...)
		service := Service{
			Name:      "d/web",
			Addresses: addrs("203.0.113.1", "203.0.113.2"),
			Bound:     c.bound,
			Proxied:   true,
			Ports:     []Port{{"http", ipvs.TCP, 80}},
		}
		group := Group{ID: "g", Addresses: service.Addresses, Services: []Service{service}}
		l2, routes, forwarded := announced(group, w)
		if !slices.Equal(l2, c.l2) || !slices.Equal(routes, c.bgp) || !slices.Equal(forwarded, c.ipvs) {
			t.Errorf(
				"%s: announces %v and %v, forwards %v, want %v and %v, %v",
				c.name,
				l2,
				routes,
				forwarded,
				c.l2,
				c.bgp,
				c.ipvs,
			)
		}
		if _, complaint := group.Unused(w.Used); complaint != c.complaint {
			t.Errorf("%s: it says %q, want %q", c.name, complaint, c.complaint)
		}
		if !slices.Equal(group.Addresses, addrs("203.0.113.1", "203.0.113.2")) ||
			!slices.Equal(group.Services[0].Addresses, group.Addresses) {
			t.Errorf("%s: the group itself is %v now", c.name, group)
		}
	}
}

func TestPlanAnnouncements_aggregateInUse(t *testing.T) {
	snapshot, _ := config.Compile(config.Objects{
		Pools: v1alpha1test.SelectAll(
			[]*v1alpha1.LoadBalancerPool{
				{
					ObjectMeta: named("lan"),
					Spec:       v1alpha1.LoadBalancerPoolSpec{Addresses: []v1alpha1.AddressRange{"172.30.0.0/24", "fd00:30::/64"}},
				},
			},
		),
		RouteAnnouncements: v1alpha1test.SelectAll(
			[]*v1alpha1.RouteAnnouncement{{ObjectMeta: named("lan"), Spec: v1alpha1.RouteAnnouncementSpec{
				Aggregation: &v1alpha1.Aggregation{IPv4PrefixLength: 28, IPv6PrefixLength: 64},
			}}},
		),
	})
	group := Group{ID: "g", Addresses: addrs("172.30.0.20", "172.30.0.40", "fd00:30::20")}
	group.Services = []Service{{Name: "d/web", Addresses: group.Addresses}}
	peer := func(a string) inuse.Sources {
		return inuse.Sources{Peers: map[string]netip.Addr{"tor": netip.MustParseAddr(a)}}
	}
	n1 := &v1alpha1.Speaker{ObjectMeta: named("n1")}
	n1.Status.Segments = []v1alpha1.SegmentReport{{Interface: "eth0", Subnets: []string{"10.0.0.0/24", "fd00:30::/64"}}}
	segment := inuse.Sources{Speakers: []*v1alpha1.Speaker{n1}}
	for _, c := range []struct {
		name string
		used inuse.Sources
		want []string
	}{
		{
			name: "nothing",
			used: inuse.Sources{},
			want: []string{"172.30.0.16/28", "172.30.0.32/28", "fd00:30::/64"},
		},
		{
			name: "a router in one of them",
			used: peer("172.30.0.30"),
			want: []string{"172.30.0.20/32", "172.30.0.32/28", "fd00:30::/64"},
		},
		{
			name: "a router beside them",
			used: peer("172.30.0.1"),
			want: []string{"172.30.0.16/28", "172.30.0.32/28", "fd00:30::/64"},
		},
		{
			name: "the segment's anycast address",
			used: segment,
			want: []string{"172.30.0.16/28", "172.30.0.32/28", "fd00:30::20/128"},
		},
	} {
		w := World{Self: "n1", Snapshot: snapshot, Nodes: map[string]Node{"n1": {}}, Used: inuse.Compile(c.used)}
		if _, got, _ := announced(group, w); !slices.Equal(got, c.want) {
			t.Errorf("%s: announces %v, want %v", c.name, got, c.want)
		}
	}
}
