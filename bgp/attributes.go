package bgp

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/berth-lb/berth/bgp/community"
)

// united is what one peer is told of a prefix for which two groups want different things, as of an
// aggregate: the communities of both, the higher LOCAL_PREF, the lower MED, the shorter path and
// the sum of the weights.
func united(a, b Attributes) Attributes {
	u := Attributes{
		LocalPref: either(a.LocalPref, b.LocalPref, func(x, y uint32) bool { return x > y }),
		MED:       either(a.MED, b.MED, func(x, y uint32) bool { return x < y }),
		Prepend:   min(a.Prepend, b.Prepend),
		Weight:    a.Weight + min(b.Weight, math.MaxUint32-a.Weight),
	}
	u.Communities = slices.Concat(a.Communities, b.Communities)
	slices.SortFunc(u.Communities, community.Compare)
	u.Communities = slices.Compact(u.Communities)
	return u
}

// either returns the better of two numbers, or the one there is.
func either(a, b *uint32, better func(x, y uint32) bool) *uint32 {
	if a == nil || b == nil {
		return cmp.Or(a, b)
	}
	if better(*a, *b) {
		return a
	}
	return b
}

// leastPreferred returns the attributes of a route where a router that has another one uses that
// (RFC 8326 section 4).
func leastPreferred(a Attributes) Attributes {
	a.LocalPref = new(uint32)
	a.Prepend += extraPrepend
	a.Communities = append(slices.Clone(a.Communities), community.GracefulShutdown)
	slices.SortFunc(a.Communities, community.Compare)
	a.Communities = slices.Compact(a.Communities)
	return a
}

// Limits of what a path may be asked to carry, so that it fits into a message with room to spare.
const (
	maxPrepend     = 100
	maxCommunities = 128
)

// validate says what no path can carry.
func validate(a Attributes) error {
	switch {
	case a.Prepend > maxPrepend:
		return fmt.Errorf("%d times the own AS is more than %d", a.Prepend, maxPrepend)
	case len(a.Communities) > maxCommunities:
		return fmt.Errorf("%d communities are more than %d", len(a.Communities), maxCommunities)
	}
	return nil
}

// pathAttributes returns the attributes for a path, but for AS_PATH and the large communities, with
// which the markers go.
func pathAttributes(a Attributes, asn uint32) []gobgp.PathAttributeInterface {
	var list []gobgp.PathAttributeInterface
	if a.MED != nil {
		list = append(list, gobgp.NewPathAttributeMultiExitDisc(*a.MED))
	}
	if a.LocalPref != nil {
		list = append(list, gobgp.NewPathAttributeLocalPref(*a.LocalPref))
	}
	if members := standard(a); len(members) > 0 {
		list = append(list, gobgp.NewPathAttributeCommunities(members))
	}
	if a.Weight > 0 {
		list = append(list, gobgp.NewPathAttributeExtendedCommunities([]gobgp.ExtendedCommunityInterface{
			gobgp.NewLinkBandwidthExtended(twoByteAS(asn), bandwidth(a)),
		}))
	}
	return list
}

// bandwidth is the weight in bytes per second.
func bandwidth(a Attributes) float32 { return float32(a.Weight) * 1e6 / 8 }

func standard(a Attributes) []uint32 {
	var list []uint32
	for _, c := range a.Communities {
		if !c.Large {
			list = append(list, c.Standard())
		}
	}
	return list
}

func large(a Attributes) []*gobgp.LargeCommunity {
	var list []*gobgp.LargeCommunity
	for _, c := range a.Communities {
		if c.Large {
			list = append(list, gobgp.NewLargeCommunity(c.Global, c.A, c.B))
		}
	}
	return list
}

// twoByteAS is an AS number where there are two bytes for it (RFC 6793 section 9).
func twoByteAS(asn uint32) uint16 {
	if asn > 65535 {
		return gobgp.AS_TRANS
	}
	return uint16(asn)
}
