//go:build linux

package lab

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestEveryHostHasItsPlaceInTheNetwork(t *testing.T) {
	p := newPlan(Options{Nodes: 2, DualStack: true})
	want := map[string]string{
		"rack":   "[]",
		"cp":     "[172.30.0.2 fd00:30::2]",
		"n1":     "[172.30.0.11 fd00:30::11]",
		"n2":     "[172.30.0.12 fd00:30::12]",
		"client": "[172.30.0.100 fd00:30::100]",
		"router": "[172.30.0.1 fd00:30::1]",
		"remote": "[172.31.0.100 fd00:31::100]",
	}
	if len(p.hosts) != len(want) {
		t.Errorf("%d hosts, want %d", len(p.hosts), len(want))
	}
	for _, h := range p.hosts {
		if got := join(h.addresses()); got != want[h.name] {
			t.Errorf("%s has %s, want %s", h.name, got, want[h.name])
		}
	}
}

func join(addrs []netip.Addr) string {
	var all []string
	for _, a := range addrs {
		all = append(all, a.String())
	}
	return "[" + strings.Join(all, " ") + "]"
}

func TestRoutesLeadToPodsThroughTheirNodesAndElsewhereThroughTheRouter(t *testing.T) {
	p := newPlan(Options{Nodes: 2})
	want := map[string][]string{
		"n1":     {"10.244.2.0/24 172.30.0.12", "0.0.0.0/0 172.30.0.1"},
		"n2":     {"10.244.1.0/24 172.30.0.11", "0.0.0.0/0 172.30.0.1"},
		"cp":     {"10.244.1.0/24 172.30.0.11", "10.244.2.0/24 172.30.0.12", "0.0.0.0/0 172.30.0.1"},
		"client": {"0.0.0.0/0 172.30.0.1"},
		"router": {"10.244.1.0/24 172.30.0.11", "10.244.2.0/24 172.30.0.12"},
		"remote": {"0.0.0.0/0 172.31.0.1"},
		"rack":   nil,
	}
	for _, h := range p.hosts {
		var got []string
		for _, r := range h.routes {
			got = append(got, r.to.String()+" "+r.via.String())
		}
		if !slices.Equal(got, want[h.name]) {
			t.Errorf("routes of %s: %q, want %q", h.name, got, want[h.name])
		}
	}
}

func TestOptionsOutOfRangeAreRefused(t *testing.T) {
	for _, o := range []Options{
		{Name: "my-lab"}, {Name: "averylonglabname"}, {Nodes: -1}, {Nodes: 81}, {Router: "bird"}, {ProxyMode: "ipvs"},
	} {
		if _, err := o.withDefaults(); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
	if o, err := (Options{}).withDefaults(); err != nil || o.Name != "lab" || o.Nodes != 1 || o.Router != "none" ||
		o.ProxyMode != "nftables" {
		t.Errorf("defaults = %+v, %v", o, err)
	}
}

func TestRouterHasEveryNodeAsNeighbor(t *testing.T) {
	got := bgpdConfig(newPlan(Options{Nodes: 1, DualStack: true}), true)
	want := `hostname router
router bgp 64512
 bgp router-id 172.30.0.1
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 bgp bestpath as-path multipath-relax
 neighbor 172.30.0.11 remote-as 64513
 neighbor 172.30.0.11 timers 3 9
 neighbor 172.30.0.11 timers connect 1
 neighbor 172.30.0.11 advertisement-interval 0
 neighbor 172.30.0.11 bfd 3 100 100
 neighbor fd00:30::11 remote-as 64513
 neighbor fd00:30::11 timers 3 9
 neighbor fd00:30::11 timers connect 1
 neighbor fd00:30::11 advertisement-interval 0
 neighbor fd00:30::11 bfd 3 100 100
 address-family ipv4 unicast
  maximum-paths 16
  neighbor 172.30.0.11 activate
  neighbor fd00:30::11 activate
 exit-address-family
 address-family ipv6 unicast
  maximum-paths 16
  neighbor 172.30.0.11 activate
  neighbor fd00:30::11 activate
 exit-address-family
`
	if got != want {
		t.Errorf("configuration:\n%s\nwant:\n%s", got, want)
	}
	if single := bgpdConfig(newPlan(Options{Nodes: 1}), false); strings.Contains(single, "fd00:") {
		t.Errorf("IPv6 neighbors without dual stack:\n%s", single)
	}
}

// That none runs is told from that it is not known which one is meant.
func TestAProcessIsFoundByName(t *testing.T) {
	all := []Process{
		{Name: "etcd", PID: 7},
		{Name: "kube-apiserver"}, // ended
		{Name: "speaker@n1", Pod: "berth-system/speaker-a", PID: 8},
		{Name: "speaker@n1", Pod: "berth-system/speaker-b", PID: 9},
	}
	for name, c := range map[string]struct {
		pid        int
		notRunning bool
	}{
		"etcd":           {pid: 7},
		"speaker-b@n1":   {pid: 9},
		"kube-apiserver": {notRunning: true},
		"nothing@n1":     {notRunning: true},
		"speaker@n1":     {},
	} {
		p, err := chosen(all, name)
		_, notRunning := errors.AsType[*NotRunningError](err)
		if p.PID != c.pid || (err == nil) != (c.pid != 0) || notRunning != c.notRunning {
			t.Errorf("%s: process %d, error %v; want %d, not running: %t", name, p.PID, err, c.pid, c.notRunning)
		}
	}
}

func TestProcessNamesAreTakenApart(t *testing.T) {
	for name, want := range map[string][2]string{
		"etcd":         {"etcd", "cp"},
		"bgpd@router":  {"bgpd", "router"},
		"web-5d9x@n12": {"web-5d9x", "n12"},
	} {
		if process, host := splitProcess(name); process != want[0] || host != want[1] {
			t.Errorf("%s: %s on %s, want %s on %s", name, process, host, want[0], want[1])
		}
	}
}
