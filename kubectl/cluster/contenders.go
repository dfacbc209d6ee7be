package cluster

import (
	"net/netip"
	"path"
	"slices"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/l2/election"
	"github.com/berth-lb/berth/speaker/object"
)

// Place is an address on a segment, by the name that L2Owners have for it.
type Place struct {
	Address netip.Addr
	Segment string
}

// Contenders are the nodes that may answer for an address on a segment.
type Contenders struct {
	Nodes []string
	// Rank and Preferred order them: see election.RanksBefore.
	Rank      string
	Preferred map[string]int32
}

// Contenders returns which nodes may answer for each address on each segment, by the speakers' own
// plans and what they report of their segments.
func (s *State) Contenders() map[Place]Contenders {
	snapshot, _ := config.Compile(s.Objects())
	groups := Groups(s.Planned())
	all, worlds := map[Place]Contenders{}, s.Worlds(snapshot)
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
		world := worlds(n.Name)
		for _, group := range groups {
			for address, wanted := range s.Announcements(group, world).L2 {
				if !wanted.Suits(n.Name, world.Capabilities) {
					continue
				}
				for _, segment := range speaker.Status.Segments {
					if segment.State != v1alpha1.SegmentAnnouncing || !selects(wanted.Interfaces, segment, own) {
						continue
					}
					at := Place{address, nameOfSegment(segment)}
					c := all[at]
					if !slices.Contains(c.Nodes, n.Name) {
						c.Nodes = append(c.Nodes, n.Name)
					}
					c.Rank, c.Preferred = wanted.Rank, wanted.Preferred
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
