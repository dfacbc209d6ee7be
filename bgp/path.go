package bgp

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/berth-lb/berth/bgp/peer"
	"github.com/berth-lb/berth/bgp/route"
)

var families = [...]gobgp.Family{gobgp.RF_IPv4_UC, gobgp.RF_IPv6_UC}

func familyOf(a netip.Addr) gobgp.Family {
	if a.Is4() {
		return gobgp.RF_IPv4_UC
	}
	return gobgp.RF_IPv6_UC
}

// newPath builds the path GoBGP is given: the same for every peer, with markers that policy.go
// reads and strips. What all who get it are told alike is on it; the rest is put on by the export
// policy. A withdrawal carries the attributes too; GoBGP wants a next hop even there. asn is named
// by a link bandwidth.
//
// The AS path is left to GoBGP, which prepends each session's own AS.
func newPath(
	prefix netip.Prefix,
	a announcement,
	nextHop netip.Addr,
	withdrawal bool,
	sets *attributeSets,
	asn uint32,
) (*apiutil.Path, error) {
	nlri, err := gobgp.NewIPAddrPrefix(prefix)
	if err != nil {
		return nil, fmt.Errorf("build path for %s: %w", prefix, err)
	}
	family := familyOf(prefix.Addr())
	var hop gobgp.PathAttributeInterface
	if family == gobgp.RF_IPv4_UC && nextHop.Is4() {
		hop, err = gobgp.NewPathAttributeNextHop(nextHop)
	} else {
		// Of IPv4 with an IPv6 next hop, too: RFC 8950.
		hop, err = gobgp.NewPathAttributeMpReachNLRI(family, []gobgp.PathNLRI{{NLRI: nlri}}, nextHop)
	}
	if err != nil {
		return nil, fmt.Errorf("build path for %s with next hop %s: %w", prefix, nextHop, err)
	}
	alike, _ := a.alike()
	if a.least() {
		alike.LocalPref = new(uint32)
	}
	attributes := append(
		[]gobgp.PathAttributeInterface{gobgp.NewPathAttributeOrigin(gobgp.BGP_ORIGIN_ATTR_TYPE_IGP), hop},
		pathAttributes(alike, asn)...)
	attributes = append(attributes, gobgp.NewPathAttributeLargeCommunities(append(large(alike), sets.markers(a)...)))
	return &apiutil.Path{Family: family, Nlri: nlri, Withdrawal: withdrawal, Attrs: attributes}, nil
}

// samePath reports whether GoBGP's copy of a path carries what newPath gave it.
func samePath(got, want *apiutil.Path) bool {
	return maps.EqualFunc(essence(got), essence(want), bytes.Equal)
}

// essence is what newPath decides on, by type, serialized.
func essence(p *apiutil.Path) map[gobgp.BGPAttrType][]byte {
	found := map[gobgp.BGPAttrType][]byte{}
	for _, attr := range p.Attrs {
		switch v := attr.(type) {
		case *gobgp.PathAttributeMpReachNLRI:
			found[attr.GetType()] = v.Nexthop.AsSlice()
		case *gobgp.PathAttributeNextHop, *gobgp.PathAttributeMultiExitDisc, *gobgp.PathAttributeLocalPref,
			*gobgp.PathAttributeCommunities,
			*gobgp.PathAttributeExtendedCommunities, *gobgp.PathAttributeLargeCommunities:
			b, err := attr.Serialize()
			if err != nil {
				b = fmt.Append(nil, err)
			}
			found[attr.GetType()] = b
		}
	}
	return found
}

// Peer and what it consists of: see package peer, which has the rules.
type (
	Peer = peer.Peer
	BFD  = peer.BFD
)

// What is announced: see package route.
type (
	Route      = route.Route
	Attributes = route.Attributes
	Desired    = route.Desired
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
