//go:build vm

package ipvs_test

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
	"github.com/berth-lb/berth/speaker/object"
	"github.com/berth-lb/berth/speaker/plan"
)

// The director is node n1. From EndpointSlices with hints to who answers the client: what is new
// goes to what is near, and connections that are there stay where they are.
func TestHintsChooseEndpoints(t *testing.T) {
	s := newSite(t)
	s.serve(t)
	nodes, zones := []string{"n1", "n2", "n3"}, []string{"a", "a", "b"} // of the servers, in order
	none := func(int) *discoveryv1.EndpointHints { return nil }
	byZone := func(i int) *discoveryv1.EndpointHints {
		return &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: zones[i]}}}
	}
	byNode := func(i int) *discoveryv1.EndpointHints {
		h := byZone(i)
		h.ForNodes = []discoveryv1.ForNode{{Name: nodes[i]}}
		return h
	}
	addresses := []netip.Addr{netip.MustParseAddr(service4), netip.MustParseAddr(service6)}
	tableOf := func(zone string, hints func(int) *discoveryv1.EndpointHints) ipvs.Table {
		name, port := "http", int32(8080)
		var kept []*discoveryv1.EndpointSlice
		for _, v6 := range []bool{false, true} {
			slice := &discoveryv1.EndpointSlice{Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port}}}
			for i := range nodes {
				slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
					Addresses: []string{server(i, v6).Addr().String()}, NodeName: &nodes[i], Hints: hints(i),
				})
			}
			kept = append(kept, candidate.SlimBackends(slice))
		}
		web := plan.Service{
			Name: "d/web", Addresses: addresses, Ports: []plan.Port{{Name: name, Protocol: ipvs.TCP, Port: 80}},
		}
		labels := map[string]string{corev1.LabelTopologyZone: zone}
		return plan.PlanForwarding(
			[]plan.ClassifiedService{{Service: web, IPVSScheduler: "rr"}},
			map[string][]plan.Backend{web.Name: object.Backends(kept)}, nil,
			plan.World{Self: "n1", Nodes: map[string]plan.Node{"n1": {Labels: labels}}, Forwards: true},
		).Table
	}
	d, _ := s.direct(t, tableOf("a", none))
	established := map[string]net.Conn{} // by the server's name
	for f := range d.table {
		for range nodes {
			c, name, err := s.dial("tcp", target(f), 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			established[name] = c
		}
	}
	if len(established) != 2*len(nodes) {
		t.Fatalf("without hints these answered: %v", slices.Sorted(maps.Keys(established)))
	}
	for _, step := range []struct {
		name  string
		zone  string
		hints func(int) *discoveryv1.EndpointHints
		want  []int
	}{
		{"for its zone", "a", byZone, []int{0, 1}},
		{"the node is in another zone", "b", byZone, []int{2}},
		{"the node is in a zone without endpoints", "c", byZone, []int{0, 1, 2}},
		{"for its node", "b", byNode, []int{0}},
		{"no hints any longer", "b", none, []int{0, 1, 2}},
	} {
		apply(t, d, tableOf(step.zone, step.hints))
		for f := range d.table {
			var want []string
			for _, i := range step.want {
				want = append(want, server(i, f.Address.Is6()).Addr().String())
			}
			got := s.ask(t, "tcp", target(f), 9, false)
			if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, want) {
				t.Errorf("%s: new connections to %s went to %v, want %v", step.name, f, names, want)
			}
		}
		for name, c := range established {
			if err := exchange(c, "tcp", name); err != nil {
				t.Errorf("%s: an established connection to %s: %v", step.name, name, err)
			}
		}
	}
}
