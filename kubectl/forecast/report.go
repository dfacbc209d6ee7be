package forecast

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/berth-lb/berth/bgp/peer"
	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/controller/service"
	"github.com/berth-lb/berth/ipam"
	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/lint"
	"github.com/berth-lb/berth/kubectl/view"
	"github.com/berth-lb/berth/speaker/plan"
)

// Report is what a change would do.
type Report struct {
	Objects   []Object  `json:"objects"`
	Addresses []Address `json:"addresses"`
	// Reservations are those that get or lose addresses, or are refused for another reason.
	Reservations []Reservation `json:"reservations"`
	Owners       []Owner       `json:"owners"`
	Routes       []Route       `json:"routes"`
	Sessions     []Session     `json:"sessions"`
	// Refused: the API server would refuse an object, so it changes nothing here.
	Refused bool `json:"refused"`
}

// Empty reports whether the change does nothing, as far as Berth is concerned.
func (r Report) Empty() bool {
	return len(r.Addresses)+len(r.Reservations)+len(r.Owners)+len(r.Routes)+len(r.Sessions) == 0 &&
		!slices.ContainsFunc(
			r.Objects,
			func(o Object) bool { return o.Change != Unchanged && o.Change != PassedOver && o.Change != Absent },
		)
}

// Summary says it all in one sentence.
func (r Report) Summary() string {
	var lose, get, other, refused, nobody, moved, reset, ends int
	for _, a := range r.Addresses {
		switch {
		case slices.Equal(a.Before, a.After):
		case len(a.After) < len(a.Before):
			lose++
		case len(a.After) > len(a.Before):
			get++
		default:
			other++
		}
	}
	for _, x := range r.Reservations {
		if x.Wrong {
			refused++
		}
	}
	for _, o := range r.Owners {
		switch {
		case o.After == "":
			nobody++
		case o.Before != "":
			moved++
		}
	}
	for _, s := range r.Sessions {
		switch s.Change {
		case Changed:
			reset++
		case Deleted:
			ends++
		default:
		}
	}
	var parts []string
	count := func(n int, one, many string) {
		switch {
		case n == 1:
			parts = append(parts, "1 "+one)
		case n > 1:
			parts = append(parts, fmt.Sprintf("%d %s", n, many))
		}
	}
	count(lose, "Service loses addresses", "Services lose addresses")
	count(get, "Service gets addresses", "Services get addresses")
	count(other, "Service gets others", "Services get others")
	count(
		refused,
		"AddressReservation is not in effect as it asks",
		"AddressReservations are not in effect as they ask",
	)
	count(nobody, "address is answered by nobody any longer", "addresses are answered by nobody any longer")
	count(moved, "address moves to another node", "addresses move to other nodes")
	count(
		len(r.Owners)-nobody-moved,
		"address is answered on a segment for the first time",
		"addresses are answered on a segment for the first time",
	)
	count(len(r.Routes), "route changes", "routes change")
	count(reset, "session is reset", "sessions are reset")
	count(ends, "session ends", "sessions end")
	count(len(r.Sessions)-reset-ends, "session starts", "sessions start")
	if len(parts) == 0 {
		return "No address, route or session changes."
	}
	return strings.Join(parts, "; ") + "."
}

// Address is a Service whose addresses, or whose reason not to have them, change.
type Address struct {
	Service string   `json:"service"`
	Before  []string `json:"before"`
	After   []string `json:"after"`
	// Likely are those of After in whose place others of the same pool may come: several Services get
	// some at the same time, or only the controller knows which comes next.
	Likely []string `json:"likely,omitempty"`
	// Reason and Message are what its condition berth.dev/Allocated will say; empty: Berth will not
	// serve it.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// Later: first addresses have to rest, for as long as --rest of the controller says.
	Later bool `json:"later,omitempty"`
}

// Reservation is an AddressReservation that is kept other addresses, or for another reason not.
type Reservation struct {
	Name   string   `json:"name"`
	Before []string `json:"before"`
	After  []string `json:"after"`
	// Wrong: it is not kept all that it asks for.
	Wrong bool `json:"wrong,omitempty"`
	// Reason and Message are what its condition Ready will say; empty: it is deleted.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

// Owner is an address that another node answers for on a segment; empty: nobody.
type Owner struct {
	Address string `json:"address"`
	Segment string `json:"segment"`
	Before  string `json:"before,omitempty"`
	After   string `json:"after,omitempty"`
}

// Route is a route of a node to a neighbor that comes, goes or changes.
type Route struct {
	Change   Change `json:"change"`
	Prefix   string `json:"prefix"`
	Node     string `json:"node"`
	Neighbor string `json:"neighbor"`
	// Attributes that change, from what to what.
	Attributes []string `json:"attributes,omitempty"`
}

// Session is a BGP session that comes, goes, or is reset.
type Session struct {
	// Change is created, deleted, or changed: then it is reset, and its routes are gone for as long as
	// that takes.
	Change   Change `json:"change"`
	Node     string `json:"node"`
	Neighbor string `json:"neighbor"`
}

// Lack names what could not be read of what a forecast needs; empty: nothing.
func Lack(s *cluster.State) string {
	var names []string
	for _, r := range s.Lack(
		cluster.Pools, cluster.SegmentAnnouncements, cluster.RouteAnnouncements, cluster.BGPNeighbors,
		cluster.Reservations, cluster.Speakers, cluster.Owners, cluster.Services, cluster.EndpointSlices, cluster.Nodes,
		cluster.Namespaces,
	) {
		names = append(names, r.String())
	}
	return strings.Join(names, ", ")
}

// Files returns what applying the objects would do, or with deletes deleting them.
func Files(
	ctx context.Context,
	s *cluster.State,
	schemas *lint.Schemas,
	objects []lint.Object,
	deletes bool,
) Report {
	changed, done := Apply(ctx, s, schemas, objects, deletes)
	r := Between(s, changed)
	r.Objects = done
	_, problems := config.Compile(changed.Objects())
	for i := range r.Objects {
		o := &r.Objects[i]
		for _, p := range problems[config.Key{Kind: o.Kind, Name: o.Name}] {
			o.Messages = append(o.Messages, p.Message)
		}
		if namespace, name, _ := strings.Cut(o.Name, "/"); o.Kind == "Secret" && namespace == s.Namespace {
			o.Messages = append(o.Messages, missing(changed, name, problems)...)
		}
		r.Refused = r.Refused || o.Change == Refused
	}
	return r
}

// Between returns what comes of a change of the cluster's objects: the difference between how it
// settles without the change and with it.
func Between(before, changed *cluster.State) Report {
	without := newLedger(before)
	without.wake()
	with := newLedger(before)
	with.see(changed)
	with.settle()
	first := maps.Clone(with.verdicts)
	with.wake()
	now, then := without.result(), with.result()
	owners := ownersThen(now, ownersNow(before))
	changes := addresses(without.verdicts, first, with.verdicts)
	doubt(changes, before, with)
	return Report{
		Objects:   []Object{},
		Addresses: changes, Reservations: reservations(without.held, with.held),
		Owners:   ownerChanges(owners, ownersThen(then, owners)),
		Routes:   routeChanges(view.RoutesOf(now, "", ""), view.RoutesOf(then, "", "")),
		Sessions: sessionChanges(now, then),
	}
}

func addresses(before, first, after map[string]Verdict) []Address {
	all := []Address{}
	for name := range union(before, after) {
		a, b := before[name], after[name]
		if slices.Equal(a.Addresses, b.Addresses) && a.Reason == b.Reason && a.Whose == b.Whose {
			continue
		}
		if b.Whose == service.NotServed && a.Whose == service.NotServed {
			continue
		}
		all = append(all, Address{
			Service: name, Before: texts(a.Addresses), After: texts(b.Addresses), Reason: b.Reason, Message: b.Message,
			Later: !slices.Equal(first[name].Addresses, b.Addresses),
		})
	}
	slices.SortFunc(all, func(a, b Address) int { return cmp.Compare(a.Service, b.Service) })
	return all
}

func reservations(before, after map[string]held) []Reservation {
	all := []Reservation{}
	for name := range union(before, after) {
		a, b := before[name], after[name]
		if slices.Equal(a.addresses, b.addresses) && a.reason == b.reason {
			continue
		}
		_, there := after[name]
		all = append(all, Reservation{
			Name: name, Before: texts(a.addresses), After: texts(b.addresses), Wrong: there && !b.kept,
			Reason: b.reason, Message: b.message,
		})
	}
	slices.SortFunc(all, func(a, b Reservation) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// doubt marks the addresses in whose place others may come. One that its pool gives next is sure,
// if only one Service gets any of that pool.
func doubt(changes []Address, before *cluster.State, with *ledger) {
	next := map[string]bool{}
	for _, p := range before.Pools {
		next[p.Status.IPv4.Next], next[p.Status.IPv6.Next] = true, true
	}
	type stock struct {
		pool   *config.Pool
		family ipam.Family
	}
	takers := map[stock][]int{} // indexes of changes
	for i, c := range changes {
		v := with.verdicts[c.Service]
		for _, a := range v.Addresses {
			if text := a.String(); slices.Contains(c.Before, text) || slices.Contains(v.named, a) {
				continue
			} else if !next[text] {
				changes[i].Likely = append(changes[i].Likely, text)
			}
			from := stock{with.snapshot.PoolOf(a), ipam.FamilyOf(a)}
			takers[from] = append(takers[from], i)
		}
	}
	for from, all := range takers {
		for _, i := range all[:len(all)*min(1, len(all)-1)] {
			for _, a := range with.verdicts[changes[i].Service].Addresses {
				text := a.String()
				if ipam.FamilyOf(a) == from.family && !slices.Contains(changes[i].Likely, text) {
					changes[i].Likely = append(changes[i].Likely, text)
				}
			}
		}
	}
}

func texts(addresses []netip.Addr) []string {
	all := []string{}
	for _, a := range addresses {
		all = append(all, a.String())
	}
	return all
}

func ownerChanges(before, after map[cluster.Place]string) []Owner {
	all := []Owner{}
	for at := range union(before, after) {
		if before[at] != after[at] {
			all = append(all, Owner{at.Address.String(), at.Segment, before[at], after[at]})
		}
	}
	slices.SortFunc(all, func(a, b Owner) int {
		return cmp.Or(cmp.Compare(a.Address, b.Address), cmp.Compare(a.Segment, b.Segment))
	})
	return all
}

func routeChanges(before, after []view.Route) []Route {
	key := func(r view.Route) string { return strings.Join([]string{r.Prefix, r.Node, r.Neighbor}, " ") }
	byKey := func(routes []view.Route) map[string]view.Route {
		all := map[string]view.Route{}
		for _, r := range routes {
			all[key(r)] = r
		}
		return all
	}
	was, is := byKey(before), byKey(after)
	all := []Route{}
	for k := range union(was, is) {
		a, had := was[k]
		b, has := is[k]
		r := Route{Change: Changed, Prefix: b.Prefix, Node: b.Node, Neighbor: b.Neighbor}
		switch {
		case !had:
			r.Change = Created
		case !has:
			r = Route{Change: Deleted, Prefix: a.Prefix, Node: a.Node, Neighbor: a.Neighbor}
		default:
			if r.Attributes = attributes(a, b); len(r.Attributes) == 0 {
				continue
			}
		}
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b Route) int {
		return cmp.Or(
			cmp.Compare(a.Prefix, b.Prefix),
			cmp.Compare(a.Neighbor, b.Neighbor),
			cmp.Compare(a.Node, b.Node),
		)
	})
	return all
}

// attributes returns those in which two routes differ.
func attributes(a, b view.Route) []string {
	var all []string
	differ := func(name string, was, is any) {
		if from, to := fmt.Sprint(was), fmt.Sprint(is); from != to {
			all = append(all, fmt.Sprintf("%s %s to %s", name, from, to))
		}
	}
	value := func(n *uint32) string {
		if n == nil {
			return "none"
		}
		return fmt.Sprint(*n)
	}
	differ("nextHop", cmp.Or(a.NextHop, "its own"), cmp.Or(b.NextHop, "its own"))
	differ("localPref", value(a.LocalPref), value(b.LocalPref))
	differ("med", value(a.MED), value(b.MED))
	differ("prepend", a.Prepend, b.Prepend)
	differ("weight", a.Weight, b.Weight)
	differ("communities", strings.Join(a.Communities, ","), strings.Join(b.Communities, ","))
	return all
}

// sessionChanges says which sessions come, go, and are reset. A session that only gets other timers
// for its next attempt, or another BFD, stays up.
func sessionChanges(before, after *cluster.State) []Session {
	was, is := peers(before), peers(after)
	all := []Session{}
	for k := range union(was, is) {
		a, had := was[k]
		b, has := is[k]
		s := Session{Change: Changed, Node: k[0], Neighbor: k[1]}
		switch {
		case !had:
			s.Change = Created
		case !has:
			s.Change = Deleted
		case a.Session() == b.Session():
			continue
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b Session) int {
		return cmp.Or(cmp.Compare(a.Neighbor, b.Neighbor), cmp.Compare(a.Node, b.Node))
	})
	return all
}

// peers returns each node's, by node and name.
func peers(s *cluster.State) map[[2]string]peer.Peer {
	snapshot, _ := config.Compile(s.Objects())
	all, worlds := map[[2]string]peer.Peer{}, s.Worlds(snapshot)
	for _, n := range s.Nodes {
		for _, p := range plan.PlanPeers(worlds(n.Name)) {
			all[[2]string{n.Name, p.Name}] = p
		}
	}
	return all
}
