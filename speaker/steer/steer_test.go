package steer

import (
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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
	l := newLedger()
	for group, ports := range map[string][]plan.SteeredPort{
		"d/web": {
			port("d/web", "192.0.2.1", 80, "n1"), port("d/web", "192.0.2.1", 53, "n2"),
			port("d/web", "2001:db8::1", 80, "n1", "n2"), // n2 has no IPv6 address
		},
		"d/other": {port("d/other", "192.0.2.2", 80, "n1", "v6", "gone")},
	} {
		l.set(group, ports, addresses, time.Time{})
	}
	want := map[string]steering.Service{
		"d/web 192.0.2.1:80/6":     on([]string{"n1"}, frontend("192.0.2.1:80")),
		"d/web 192.0.2.1:53/6":     on([]string{"n2"}, frontend("192.0.2.1:53")),
		"d/web [2001:db8::1]:80/6": on([]string{"n1"}, frontend("[2001:db8::1]:80")),
		"d/other 192.0.2.2:80/6":   on([]string{"n1"}, frontend("192.0.2.2:80")),
	}
	if diff := cmp.Diff(want, l.services, byValue); diff != "" {
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
	got, errs := ways("self", map[string][]netip.Addr{
		"n1": {address("10.0.0.1"), address("10.0.1.1"), address("fd00::1")}, "n2": {address("fd00::2")},
		"n3": {address("10.0.0.3")}, "n4": nil, "self": {address("10.0.0.3"), address("fd00::3")},
	}, reach)
	want := map[string]steering.Node{
		"n1": {IPv4: address("10.0.0.1"), IPv6: address("fd00::1"), Interface: 2},
		"n2": {IPv6: address("fd00::2"), Interface: 2},
		"self": {
			IPv4: address("10.0.0.3"), IPv6: address("fd00::3"), Interface: loopback, MTU: loopbackMTU, Encapsulate: true,
		},
	}
	if diff := cmp.Diff(want, got, byValue); diff != "" || len(errs) != 1 {
		t.Errorf("%s%v", diff, errs)
	}
	four := map[string]steering.Node{"n": {IPv4: address("10.0.0.1"), Interface: 2}}
	if diff := cmp.Diff(map[string][]netip.Addr{"n": {address("10.0.0.1")}}, reached(four), byValue); diff != "" {
		t.Error(diff)
	}
	if all := encapsulated(got); !all["n1"].Encapsulate || got["n1"].Encapsulate {
		t.Errorf("with IPIP %+v, before %+v", all["n1"], got["n1"])
	}
}

func TestInterfaces(t *testing.T) {
	on := func(prefix, name string) localnet.Address {
		return localnet.Address{Prefix: netip.MustParsePrefix(prefix), Interface: name}
	}
	got, ways := Interfaces(localnet.Network{Gateways: []netip.Addr{address("10.0.0.254")}, Addresses: []localnet.Address{
		on("10.0.0.1/24", "eth0"), on("fd00::1/64", "eth0"), on("10.1.0.1/24", "bond0.7"), on("10.244.1.1/24", "cni0"),
		on("192.0.2.1/32", "kube-ipvs0"), on("10.9.9.9/32", "lo"),
	}}, []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")})
	if diff := cmp.Diff([]string{"bond0.7", "eth0"}, got); diff != "" {
		t.Error(diff)
	}
	want := []string{"10.0.0.254", "10.0.0.1/24 on eth0", "fd00::1/64 on eth0", "10.1.0.1/24 on bond0.7"}
	if diff := cmp.Diff(want, ways); diff != "" {
		t.Error(diff)
	}
}

// A node that has just begun looks for conntrack, for a while, before it steers without a second
// chance.
func TestSteererStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{Logger: slog.New(slog.DiscardHandler)})
		is := func(when string, starting, steers bool) {
			t.Helper()
			if r, _ := s.Report(); r.Starting != starting || (r.Lacking == "") != steers {
				t.Errorf("%s: %+v, want starting %t, steers %t", when, r, starting, steers)
			}
		}
		is("it begins", true, false)
		toCome := steering.Features{SecondChanceToCome: true}
		s.has(nil, toCome)
		is("without conntrack", true, false)
		<-time.After(trackAtMost)
		s.has(nil, toCome)
		is("without conntrack for long", false, true)
		s = New(Config{Logger: slog.New(slog.DiscardHandler)})
		s.has(nil, steering.Features{SecondChance: true})
		is("with conntrack", false, true)
		s = New(Config{Logger: slog.New(slog.DiscardHandler)})
		s.has(nil, steering.Features{})
		is("conntrack cannot be asked", false, true)
		s = New(Config{Logger: slog.New(slog.DiscardHandler)})
		s.fails("no memory")
		is("it failed once", true, false)
		s.has(nil, toCome)
		is("and works then, without conntrack", true, false)
		s = New(Config{Logger: slog.New(slog.DiscardHandler)})
		s.lacks("the kernel is too old")
		is("it cannot", false, false)
		s.has(nil, steering.Features{})
		is("it can, later", false, true)
	})
}

// What is set as it was makes no work: networks of nodes change with each Pod.
func TestSteererSetsNothingNew(t *testing.T) {
	s := New(Config{Logger: slog.New(slog.DiscardHandler)})
	nodes := map[string][]netip.Addr{"n1": {address("10.0.0.1"), address("fd00::1")}, "n2": {address("10.0.0.2")}}
	other := map[string][]netip.Addr{"n1": {address("10.0.0.1")}, "n2": {address("10.0.0.2")}}
	for i, c := range []struct {
		do   func()
		want bool
	}{
		{func() { s.SetNodes(nodes) }, true},
		{func() { s.SetNodes(maps.Clone(nodes)) }, false},
		{func() { s.SetNodes(other) }, true},
		{func() { s.SetInterfaces([]string{"eth0", "eth1"}, []string{"192.0.2.1"}) }, true},
		{func() { s.SetInterfaces([]string{"eth0", "eth1"}, []string{"192.0.2.1"}) }, false},
		{func() { s.SetInterfaces([]string{"eth0", "eth1"}, []string{"192.0.2.2"}) }, true}, // another gateway
		{func() { s.SetInterfaces([]string{"eth0"}, []string{"192.0.2.2"}) }, true},
		{func() { s.SetInterfaces(nil, nil) }, true},
	} {
		c.do()
		woken := false
		select {
		case <-s.wake:
			woken = true
		default:
		}
		if a := s.take(time.Time{}); a.all != c.want || woken != c.want {
			t.Errorf("step %d: all is applied: %t, woken: %t, want %t", i, a.all, woken, c.want)
		}
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
	s.has(map[string][]plan.SteeredPort{"d/web": ports}, steering.Features{SecondChance: true})
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
	s.has(map[string][]plan.SteeredPort{"d/web": more}, steering.Features{SecondChance: true})
	if got := <-s.Changed(); got != "d/web" || !s.Steers("d/web") {
		t.Errorf("told of %q when the kernel has all", got)
	}
	s.lacks("the kernel is not as desired")
	if s.Steers("d/web") {
		t.Error("it steers, and says that it does not")
	}
	s.Sync("d/web", nil)
	s.has(map[string][]plan.SteeredPort{"d/web": nil}, steering.Features{})
	if s.Steers("d/web") {
		t.Error("it steers what is gone")
	}
}

// A node that joins waits while another one takes connections, and no longer than joinDelay.
func TestLedgerJoins(t *testing.T) {
	addresses := map[string][]netip.Addr{
		"n1": {address("10.0.0.1")}, "n2": {address("10.0.0.2")}, "n3": {address("10.0.0.3")},
		"dead": {address("10.0.0.4")},
	}
	ready, drains := func(n string) plan.SteeredMember {
		return plan.SteeredMember{Node: n, Endpoints: 1}
	}, func(n string) plan.SteeredMember {
		return plan.SteeredMember{Node: n, Endpoints: 1, Draining: true}
	}
	unready := func(n string, drains bool) plan.SteeredMember {
		return plan.SteeredMember{Node: n, Endpoints: 1, Draining: drains, Unready: true}
	}
	type step struct {
		at      time.Duration
		members []plan.SteeredMember
		want    string
		due     time.Duration // 0: never
	}
	for name, steps := range map[string][]step{
		"the first ones": {{0, []plan.SteeredMember{ready("n1"), ready("n2")}, "n1 n2", 0}},
		"one joins, and one a second later": {
			{0, []plan.SteeredMember{ready("n1")}, "n1", 0},
			{10, []plan.SteeredMember{ready("n1"), ready("n2")}, "n1", 10 + joinDelay},
			{11, []plan.SteeredMember{ready("n1"), ready("n2"), ready("n3")}, "n1", 10 + joinDelay},
			{10 + joinDelay, []plan.SteeredMember{ready("n1"), ready("n2"), ready("n3")}, "n1 n2", 11 + joinDelay},
			{11 + joinDelay, []plan.SteeredMember{ready("n1"), ready("n2"), ready("n3")}, "n1 n2 n3", 0},
		},
		"one joins, and is gone before": {
			{0, []plan.SteeredMember{ready("n1")}, "n1", 0},
			{10, []plan.SteeredMember{ready("n1"), ready("n2")}, "n1", 10 + joinDelay},
			{11, []plan.SteeredMember{ready("n1")}, "n1", 0},
			{12, []plan.SteeredMember{ready("n1"), ready("n2")}, "n1", 12 + joinDelay},
		},
		"the only one drains as another one joins": {
			{0, []plan.SteeredMember{ready("n1")}, "n1", 0},
			{10, []plan.SteeredMember{drains("n1"), ready("n2")}, "-n1 n2", 0},
		},
		"the only one goes while another one waits": {
			{0, []plan.SteeredMember{ready("n1")}, "n1", 0},
			{10, []plan.SteeredMember{ready("n1"), ready("n2")}, "n1", 10 + joinDelay},
			{11, []plan.SteeredMember{ready("n2")}, "n2", 0},
		},
		"one drains, and is ready again": {
			{0, []plan.SteeredMember{ready("n1"), ready("n2")}, "n1 n2", 0},
			{10, []plan.SteeredMember{ready("n1"), drains("n2")}, "n1 -n2", 0},
			{11, []plan.SteeredMember{ready("n1"), ready("n2")}, "n1 n2", 0},
		},
		"one is unready, and ready again": {
			{0, []plan.SteeredMember{ready("n1"), ready("n2")}, "n1 n2", 0},
			{10, []plan.SteeredMember{ready("n1"), unready("n2", true)}, "n1 -n2", 0},
			{11, []plan.SteeredMember{ready("n1"), ready("n2")}, "n1 -n2", 11 + joinDelay},
			{12, []plan.SteeredMember{ready("n1"), ready("n2")}, "n1 -n2", 11 + joinDelay},
			{11 + joinDelay, []plan.SteeredMember{ready("n1"), ready("n2")}, "n1 n2", 0},
			{12 + joinDelay, []plan.SteeredMember{ready("n1"), ready("n2")}, "n1 n2", 0},
		},
		"one begins": {
			{0, []plan.SteeredMember{ready("n1")}, "n1", 0},
			{10, []plan.SteeredMember{ready("n1"), unready("n2", true)}, "n1", 0},
			{11, []plan.SteeredMember{ready("n1"), ready("n2")}, "n1", 11 + joinDelay},
			{11 + joinDelay, []plan.SteeredMember{ready("n1"), ready("n2")}, "n1 n2", 0},
			{12 + joinDelay, []plan.SteeredMember{ready("n1"), unready("n2", true)}, "n1 -n2", 0},
		},
		"one begins before it is steered": {
			{0, []plan.SteeredMember{ready("n1"), unready("n2", true)}, "n1 -n2", 0},
		},
		"all are unready, and one is ready again": {
			{0, []plan.SteeredMember{ready("n1"), ready("n2")}, "n1 n2", 0},
			{10, []plan.SteeredMember{unready("n1", false), unready("n2", false)}, "n1 n2", 0},
			{11, []plan.SteeredMember{unready("n1", true), ready("n2")}, "-n1 n2", 0},
			{12, []plan.SteeredMember{ready("n1"), ready("n2")}, "-n1 n2", 12 + joinDelay},
		},
		"one waits while the other one becomes unready": {
			{0, []plan.SteeredMember{ready("n1"), unready("n2", true)}, "n1 -n2", 0},
			{10, []plan.SteeredMember{ready("n1"), ready("n2")}, "n1 -n2", 10 + joinDelay},
			{11, []plan.SteeredMember{unready("n1", true), ready("n2")}, "-n1 n2", 0},
			{12, []plan.SteeredMember{unready("n1", true), ready("n2")}, "-n1 n2", 0},
		},
		"the only other one is suspected": {
			{0, []plan.SteeredMember{ready("dead")}, "dead", 0},
			{10, []plan.SteeredMember{ready("dead"), ready("n2")}, "dead n2", 0},
		},
		"all were gone": {
			{0, []plan.SteeredMember{ready("n1")}, "n1", 0},
			{1, nil, "", 0},
			{2, []plan.SteeredMember{ready("n2"), ready("n3")}, "n2 n3", 0},
		},
	} {
		l, start := newLedger(), time.Now()
		l.suspect = map[string]bool{"dead": true}
		for i, step := range steps {
			l.set("g", []plan.SteeredPort{{
				Service: "d/web", Address: address("192.0.2.1"), Port: 80, Protocol: ipvs.TCP, Members: step.members,
			}}, addresses, start.Add(step.at))
			var nodes []string
			for _, m := range l.services["d/web 192.0.2.1:80/6"].Members {
				if m.Draining {
					m.Node = "-" + m.Node
				}
				nodes = append(nodes, m.Node)
			}
			_, due := l.next(start.Add(step.at))
			var want time.Time
			if step.due > 0 {
				want = start.Add(step.due)
			}
			if got := strings.Join(nodes, " "); got != step.want || !due.Equal(want) {
				t.Errorf("%s, step %d: %q count, the next at %v; want %q, %v", name, i, got, due, step.want, want)
			}
		}
	}
}

// A Service that goes from one group to another is not removed, whichever is told of first.
func TestLedgerGroups(t *testing.T) {
	ports := []plan.SteeredPort{{Service: "d/web", Address: address("192.0.2.1"), Port: 80, Protocol: ipvs.TCP}}
	for _, order := range [][]string{{"old", "new"}, {"new", "old"}} {
		l := newLedger()
		l.set("old", ports, nil, time.Time{})
		for _, group := range order {
			now := map[string][]plan.SteeredPort{"new": ports}[group]
			if got := l.set(group, now, nil, time.Time{}); !slices.Contains(got, "d/web 192.0.2.1:80/6") {
				t.Errorf("group %s changes %v", group, got)
			}
		}
		if len(l.services) != 1 {
			t.Errorf("in order %v there are %v", order, l.services)
		}
		if l.set("new", nil, nil, time.Time{}); len(l.services)+len(l.owner)+len(l.names) > 0 {
			t.Errorf("what is gone is %+v", l)
		}
	}
}
