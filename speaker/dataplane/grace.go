package dataplane

import (
	"maps"
	"slices"
	"time"

	"github.com/berth-lb/berth/speaker/dataplane/guard"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
	"github.com/berth-lb/berth/speaker/plan"
)

// kubeProxyGraceTime is how long kube-proxy may take from the status of a Service that asks for it
// to rules in the kernel: it gathers changes for a second, and writes for seconds where there are
// many Services. Its rules come before IPVS, so both may be there. A connection whose first packet
// meets neither stays without an answer: the kernel translates no later one.
const kubeProxyGraceTime = 15 * time.Second

// kubeProxyGrace is what a node forwards for a group: what is desired, and what kube-proxy is
// taking over.
type kubeProxyGrace struct {
	plan.Forwarding
	since map[ipvs.Frontend]time.Time // when it was no longer desired
}

// next returns what to forward when this is desired. Frontends that are no longer desired, and that
// a Service of the group still exposes, stay for kubeProxyGraceTime. Again is when that is over for
// all; 0: nothing stays.
func (g kubeProxyGrace) next(
	desired plan.Forwarding,
	services []plan.Service,
	now time.Time,
) (next kubeProxyGrace, again time.Duration) {
	since := map[ipvs.Frontend]time.Time{}
	for f := range g.Table {
		if _, still := desired.Table[f]; still || !exposed(f, services) {
			continue
		}
		begun, before := g.since[f]
		if !before {
			begun = now
		}
		if rest := kubeProxyGraceTime - now.Sub(begun); rest > 0 {
			since[f], again = begun, max(again, rest)
		}
	}
	if len(since) == 0 {
		return kubeProxyGrace{Forwarding: desired}, 0
	}
	table := maps.Clone(desired.Table)
	if table == nil {
		table = ipvs.Table{}
	}
	var guards []guard.Frontend // the first of an endpoint counts
	for _, rule := range g.Guards {
		f := ipvs.Frontend{Address: rule.Address, Port: rule.Port, Protocol: ipvs.Protocol(rule.Protocol)}
		if _, stays := since[f]; stays {
			guards = append(guards, rule)
		}
	}
	for f := range since {
		table[f] = g.Table[f]
	}
	return kubeProxyGrace{plan.Forwarding{Table: table, Guards: append(guards, desired.Guards...)}, since}, again
}

// exposed reports whether one of the Services has the frontend.
func exposed(f ipvs.Frontend, services []plan.Service) bool {
	return slices.ContainsFunc(services, func(s plan.Service) bool {
		return slices.Contains(s.Addresses, f.Address) && slices.ContainsFunc(s.Ports, func(p plan.Port) bool {
			return p.Port == f.Port && p.Protocol == f.Protocol
		})
	})
}
