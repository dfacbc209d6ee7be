package bgp

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// Markers are large communities that say, inside GoBGP only, which peers a path is for, and which
// attributes the export policy is to put on it for them: markerASN:peer:set. Their global
// administrator is one that RFC 8092 section 5 reserves, so that nobody's own communities look like
// them.
const (
	markerASN = 4294967295
	everyone  = 0 // peer
	asItIs    = 0 // set: nothing is put on
)

// attributeSets numbers the sets of attributes that the export policy knows. A number stands for
// the same set as long as GoBGP runs, so that GoBGP finds out by the old path's markers what a peer
// was sent. It has one owner.
type attributeSets struct {
	numbers map[string]uint32 // by Attributes.key
	sets    map[uint32]Attributes
	last    uint32
	news    bool // the policy does not know all of it
}

func newAttributeSets() *attributeSets {
	return &attributeSets{numbers: map[string]uint32{}, sets: map[uint32]Attributes{}}
}

// learn numbers the sets of an announcement.
func (b *attributeSets) learn(a announcement) {
	for _, set := range a.sets() {
		key := set.Key()
		if _, known := b.numbers[key]; known {
			continue
		}
		b.last++
		b.numbers[key], b.sets[b.last], b.news = b.last, set, true
	}
}

// forget drops the sets that no announcement uses.
func (b *attributeSets) forget(used func(yield func(announcement) bool)) {
	still := map[string]bool{}
	for a := range used {
		for _, set := range a.sets() {
			still[set.Key()] = true
		}
	}
	for key, n := range b.numbers {
		if !still[key] {
			delete(b.numbers, key)
			delete(b.sets, n)
			b.news = true
		}
	}
}

// known returns the numbers, ascending.
func (b *attributeSets) known() []uint32 { return slices.Sorted(maps.Keys(b.sets)) }

// markers are those of an announcement. A path carries at most one of everyone and one of each
// peer, and a peer's own comes before everyone's.
func (b *attributeSets) markers(a announcement) []*gobgp.LargeCommunity {
	_, alike := a.alike()
	number := func(set Attributes) uint32 {
		if alike {
			return asItIs
		}
		return b.numbers[set.Key()] // that of a plain one is 0, asItIs
	}
	var list []*gobgp.LargeCommunity
	if a.everyone != nil {
		list = append(list, marker(everyone, number(*a.everyone)))
	}
	for _, s := range a.named {
		list = append(list, marker(peerNumber(s.peer), number(s.Attributes)))
	}
	return list
}

func marker(peer, set uint32) *gobgp.LargeCommunity {
	return gobgp.NewLargeCommunity(markerASN, peer, set)
}

// peerNumber derives the number from the name, so that no table of numbers has to live as long as
// the routes. Two peers of one number are refused, see checkPeers.
func peerNumber(name string) uint32 {
	sum := sha256.Sum256([]byte(name))
	return max(1, binary.BigEndian.Uint32(sum[:4]))
}
