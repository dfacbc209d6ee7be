package election

import (
	"bytes"
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
)

// Claim is a node's statement that it owns an address on a segment, as it is mirrored outside of
// the segment.
type Claim struct {
	Address netip.Addr
	// Segment is the same for all nodes on it: its first IPv4 subnet, or else its first IPv6
	// subnet, or else the name of the interface.
	Segment   string
	Node      string // empty: this node withdraws its claim
	Term      uint64 // grows each time the address is claimed
	Witnessed bool   // the claimant heard another node, or expects none
	// Tentative: the claimant does not answer, and asks by the claim whether anybody does.
	Tentative bool

	// For readers of the mirror.
	Interface string
	MAC       []byte // an Ethernet address; empty: not known
	Cause     Cause
}

// claimList is some of a node's claims, or all of them between two addresses.
type claimList struct {
	whole    bool       // these are all claims between from and to; others there are void
	from, to addressKey // inclusive
	entries  []claimEntry
}

// claimEntry is one claim on the wire.
type claimEntry struct {
	address addressKey
	claim
	removed bool
}

// claim is one node's statement that it owns an address.
type claim struct {
	term      uint64
	witnessed bool
	offered   bool // to any node that takes it
	// relayed: the claim is not the sender's, but that of a node that is silent here and known by
	// the mirror.
	relayed bool
	// probing: the owner does not answer for the address yet.
	probing bool
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
	flagProbing
)

// sum is the claim's part of a digest, which is the sum over all claims, modulo 2^64.
func (c claim) sum(address addressKey) uint64 {
	content := mix(c.term<<8 | uint64(c.flags()))
	return mix(binary.BigEndian.Uint64(address[:]) ^ mix(binary.BigEndian.Uint64(address[8:])^content))
}

func (c claim) flags() byte {
	return flagIf(c.witnessed, flagWitnessed) | flagIf(c.offered, flagOffered) | flagIf(c.relayed, flagRelayed) |
		flagIf(c.probing, flagProbing)
}

func claimOf(term uint64, flags byte) claim {
	return claim{
		term:      term,
		witnessed: flags&flagWitnessed != 0,
		offered:   flags&flagOffered != 0,
		relayed:   flags&flagRelayed != 0,
		probing:   flags&flagProbing != 0,
	}
}

func (c claimList) append(b []byte) []byte {
	b = append(b, flagIf(c.whole, flagWhole))
	b = append(b, c.from[:]...)
	b = append(b, c.to[:]...)
	for _, e := range c.entries {
		b = append(b, e.address[:]...)
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
	claims map[addressKey]claim
	digest uint64
}

func newClaimSet() claimSet { return claimSet{claims: make(map[addressKey]claim)} }

// put sets one claim.
func (s *claimSet) put(address addressKey, c claim) {
	s.remove(address)
	s.claims[address] = c
	s.digest += c.sum(address)
}

func (s *claimSet) remove(address addressKey) {
	if c, ok := s.claims[address]; ok {
		delete(s.claims, address)
		s.digest -= c.sum(address)
	}
}

// apply takes claims that the set's node sent, and returns the addresses whose claims changed.
func (s *claimSet) apply(said claimList) []addressKey {
	var changed []addressKey
	named := make(map[addressKey]bool, len(said.entries))
	for _, e := range said.entries {
		named[e.address] = true
		was, had := s.claims[e.address]
		switch {
		case e.removed && had:
			s.remove(e.address)
		case !e.removed && (!had || was != e.claim):
			s.put(e.address, e.claim)
		default:
			continue
		}
		changed = append(changed, e.address)
	}
	if !said.whole {
		return changed
	}
	for address := range s.claims {
		if !named[address] && bytes.Compare(address[:], said.from[:]) >= 0 && bytes.Compare(address[:], said.to[:]) <= 0 {
			changed = append(changed, address)
		}
	}
	slices.SortFunc(changed, compareKeys)
	changed = slices.Compact(changed)
	for _, address := range changed {
		if !named[address] {
			s.remove(address)
		}
	}
	return changed
}

// parts returns the whole set in parts of at most so many claims. Together they cover every
// possible address.
func (s *claimSet) parts(most int) []claimList {
	addresses := slices.SortedFunc(maps.Keys(s.claims), compareKeys)
	var parts []claimList
	part := claimList{whole: true}
	for _, address := range addresses {
		if len(part.entries) == most {
			part.to = predecessor(address)
			parts = append(parts, part)
			part = claimList{whole: true, from: address}
		}
		part.entries = append(part.entries, claimEntry{address: address, claim: s.claims[address]})
	}
	for i := range part.to {
		part.to[i] = 0xff
	}
	return append(parts, part)
}

// predecessor returns the key before k, which is not the first.
func predecessor(k addressKey) addressKey {
	for i := len(k) - 1; i >= 0; i-- {
		k[i]--
		if k[i] != 0xff {
			break
		}
	}
	return k
}

func compareKeys(a, b addressKey) int { return bytes.Compare(a[:], b[:]) }
