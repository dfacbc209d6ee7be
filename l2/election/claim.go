package election

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"
)

// Claim is a node's statement that it owns a group on a segment, as it is mirrored outside of the
// segment.
type Claim struct {
	Group string
	// Segment is the same for all nodes on it: its first IPv4 subnet, or else its first IPv6
	// subnet, or else the name of the interface.
	Segment   string
	Node      string // empty: this node withdraws its claim
	Term      uint64 // grows each time the group is claimed
	Witnessed bool   // the claimant heard another node, or expects none

	// For readers of the mirror.
	Interface string
	MAC       []byte // an Ethernet address; empty: not known
	Cause     Cause
}

// claimList is some of a node's claims, or all of them between two groups.
type claimList struct {
	whole    bool     // these are all claims between from and to; others there are void
	from, to groupKey // inclusive
	entries  []claimEntry
}

// claimEntry is one claim on the wire.
type claimEntry struct {
	group groupKey
	claim
	removed bool
}

// claim is one node's statement that it owns a group.
type claim struct {
	term      uint64
	witnessed bool
	offered   bool // to any node that takes it
	// relayed: the claim is not the sender's, but that of a node that is silent here and known by
	// the mirror.
	relayed bool
	// partial: the owner does not answer for all addresses of the group, or not yet.
	partial bool
	// held: a former process of the node made the claim, and it is kept for the next one. Never on
	// the wire.
	held bool
}

const (
	flagWhole = 1 << iota
)

const (
	flagWitnessed = 1 << iota
	flagOffered
	flagRelayed
	flagRemoved
	flagPartial
)

// sum is the claim's part of a digest, which is the sum over all claims, modulo 2^64. The flag
// partial is not part of it: older versions drop the flag, and their digests would differ forever.
func (c claim) sum(group groupKey) uint64 {
	flags := c.flags() &^ flagPartial
	return mix(binary.BigEndian.Uint64(group[:]) ^ mix(binary.BigEndian.Uint64(group[8:])^mix(c.term<<8|uint64(flags))))
}

func (c claim) flags() byte {
	return flagIf(c.witnessed, flagWitnessed) | flagIf(c.offered, flagOffered) | flagIf(c.relayed, flagRelayed) |
		flagIf(c.partial, flagPartial)
}

func claimOf(term uint64, flags byte) claim {
	return claim{
		term:      term,
		witnessed: flags&flagWitnessed != 0,
		offered:   flags&flagOffered != 0,
		relayed:   flags&flagRelayed != 0,
		partial:   flags&flagPartial != 0,
	}
}

func (c claimList) append(b []byte) []byte {
	b = append(b, flagIf(c.whole, flagWhole))
	b = append(b, c.from[:]...)
	b = append(b, c.to[:]...)
	for _, e := range c.entries {
		b = append(b, e.group[:]...)
		b = binary.BigEndian.AppendUint64(b, e.term)
		b = append(b, e.flags()|flagIf(e.removed, flagRemoved))
	}
	return b
}

func flagIf(set bool, flag byte) byte {
	if set {
		return flag
	}
	return 0
}

// claimSet is everything that one node claims on a segment, with its digest.
type claimSet struct {
	claims map[groupKey]claim
	digest uint64
}

func newClaimSet() claimSet { return claimSet{claims: make(map[groupKey]claim)} }

// put sets one claim.
func (s *claimSet) put(group groupKey, c claim) {
	s.remove(group)
	s.claims[group] = c
	s.digest += c.sum(group)
}

func (s *claimSet) remove(group groupKey) {
	if c, ok := s.claims[group]; ok {
		delete(s.claims, group)
		s.digest -= c.sum(group)
	}
}

// apply takes claims that the set's node sent, and returns the groups whose claims changed.
func (s *claimSet) apply(said claimList) []groupKey {
	var changed []groupKey
	named := make(map[groupKey]bool, len(said.entries))
	for _, e := range said.entries {
		named[e.group] = true
		was, had := s.claims[e.group]
		switch {
		case e.removed && had:
			s.remove(e.group)
		case !e.removed && (!had || was != e.claim):
			s.put(e.group, e.claim)
		default:
			continue
		}
		changed = append(changed, e.group)
	}
	if !said.whole {
		return changed
	}
	for group := range s.claims {
		if !named[group] && bytes.Compare(group[:], said.from[:]) >= 0 && bytes.Compare(group[:], said.to[:]) <= 0 {
			changed = append(changed, group)
		}
	}
	slices.SortFunc(changed, compareKeys)
	changed = slices.Compact(changed)
	for _, group := range changed {
		if !named[group] {
			s.remove(group)
		}
	}
	return changed
}

// parts returns the whole set in parts of at most so many claims. Together they cover every
// possible group.
func (s *claimSet) parts(most int) []claimList {
	groups := slices.SortedFunc(maps.Keys(s.claims), compareKeys)
	var parts []claimList
	part := claimList{whole: true}
	for _, group := range groups {
		if len(part.entries) == most {
			part.to = predecessor(group)
			parts = append(parts, part)
			part = claimList{whole: true, from: group}
		}
		part.entries = append(part.entries, claimEntry{group: group, claim: s.claims[group]})
	}
	for i := range part.to {
		part.to[i] = 0xff
	}
	return append(parts, part)
}

// predecessor returns the key before k, which is not the first.
func predecessor(k groupKey) groupKey {
	for i := len(k) - 1; i >= 0; i-- {
		k[i]--
		if k[i] != 0xff {
			break
		}
	}
	return k
}

func compareKeys(a, b groupKey) int { return bytes.Compare(a[:], b[:]) }
