package plan

import (
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/l2"
)

// Announcements are what this node announces of a group.
type Announcements struct {
	// L2 by the ID of the part of the group: the addresses that the same
	// announcements select are announced and moved together.
	L2  map[string]l2.Desired
	BGP bgp.Desired
}

// Routed returns the prefixes that routers send this node packets for because it announces them by
// BGP, ascending. What the node answers for on segments changes without a plan.
func (a Announcements) Routed() []netip.Prefix {
	var prefixes []netip.Prefix
	for _, r := range a.BGP.Routes {
		prefixes = append(prefixes, r.Prefix)
	}
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	return slices.Compact(prefixes)
}

// PlanAnnouncements says what this node announces of a group without addresses in use elsewhere
// (see Group.Unused). Endpoints are by name of the Service, for those of policy Local.
//
// While Berth is to forward for the group and the kernel of this node does not, the node has no
// routes, and on the segments it is not a candidate. If it owns addresses there, it goes on to
// answer for them until another node takes over.
func PlanAnnouncements(
	group Group,
	services []ClassifiedService,
	endpoints map[string]candidate.Endpoints,
	readiness Readiness,
	world World,
) Announcements {
	serving := servingNodes(services, endpoints, world)
	needs := requirements(services)
	withheld := needs != 0 && !readiness.forwards()
	var announced Announcements
	if !withheld && world.Capabilities&needs == needs {
		announced.BGP = planBGP(group, services, endpoints, serving, world)
	}
	announced.L2 = planL2(group, services, serving, world)
	for id, part := range announced.L2 {
		part.Needs = needs
		if withheld {
			part.Candidates = slices.DeleteFunc(part.Candidates, func(node string) bool { return node == world.Self })
		}
		announced.L2[id] = part
	}
	return announced
}

// servingNodes returns the nodes that have an endpoint of every Service of policy Local that has
// any, excluded nodes too.
func servingNodes(services []ClassifiedService, endpoints map[string]candidate.Endpoints, world World) map[string]Node {
	var needed []map[string]bool
	local := 0
	for _, s := range services {
		if !s.Local {
			continue
		}
		local++
		if with := endpoints[s.Name].Nodes(); len(with) > 0 {
			needed = append(needed, with)
		}
	}
	if local == len(services) && len(needed) == 0 {
		return nil // nothing anywhere could serve it
	}
	nodes := map[string]Node{}
	for name, node := range world.Nodes {
		if !slices.ContainsFunc(needed, func(with map[string]bool) bool { return !with[name] }) {
			nodes[name] = node
		}
	}
	return nodes
}

// planL2 says which addresses of the group are announced on the segment, and by
// which nodes.
func planL2(group Group, services []ClassifiedService, serving map[string]Node, world World) map[string]l2.Desired {
	parts := map[string]l2.Desired{}
	for _, address := range group.Addresses {
		announcements := world.Snapshot.L2For(address, labelsAt(address, services)...)
		if len(announcements) == 0 || len(serving) == 0 {
			continue
		}
		id := partID(group, announcements)
		part, known := parts[id]
		if !known {
			part = l2.Desired{Interfaces: interfaces(announcements, world), Candidates: candidates(announcements, serving)}
			part.Preferred = preferred(announcements, part.Candidates, serving)
		}
		if len(part.Candidates) == 0 {
			continue
		}
		part.Addresses = append(part.Addresses, address)
		parts[id] = part
	}
	return parts
}

// labelsAt returns the labels of the Services that have the address.
func labelsAt(address netip.Addr, services []ClassifiedService) []labels.Set {
	var found []labels.Set
	for _, s := range services {
		if slices.Contains(s.Addresses, address) {
			found = append(found, s.Labels)
		}
	}
	return found
}

// partID names the part of the group that these announcements select, in the same
// way on every node.
func partID(group Group, announcements []*config.SegmentAnnouncement) string {
	names := make([]string, 0, len(announcements))
	for _, a := range announcements {
		names = append(names, a.Name)
	}
	return group.ID + " " + strings.Join(names, ",")
}

// Selects reports whether the announcement is one of those that select the part.
func Selects(part, announcement string) bool {
	_, names, _ := strings.Cut(part, " ")
	return slices.Contains(strings.Split(names, ","), announcement)
}

// candidates returns the serving nodes that are not excluded and that one of the
// announcements selects.
func candidates(announcements []*config.SegmentAnnouncement, serving map[string]Node) []string {
	var names []string
	for name, node := range serving {
		if node.Excluded == "" &&
			slices.ContainsFunc(
				announcements,
				func(a *config.SegmentAnnouncement) bool { return a.Nodes.Matches(labels.Set(node.Labels)) },
			) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// preferred returns the candidates' weights, without those of 0.
func preferred(
	announcements []*config.SegmentAnnouncement,
	candidates []string,
	serving map[string]Node,
) map[string]int32 {
	var weights map[string]int32
	for _, name := range candidates {
		var sum int32
		for _, a := range announcements {
			if node := labels.Set(serving[name].Labels); a.Nodes.Matches(node) {
				sum += a.Weight(node)
			}
		}
		if sum > 0 {
			if weights == nil {
				weights = map[string]int32{}
			}
			weights[name] = sum
		}
	}
	return weights
}

// interfaces returns the patterns of the announcements that select this node, none if none does; ""
// stands for the default interfaces.
func interfaces(announcements []*config.SegmentAnnouncement, world World) []string {
	var patterns []string
	self := world.Nodes[world.Self]
	for _, a := range announcements {
		switch {
		case !a.Nodes.Matches(labels.Set(self.Labels)):
		case len(a.Interfaces) == 0:
			patterns = append(patterns, "")
		default:
			patterns = append(patterns, a.Interfaces...)
		}
	}
	slices.Sort(patterns)
	return slices.Compact(patterns)
}
