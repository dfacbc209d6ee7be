package speaker

import (
	"net/netip"
	"testing"

	"github.com/berth-lb/berth/bgp"
)

func TestSession(t *testing.T) {
	prefix := netip.MustParsePrefix("10.0.0.0/24")
	for want, p := range map[string]bgp.PeerStatus{
		"racks 10.0.0.0/24": {Name: "racks", Prefix: prefix},
		"racks 10.0.0.7":    {Name: "racks", Prefix: prefix, Address: netip.MustParseAddr("10.0.0.7")},
		"tor 192.0.2.1":     {Name: "tor", Address: netip.MustParseAddr("192.0.2.1")},
		"spine ":            {Name: "spine"},
	} {
		if s := session(p); s.NeighborName+" "+*s.Address != want {
			t.Errorf("%s %s, want %s", s.NeighborName, *s.Address, want)
		}
	}
}
