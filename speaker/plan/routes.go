package plan

import (
	"cmp"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/bgp/community"
	"github.com/berth-lb/berth/bgp/route"
	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
)

// planBGP says which routes of the group this node announces, to whom, and with which
// attributes. A node that is excluded has a plan all the same: its driver withdraws the
// routes cleanly.
func planBGP(
	group Group,
	services []ClassifiedService,
	endpoints map[string]candidate.Endpoints,
	serving servers,
	world World,
) route.Desired {
	var desired route.Desired
	self, ok := world.Nodes[world.Self]
	if !ok || !serving.has(world.Self) {
		return desired
	}
	for _, address := range group.Addresses {
		by := map[netip.Prefix][]*config.RouteAnnouncement{} // in order of precedence
		for _, a := range world.Snapshot.BGPFor(address, labelsAt(address, services)...) {
			if !a.Nodes.Matches(labels.Set(self.Labels)) || !a.AllNeighbors && len(a.Neighbors()) == 0 {
				continue // no peers would stand for all of them
			}
			for _, prefix := range prefixesOf(a, address, world) {
				by[prefix] = append(by[prefix], a)
			}
		}
		weight := localEndpoints(address, services, endpoints, world.Self)
		for prefix, announcements := range by {
			desired.Routes = append(desired.Routes, routes(prefix, announcements, weight, world)...)
		}
	}
	slices.SortFunc(desired.Routes, func(a, b route.Route) int {
		return cmp.Or(
			a.Prefix.Addr().Compare(b.Prefix.Addr()),
			cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()),
			slices.Compare(a.Peers, b.Peers),
		)
	})
	return desired
}

// prefixesOf returns what an announcement announces for an address. An aggregate that holds an
// address in use elsewhere would draw that one's packets here; the single address takes its place.
func prefixesOf(a *config.RouteAnnouncement, address netip.Addr, world World) []netip.Prefix {
	prefixes := world.Snapshot.Prefixes(a, address)
	if slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return !p.IsSingleIP() && world.Used.Overlaps(p) }) {
		return []netip.Prefix{netip.PrefixFrom(address, address.BitLen())}
	}
	return prefixes
}

// routes returns the routes of a prefix that these announcements select, for the peers of this
// node.
func routes(
	prefix netip.Prefix,
	announcements []*config.RouteAnnouncement,
	weight uint32,
	world World,
) []route.Route {
	first := told(announcements[0])
	if !slices.ContainsFunc(
		announcements,
		func(a *config.RouteAnnouncement) bool { return !slices.Equal(told(a), first) },
	) {
		return []route.Route{{Prefix: prefix, Peers: first, Attributes: attributes(announcements, weight)}}
	}
	var found []route.Route
	for _, peer := range world.Snapshot.NeighborsOf(world.Nodes[world.Self].Labels) {
		tells := slices.DeleteFunc(slices.Clone(announcements), func(a *config.RouteAnnouncement) bool {
			return !a.To(peer.Name)
		})
		if len(tells) == 0 {
			continue
		}
		said := attributes(tells, weight)
		i := slices.IndexFunc(found, func(r route.Route) bool { return r.Attributes.Equal(said) })
		if i < 0 {
			found = append(found, route.Route{Prefix: prefix, Attributes: said})
			i = len(found) - 1
		}
		found[i].Peers = append(found[i].Peers, peer.Name)
	}
	for _, r := range found {
		slices.Sort(r.Peers)
	}
	return found
}

// told returns the peers to which an announcement announces; none stands for all.
func told(a *config.RouteAnnouncement) []string {
	if a.AllNeighbors {
		return nil
	}
	return a.Neighbors()
}

// attributes merges the attributes of announcements, in order of precedence: all communities, and
// for every other attribute the first that is set.
func attributes(announcements []*config.RouteAnnouncement, weight uint32) route.Attributes {
	var united route.Attributes
	var prepend *uint8
	var weightBy v1alpha1.WeightBy
	for _, a := range announcements {
		united.LocalPref = cmp.Or(united.LocalPref, a.LocalPref)
		united.MED = cmp.Or(united.MED, a.MED)
		prepend = cmp.Or(prepend, a.Prepend)
		weightBy = cmp.Or(weightBy, a.WeightBy)
		united.Communities = append(united.Communities, a.Communities...)
	}
	if prepend != nil {
		united.Prepend = *prepend
	}
	if weightBy == v1alpha1.WeightByLocalEndpoints {
		united.Weight = weight
	}
	slices.SortFunc(united.Communities, community.Compare)
	united.Communities = slices.Compact(united.Communities)
	return united
}

// localEndpoints counts the ready endpoints on a node of the Services that have the address, if all
// are of policy Local; else it returns 0, which stands for no weight.
func localEndpoints(
	address netip.Addr,
	services []ClassifiedService,
	endpoints map[string]candidate.Endpoints,
	node string,
) uint32 {
	var n int
	for _, s := range services {
		if !slices.Contains(s.Addresses, address) {
			continue
		}
		if !s.Local {
			return 0
		}
		n += endpoints[s.Name].Count(node, address.Is4())
	}
	return uint32(n)
}
