package forecast

import (
	"net/netip"
	"slices"

	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/l2/election"
)

// ownersNow returns who answers, as the cluster says.
func ownersNow(s *cluster.State) map[cluster.Place]string {
	now := map[cluster.Place]string{}
	for _, o := range s.Owners {
		if a, err := netip.ParseAddr(o.Status.Address); err == nil && o.Status.NodeName != "" {
			now[cluster.Place{Address: a, Segment: o.Status.Segment}] = o.Status.NodeName
		}
	}
	return now
}

// ownersThen returns who will answer. Who answers goes on to, while it may; otherwise the first of
// those that may comes next.
func ownersThen(s *cluster.State, now map[cluster.Place]string) map[cluster.Place]string {
	then := map[cluster.Place]string{}
	for at, c := range s.Contenders() {
		if owner := now[at]; slices.Contains(c.Nodes, owner) {
			then[at] = owner
			continue
		}
		then[at] = slices.MinFunc(c.Nodes, func(a, b string) int {
			switch {
			case a == b:
				return 0
			case election.RanksBefore(c.Rank, c.Preferred, a, b):
				return -1
			}
			return 1
		})
	}
	return then
}
