package speaker

import (
	"maps"
	"slices"
	"time"

	"github.com/berth-lb/berth/speaker/dataplane/guard"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
	"github.com/berth-lb/berth/speaker/plan"
)

// handOverTime is how long kube-proxy may take from the status of a Service that asks for it to rules in the kernel: it
// gathers changes for a second, and writes for seconds where there are many Services. Its rules come before IPVS, so both may
// be there. A connection whose first packet meets neither stays without an answer: the kernel translates no later one.
const handOverTime = 15 * time.Second

// handover is what a node forwards for a group: what is desired, and what kube-proxy is just taking over.
type handover struct {
	plan.Forwarding
	since map[ipvs.Frontend]time.Time // it is not desired any more
}

// next takes in what is desired. Frontends that are desired no more, and that a Service of the group still exposes, stay for
// handOverTime. It returns when to ask again; 0: never.
func (h handover) next(desired plan.Forwarding, services []plan.Service, now time.Time) (handover, time.Duration) {
	since := map[ipvs.Frontend]time.Time{}
	var again time.Duration
	for f := range h.Table {
		if _, still := desired.Table[f]; still || !exposed(f, services) {
			continue
		}
		begun, before := h.since[f]
		if !before {
			begun = now
		}
		if rest := handOverTime - now.Sub(begun); rest > 0 {
			since[f], again = begun, max(again, rest)
		}
	}
	if len(since) == 0 {
		return handover{Forwarding: desired}, 0
	}
	table := maps.Clone(desired.Table)
	if table == nil {
		table = ipvs.Table{}
	}
	var guards []guard.Frontend // the first of an endpoint counts
	for _, g := range h.Guards {
		f := ipvs.Frontend{Address: g.Address, Port: g.Port, Protocol: ipvs.Protocol(g.Protocol)}
		if _, stays := since[f]; stays {
			guards = append(guards, g)
		}
	}
	for f := range since {
		table[f] = h.Table[f]
	}
	return handover{plan.Forwarding{Table: table, Guards: append(guards, desired.Guards...)}, since}, again
}

// exposed tells whether one of the Services has the frontend.
func exposed(f ipvs.Frontend, services []plan.Service) bool {
	return slices.ContainsFunc(services, func(s plan.Service) bool {
		return slices.Contains(s.Addresses, f.Address) && slices.ContainsFunc(s.Ports, func(p plan.Port) bool {
			return p.Port == f.Port && p.Protocol == f.Protocol
		})
	})
}
