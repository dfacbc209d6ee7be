package bgp

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

var families = [...]gobgp.Family{gobgp.RF_IPv4_UC, gobgp.RF_IPv6_UC}

func familyOf(a netip.Addr) gobgp.Family {
	if a.Is4() {
		return gobgp.RF_IPv4_UC
	}
	return gobgp.RF_IPv6_UC
}

// newPath builds the path GoBGP is given: the same for every peer, with markers that policy.go reads and
// strips. A withdrawal carries the attributes too; GoBGP wants a next hop even there.
//
// The AS path is left to GoBGP, which prepends each session's own AS; a longer one must be set here, as an
// attribute, since an export policy that prepends drops the route (seen in v4.8.0).
func newPath(prefix netip.Prefix, a announcement, nextHop netip.Addr, withdrawal bool) (*apiutil.Path, error) {
	nlri, err := gobgp.NewIPAddrPrefix(prefix)
	if err != nil {
		return nil, fmt.Errorf("build path for %s: %w", prefix, err)
	}
	family := familyOf(prefix.Addr())
	var hop gobgp.PathAttributeInterface
	if family == gobgp.RF_IPv4_UC {
		hop, err = gobgp.NewPathAttributeNextHop(nextHop)
	} else {
		hop, err = gobgp.NewPathAttributeMpReachNLRI(family, []gobgp.PathNLRI{{NLRI: nlri}}, nextHop)
	}
	if err != nil {
		return nil, fmt.Errorf("build path for %s with next hop %s: %w", prefix, nextHop, err)
	}
	return &apiutil.Path{
		Family:     family,
		Nlri:       nlri,
		Withdrawal: withdrawal,
		Attrs: []gobgp.PathAttributeInterface{
			gobgp.NewPathAttributeOrigin(gobgp.BGP_ORIGIN_ATTR_TYPE_IGP),
			hop,
			gobgp.NewPathAttributeLargeCommunities(markers(a)),
		},
	}, nil
}

// samePath tells whether GoBGP's copy of a path carries what newPath gave it.
func samePath(got, want *apiutil.Path) bool {
	return slices.EqualFunc(essence(got), essence(want), bytes.Equal)
}

// essence is the next hop and the large communities, serialized: the attributes newPath decides on.
func essence(p *apiutil.Path) [][]byte {
	var hop, communities []byte
	for _, attr := range p.Attrs {
		switch v := attr.(type) {
		case *gobgp.PathAttributeNextHop:
			hop = v.Value.AsSlice()
		case *gobgp.PathAttributeMpReachNLRI:
			hop = v.Nexthop.AsSlice()
		case *gobgp.PathAttributeLargeCommunities:
			for _, c := range v.Values {
				communities = fmt.Appendf(communities, "%s ", c)
			}
		}
	}
	return [][]byte{hop, communities}
}

// Markers are large communities that say, inside GoBGP only, which peers a path is for. Their global
// administrator is one that RFC 8092 section 5 reserves, so that nobody's own communities look like them.
const markerASN = 4294967295

func markers(a announcement) []*gobgp.LargeCommunity {
	if a.peers == nil {
		return []*gobgp.LargeCommunity{everyPeer()}
	}
	list := make([]*gobgp.LargeCommunity, 0, len(a.peers))
	for _, name := range a.peers {
		list = append(list, onlyPeer(name))
	}
	return list
}

func everyPeer() *gobgp.LargeCommunity {
	return gobgp.NewLargeCommunity(markerASN, 0, 0)
}

// onlyPeer derives the marker from the name, so that no table of numbers has to live as long as the routes.
func onlyPeer(name string) *gobgp.LargeCommunity {
	sum := sha256.Sum256([]byte(name))
	return gobgp.NewLargeCommunity(markerASN, binary.BigEndian.Uint32(sum[:4]), binary.BigEndian.Uint32(sum[4:8]))
}
