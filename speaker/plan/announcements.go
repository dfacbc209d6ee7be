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
	L2 map[netip.Addr]Segment
	// Electors of L2.
	Electors Electors
	BGP      route.Desired
}

// Electors are what the candidates for the addresses of a group depend on.
type Electors struct {
	// Combinations of SegmentAnnouncements that select addresses of the group, as in Electorates.
	Combinations []string
	// Plain: the candidates for each address are those of its combination that serve the group, and
	// there are some.
	Plain   bool
	servers servers
}

// Segment is what is wanted of an address on segments.
type Segment struct {
	election.Desired
	AnnouncementNames []string // the SegmentAnnouncements that select the address, ascending
	Combination       string   // of these, as in Electorates
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
// (see Group.Unused). Endpoints are by name of the Service, for those of policy Local
// and those that are steered.
//
// While Berth is to forward for the group and the kernel of this node does not, the node has no
// routes, and on the segments it is not a candidate. If it owns addresses there, it goes on to
// answer for them until another node takes over.
//
// If the connections of the group are steered, nodes that steer may announce it as well as those
// that have endpoints; with policy Cluster all others, too. One that has just booted waits until
// it is known whether it steers: routers would send it connections of other nodes, which its
// kube-proxy would reset.
func PlanAnnouncements(
	group Group,
	services []ClassifiedService,
	endpoints map[string]candidate.Endpoints,
	readiness Readiness,
	world World,
) Announcements {
	serving := serversOf(services, endpoints, func(s ClassifiedService) bool { return s.Local })
	needs := requirements(services)
	withheld := needs != 0 && !readiness.forwards()
	var exempt []string
	with := serversOf(services, endpoints, ClassifiedService.ByEndpoints)
	switch {
	case !steers(services) || !with.some:
	case serving.all: // policy Cluster: where a node does not steer, its kube-proxy forwards
		withheld = !readiness.Steers && readiness.Starting
	default:
		// Nodes that steer serve it, and for those that have endpoints they need not.
		needs, exempt = Steers, with.named
		serving = servers{all: true}
		withheld = !readiness.Steers && (readiness.Starting || !isIn(exempt, world.Self))
	}
	var announced Announcements
	if !withheld && (world.Capabilities&needs == needs || isIn(exempt, world.Self)) {
		announced.BGP = planBGP(group, services, endpoints, serving, world)
	}
	announced.L2, announced.Electors = planL2(group, services, serving, world)
	for address, segment := range announced.L2 {
		segment.Needs, segment.Exempt = needs, exempt
		if withheld {
			announced.Electors.Plain = false
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

// servers are the nodes that serve a group, excluded nodes too.
type servers struct {
	all   bool
	named []string // if not all; ascending
	some  bool     // a Service that needs it has endpoints
}

// serversOf returns the nodes that have an endpoint of every Service that has any and that needs
// one on the node that serves it.
func serversOf(
	services []ClassifiedService, endpoints map[string]candidate.Endpoints, needs func(ClassifiedService) bool,
) servers {
	var sets []map[string]bool
	needing := 0
	for _, s := range services {
		if !needs(s) {
			continue
		}
		needing++
		if with := endpoints[s.Name].Nodes(); len(with) > 0 {
			sets = append(sets, with)
		}
	}
	if len(sets) == 0 {
		return servers{all: needing < len(services)} // else nothing anywhere could serve it
	}
	var common []string
	for name := range sets[0] {
		if !slices.ContainsFunc(sets[1:], func(with map[string]bool) bool { return !with[name] }) {
			common = append(common, name)
		}
	}
	slices.Sort(common)
	return servers{named: common, some: true}
}

// has reports whether a node serves the group.
func (s servers) has(node string) bool {
	return s.all || isIn(s.named, node)
}

// isIn reports whether a list that is ascending has the node.
func isIn(nodes []string, node string) bool {
	_, found := slices.BinarySearch(nodes, node)
	return found
}

// planL2 says which addresses of the group are announced on segments, and by which nodes. Addresses
// of one group rank nodes alike, so that they go to the same node where the same announcements
// select them.
func planL2(
	group Group,
	services []ClassifiedService,
	serving servers,
	world World,
) (wanted map[netip.Addr]Segment, electors Electors) {
	wanted, electors = map[netip.Addr]Segment{}, Electors{Plain: true, servers: serving}
	same := map[string]Segment{} // by the combination that selects an address
	for _, address := range group.Addresses {
		announcements := world.Snapshot.L2For(address, labelsAt(address, services)...)
		if len(announcements) == 0 {
			continue
		}
		names := namesOf(announcements)
		combination := strings.Join(names, ",")
		segment, known := same[combination]
		if !known {
			segment = Segment{AnnouncementNames: names, Combination: combination}
			segment.Announced = true
			segment.Rank = group.rank()
			segment.Interfaces = config.PatternsOf(announcements, world.Nodes[world.Self].Labels)
			electorate := world.Electorates.of(combination, announcements, world.Nodes).among(serving)
			segment.Candidates, segment.Preferred = electorate.nodes, electorate.weights
			same[combination] = segment
			electors.Combinations = append(electors.Combinations, combination)
			electors.Plain = electors.Plain && len(electorate.nodes) > 0
		}
		if len(segment.Candidates) > 0 {
			wanted[address] = segment
		}
	}
	return wanted, electors
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
