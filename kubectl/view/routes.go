package view

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/berth-lb/berth/bgp/community"
	"github.com/berth-lb/berth/bgp/peer"
	"github.com/berth-lb/berth/bgp/route"
	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/router"
	"github.com/berth-lb/berth/speaker/object"
	"github.com/berth-lb/berth/speaker/plan"
)

// Route is a route that a node is to announce to a BGPNeighbor.
type Route struct {
	Node     string   `json:"node"`
	Neighbor string   `json:"neighbor"`
	Prefix   string   `json:"prefix"`
	Services []string `json:"services,omitempty"`
	// NextHop is that of the route; empty: the node's address on the way to the router.
	NextHop string `json:"nextHop,omitempty"`
	// The attributes, as of the RouteAnnouncement.
	LocalPref   *uint32  `json:"localPref,omitempty"`
	MED         *uint32  `json:"med,omitempty"`
	Prepend     uint8    `json:"prepend,omitempty"`
	Weight      uint32   `json:"weight,omitempty"`
	Communities []string `json:"communities,omitempty"`
	// Obstacle is why it is not announced now; empty: nothing is known that keeps it.
	Obstacle string `json:"obstacle,omitempty"`

	prefix      netip.Prefix
	hop         netip.Addr
	external    bool // the neighbor is in another AS
	communities []community.Community
}

// RoutesOf returns what nodes are to announce, by the speakers' own plan, by prefix, neighbor and
// node. An empty node or neighbor stands for all.
func RoutesOf(s *cluster.State, node, neighbor string) []Route {
	snapshot, _ := config.Compile(s.Objects())
	groups := cluster.Groups(s.Planned())
	rows, worlds := []Route{}, s.Worlds(snapshot)
	for _, n := range s.Nodes {
		if node != "" && n.Name != node {
			continue
		}
		world := worlds(n.Name)
		if world.Nodes[n.Name].Excluded != "" {
			continue // it withdraws its routes
		}
		own := object.InternalIPs(n)
		var mine []Route
		for _, peer := range plan.PlanPeers(world) {
			if neighbor != "" && peer.Name != neighbor {
				continue
			}
			obstacle := sessionObstacle(s.Speaker(n.Name), peer)
			for _, group := range groups {
				for _, r := range s.Announcements(group, world).BGP.Routes {
					if len(r.Peers) > 0 && !slices.Contains(r.Peers, peer.Name) || !carries(peer, r.Prefix) {
						continue
					}
					mine = merge(mine, routeOf(n.Name, peer, group, r, own, obstacle))
				}
			}
		}
		rows = append(rows, mine...)
	}
	slices.SortFunc(rows, func(a, b Route) int {
		return cmp.Or(a.prefix.Compare(b.prefix), cmp.Compare(a.Neighbor, b.Neighbor), cmp.Compare(a.Node, b.Node))
	})
	return rows
}

// merge adds a route. Of an aggregate that several groups want, the Services of all are named.
func merge(rows []Route, r Route) []Route {
	for i := range rows {
		if rows[i].prefix == r.prefix && rows[i].Neighbor == r.Neighbor {
			rows[i].Services = append(rows[i].Services, r.Services...)
			slices.Sort(rows[i].Services)
			rows[i].Services = slices.Compact(rows[i].Services)
			return rows
		}
	}
	return append(rows, r)
}

func routeOf(node string, peer peer.Peer, group plan.Group, r route.Route, own []netip.Addr, obstacle string) Route {
	row := Route{
		Node: node, Neighbor: peer.Name, Prefix: r.Prefix.String(), LocalPref: r.LocalPref, MED: r.MED, Prepend: r.Prepend,
		Weight: r.Weight, Obstacle: obstacle, prefix: r.Prefix.Masked(), hop: nextHop(peer, r.Prefix, own),
		external: peer.External(), communities: r.Communities,
	}
	if row.hop.IsValid() {
		row.NextHop = row.hop.String()
	}
	for _, c := range r.Communities {
		row.Communities = append(row.Communities, c.String())
	}
	for _, svc := range group.Services {
		if slices.ContainsFunc(svc.Addresses, row.prefix.Contains) {
			row.Services = append(row.Services, svc.Name)
		}
	}
	return row
}

// carries reports whether the peer is told of prefixes of this family.
func carries(peer peer.Peer, prefix netip.Prefix) bool {
	if !peer.IPv4 && !peer.IPv6 {
		return true
	}
	return prefix.Addr().Is4() && peer.IPv4 || prefix.Addr().Is6() && peer.IPv6
}

// nextHop returns the next hop of a route, as far as the configuration says; invalid: the kernel
// chooses it.
func nextHop(peer peer.Peer, prefix netip.Prefix, own []netip.Addr) netip.Addr {
	same := peer.Address.IsValid() && peer.Address.Is4() == prefix.Addr().Is4() ||
		peer.Prefix.IsValid() && peer.Prefix.Addr().Is4() == prefix.Addr().Is4() ||
		peer.Interface != "" && prefix.Addr().Is6()
	switch {
	case peer.NodeNextHop || !same:
	case peer.SourceAddress.IsValid():
		return peer.SourceAddress
	case peer.Interface != "":
		return netip.Addr{}
	}
	for _, a := range own {
		if a.Is4() == prefix.Addr().Is4() {
			return a
		}
	}
	return netip.Addr{}
}

// sessionObstacle says what keeps a speaker from announcing to a peer.
func sessionObstacle(speaker *v1alpha1.Speaker, peer peer.Peer) string {
	if speaker == nil {
		return "the node has no speaker that has reported"
	}
	state, why := speaker.Status.State()
	if state != v1alpha1.SpeakerAnnouncing {
		return fmt.Sprintf("its speaker is %s: %s", state, why)
	}
	text := "it has no session"
	for _, session := range speaker.Status.Sessions {
		switch {
		case session.NeighborName != peer.Name:
		case session.State == v1alpha1.SessionEstablished:
			return ""
		default:
			text = "its session is " + string(session.State)
			if session.LastError != "" {
				text += ": " + session.LastError
			}
		}
	}
	return text
}

// Difference is where a router's table differs from what is wanted.
type Difference struct {
	Prefix string `json:"prefix"`
	// Kind is Missing, Extra, OtherNextHop or OtherAttributes.
	Kind string `json:"kind"`
	Node string `json:"node,omitempty"`
	// Text says it in a sentence.
	Text string `json:"text"`
}

// Compared is a comparison of a router's table with what is wanted.
type Compared struct {
	Neighbor    string       `json:"neighbor"`
	Wanted      int          `json:"wanted"` // routes
	Differences []Difference `json:"differences"`
	// Skipped says what was not compared.
	Skipped string `json:"skipped,omitempty"`
}

// Kinds of a Difference.
const (
	Missing      = "Missing"
	Extra        = "Extra"
	OtherNextHop = "OtherNextHop"
	// OtherAttributes: MED, local preference, the length of the AS path, or communities, as far as the
	// router shows them.
	OtherAttributes = "OtherAttributes"
)

// Compare compares the table of the router of a BGPNeighbor with the routes that it is to have. A
// route of the router counts as ours if it is wanted, or if its prefix overlaps a pool.
func Compare(s *cluster.State, neighbor string, table router.Table) Compared {
	snapshot, _ := config.Compile(s.Objects())
	found := Compared{Neighbor: neighbor, Differences: []Difference{}}
	byPrefix := map[netip.Prefix][]Route{}
	families := map[bool]bool{} // that the table has, by Is4
	for prefix := range table {
		families[prefix.Addr().Is4()] = true
	}
	for _, r := range RoutesOf(s, "", neighbor) {
		if len(families) > 0 && !families[r.prefix.Addr().Is4()] {
			family := "IPv4"
			if r.prefix.Addr().Is6() {
				family = "IPv6"
			}
			found.Skipped = "the table has no route of " + family + ", which is not compared; give the tables of both families in one file"
			continue
		}
		found.Wanted++
		byPrefix[r.prefix] = append(byPrefix[r.prefix], r)
	}
	for _, prefix := range slices.SortedFunc(maps.Keys(byPrefix), netip.Prefix.Compare) {
		found.Differences = append(found.Differences, differences(prefix, byPrefix[prefix], table[prefix])...)
	}
	for _, prefix := range slices.SortedFunc(maps.Keys(table), netip.Prefix.Compare) {
		if byPrefix[prefix] == nil && inPool(snapshot, prefix) {
			for _, path := range table[prefix] {
				found.Differences = append(found.Differences, Difference{
					Prefix: prefix.String(), Kind: Extra,
					Text: fmt.Sprintf("%s is not wanted, but the router has it by %s", prefix, hops(path)),
				})
			}
		}
	}
	return found
}

// differences compares the paths of one prefix with the routes that are wanted.
func differences(prefix netip.Prefix, wanted []Route, paths []router.Path) []Difference {
	var found []Difference
	left := slices.Clone(paths)
	var missing []Route
	unknown := 0 // next hops that are not known beforehand
	for _, r := range wanted {
		if !r.hop.IsValid() {
			unknown++
			continue
		}
		i := slices.IndexFunc(left, func(p router.Path) bool { return slices.Contains(p.NextHops, r.hop) })
		if i < 0 {
			missing = append(missing, r)
			continue
		}
		if text := r.otherAttributes(left[i].Attributes); text != "" {
			found = append(found, Difference{
				Prefix: r.Prefix, Kind: OtherAttributes, Node: r.Node,
				Text: fmt.Sprintf("%s from %s has %s", r.Prefix, r.Node, text),
			})
		}
		left = slices.Delete(left, i, i+1)
	}
	left = left[min(unknown, len(left)):]
	for _, r := range missing {
		d := Difference{Prefix: r.Prefix, Kind: Missing, Node: r.Node}
		d.Text = fmt.Sprintf(
			"%s from %s (next hop %s) is wanted, but the router does not have it",
			r.Prefix,
			r.Node,
			r.NextHop,
		)
		switch {
		case r.Obstacle != "":
			d.Text += ": " + r.Obstacle
		case len(left) > 0:
			d.Kind = OtherNextHop
			d.Text = fmt.Sprintf(
				"%s from %s has the next hop %s in the plan, and %s in the router",
				r.Prefix,
				r.Node,
				r.NextHop,
				hops(left[0]),
			)
			left = left[1:]
		default:
			d.Text += ", though the session is established: look at the router's filters (its import policy)"
		}
		found = append(found, d)
	}
	for _, p := range left {
		found = append(found, Difference{
			Prefix: prefix.String(), Kind: Extra,
			Text: fmt.Sprintf("%s by %s is not wanted, but the router has it", prefix, hops(p)),
		})
	}
	return found
}

// otherAttributes says in what the attributes of a route differ from those that a router shows.
func (r Route) otherAttributes(shown router.Attributes) string {
	if slices.Contains(shown.Communities, community.GracefulShutdown) &&
		!slices.Contains(r.communities, community.GracefulShutdown) {
		return "the community graceful-shutdown in the router: the node is drained, or its speaker ends"
	}
	var all []string
	differ := func(what string, planned, has any) {
		if planned != has {
			all = append(all, fmt.Sprintf("%s %v in the plan, and %v in the router", what, planned, has))
		}
	}
	if shown.MED != nil {
		planned := uint32(0)
		if r.MED != nil {
			planned = *r.MED
		}
		differ("the MED", planned, *shown.MED)
	}
	if shown.LocalPref != nil && r.LocalPref != nil && !r.external { // nobody else is told of it
		differ("the local preference", *r.LocalPref, *shown.LocalPref)
	}
	if shown.Length != nil {
		planned := 0
		if r.external {
			planned = 1 + int(r.Prepend)
		}
		differ("an AS path of length", planned, *shown.Length)
	}
	if shown.Communities != nil {
		differ("the communities", list(r.communities), list(shown.Communities))
	}
	if len(all) == 0 {
		return ""
	}
	return strings.Join(all, "; ") + ": look at what the router changes on import"
}

// list returns communities as text, in order.
func list(communities []community.Community) string {
	sorted := slices.SortedFunc(slices.Values(communities), community.Compare)
	var texts []string
	for _, c := range slices.Compact(sorted) {
		texts = append(texts, c.String())
	}
	return cmp.Or(strings.Join(texts, ","), "none")
}

func hops(p router.Path) string {
	var all []string
	for _, hop := range p.NextHops {
		all = append(all, hop.String())
	}
	if len(all) == 0 {
		return "no next hop"
	}
	return strings.Join(all, " and ")
}

func inPool(snapshot *config.Snapshot, prefix netip.Prefix) bool {
	for _, p := range snapshot.Pools {
		for _, r := range p.Ranges {
			if prefix.Contains(r.From()) || r.Contains(prefix.Addr()) {
				return true
			}
		}
	}
	return false
}
