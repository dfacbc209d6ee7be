package plan

import (
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/bgp/route"
	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/l2/election"
)

// Announcements are what this node announces of a group.
type Announcements struct {
	// L2 by address.
	L2  map[netip.Addr]Segment
	BGP route.Desired
}

// Segment is what is wanted of an address on segments.
type Segment struct {
	election.Desired
	AnnouncementNames []string // the SegmentAnnouncements that select the address, ascending
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
	for address, segment := range announced.L2 {
		segment.Needs = needs
		if withheld {
			segment.Candidates = slices.DeleteFunc(slices.Clone(segment.Candidates), func(node string) bool {
				return node == world.Self
			})
		}
		announced.L2[address] = segment
	}
	return announced
}

// PlanNext says what is wanted of an address on segments when a Service of policy Cluster and
// without labels gets it alone; false: nothing.
func PlanNext(address netip.Addr, world World) (election.Desired, bool) {
	scheduler, _ := world.Snapshot.Scheduler([]netip.Addr{address}, "")
	service := Service{Addresses: []netip.Addr{address}, Proxied: scheduler != ""}
	group, _ := Group{Services: []Service{service}, Addresses: service.Addresses}.Unused(world.Used)
	services := Classify(group, world.Snapshot)
	segment, wanted := PlanAnnouncements(group, services, nil, Readiness{Shown: true}, world).L2[address]
	return segment.Desired, wanted
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

// planL2 says which addresses of the group are announced on segments, and by which nodes. Addresses
// of one group rank nodes alike, so that they go to the same node where the same announcements
// select them.
func planL2(group Group, services []ClassifiedService, serving map[string]Node, world World) map[netip.Addr]Segment {
	wanted := map[netip.Addr]Segment{}
	same := map[string]Segment{} // by what selects an address
	for _, address := range group.Addresses {
		announcements := world.Snapshot.L2For(address, labelsAt(address, services)...)
		if len(announcements) == 0 || len(serving) == 0 {
			continue
		}
		names := namesOf(announcements)
		key := strings.Join(names, ",")
		segment, known := same[key]
		if !known {
			segment = Segment{AnnouncementNames: names}
			segment.Announced = true
			segment.Rank = group.rank()
			segment.Interfaces = interfaces(announcements, world)
			segment.Candidates = candidates(announcements, serving)
			segment.Preferred = preferred(announcements, segment.Candidates, serving)
			same[key] = segment
		}
		if len(segment.Candidates) > 0 {
			wanted[address] = segment
		}
	}
	return wanted
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

func namesOf(announcements []*config.SegmentAnnouncement) []string {
	names := make([]string, 0, len(announcements))
	for _, a := range announcements {
		names = append(names, a.Name)
	}
	slices.Sort(names)
	return names
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
