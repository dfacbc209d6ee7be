package forecast

import (
	"net/netip"
	"path"
	"slices"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/l2/election"
	"github.com/berth-lb/berth/speaker/object"
)

// place is an address on a segment, by the name that L2Owners have for it.
type place struct {
	address netip.Addr
	segment string
}

// contenders are the nodes that may answer for an address on a segment.
type contenders struct {
	nodes     []string
	rank      string
	preferred map[string]int32
}

// ownersNow returns who answers, as the cluster says.
func ownersNow(s *cluster.State) map[place]string {
	now := map[place]string{}
	for _, o := range s.Owners {
		if a, err := netip.ParseAddr(o.Status.Address); err == nil && o.Status.NodeName != "" {
			now[place{a, o.Status.Segment}] = o.Status.NodeName
		}
	}
	return now
}

// ownersThen returns who will answer. Who answers goes on to, while it may; otherwise the first of
// those that may comes next.
func ownersThen(s *cluster.State, now map[place]string) map[place]string {
	then := map[place]string{}
	for at, c := range contendersOf(s) {
		if owner := now[at]; slices.Contains(c.nodes, owner) {
			then[at] = owner
			continue
		}
		then[at] = slices.MinFunc(c.nodes, func(a, b string) int {
			switch {
			case a == b:
				return 0
			case election.RanksBefore(c.rank, c.preferred, a, b):
				return -1
			}
			return 1
		})
	}
	return then
}

func contendersOf(s *cluster.State) map[place]contenders {
	snapshot, _ := config.Compile(s.Objects())
	groups := cluster.Groups(s.Planned())
	all := map[place]contenders{}
	for _, n := range s.Nodes {
		speaker := s.Speaker(n.Name)
		if speaker == nil {
			continue
		}
		if state, _ := speaker.Status.State(); state != v1alpha1.SpeakerAnnouncing &&
			state != v1alpha1.SpeakerLeaving {
			continue
		}
		own := object.InternalIPs(n)
		world := s.World(n.Name, snapshot)
		for _, group := range groups {
			for address, wanted := range s.Announcements(group, world).L2 {
				if !slices.Contains(wanted.Candidates, n.Name) || world.Capabilities&wanted.Needs != wanted.Needs {
					continue
				}
				for _, segment := range speaker.Status.Segments {
					if segment.State != v1alpha1.SegmentAnnouncing || !selects(wanted.Interfaces, segment, own) {
						continue
					}
					at := place{address, nameOfSegment(segment)}
					c := all[at]
					if !slices.Contains(c.nodes, n.Name) {
						c.nodes = append(c.nodes, n.Name)
					}
					c.rank, c.preferred = wanted.Rank, wanted.Preferred
					all[at] = c
				}
			}
		}
	}
	return all
}

// selects reports whether one of the patterns is for the interface; "" stands for the one that has
// an address of the node.
func selects(patterns []string, r v1alpha1.SegmentReport, own []netip.Addr) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		if pattern != "" {
			matches, err := path.Match(pattern, r.Interface)
			return err == nil && matches
		}
		for _, text := range r.Subnets {
			if subnet, err := netip.ParsePrefix(text); err == nil && slices.ContainsFunc(own, subnet.Contains) {
				return true
			}
		}
		return false
	})
}

// nameOfSegment returns the name that L2Owners have for it.
func nameOfSegment(r v1alpha1.SegmentReport) string {
	var subnets []netip.Prefix
	for _, text := range r.Subnets {
		if subnet, err := netip.ParsePrefix(text); err == nil {
			subnets = append(subnets, subnet)
		}
	}
	return election.SegmentName(r.Interface, subnets)
}
