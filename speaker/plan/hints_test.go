package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
)

// zonedWorld is that of n1 in zone a.
func zonedWorld() World {
	zone := func(name string) Node { return Node{Labels: map[string]string{corev1.LabelTopologyZone: name}} }
	w := forwardingWorld()
	w.Nodes = map[string]Node{"n1": zone("a"), "n2": zone("a"), "n3": zone("b")}
	return w
}

// hintedFor is a backend on a node with hints for nodes and zones.
func hintedFor(address, node string, state candidate.State, nodes, zones []string) Backend {
	b := backend("http", address, node, state)
	b.ForNodes, b.ForZones = nodes, zones
	return b
}

// zonal is a ready backend as PreferSameZone hints it, and local one as PreferSameNode does.
func zonal(address, node, zone string) Backend {
	return hintedFor(address, node, candidate.Ready, nil, []string{zone})
}

func local(address, node, zone string) Backend {
	return hintedFor(address, node, candidate.Ready, []string{node}, []string{zone})
}

func TestTargets(t *testing.T) {
	const one, two, three, four = "10.0.1.1:80", "10.0.2.1:80", "10.0.3.1:80", "10.0.4.1:80"
	at := func(zone string) func(*World) {
		return func(w *World) { w.Nodes["n1"] = Node{Labels: map[string]string{corev1.LabelTopologyZone: zone}} }
	}
	dead := func(nodes ...string) func(*World) { return func(w *World) { w.Dead = set(nodes...) } }
	for _, c := range []struct {
		name     string
		world    func(*World)
		backends []Backend
		want     []string
		by       Hints
	}{
		{name: "no endpoint"},
		{
			name:     "no hints",
			backends: []Backend{backend("http", one, "n1", candidate.Ready), backend("http", three, "n3", candidate.Ready)},
			want:     []string{one, three},
		},
		{
			name:     "hints for zones: those of this node's zone, on whichever node",
			backends: []Backend{zonal(one, "n1", "a"), zonal(two, "n2", "a"), zonal(three, "n3", "b")},
			want:     []string{one, two},
			by:       ZoneHints,
		},
		{
			name: "the hint counts, and not where the endpoint is",
			backends: []Backend{
				hintedFor(one, "n1", candidate.Ready, nil, []string{"b"}),
				hintedFor(three, "n3", candidate.Ready, nil, []string{"b", "a"}),
			},
			want: []string{three},
			by:   ZoneHints,
		},
		{
			name:     "an endpoint without a hint: no hint counts",
			backends: []Backend{zonal(one, "n1", "a"), backend("http", two, "n2", candidate.Ready), zonal(three, "n3", "b")},
			want:     []string{one, two, three},
		},
		{
			name: "an endpoint without a hint that is not ready does not matter",
			backends: []Backend{
				zonal(one, "n1", "a"), backend("http", two, "n2", candidate.Useless),
				backend("http", four, "n2", candidate.Serving), zonal(three, "n3", "b"),
			},
			want: []string{one},
			by:   ZoneHints,
		},
		{
			name:     "none for this zone: all",
			world:    at("c"),
			backends: []Backend{zonal(one, "n1", "a"), zonal(three, "n3", "b")},
			want:     []string{one, three},
		},
		{
			name:     "the node is in no zone: all",
			world:    func(w *World) { w.Nodes["n1"] = Node{} },
			backends: []Backend{zonal(one, "n1", "a"), zonal(three, "n3", "b")},
			want:     []string{one, three},
		},
		{
			name: "the zone's own is not ready: all that are",
			backends: []Backend{
				hintedFor(one, "n1", candidate.Useless, nil, []string{"a"}),
				hintedFor(two, "n2", candidate.Serving, nil, []string{"a"}),
				zonal(three, "n3", "b"),
			},
			want: []string{three},
		},
		{
			name:     "hints for nodes come first",
			backends: []Backend{local(one, "n1", "a"), local(two, "n2", "a"), local(three, "n3", "b")},
			want:     []string{one},
			by:       NodeHints,
		},
		{
			name:     "none for this node: those of its zone",
			backends: []Backend{local(two, "n2", "a"), local(three, "n3", "b")},
			want:     []string{two},
			by:       ZoneHints,
		},
		{
			name:     "none for this node, nor for its zone: all",
			backends: []Backend{local(three, "n3", "b"), local(four, "n4", "b")},
			want:     []string{three, four},
		},
		{
			name:     "an endpoint without a hint for nodes: zones count",
			backends: []Backend{local(one, "n1", "a"), zonal(two, "n2", "a"), zonal(three, "n3", "b")},
			want:     []string{one, two},
			by:       ZoneHints,
		},
		{
			name: "hints for nodes alone",
			backends: []Backend{
				hintedFor(one, "n1", candidate.Ready, []string{"n1"}, nil),
				hintedFor(two, "n2", candidate.Ready, []string{"n2"}, nil),
			},
			want: []string{one},
			by:   NodeHints,
		},
		{
			name: "nothing is ready: all that serve, whatever their hints",
			backends: []Backend{
				hintedFor(one, "n1", candidate.Serving, []string{"n1"}, []string{"a"}),
				hintedFor(three, "n3", candidate.Serving, []string{"n3"}, []string{"b"}),
			},
			want: []string{one, three},
		},
		{
			name:     "what is near is on a dead node: all others",
			world:    dead("n2"),
			backends: []Backend{zonal(two, "n2", "a"), zonal(three, "n3", "b"), zonal(four, "n4", "b")},
			want:     []string{three, four},
		},
		{
			name:     "some of what is near is on a dead node",
			world:    dead("n2"),
			backends: []Backend{zonal(one, "n1", "a"), zonal(two, "n2", "a"), zonal(three, "n3", "b")},
			want:     []string{one},
			by:       ZoneHints,
		},
		{
			name:     "an endpoint without a hint on a dead node does not matter",
			world:    dead("n2"),
			backends: []Backend{zonal(one, "n1", "a"), backend("http", two, "n2", candidate.Ready), zonal(three, "n3", "b")},
			want:     []string{one},
			by:       ZoneHints,
		},
		{
			name:     "all are on dead nodes: hints count among them",
			world:    dead("n2", "n3"),
			backends: []Backend{zonal(two, "n2", "a"), zonal(three, "n3", "b")},
			want:     []string{two},
			by:       ZoneHints,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			world := zonedWorld()
			if c.world != nil {
				c.world(&world)
			}
			takes, by := Targets(c.backends, world)
			var got []string
			for _, b := range c.backends {
				if takes(b) {
					got = append(got, b.Address.String())
				}
			}
			if !slices.Equal(got, c.want) || by != c.by {
				t.Errorf("new connections go to %v by hints %d, want %v by %d", got, by, c.want, c.by)
			}
		})
	}
}

// drawBackends draws endpoints of few nodes and zones, so that they meet.
func drawBackends(t *rapid.T) []Backend {
	names := func(label string, all ...string) []string {
		found := rapid.SliceOfNDistinct(rapid.SampledFrom(all), 0, 2, rapid.ID[string]).Draw(t, label)
		if len(found) == 0 && rapid.Bool().Draw(t, label+" nevertheless") { // mostly all have hints
			found = all[:1]
		}
		return found
	}
	states := []candidate.State{candidate.Ready, candidate.Ready, candidate.Serving, candidate.Useless}
	if rapid.IntRange(0, 3).Draw(t, "readiness") == 0 {
		states = states[2:] // nothing is ready
	}
	all := make([]Backend, rapid.IntRange(0, 5).Draw(t, "endpoints"))
	for i := range all {
		all[i] = hintedFor(
			fmt.Sprintf("10.0.0.%d:80", i+1),
			rapid.SampledFrom([]string{"", "n1", "n2", "n3"}).Draw(t, "node"),
			rapid.SampledFrom(states).Draw(t, "state"),
			names("forNodes", "n1", "n2", "n3"), names("forZones", "a", "b"),
		)
	}
	return all
}

// The rules as one would tell them, list by list: who can serve, and who of them is for here.
func TestTargetsFollowTheRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		world := zonedWorld()
		zone := rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "zone")
		world.Nodes["n1"] = Node{Labels: map[string]string{}}
		if zone != "" {
			world.Nodes["n1"].Labels[corev1.LabelTopologyZone] = zone
		}
		world.Dead = map[string]bool{"n2": rapid.Bool().Draw(t, "n2 is dead")}
		backends := drawBackends(t)

		var lists [4][]Backend // by rank: the first that is not empty serves
		for _, b := range backends {
			rank := map[candidate.State]int{candidate.Ready: 0, candidate.Serving: 2}
			if r, serves := rank[b.State]; serves && world.Dead[b.Node] {
				lists[r+1] = append(lists[r+1], b)
			} else if serves {
				lists[r] = append(lists[r], b)
				lists[r+1] = append(lists[r+1], b)
			}
		}
		rank := slices.IndexFunc(lists[:], func(l []Backend) bool { return len(l) > 0 })
		var want []Backend
		if rank >= 0 {
			want = lists[rank]
		}
		if rank == 0 || rank == 1 {
			forNode, forZone, withNode, withZone := []Backend{}, []Backend{}, 0, 0
			for _, b := range want {
				withNode += min(1, len(b.ForNodes))
				withZone += min(1, len(b.ForZones))
				if slices.Contains(b.ForNodes, "n1") {
					forNode = append(forNode, b)
				}
				if slices.Contains(b.ForZones, zone) {
					forZone = append(forZone, b)
				}
			}
			switch {
			case withNode == len(want) && len(forNode) > 0:
				want = forNode
			case withZone == len(want) && len(forZone) > 0:
				want = forZone
			}
		}
		takes, _ := Targets(backends, world)
		for _, b := range backends {
			expected := slices.ContainsFunc(want, func(w Backend) bool { return w.Address == b.Address })
			if takes(b) != expected {
				t.Fatalf("%s gets new connections: %v, want %v", b.Address, takes(b), expected)
			}
		}
	})
}

// Under policy Cluster what is left out gets no new connections and keeps those that it has. Under
// policy Local hints do not count for clients, as with kube-proxy; they do for the node's own pods,
// which reach all endpoints.
func TestPlanForwarding_hints(t *testing.T) {
	world := zonedWorld()
	front := ipvs.Frontend{Address: netip.MustParseAddr("192.0.2.1"), Port: 80, Protocol: ipvs.TCP}
	const mark = ipvs.Marks | 1
	own := ipvs.Marked(mark, front.Address)
	near, far := zonal("10.0.1.1:80", "n2", "a"), zonal("10.0.3.1:80", "n3", "b")
	mine := hintedFor("10.0.1.2:80", "n1", candidate.Ready, nil, []string{"b"}) // the controller evens out
	for _, c := range []struct {
		name     string
		local    bool
		backends []Backend
		want     map[ipvs.Frontend][]netip.AddrPort // which get new connections
	}{
		{
			name:     "policy Cluster",
			backends: []Backend{near, far, mine},
			want:     map[ipvs.Frontend][]netip.AddrPort{front: {near.Address}},
		},
		{
			name:     "policy Local: its own, hinted for another zone",
			local:    true,
			backends: []Backend{near, far, mine},
			want:     map[ipvs.Frontend][]netip.AddrPort{front: {mine.Address}, own: {near.Address}},
		},
		{
			name:     "policy Local without one of its own: only its own pods come",
			local:    true,
			backends: []Backend{near, far},
			want:     map[ipvs.Frontend][]netip.AddrPort{front: {near.Address}, own: {near.Address}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := Service{
				Name: "d/web", Addresses: addrs("192.0.2.1"), Proxied: true, Local: c.local,
				Ports: []Port{{"http", ipvs.TCP, 80}},
			}
			group := Group{ID: "g", Addresses: s.Addresses, Services: []Service{s}}
			marks := map[ipvs.Frontend]uint32{}
			if c.local {
				marks[front] = mark
			}
			got := forward(group, map[string][]Backend{"d/web": c.backends}, marks, world)
			if len(got.Table) != len(c.want) {
				t.Fatalf("virtual servers %v, want %v", got.Table, c.want)
			}
			for f, want := range c.want {
				var taking []netip.AddrPort
				for _, r := range got.Table[f].RealServers {
					if r.Draining != (r.Weight == 0) {
						t.Errorf("%s: %+v has connections reset", f, r)
					}
					if r.Weight > 0 {
						taking = append(taking, netip.AddrPortFrom(r.Address, r.Port))
					}
				}
				if !slices.Equal(taking, want) {
					t.Errorf("%s sends new connections to %v, want %v", f, taking, want)
				}
			}
			if !c.local && len(got.Table[front].RealServers) != len(c.backends) {
				t.Errorf("real servers %v: one that is left out loses its connections", got.Table[front].RealServers)
			}
			if got.Guards[0].Refuse {
				t.Error("connections are refused")
			}
		})
	}
}

// Steering is for policy Local alone, in which kube-proxy knows no hints.
func TestPlanSteering_hints(t *testing.T) {
	services := []ClassifiedService{{Service: steeredService(true), Steering: &config.Steering{}}}
	with := []Backend{
		local("10.0.1.1:80", "n1", "a"),
		local("10.0.2.1:80", "n2", "a"),
		local("10.0.3.1:80", "n3", "b"),
	}
	var without []Backend
	for _, b := range with {
		b.ForNodes, b.ForZones = nil, nil
		without = append(without, b)
	}
	got := PlanSteering("n1", services, map[string][]Backend{"d/web": with})
	want := PlanSteering("n1", services, map[string][]Backend{"d/web": without})
	if diff := cmp.Diff(want, got, equalAddresses); diff != "" {
		t.Error(diff)
	}
	if len(got) != 1 || len(got[0].Members) != 3 {
		t.Errorf("%+v, want three nodes to steer to", got)
	}
}
