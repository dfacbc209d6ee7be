package steer

import (
	"github.com/berth-lb/berth/internal/steerquery"
	"github.com/berth-lb/berth/speaker/dataplane/steering"
	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
)

var protocols = map[string]uint8{"TCP": decide.TCP, "UDP": decide.UDP, "SCTP": decide.SCTP}

// Route returns where this node steers a client's packets. The query must be right.
func (s *Steerer) Route(q steerquery.Query) steerquery.Answer {
	if report, _ := s.Report(); report.Lacking != "" {
		return steerquery.Answer{Lacking: "this node does not steer: " + report.Lacking}
	}
	driver := s.driver.Load()
	if driver == nil {
		return steerquery.Answer{Lacking: "the program is not loaded by this process yet: ask again in a few seconds"}
	}
	r, err := driver.RouteOf(decide.Flow{Client: q.Client, Service: q.Service, Protocol: protocols[q.Protocol]})
	if err != nil {
		return steerquery.Answer{Lacking: err.Error()}
	}
	return answerOf(r)
}

func answerOf(r steering.Route) steerquery.Answer {
	a := steerquery.Answer{
		Slot: r.Slot, Slots: r.Slots, BySource: r.BySource, Node: r.Node, Reason: r.Reason.String(), Asks: r.Asks,
	}
	for _, n := range r.Ranks {
		a.Ranks = append(a.Ranks, steerquery.Rank{Node: n.Node, Draining: n.Draining, Dead: n.Dead})
	}
	return a
}

// Route says that this node was not asked to steer.
func (*None) Route(steerquery.Query) steerquery.Answer {
	return steerquery.Answer{Lacking: "this node was not asked to steer: its speaker runs without --steering"}
}
