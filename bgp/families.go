package bgp

import (
	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/berth-lb/berth/bgp/peer"
)

// Peer and what it consists of: see package peer, which has the rules.
type (
	Peer = peer.Peer
	BFD  = peer.BFD
)

// The types of peers.
const (
	External = peer.External
	Internal = peer.Internal
)

// familiesOf returns the families that are announced to the peer.
func familiesOf(p Peer) []gobgp.Family {
	switch {
	case p.IPv4 == p.IPv6:
		return families[:]
	case p.IPv4:
		return families[:1]
	}
	return families[1:]
}
