package steer

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
	"github.com/berth-lb/berth/speaker/dataplane/steering"
	"github.com/berth-lb/berth/speaker/dataplane/steering/table"
	"github.com/berth-lb/berth/speaker/localnet"
	"github.com/berth-lb/berth/speaker/plan"
)

var byValue = cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})

func address(s string) netip.Addr { return netip.MustParseAddr(s) }

// Each port of a Service is one of the driver's.
func TestServices(t *testing.T) {
	port := func(service, at string, number uint16, nodes ...string) plan.SteeredPort {
		p := plan.SteeredPort{
			Service: service, Address: address(at), Port: number, Protocol: ipvs.TCP,
			How: config.Steering{SecondChance: v1alpha1.SecondChanceTCP},
		}
		for _, n := range nodes {
			p.Members = append(p.Members, plan.SteeredMember{Node: n, Endpoints: 2})
		}
		return p
	}
	frontend := func(at string) steering.Frontend {
		return steering.Frontend{Address: netip.MustParseAddrPort(at), Protocol: 6}
	}
	on := func(nodes []string, frontends ...steering.Frontend) steering.Service {
		s := steering.Service{Frontends: frontends, TCPChance: true}
		for _, n := range nodes {
			s.Members = append(s.Members, table.Member{Node: n, Weight: 2})
		}
		return s
	}
	addresses := map[string][]netip.Addr{
		"n1": {address("10.0.0.1"), address("fd00::1")}, "n2": {address("10.0.0.2")}, "v6": {address("fd00::3")},
	}
	got := services(map[string][]plan.SteeredPort{
		"d/web": {
			port("d/web", "192.0.2.1", 80, "n1"), port("d/web", "192.0.2.1", 53, "n2"),
			port("d/web", "2001:db8::1", 80, "n1", "n2"), // n2 has no IPv6 address
		},
		"d/other": {port("d/other", "192.0.2.2", 80, "n1", "v6", "gone")},
	}, addresses)
	want := map[string]steering.Service{
		"d/web 192.0.2.1:80/6":     on([]string{"n1"}, frontend("192.0.2.1:80")),
		"d/web 192.0.2.1:53/6":     on([]string{"n2"}, frontend("192.0.2.1:53")),
		"d/web [2001:db8::1]:80/6": on([]string{"n1"}, frontend("[2001:db8::1]:80")),
		"d/other 192.0.2.2:80/6":   on([]string{"n1"}, frontend("192.0.2.2:80")),
	}
	if diff := cmp.Diff(want, got, byValue); diff != "" {
		t.Error(diff)
	}
}

func TestWays(t *testing.T) {
	reach := func(ipv4, ipv6 netip.Addr) (steering.Node, error) {
		if ipv4 == address("10.0.0.3") {
			return steering.Node{}, errors.New("no route")
		}
		return steering.Node{IPv4: ipv4, IPv6: ipv6, Interface: 2}, nil
	}
	got, errs := ways(map[string][]netip.Addr{
		"n1": {address("10.0.0.1"), address("10.0.1.1"), address("fd00::1")}, "n2": {address("fd00::2")},
		"n3": {address("10.0.0.3")}, "n4": nil,
	}, reach)
	want := map[string]steering.Node{
		"n1": {IPv4: address("10.0.0.1"), IPv6: address("fd00::1"), Interface: 2},
		"n2": {IPv6: address("fd00::2"), Interface: 2},
	}
	if diff := cmp.Diff(want, got, byValue); diff != "" || len(errs) != 1 {
		t.Errorf("%s%v", diff, errs)
	}
	ipip := map[string][]plan.SteeredPort{"d/web": {{How: config.Steering{Encapsulation: v1alpha1.EncapsulationIPIP}}}}
	if all := encapsulated(got, ipip); !all["n1"].Encapsulate || got["n1"].Encapsulate {
		t.Errorf("with IPIP %+v, before %+v", all["n1"], got["n1"])
	}
}

func TestInterfaces(t *testing.T) {
	on := func(prefix, name string) localnet.Address {
		return localnet.Address{Prefix: netip.MustParsePrefix(prefix), Interface: name}
	}
	got := Interfaces(localnet.Network{Addresses: []localnet.Address{
		on("10.0.0.1/24", "eth0"), on("fd00::1/64", "eth0"), on("10.1.0.1/24", "bond0.7"), on("10.244.1.1/24", "cni0"),
		on("192.0.2.1/32", "kube-ipvs0"), on("10.9.9.9/32", "lo"),
	}}, []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")})
	if diff := cmp.Diff([]string{"bond0.7", "eth0"}, got); diff != "" {
		t.Error(diff)
	}
}

// What the program says of a group it goes on to say while a change of the group is on its way.
func TestSteererSteers(t *testing.T) {
	s := New(Config{Logger: slog.New(slog.DiscardHandler)})
	ports := []plan.SteeredPort{{Service: "d/web", Address: address("192.0.2.1"), Port: 80}}
	s.Sync("d/web", ports)
	if s.Steers("d/web") {
		t.Error("it steers before the kernel has anything")
	}
	s.has(map[string][]plan.SteeredPort{"d/web": ports}, steering.Features{}, nil)
	for _, want := range []string{"", "d/web"} {
		if got := <-s.Changed(); got != want {
			t.Errorf("told of %q, want %q", got, want)
		}
	}
	elsewhere := slices.Clone(ports)
	elsewhere[0].Members = []plan.SteeredMember{{Node: "n1", Endpoints: 1}}
	s.Sync("d/web", elsewhere)
	if !s.Steers("d/web") {
		t.Error("while other members are on their way it does not steer")
	}
	more := append(slices.Clone(elsewhere), plan.SteeredPort{Service: "d/web", Address: address("192.0.2.1"), Port: 81})
	s.Sync("d/web", more)
	if s.Steers("d/web") {
		t.Error("it steers a port that the kernel does not have")
	}
	s.has(map[string][]plan.SteeredPort{"d/web": more}, steering.Features{}, nil)
	if got := <-s.Changed(); got != "d/web" || !s.Steers("d/web") {
		t.Errorf("told of %q when the kernel has all", got)
	}
	s.lacks("the kernel is not as desired")
	if s.Steers("d/web") {
		t.Error("it steers, and says that it does not")
	}
	s.Sync("d/web", nil)
	s.has(map[string][]plan.SteeredPort{}, steering.Features{}, nil)
	if s.Steers("d/web") {
		t.Error("it steers what is gone")
	}
}

// A node that hears nobody any more does not take all others for dead.
func TestAliveOf(t *testing.T) {
	on := func(interfaces ...string) map[string]bool {
		m := map[string]bool{}
		for _, i := range interfaces {
			m[i] = true
		}
		return m
	}
	for _, c := range []struct {
		name  string
		heard map[string]map[string]bool
		want  map[string]bool
	}{
		{
			"one of two is silent", map[string]map[string]bool{"n1": on("eth0"), "n2": on()},
			map[string]bool{"n1": true, "n2": false},
		},
		{"the only other one is silent", map[string]map[string]bool{"n1": on()}, map[string]bool{"n1": false}},
		{"all are silent", map[string]map[string]bool{"n1": on(), "n2": on()}, map[string]bool{"n1": true, "n2": true}},
	} {
		if diff := cmp.Diff(c.want, aliveOf(c.heard)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}
