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
	Priority    int32

	scopes []scope
}

// Serves tells whether the pool gives addresses to a Service with these labels in a
// namespace of that name and these labels.
func (p *Pool) Serves(namespace string, namespaceLabels, service labels.Set) bool {
	return len(p.scopes) == 0 || slices.ContainsFunc(p.scopes, func(s scope) bool {
		return s.namespaces.selects(namespace) && s.namespaceSelector.Matches(namespaceLabels) && s.serviceSelector.Matches(service)
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
	services  []labels.Selector // ORed; none: all
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

// serves tells whether the advertisement selects one of the Services.
func (a *L2Advertisement) serves(services []labels.Set) bool {
	return len(a.services) == 0 || slices.ContainsFunc(a.services, func(s labels.Selector) bool {
		return slices.ContainsFunc(services, func(labels labels.Set) bool { return s.Matches(labels) })
	})
}

// BGPAdvertisement is a compiled BGPAdvertisement.
type BGPAdvertisement struct {
	Name  string
	Nodes NodeSelector
	// Peers by name; empty: all.
	Peers []string

	pools nameSet
}

// Peer is a compiled BGPPeer. Zero durations stand for the defaults.
type Peer struct {
	Name              string
	Address           netip.Addr
	Port              uint16
	LocalASN, PeerASN uint32
	HoldTime          time.Duration
	KeepaliveTime     time.Duration
	ConnectRetryTime  time.Duration
	EBGPMultihop      uint8
	Nodes             NodeSelector
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
		if s.selects(a.pools, pool) && a.serves(services) {
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

// BGPFor is L2For, for BGP advertisements, which ask for no labels.
func (s *Snapshot) BGPFor(address netip.Addr) []*BGPAdvertisement {
	pool := s.PoolOf(address)
	var found []*BGPAdvertisement
	for _, a := range s.bgp {
		if s.selects(a.pools, pool) {
			found = append(found, a)
		}
	}
	return found
}

// PeersOf returns the peers of a node with these labels. Where two of them have
// the same address, the one of higher precedence is returned.
func (s *Snapshot) PeersOf(node labels.Set) []*Peer {
	var found []*Peer
	seen := map[netip.Addr]bool{}
	for _, p := range s.Peers {
		if p.Nodes.Matches(node) && !seen[p.Address] {
			seen[p.Address] = true
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
