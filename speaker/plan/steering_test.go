package plan

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/config/v1alpha1/v1alpha1test"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
)

// steeredWorld has nodes n1, n2 and n3, and a pool with dataplane Steering that is announced on
// segments and by BGP.
func steeredWorld(self string) World {
	snapshot, _ := config.Compile(config.Objects{
		Pools: v1alpha1test.SelectAll([]*v1alpha1.LoadBalancerPool{
			{ObjectMeta: named("steered"), Spec: v1alpha1.LoadBalancerPoolSpec{
				Addresses: []v1alpha1.AddressRange{"192.0.2.0/24"}, Dataplane: v1alpha1.DataplaneSteering,
			}},
		}),
		SegmentAnnouncements: v1alpha1test.SelectAll([]*v1alpha1.SegmentAnnouncement{{ObjectMeta: named("l2")}}),
		RouteAnnouncements:   v1alpha1test.SelectAll([]*v1alpha1.RouteAnnouncement{{ObjectMeta: named("bgp")}}),
		BGPNeighbors: v1alpha1test.SelectAll([]*v1alpha1.BGPNeighbor{
			{
				ObjectMeta: named("tor"),
				Spec:       v1alpha1.BGPNeighborSpec{Address: "192.0.2.254", LocalASN: 1, RemoteASN: 2},
			},
		}),
	})
	return World{Self: self, Snapshot: snapshot, Nodes: map[string]Node{"n1": {}, "n2": {}, "n3": {}}}
}

func steeredService(local bool) Service {
	return Service{
		Name: "d/web", Addresses: addrs("192.0.2.1"), Local: local, Ports: []Port{{"http", ipvs.TCP, 80}},
	}
}

// Nodes that steer may announce what they have no endpoint of.
func TestPlanAnnouncements_steering(t *testing.T) {
	on3 := map[string]candidate.Endpoints{"d/web": {Ready: set("n3")}}
	for _, c := range []struct {
		name       string
		self       string
		local      bool
		endpoints  map[string]candidate.Endpoints
		able       bool // the node steers
		ready      bool // and the connections of this group
		starting   bool // that is not known yet
		cluster    bool // the pool has Services of policy Cluster steered, too
		candidates []string
		exempt     []string
		routed     bool
	}{
		{
			name: "it steers", self: "n1", local: true, endpoints: on3, able: true, ready: true,
			candidates: []string{"n1", "n2", "n3"}, exempt: []string{"n3"}, routed: true,
		},
		{
			name: "it steers, but these connections not yet", self: "n1", local: true, endpoints: on3, able: true,
			candidates: []string{"n2", "n3"}, exempt: []string{"n3"},
		},
		{
			name: "it does not steer", self: "n1", local: true, endpoints: on3,
			candidates: []string{"n2", "n3"}, exempt: []string{"n3"},
		},
		{
			name: "it does not steer, and has an endpoint", self: "n3", local: true, endpoints: on3,
			candidates: []string{"n1", "n2", "n3"}, exempt: []string{"n3"}, routed: true,
		},
		{
			name: "it boots, and has an endpoint", self: "n3", local: true, endpoints: on3, starting: true,
			candidates: []string{"n1", "n2"}, exempt: []string{"n3"},
		},
		{name: "no endpoint anywhere", self: "n1", local: true, able: true, ready: true},
		{
			name: "policy Cluster is not steered", self: "n1", endpoints: on3,
			candidates: []string{"n1", "n2", "n3"}, routed: true,
		},
		{
			name: "policy Cluster, where it is steered", self: "n1", endpoints: on3, cluster: true, able: true, ready: true,
			candidates: []string{"n1", "n2", "n3"}, routed: true,
		},
		{
			name: "policy Cluster, where it is steered by others", self: "n1", endpoints: on3, cluster: true,
			candidates: []string{"n1", "n2", "n3"}, routed: true,
		},
		{
			name: "policy Cluster, where it is steered, and the node boots", self: "n1", endpoints: on3, cluster: true,
			starting: true, candidates: []string{"n2", "n3"},
		},
		{
			name: "policy Cluster, where it is steered, and no endpoint anywhere", self: "n1", cluster: true,
			candidates: []string{"n1", "n2", "n3"}, routed: true,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := steeredWorld(c.self)
			if c.able {
				w.Capabilities = Steers
			}
			for _, pool := range w.Snapshot.Pools {
				pool.Steering.Cluster = c.cluster
			}
			s := steeredService(c.local)
			g := Group{ID: "g", Addresses: s.Addresses, Services: []Service{s}}
			got := PlanAnnouncements(
				g,
				Classify(g, w.Snapshot),
				c.endpoints,
				Readiness{Shown: true, Steers: c.ready, Starting: c.starting},
				w,
			)
			segment := got.L2[s.Addresses[0]]
			if !slices.Equal(segment.Candidates, c.candidates) || !slices.Equal(segment.Exempt, c.exempt) {
				t.Errorf(
					"candidates %v, of which %v need nothing; want %v and %v",
					segment.Candidates,
					segment.Exempt,
					c.candidates,
					c.exempt,
				)
			}
			if needs := segment.Needs == Steers; needs != (len(c.exempt) > 0) {
				t.Errorf("needs %b", segment.Needs)
			}
			if routed := len(got.BGP.Routes) > 0; routed != c.routed {
				t.Errorf("routes: %v", got.BGP.Routes)
			}
		})
	}
}

func TestPlanSteering(t *testing.T) {
	w := steeredWorld("n1")
	s := steeredService(true)
	s.Persistence = 1
	s.Ports = append(s.Ports, Port{"dns", ipvs.UDP, 53})
	s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	g := Group{ID: "g", Addresses: s.Addresses, Services: []Service{s}}
	on := func(port, address, node string, state candidate.State) Backend {
		return Backend{Port: port, Address: netip.MustParseAddrPort(address), Node: node, State: state}
	}
	backends := map[string][]Backend{"d/web": {
		on("http", "10.0.2.1:80", "n2", candidate.Ready),
		on("http", "10.0.2.1:80", "n2", candidate.Ready), // in another slice, too
		on("http", "10.0.2.2:80", "n2", candidate.Ready),
		on("http", "10.0.2.3:80", "n2", candidate.Serving),
		on("http", "10.0.1.1:80", "n1", candidate.Serving),
		on("http", "10.0.3.1:80", "n3", candidate.Useless),
		on("http", "192.0.2.9:80", "", candidate.Ready),
		on("http", "[2001:db8::1]:80", "n3", candidate.Ready),
		on("dns", "10.0.3.1:53", "n3", candidate.Ready),
	}}
	how := config.Steering{SecondChance: v1alpha1.SecondChanceTCPAndUDP, Encapsulation: v1alpha1.EncapsulationAuto}
	port := func(port uint16, protocol ipvs.Protocol, members ...SteeredMember) SteeredPort {
		return SteeredPort{
			Service: "d/web", Address: s.Addresses[0], Port: port, Protocol: protocol, Members: members, Affinity: true,
			SourceRanges: s.SourceRanges[:1], How: how,
		}
	}
	want := []SteeredPort{
		port(
			80, ipvs.TCP, SteeredMember{Node: "n1", Endpoints: 1, Draining: true}, SteeredMember{Node: "n2", Endpoints: 2},
			SteeredMember{Node: "n3", Endpoints: 1, Draining: true, Unready: true},
		),
		port(53, ipvs.UDP, SteeredMember{Node: "n3", Endpoints: 1}),
	}
	got := PlanSteering("n2", Classify(g, w.Snapshot), backends)
	comparable := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	prefixes := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	if diff := cmp.Diff(want, got, comparable, prefixes); diff != "" {
		t.Error(diff)
	}
}

// New connections go to the best endpoints that there are. Those that are not ready keep theirs.
func TestMembers(t *testing.T) {
	at := func(node string, states ...candidate.State) (found []Backend) {
		for i, state := range states {
			address := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, node[1], byte(i)}), 80)
			found = append(found, Backend{Address: address, Node: node, State: state})
		}
		return found
	}
	for _, c := range []struct {
		name     string
		backends [][]Backend
		want     []SteeredMember
	}{
		{name: "none"},
		{
			name:     "the best of each node",
			backends: [][]Backend{at("n1", candidate.Useless, candidate.Serving, candidate.Ready, candidate.Ready)},
			want:     []SteeredMember{{Node: "n1", Endpoints: 2}},
		},
		{
			name: "all kinds",
			backends: [][]Backend{
				at("n1", candidate.Ready), at("n2", candidate.Serving), at("n3", candidate.Useless, candidate.Useless),
			},
			want: []SteeredMember{
				{Node: "n1", Endpoints: 1}, {Node: "n2", Endpoints: 1, Draining: true},
				{Node: "n3", Endpoints: 2, Draining: true, Unready: true},
			},
		},
		{
			name:     "none is ready, and one serves",
			backends: [][]Backend{at("n2", candidate.Serving), at("n3", candidate.Useless)},
			want: []SteeredMember{
				{Node: "n2", Endpoints: 1}, {Node: "n3", Endpoints: 1, Draining: true, Unready: true},
			},
		},
		{
			name:     "none is ready or serves",
			backends: [][]Backend{at("n2", candidate.Useless), at("n3", candidate.Useless)},
			want: []SteeredMember{
				{Node: "n2", Endpoints: 1, Unready: true}, {Node: "n3", Endpoints: 1, Unready: true},
			},
		},
	} {
		if got := members(slices.Concat(c.backends...)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// A node forwards itself to its Pods of Services of policy Cluster, unless kube-proxy has to check
// who connects.
func TestPlanSteering_pods(t *testing.T) {
	w := steeredWorld("n2")
	for _, pool := range w.Snapshot.Pools {
		pool.Steering.Cluster = true
	}
	at := func(pod, node string, state candidate.State) Backend {
		return Backend{Port: "http", Address: netip.MustParseAddrPort(pod), Node: node, State: state}
	}
	ready := []Backend{
		at("10.0.2.2:80", "n2", candidate.Ready), at("10.0.2.1:80", "n2", candidate.Ready),
		at("10.0.2.1:80", "n2", candidate.Ready), at("10.0.2.3:80", "n2", candidate.Serving),
		at("10.0.3.1:80", "n3", candidate.Ready),
	}
	draining := []Backend{at("10.0.2.3:80", "n2", candidate.Serving), at("10.0.3.1:80", "n3", candidate.Ready)}
	for _, c := range []struct {
		name     string
		local    bool
		sources  []netip.Prefix
		backends []Backend
		want     []string
	}{
		{name: "its own that are ready", backends: ready, want: []string{"10.0.2.1:80", "10.0.2.2:80"}},
		{name: "its own that drain", backends: draining, want: []string{"10.0.2.3:80"}},
		{name: "none", backends: ready[4:]},
		{name: "policy Local", local: true, backends: ready},
		{name: "source ranges", sources: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, backends: ready},
	} {
		s := steeredService(c.local)
		s.SourceRanges = c.sources
		g := Group{ID: "g", Addresses: s.Addresses, Services: []Service{s}}
		got := PlanSteering("n2", Classify(g, w.Snapshot), map[string][]Backend{"d/web": c.backends})
		var pods []string
		for _, p := range got[0].Pods {
			pods = append(pods, p.String())
		}
		if !slices.Equal(pods, c.want) {
			t.Errorf("%s: Pods %v, want %v", c.name, pods, c.want)
		}
	}
}
