package election

import "encoding/binary"

// Claim is a node's word that it owns a group on a segment, as it is mirrored outside of the segment.
type Claim struct {
	Group string
	// Segment is the same for all nodes on it: its first IPv4 subnet, or else its first IPv6 one, or else
	// the name of the interface.
	Segment   string
	Node      string // empty: this node's claim is withdrawn
	Term      uint64 // grows each time that the group is claimed anew
	Witnessed bool   // the claimant heard another node, or was to hear none

	// What the reader of a mirror wants to know, besides.
	Interface string
	MAC       []byte // an Ethernet address; empty: not known
	Cause     Cause
}

// claims are some of a node's claims, or all of them between two groups.
type claimList struct {
	whole    bool     // all of those between from and to: others are void
	from, to groupKey // inclusive
	entries  []claimEntry
}

// claimEntry is one claim on the wire.
type claimEntry struct {
	group groupKey
	claim
	removed bool
}

// claim is one node's word that it owns a group.
type claim struct {
	term      uint64
	witnessed bool
	offered   bool // to whoever takes it
	// relayed: it is not this node's, but one of a node that is silent here and of which the mirror tells.
	relayed bool
	// partial: its node does not answer for all of the group's addresses, or not yet.
	partial bool
	// held, never on the wire: it was its former process's, and is kept for the one that has come.
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

// sum is the claim's part of a digest, which is the sum over all claims, modulo 2^64. Older versions drop partial when
// they read it: it is no part of the digest, lest theirs differ for ever.
func (c claim) sum(group groupKey) uint64 {
	flags := c.flags() &^ flagPartial
	return mix(binary.BigEndian.Uint64(group[:]) ^ mix(binary.BigEndian.Uint64(group[8:])^mix(c.term<<8|uint64(flags))))
}

func (c claim) flags() byte {
	return flagIf(c.witnessed, flagWitnessed) | flagIf(c.offered, flagOffered) | flagIf(c.relayed, flagRelayed) | flagIf(c.partial, flagPartial)
}

func claimOf(term uint64, flags byte) claim {
	return claim{
		term: term, witnessed: flags&flagWitnessed != 0, offered: flags&flagOffered != 0, relayed: flags&flagRelayed != 0,
		partial: flags&flagPartial != 0,
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
