// Package config turns the objects of group berth.dev into one immutable,
// validated Snapshot, and says what is wrong with each object. It has no memory:
// the same objects give the same Snapshot.
package config

import (
	"net/netip"
	"slices"
	"sort"
	"time"

	"go4.org/netipx"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/bgp/community"
	"github.com/berth-lb/berth/config/v1alpha1"
)

// Snapshot is a compiled set of configuration objects. It is immutable: share it
// freely, change nothing in it.
type Snapshot struct {
	// Pools in order of precedence: higher priority first, then older, then by name.
	Pools []*Pool
	// Peers in order of precedence: older first, then by name.
	Peers []*Peer

	pools  map[string]*Pool
	ranges []poolRange // disjoint, ascending
	l2     []*L2Advertisement
	bgp    []*BGPAdvertisement
}

type poolRange struct {
	netipx.IPRange
	pool *Pool
}

// Pool is a compiled IPPool.
type Pool struct {
	Name string
	// Ranges are disjoint and ascending, and overlap no range of another pool.
	Ranges []netipx.IPRange
	// Reserved are parts of Ranges that are given only to who names the address.
	Reserved   []netipx.IPRange
	Allocation v1alpha1.Allocation
	// ExcludeEdges: .0 and .255 of IPv4 /24s are not given.
	ExcludeEdges bool
	// ShareAcross: Services of different namespaces may share an address.
	ShareAcross bool
	// TakeOver: Services that another load balancer gave addresses of the pool are adopted.
	TakeOver bool
	Priority int32
	// Scheduler of IPVS, by which Berth forwards connections to the pool's addresses.
	// Empty: kube-proxy forwards.
	Scheduler string
	// DrainTimeout is how long an endpoint that terminates keeps its connections at most. 0: kube-proxy forwards.
	DrainTimeout time.Duration

	scopes []scope
}

// Serves tells whether the pool gives addresses to a Service with these labels in a
// namespace of that name and these labels.
func (p *Pool) Serves(namespace string, namespaceLabels, service labels.Set) bool {
	return len(p.scopes) == 0 || slices.ContainsFunc(p.scopes, func(s scope) bool {
		return s.namespaces.selects(namespace) && s.namespaceSelector.Matches(namespaceLabels) && s.serviceSelector.Matches(service)
	})
}

// ServesNamespace reports whether the pool gives addresses to some Service of a namespace of that name and these labels.
func (p *Pool) ServesNamespace(namespace string, labels labels.Set) bool {
	return len(p.scopes) == 0 || slices.ContainsFunc(p.scopes, func(s scope) bool {
		return s.namespaces.selects(namespace) && s.namespaceSelector.Matches(labels)
	})
}

// scope is a compiled PoolScope.
type scope struct {
	namespaces                         nameSet
	namespaceSelector, serviceSelector labels.Selector
}

// NodeSelector is a list of ORed label selectors; an empty one matches all nodes.
type NodeSelector []labels.Selector

// Matches tells whether a node with these labels is selected.
func (s NodeSelector) Matches(node labels.Set) bool {
	return len(s) == 0 || slices.ContainsFunc(s, func(one labels.Selector) bool { return one.Matches(node) })
}

// L2Advertisement is a compiled L2Advertisement.
type L2Advertisement struct {
	Name       string
	Nodes      NodeSelector
	Interfaces []string

	pools     nameSet
	services  serviceSelector
	preferred []preferredNode
}

// preferredNode is a compiled PreferredNode.
type preferredNode struct {
	nodes  labels.Selector
	weight int32
}

// Weight returns how much the advertisement prefers a node with these labels, 0 or
// more.
func (a *L2Advertisement) Weight(node labels.Set) int32 {
	var sum int32
	for _, p := range a.preferred {
		if p.nodes.Matches(node) {
			sum += p.weight
		}
	}
	return sum
}

// serviceSelector is a list of ORed label selectors; an empty one matches all Services.
type serviceSelector []labels.Selector

// any tells whether one of the Services is selected.
func (s serviceSelector) any(services []labels.Set) bool {
	return len(s) == 0 || slices.ContainsFunc(s, func(one labels.Selector) bool {
		return slices.ContainsFunc(services, func(labels labels.Set) bool { return one.Matches(labels) })
	})
}

// BGPAdvertisement is a compiled BGPAdvertisement.
type BGPAdvertisement struct {
	Name  string
	Nodes NodeSelector
	// Peers by name; empty: all.
	Peers []string
	// AggregateV4 and AggregateV6 are lengths of prefixes, 32 and 128 without
	// aggregation.
	AggregateV4, AggregateV6 int
	// Specifics: beside the aggregate each address is announced.
	Specifics bool
	// LocalPref, MED and Prepend are nil where nothing is said.
	LocalPref, MED *uint32
	Prepend        *uint8
	// Communities in ascending order.
	Communities []community.Community
	// ByEndpoints: routes weigh as much as the node has ready endpoints.
	ByEndpoints bool

	pools    nameSet
	services serviceSelector
}

// Peer is a compiled BGPPeer. Zero durations stand for the defaults.
type Peer struct {
	Name string
	// Address, or without one Interface, on which the peer is the only neighbour, or Prefix,
	// from which its routers connect.
	Address   netip.Addr
	Interface string
	Prefix    netip.Prefix
	Passive   bool
	Port      uint16
	LocalASN  uint32 // the override, where there is one
	// PeerASN is 0 if any is accepted that makes the session External, or not.
	PeerASN          uint32
	External         bool
	HoldTime         time.Duration
	KeepaliveTime    time.Duration
	ConnectRetryTime time.Duration
	EBGPMultihop     uint8
	TTLSecurity      bool
	SourceAddress    netip.Addr
	VRF              string
	Password         string        // a secret
	IPv4, IPv6       bool          // families
	GracefulRestart  time.Duration // restart time; 0: off
	BFD              *BFD          // nil: off
	Nodes            NodeSelector
}

// BFD has the timers of a BFD session; zero ones stand for the defaults.
type BFD struct {
	ReceiveInterval, TransmitInterval time.Duration
	Multiplier                        uint8
}

// nameSet is a set of names; the empty set stands for all.
type nameSet map[string]bool

func (s nameSet) selects(name string) bool { return len(s) == 0 || s[name] }

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

// L2For returns the L2 advertisements that select the address, in order of
// precedence. The labels are those of the Services that have it. An address outside every pool (its pool was deleted or narrowed) is
// selected by those that select all pools, or a pool that does not exist: it may
// have been the one.
func (s *Snapshot) L2For(address netip.Addr, services ...labels.Set) []*L2Advertisement {
	pool := s.PoolOf(address)
	var found []*L2Advertisement
	for _, a := range s.l2 {
		if s.selects(a.pools, pool) && a.services.any(services) {
			found = append(found, a)
		}
	}
	return found
}

// AdvertisesPool tells whether an advertisement selects addresses of the pool, of
// whichever Services.
func (s *Snapshot) AdvertisesPool(pool *Pool) bool {
	return slices.ContainsFunc(s.l2, func(a *L2Advertisement) bool { return s.selects(a.pools, pool) }) ||
		slices.ContainsFunc(s.bgp, func(a *BGPAdvertisement) bool { return s.selects(a.pools, pool) })
}

// BGPFor is L2For, for BGP advertisements.
func (s *Snapshot) BGPFor(address netip.Addr, services ...labels.Set) []*BGPAdvertisement {
	pool := s.PoolOf(address)
	var found []*BGPAdvertisement
	for _, a := range s.bgp {
		if s.selects(a.pools, pool) && a.services.any(services) {
			found = append(found, a)
		}
	}
	return found
}

// Prefixes returns what the advertisement announces for an address: the aggregate that
// holds it, if all of that is in the address's pool, the address, or both.
func (s *Snapshot) Prefixes(a *BGPAdvertisement, address netip.Addr) []netip.Prefix {
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

// holds tells whether all of the prefix is in the pool.
func (p *Pool) holds(prefix netip.Prefix) bool {
	whole := netipx.RangeOfPrefix(prefix)
	return slices.ContainsFunc(p.Ranges, func(r netipx.IPRange) bool { return r.Contains(whole.From()) && r.Contains(whole.To()) })
}

// place is where a peer is, as far as the configuration says.
type place struct {
	address netip.Addr
	iface   string
	vrf     string
	prefix  netip.Prefix
}

func (p *Peer) place() place { return place{p.Address, p.Interface, p.VRF, p.Prefix} }

// PeersOf returns the peers of a node with these labels. Where two of them are at
// the same place, the one of higher precedence is returned.
func (s *Snapshot) PeersOf(node labels.Set) []*Peer {
	var found []*Peer
	seen := map[place]bool{}
	for _, p := range s.Peers {
		if p.Nodes.Matches(node) && !seen[p.place()] {
			seen[p.place()] = true
			found = append(found, p)
		}
	}
	return found
}

// selects tells whether an advertisement of these pools selects an address of the
// pool, or with nil one of no pool.
func (s *Snapshot) selects(names nameSet, pool *Pool) bool {
	if pool != nil || len(names) == 0 {
		return pool == nil || names.selects(pool.Name)
	}
	for name := range names {
		if s.pools[name] == nil {
			return true
		}
	}
	return false
}
