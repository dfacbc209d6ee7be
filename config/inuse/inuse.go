// Package inuse knows which addresses are in use elsewhere, as far as the cluster's objects and the
// speakers report. It has no memory: the same sources give the same Set.
package inuse

import (
	"cmp"
	"net/netip"
	"slices"

	"go4.org/netipx"
)

// Use is a range of addresses that are in use elsewhere.
type Use struct {
	netipx.IPRange
	// By says where, in words that follow "is": "the InternalIP of node n1".
	By string
	// Local is the node whose speaker reports the address on Interface, if By says no more than
	// that: what bound it there is not known. It is empty for an address that is also an
	// InternalIP, for example.
	Local     string
	Interface string
	// Edge: no host can have it. It is the first or the last address of a subnet.
	Edge bool
}

// rank is how much a use says about an address. If an address has several uses, the one of lowest
// rank is reported.
type rank uint8

const (
	apiServer rank = iota
	nodeAddress
	gateway
	peer
	onInterface
	segmentEdge
	serviceCIDR
	podCIDR
)

type ranked struct {
	Use
	rank rank
}

// before orders uses by rank, and those of the same rank by address and text.
func before(a, b ranked) int {
	return cmp.Or(
		cmp.Compare(a.rank, b.rank),
		a.From().Compare(b.From()),
		a.To().Compare(b.To()), // the more specific one first
		cmp.Compare(a.By, b.By),
	)
}

// Set is a set of uses. It is immutable; a nil one is empty.
type Set struct {
	all      []ranked // in order of before
	single   map[netip.Addr]ranked
	prefixes map[netip.Prefix]ranked
	lengths  [2][]int     // of the prefixes of IPv4 and of IPv6, descending
	first    []netip.Addr // addresses of the uses, ascending
}

// newSet accepts uses in any order. Of those of one address, or of one prefix, it keeps the first
// by before.
func newSet(singles, prefixes []ranked) *Set {
	s := &Set{single: map[netip.Addr]ranked{}, prefixes: map[netip.Prefix]ranked{}}
	slices.SortFunc(singles, before)
	for _, u := range singles {
		if _, known := s.single[u.From()]; !known {
			s.single[u.From()] = u
			s.all = append(s.all, u)
		}
	}
	slices.SortFunc(prefixes, before)
	for _, u := range prefixes {
		p, ok := u.Prefix()
		if _, known := s.prefixes[p]; ok && !known {
			s.prefixes[p] = u
			s.all = append(s.all, u)
			f := family(p.Addr())
			s.lengths[f] = append(s.lengths[f], p.Bits())
		}
	}
	for f, lengths := range s.lengths {
		slices.SortFunc(lengths, func(a, b int) int { return b - a })
		s.lengths[f] = slices.Compact(lengths)
	}
	for _, u := range s.all {
		s.first = append(s.first, u.From())
	}
	slices.SortFunc(s.first, netip.Addr.Compare)
	return s
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// Of returns the most important use of the address, and among equally important ones the most
// specific.
func (s *Set) Of(address netip.Addr) (Use, bool) {
	if s == nil || !address.IsValid() {
		return Use{}, false
	}
	address = plain(address)
	if u, found := s.single[address]; found {
		return u.Use, true
	}
	u, found := s.prefixOf(address)
	return u.Use, found
}

// prefixOf returns the most important prefix that contains the address.
func (s *Set) prefixOf(address netip.Addr) (ranked, bool) {
	var most ranked
	some := false
	for _, length := range s.lengths[family(address)] {
		u, found := s.prefixes[netip.PrefixFrom(address, length).Masked()]
		if found && (!some || u.rank < most.rank) {
			most, some = u, true
		}
	}
	return most, some
}

// All returns the uses by importance, and equally important ones by address. There is one use of
// each address and of each prefix; a single address may also be in a range.
func (s *Set) All() []Use {
	if s == nil {
		return nil
	}
	all := make([]Use, 0, len(s.all))
	for _, u := range s.all {
		all = append(all, u.Use)
	}
	return all
}

// Overlaps reports whether an address of the prefix is in use.
func (s *Set) Overlaps(prefix netip.Prefix) bool {
	if s == nil || !prefix.IsValid() {
		return false
	}
	whole := netipx.RangeOfPrefix(prefix)
	if i, _ := slices.BinarySearchFunc(s.first, whole.From(), netip.Addr.Compare); i < len(s.first) &&
		whole.Contains(s.first[i]) {
		return true
	}
	_, within := s.prefixOf(whole.From()) // a prefix that begins before this one holds all of it, or nothing
	return within
}

// Equal reports whether two sets have the same uses.
func (s *Set) Equal(other *Set) bool {
	if s == nil || other == nil {
		return s.len() == other.len()
	}
	return slices.Equal(s.all, other.all)
}

func (s *Set) len() int {
	if s == nil {
		return 0
	}
	return len(s.all)
}
