package dataplane

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/berth-lb/berth/speaker/dataplane/guard"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
	"github.com/berth-lb/berth/speaker/plan"
)

func TestKubeProxyGrace_next(t *testing.T) {
	address := netip.MustParseAddr("192.0.2.1")
	web := ipvs.Frontend{Address: address, Port: 80, Protocol: ipvs.TCP}
	dns := ipvs.Frontend{Address: address, Port: 53, Protocol: ipvs.UDP}
	server := ipvs.VirtualServer{Settings: ipvs.Settings{Scheduler: "rr"}}
	guards := func(masquerade bool, all ...ipvs.Frontend) (found []guard.Frontend) {
		for _, f := range all {
			found = append(
				found,
				guard.Frontend{Address: f.Address, Port: f.Port, Protocol: uint8(f.Protocol), Masquerade: masquerade},
			)
		}
		return found
	}
	forwards := func(all ...ipvs.Frontend) plan.Forwarding {
		f := plan.Forwarding{Table: ipvs.Table{}, Guards: guards(true, all...)}
		for _, frontend := range all {
			f.Table[frontend] = server
		}
		return f
	}
	exposing := func(all ...ipvs.Frontend) []plan.Service {
		s := plan.Service{Name: "default/web", Addresses: []netip.Addr{address}}
		for _, f := range all {
			s.Ports = append(s.Ports, plan.Port{Protocol: f.Protocol, Port: f.Port})
		}
		return []plan.Service{s}
	}
	begun := time.Now()
	for _, c := range []struct {
		name     string
		before   kubeProxyGrace
		desired  plan.Forwarding
		services []plan.Service
		after    time.Duration // since begun
		want     plan.Forwarding
		again    time.Duration
	}{
		{"at first nothing stays", kubeProxyGrace{}, forwards(web), exposing(web), 0, forwards(web), 0},
		{"all that is exposed stays", kubeProxyGrace{Forwarding: forwards(web, dns)}, plan.Forwarding{}, exposing(web, dns), 0, forwards(web, dns), kubeProxyGraceTime},
		{"for a while", kubeProxyGrace{forwards(web), map[ipvs.Frontend]time.Time{web: begun}}, plan.Forwarding{}, exposing(web), 2 * time.Second, forwards(web), kubeProxyGraceTime - 2*time.Second},
		{"and not longer", kubeProxyGrace{forwards(web), map[ipvs.Frontend]time.Time{web: begun}}, plan.Forwarding{}, exposing(web), kubeProxyGraceTime, plan.Forwarding{}, 0},
		{"a port that is gone does not", kubeProxyGrace{Forwarding: forwards(web, dns)}, forwards(web), exposing(web), 0, forwards(web), 0},
		{"a Service that is gone does not", kubeProxyGrace{Forwarding: forwards(web)}, plan.Forwarding{}, nil, 0, plan.Forwarding{}, 0},
		{"what is desired again is as desired", kubeProxyGrace{forwards(web), map[ipvs.Frontend]time.Time{web: begun}}, forwards(web), exposing(web), time.Second, forwards(web), 0},
		{
			"what stays is masqueraded still, though another Service of kube-proxy's has the port open",
			kubeProxyGrace{Forwarding: forwards(web, dns)},
			plan.Forwarding{Table: ipvs.Table{dns: server}, Guards: guards(false, web, dns)}, exposing(web, dns), 0,
			plan.Forwarding{Table: ipvs.Table{web: server, dns: server}, Guards: append(guards(true, web), guards(false, web, dns)...)}, kubeProxyGraceTime,
		},
	} {
		got, again := c.before.next(c.desired, c.services, begun.Add(c.after))
		if d := cmp.Diff(c.want, got.Forwarding, cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(ipvs.Settings{}, ipvs.RealServer{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" ||
			again != c.again {
			t.Errorf("%s: asked again after %s, want %s; difference (-want +got):\n%s", c.name, again, c.again, d)
		}
	}
}
