package config

import (
	"net/netip"
	"slices"
	"sort"
	"time"

	"go4.org/netipx"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/bgp/community"
	"github.com/berth-lb/berth/bgp/peer"
	"github.com/berth-lb/berth/config/v1alpha1"
)

// Snapshot is a compiled set of configuration objects. It is immutable: share it, and change
// nothing in it.
type Snapshot struct {
	// Pools in order of precedence: higher priority first, then older, then by name.
	Pools []*Pool
	// Neighbors in order of precedence: older first, then by name.
	Neighbors []*Neighbor

	pools    map[string]*Pool
	ranges   []poolRange // disjoint, ascending
	segments []*SegmentAnnouncement
	routes   []*RouteAnnouncement
}

// Accepted reports whether at least a part of the object is in effect. It panics if key is not of a
// kind that Objects has.
func (s *Snapshot) Accepted(key Key) bool {
	switch key.Kind {
	case "LoadBalancerPool":
		p := s.pools[key.Name]
		return p != nil && len(p.Ranges) > 0
	case "SegmentAnnouncement":
		return slices.ContainsFunc(s.segments, func(a *SegmentAnnouncement) bool { return a.Name == key.Name })
	case "RouteAnnouncement":
		return slices.ContainsFunc(s.routes, func(a *RouteAnnouncement) bool { return a.Name == key.Name })
	case "BGPNeighbor":
		return slices.ContainsFunc(s.Neighbors, func(n *Neighbor) bool { return n.Name == key.Name })
	}
	panic("config: Accepted does not know the kind " + key.Kind)
}

// Counts returns how many pools, and how many neighbors, an announcement selects: none if it is not
// in effect. It panics if key is not of a kind of announcement.
func (s *Snapshot) Counts(key Key) (pools, neighbors int) {
	switch key.Kind {
	case "SegmentAnnouncement":
		for _, a := range s.segments {
			if a.Name == key.Name {
				return len(a.pools.names), 0
			}
		}
	case "RouteAnnouncement":
		for _, a := range s.routes {
			if a.Name == key.Name {
				return len(a.pools.names), len(a.neighbors)
			}
		}
	default:
		panic("config: Counts does not know the kind " + key.Kind)
	}
	return 0, 0
}

type poolRange struct {
	netipx.IPRange
	pool *Pool
}

// Pool is a compiled LoadBalancerPool.
type Pool struct {
	Name string
	// Ranges are disjoint and ascending, and overlap no range of another pool.
	Ranges []netipx.IPRange
	// OnRequest are parts of Ranges that are given only to a Service that names the address.
	OnRequest  []netipx.IPRange
	Allocation v1alpha1.Allocation
	// ExcludeEdges: .0 and .255 of IPv4 /24s are not given.
	ExcludeEdges bool
	// ShareAcross: Services of different namespaces may share an address.
	ShareAcross bool
	// TakeOver: Services that got addresses of the pool from another load balancer are taken over.
	TakeOver bool
	Priority int32
	// Scheduler of IPVS with which Berth forwards connections to the pool's addresses. Empty:
	// kube-proxy forwards.
	Scheduler string
	// DrainTimeout is the longest time that a terminating endpoint keeps its connections. 0:
	// kube-proxy forwards.
	DrainTimeout time.Duration
	// Steering of connections to the pool's addresses; nil: there is none.
	Steering *Steering

	labels labels.Set
	scopes []scope
}

// Serves reports whether the pool gives addresses to a Service with these labels in a namespace
// with this name and these labels.
func (p *Pool) Serves(namespace string, namespaceLabels, service labels.Set) bool {
	return slices.ContainsFunc(p.scopes, func(s scope) bool {
		return s.servesNamespace(namespace, namespaceLabels) && s.services.Matches(service)
	})
}

// ServesNamespace reports whether the pool gives addresses to some Service of a namespace with this
// name and these labels.
func (p *Pool) ServesNamespace(namespace string, labels labels.Set) bool {
	return slices.ContainsFunc(p.scopes, func(s scope) bool {
		return s.servesNamespace(namespace, labels)
	})
}

// scope is a compiled PoolScope.
type scope struct {
	names      map[string]bool // of namespaces; nil: the selector says which
	namespaces labels.Selector
	services   labels.Selector
}

func (s scope) servesNamespace(name string, set labels.Set) bool {
	if s.names != nil {
		return s.names[name]
	}
	return s.namespaces.Matches(set)
}

// SegmentAnnouncement is a compiled SegmentAnnouncement.
type SegmentAnnouncement struct {
	Name string
	// Nodes that may announce.
	Nodes      labels.Selector
	Interfaces []string

	pools     poolSet
	services  labels.Selector
	preferred []preferredNode
}

// preferredNode is a compiled PreferredNode.
type preferredNode struct {
	nodes  labels.Selector
	weight int32
}

// Weight returns how much the announcement prefers a node with these labels, 0 or more.
func (a *SegmentAnnouncement) Weight(node labels.Set) int32 {
	var sum int32
	for _, p := range a.preferred {
		if p.nodes.Matches(node) {
			sum += p.weight
		}
	}
	return sum
}

// poolSet says which pools an announcement selects.
type poolSet struct {
	names map[string]bool
	// orphans: the addresses that are in no pool are selected too, because the announcement may
	// have selected a pool that is gone: it selects all pools, names one that does not exist, or
	// has a selector that matches none.
	orphans bool
}

// selects reports whether the pool is selected, or for nil, whether addresses of no pool are.
func (s poolSet) selects(pool *Pool) bool {
	if pool == nil {
		return s.orphans
	}
	return s.names[pool.Name]
}

// anyOf reports whether the selector matches one of the Services, by their labels. One that matches
// everything also matches if no Service is known.
func anyOf(selector labels.Selector, services []labels.Set) bool {
	return selector.Empty() ||
		slices.ContainsFunc(services, func(set labels.Set) bool { return selector.Matches(set) })
}

// RouteAnnouncement is a compiled RouteAnnouncement.
type RouteAnnouncement struct {
	Name string
	// Nodes that announce.
	Nodes labels.Selector
	// AllNeighbors: it announces to every existing neighbor.
	AllNeighbors bool
	// Idle are the neighbors that it names and that are not in effect, in their order there.
	Idle []string
	// AggregateV4 and AggregateV6 are lengths of prefixes, 32 and 128 without aggregation.
	AggregateV4, AggregateV6 int
	// Specifics: each address is announced beside the aggregate.
	Specifics bool
	// LocalPref, MED and Prepend are nil if the announcement leaves them out.
	LocalPref, MED *uint32
	Prepend        *uint8
	// Communities in ascending order.
	Communities []community.Community
	// WeightBy says what routes weigh; "" if the announcement leaves it out.
	WeightBy v1alpha1.WeightBy

	neighbors []string // that are in effect, ascending
	pools     poolSet
	services  labels.Selector
}

// Neighbors returns the names of the neighbors to which it announces, ascending. The caller may
// change the result.
func (a *RouteAnnouncement) Neighbors() []string { return slices.Clone(a.neighbors) }

// To reports whether it announces to the neighbor of that name.
func (a *RouteAnnouncement) To(neighbor string) bool {
	_, found := slices.BinarySearch(a.neighbors, neighbor)
	return found
}

// Neighbor is a compiled BGPNeighbor. Zero durations stand for the defaults.
type Neighbor struct {
	peer.Peer
	Nodes labels.Selector

	labels labels.Set
}

// Pool returns the pool of that name, or nil.
func (s *Snapshot) Pool(name string) *Pool { return s.pools[name] }

// PoolOf returns the pool that holds the address, or nil.
func (s *Snapshot) PoolOf(address netip.Addr) *Pool {
	i := sort.Search(len(s.ranges), func(i int) bool { return address.Compare(s.ranges[i].To()) <= 0 })
	if i == len(s.ranges) || !s.ranges[i].Contains(address) {
		return nil
	}
	return s.ranges[i].pool
}

// L2For returns the SegmentAnnouncements that select the address, in order of precedence. services
// are the labels of the Services that have it. An address outside every pool (its pool was deleted
// or narrowed) is selected by those that may have selected its pool: those of all pools, of a pool
// that does not exist, or by a selector that matches no pool.
func (s *Snapshot) L2For(address netip.Addr, services ...labels.Set) []*SegmentAnnouncement {
	pool := s.PoolOf(address)
	var found []*SegmentAnnouncement
	for _, a := range s.segments {
		if a.pools.selects(pool) && anyOf(a.services, services) {
			found = append(found, a)
		}
	}
	return found
}

// PatternsOf returns the patterns for interfaces of those announcements that select a node with
// these labels, ascending, none if none does; "" stands for the default interfaces.
func PatternsOf(announcements []*SegmentAnnouncement, node labels.Set) []string {
	var patterns []string
	for _, a := range announcements {
		switch {
		case !a.Nodes.Matches(node):
		case len(a.Interfaces) == 0:
			patterns = append(patterns, "")
		default:
			patterns = append(patterns, a.Interfaces...)
		}
	}
	slices.Sort(patterns)
	return slices.Compact(patterns)
}

// AnnouncementsOf returns kind and name of each announcement that selects addresses of the pool,
// whatever Services it selects.
func (s *Snapshot) AnnouncementsOf(pool *Pool) []string {
	var names []string
	for _, a := range s.segments {
		if a.pools.selects(pool) {
			names = append(names, "SegmentAnnouncement "+a.Name)
		}
	}
	for _, a := range s.routes {
		if a.pools.selects(pool) {
			names = append(names, "RouteAnnouncement "+a.Name)
		}
	}
	return names
}

// L2Of returns the SegmentAnnouncements that select addresses of the pool, whatever Services they
// select, in order of precedence.
func (s *Snapshot) L2Of(pool *Pool) []*SegmentAnnouncement {
	return slices.DeleteFunc(
		slices.Clone(s.segments),
		func(a *SegmentAnnouncement) bool { return !a.pools.selects(pool) },
	)
}

// BGPFor is L2For for RouteAnnouncements.
func (s *Snapshot) BGPFor(address netip.Addr, services ...labels.Set) []*RouteAnnouncement {
	pool := s.PoolOf(address)
	var found []*RouteAnnouncement
	for _, a := range s.routes {
		if a.pools.selects(pool) && anyOf(a.services, services) {
			found = append(found, a)
		}
	}
	return found
}

// Aggregates returns all aggregates that an address could be announced in, whatever
// RouteAnnouncements select.
func (s *Snapshot) Aggregates(address netip.Addr) []netip.Prefix {
	var found []netip.Prefix
	for _, a := range s.routes {
		for _, p := range s.Prefixes(a, address) {
			if !p.IsSingleIP() && !slices.Contains(found, p) {
				found = append(found, p)
			}
		}
	}
	return found
}

// Prefixes returns what the announcement announces for an address: the aggregate that contains it,
// if all of that is in the address's pool, the address, or both.
func (s *Snapshot) Prefixes(a *RouteAnnouncement, address netip.Addr) []netip.Prefix {
	length := a.AggregateV6
	if address.Is4() {
		length = a.AggregateV4
	}
	self := netip.PrefixFrom(address, address.BitLen())
	aggregate := netip.PrefixFrom(address, length).Masked()
	switch pool := s.PoolOf(address); {
	case length == address.BitLen(), pool == nil || !pool.holds(aggregate):
		return []netip.Prefix{self}
	case a.Specifics:
		return []netip.Prefix{aggregate, self}
	}
	return []netip.Prefix{aggregate}
}

// holds reports whether all of the prefix is in the pool.
func (p *Pool) holds(prefix netip.Prefix) bool {
	whole := netipx.RangeOfPrefix(prefix)
	return slices.ContainsFunc(
		p.Ranges,
		func(r netipx.IPRange) bool { return r.Contains(whole.From()) && r.Contains(whole.To()) },
	)
}

// place is where a neighbor is, as far as the configuration says.
type place struct {
	address netip.Addr
	iface   string
	vrf     string
	prefix  netip.Prefix
}

func (n *Neighbor) place() place { return place{n.Address, n.Interface, n.VRF, n.Prefix} }

// NeighborsOf returns the neighbors of a node with these labels. If two of them are at the same
// place, it returns the one of higher precedence.
func (s *Snapshot) NeighborsOf(node labels.Set) []*Neighbor {
	var found []*Neighbor
	seen := map[place]bool{}
	for _, n := range s.Neighbors {
		if n.Nodes.Matches(node) && !seen[n.place()] {
			seen[n.place()] = true
			found = append(found, n)
		}
	}
	return found
}
