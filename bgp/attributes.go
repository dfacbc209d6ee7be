package bgp

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/berth-lb/berth/bgp/community"
)

// Attributes are what a route tells besides its prefix and next hop. The zero value tells nothing
// more.
type Attributes struct {
	// LocalPref is LOCAL_PREF (RFC 4271 section 5.1.5), for internal peers only; nil: 100.
	LocalPref *uint32
	// MED is MULTI_EXIT_DISC (RFC 4271 section 5.1.4); nil: none.
	MED *uint32
	// Communities are ascending, each once.
	Communities []community.Community
	// Prepend is how often the session's own AS number is in AS_PATH besides the usual once; external
	// peers only.
	Prepend uint8
	// Weight is the share of the traffic that this node asks for, as a link bandwidth extended
	// community of as many Mbit/s (draft-ietf-idr-link-bandwidth); 0: none. The community is not
	// transitive, and names the AS in two bytes: 23456 stands for a longer one.
	Weight uint32
}

// Equal reports whether both say the same.
func (a Attributes) Equal(b Attributes) bool { return a.key() == b.key() }

// plain reports whether there is nothing to say.
func (a Attributes) plain() bool { return a.Equal(Attributes{}) }

// key is the same for equal attributes only.
func (a Attributes) key() string {
	var b strings.Builder
	for _, n := range []*uint32{a.LocalPref, a.MED} {
		if n != nil {
			fmt.Fprintf(&b, "%d", *n)
		}
		b.WriteByte('/')
	}
	fmt.Fprintf(&b, "%d/%d", a.Prepend, a.Weight)
	for _, c := range a.Communities {
		b.WriteByte('/')
		b.WriteString(c.String())
	}
	return b.String()
}

// with is what one peer is told of a prefix for which two groups want different things, as of an
// aggregate: the communities of both, the higher LOCAL_PREF, the lower MED, the shorter path and
// the sum of the weights.
func (a Attributes) with(b Attributes) Attributes {
	united := Attributes{
		LocalPref: either(a.LocalPref, b.LocalPref, func(x, y uint32) bool { return x > y }),
		MED:       either(a.MED, b.MED, func(x, y uint32) bool { return x < y }),
		Prepend:   min(a.Prepend, b.Prepend),
		Weight:    a.Weight + min(b.Weight, math.MaxUint32-a.Weight),
	}
	united.Communities = slices.Concat(a.Communities, b.Communities)
	slices.SortFunc(united.Communities, community.Compare)
	united.Communities = slices.Compact(united.Communities)
	return united
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

// lastResort returns the attributes of a route where a router that has another one uses that (RFC
// 8326 section 4).
func (a Attributes) lastResort() Attributes {
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
func (a Attributes) validate() error {
	switch {
	case a.Prepend > maxPrepend:
		return fmt.Errorf("%d times the own AS is more than %d", a.Prepend, maxPrepend)
	case len(a.Communities) > maxCommunities:
		return fmt.Errorf("%d communities are more than %d", len(a.Communities), maxCommunities)
	}
	return nil
}

// path returns the attributes for a path, but for AS_PATH and the large communities, with which the
// markers go.
func (a Attributes) path(asn uint32) []gobgp.PathAttributeInterface {
	var list []gobgp.PathAttributeInterface
	if a.MED != nil {
		list = append(list, gobgp.NewPathAttributeMultiExitDisc(*a.MED))
	}
	if a.LocalPref != nil {
		list = append(list, gobgp.NewPathAttributeLocalPref(*a.LocalPref))
	}
	if standard := a.standard(); len(standard) > 0 {
		list = append(list, gobgp.NewPathAttributeCommunities(standard))
	}
	if a.Weight > 0 {
		list = append(list, gobgp.NewPathAttributeExtendedCommunities([]gobgp.ExtendedCommunityInterface{
			gobgp.NewLinkBandwidthExtended(twoByteAS(asn), a.bandwidth()),
		}))
	}
	return list
}

// bandwidth is the weight in bytes per second.
func (a Attributes) bandwidth() float32 { return float32(a.Weight) * 1e6 / 8 }

func (a Attributes) standard() []uint32 {
	var list []uint32
	for _, c := range a.Communities {
		if !c.Large {
			list = append(list, c.Standard())
		}
	}
	return list
}

func (a Attributes) large() []*gobgp.LargeCommunity {
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
