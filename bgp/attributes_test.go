package bgp

import (
	"net/netip"
	"slices"
	"testing"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/berth-lb/berth/bgp/community"
)

// FuzzPathOfAttributes builds paths of whatever attributes: what is valid fits into a message,
// which says what was asked for.
func FuzzPathOfAttributes(f *testing.F) {
	f.Add(uint32(1), true, uint32(2), true, uint8(3), uint32(4), []byte{1, 2, 3, 4, 5}, uint32(64512))
	f.Add(
		uint32(0),
		false,
		uint32(0),
		false,
		uint8(100),
		uint32(1<<31),
		slices.Repeat([]byte{250, 1, 7, 3}, 128),
		uint32(4200000000),
	)
	f.Fuzz(
		func(
			t *testing.T, med uint32, withMED bool, pref uint32, withPref bool, prepend uint8, weight uint32, seeds []byte,
			asn uint32,
		) {
			a := Attributes{Prepend: prepend, Weight: weight}
			if withMED {
				a.MED = &med
			}
			if withPref {
				a.LocalPref = &pref
			}
			for i, s := range seeds {
				a.Communities = append(a.Communities, community.Community{
					Large: s >= 128, Global: uint32(s/128) * (4294967295 - uint32(i)), A: uint32(s) << 8, B: uint32(i % 65536),
				})
			}
			slices.SortFunc(a.Communities, community.Compare)
			a.Communities = slices.Compact(a.Communities)
			if validate(a) != nil {
				return
			}
			if twice := united(a, a); twice.Prepend != a.Prepend || twice.Weight < a.Weight ||
				!slices.Equal(twice.Communities, a.Communities) {
				t.Errorf("united with itself: %+v, want %+v", twice, a)
			}
			attributes := slices.Concat(
				[]gobgp.PathAttributeInterface{
					gobgp.NewPathAttributeOrigin(gobgp.BGP_ORIGIN_ATTR_TYPE_IGP),
					gobgp.NewPathAttributeAsPath([]gobgp.AsPathParamInterface{
						gobgp.NewAs4PathParam(gobgp.BGP_ASPATH_ATTR_TYPE_SEQ, slices.Repeat([]uint32{asn}, int(prepend)+1)),
					}),
				},
				pathAttributes(a, asn),
				[]gobgp.PathAttributeInterface{gobgp.NewPathAttributeLargeCommunities(large(a))},
			)
			nlri, err := gobgp.NewIPAddrPrefix(netip.MustParsePrefix("192.0.2.1/32"))
			if err != nil {
				t.Fatal(err)
			}
			raw, err := gobgp.NewBGPUpdateMessage(nil, attributes, []gobgp.PathNLRI{{NLRI: nlri}}).Serialize()
			if err != nil {
				t.Fatalf("%+v is no message: %v", a, err)
			}
			m, err := gobgp.ParseBGPMessage(raw)
			if err != nil {
				t.Fatalf("%+v is not read back: %v", a, err)
			}
			says(t, m.Body.(*gobgp.BGPUpdate).PathAttributes, a, asn)
		},
	)
}

// says checks what a message says.
func says(t *testing.T, attributes []gobgp.PathAttributeInterface, want Attributes, asn uint32) {
	t.Helper()
	got := Attributes{}
	for _, attr := range attributes {
		switch v := attr.(type) {
		case *gobgp.PathAttributeAsPath:
			got.Prepend = uint8(len(v.Value[0].GetAS()) - 1)
		case *gobgp.PathAttributeMultiExitDisc:
			got.MED = &v.Value
		case *gobgp.PathAttributeLocalPref:
			got.LocalPref = &v.Value
		case *gobgp.PathAttributeCommunities:
			for _, c := range v.Value {
				got.Communities = append(got.Communities, community.Community{A: c >> 16, B: c & 0xffff})
			}
		case *gobgp.PathAttributeLargeCommunities:
			for _, c := range v.Values {
				got.Communities = append(
					got.Communities, community.Community{Large: true, Global: c.ASN, A: c.LocalData1, B: c.LocalData2},
				)
			}
		case *gobgp.PathAttributeExtendedCommunities:
			lb, ok := v.Value[0].(*gobgp.LinkBandwidthExtended)
			if !ok || lb.Bandwidth != bandwidth(want) || lb.AS != twoByteAS(asn) {
				t.Errorf("link bandwidth %v, want AS %d, %g", v.Value, twoByteAS(asn), bandwidth(want))
			}
			got.Weight = want.Weight
		}
	}
	if !got.Equal(want) {
		t.Errorf("the message says %+v, want %+v", got, want)
	}
}
