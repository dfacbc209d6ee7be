package object

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/speaker/plan"
)

func TestBackends(t *testing.T) {
	yes, no, node, name, port := true, false, "n1", "http", int32(8080)
	slice := &discoveryv1.EndpointSlice{
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port}, {Port: nil}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.0.1.1", "10.0.1.9"}, NodeName: &node, Hints: &discoveryv1.EndpointHints{
				ForNodes: []discoveryv1.ForNode{{Name: "n1"}},
				ForZones: []discoveryv1.ForZone{{Name: "a"}, {Name: "b"}},
			}},
			{
				Addresses:  []string{"10.0.1.2"},
				Conditions: discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes},
			},
			{
				Addresses:  []string{"10.0.1.3"},
				Conditions: discoveryv1.EndpointConditions{Ready: &no, Terminating: &no},
				Hints:      &discoveryv1.EndpointHints{},
			},
			{Addresses: []string{"pod.example"}},
			{},
		},
	}
	backend := func(address string, state candidate.State) plan.Backend {
		return plan.Backend{Port: "http", Address: netip.MustParseAddrPort(address), State: state}
	}
	hinted := backend("10.0.1.1:8080", candidate.Ready)
	hinted.Node, hinted.ForNodes, hinted.ForZones = "n1", []string{"n1"}, []string{"a", "b"}
	terminating := backend("10.0.1.2:8080", candidate.Serving)
	terminating.Terminates = true
	want := []plan.Backend{hinted, terminating, backend("10.0.1.3:8080", candidate.Useless)}
	// As a speaker has it in its cache.
	got := Backends([]*discoveryv1.EndpointSlice{candidate.SlimBackends(slice)})
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}
