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
		{
			name:     "at first nothing stays",
			before:   kubeProxyGrace{},
			desired:  forwards(web),
			services: exposing(web),
			want:     forwards(web),
		},
		{
			name:     "all that is exposed stays",
			before:   kubeProxyGrace{Forwarding: forwards(web, dns)},
			desired:  plan.Forwarding{},
			services: exposing(web, dns),
			want:     forwards(web, dns),
			again:    kubeProxyGraceTime,
		},
		{
			name:     "for a while",
			before:   kubeProxyGrace{forwards(web), map[ipvs.Frontend]time.Time{web: begun}},
			desired:  plan.Forwarding{},
			services: exposing(web),
			after:    2 * time.Second,
			want:     forwards(web),
			again:    kubeProxyGraceTime - 2*time.Second,
		},
		{
			name:     "and not longer",
			before:   kubeProxyGrace{forwards(web), map[ipvs.Frontend]time.Time{web: begun}},
			desired:  plan.Forwarding{},
			services: exposing(web),
			after:    kubeProxyGraceTime,
			want:     plan.Forwarding{},
		},
		{
			name:     "a port that is gone does not",
			before:   kubeProxyGrace{Forwarding: forwards(web, dns)},
			desired:  forwards(web),
			services: exposing(web),
			want:     forwards(web),
		},
		{
			name:    "a Service that is gone does not",
			before:  kubeProxyGrace{Forwarding: forwards(web)},
			desired: plan.Forwarding{},
			want:    plan.Forwarding{},
		},
		{
			name:     "what is desired again is as desired",
			before:   kubeProxyGrace{forwards(web), map[ipvs.Frontend]time.Time{web: begun}},
			desired:  forwards(web),
			services: exposing(web),
			after:    time.Second,
			want:     forwards(web),
		},
		{
			name:     "what stays is masqueraded still, though another Service of kube-proxy's has the port open",
			before:   kubeProxyGrace{Forwarding: forwards(web, dns)},
			desired:  plan.Forwarding{Table: ipvs.Table{dns: server}, Guards: guards(false, web, dns)},
			services: exposing(web, dns),
			want: plan.Forwarding{
				Table:  ipvs.Table{web: server, dns: server},
				Guards: append(guards(true, web), guards(false, web, dns)...),
			},
			again: kubeProxyGraceTime,
		},
	} {
		got, again := c.before.next(c.desired, c.services, begun.Add(c.after))
		if d := cmp.Diff(
			c.want,
			got.Forwarding,
			cmpopts.EquateEmpty(),
			cmpopts.IgnoreUnexported(ipvs.Settings{}, ipvs.RealServer{}),
			cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		); d != "" ||
			again != c.again {
			t.Errorf("%s: asked again after %s, want %s; difference (-want +got):\n%s", c.name, again, c.again, d)
		}
	}
}
