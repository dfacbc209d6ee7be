package measure

import (
	"net/netip"
	"testing"
)

func TestIsEdge(t *testing.T) {
	subnets := []netip.Prefix{
		netip.MustParsePrefix("192.0.2.0/25"), netip.MustParsePrefix("198.51.100.4/31"),
		netip.MustParsePrefix("203.0.113.7/32"), netip.MustParsePrefix("2001:db8::/64"),
	}
	for address, want := range map[string]bool{
		"192.0.2.0": true, "192.0.2.127": true, "192.0.2.128": false, "192.0.2.1": false,
		"198.51.100.4": false, "198.51.100.5": false, "203.0.113.7": false,
		"2001:db8::": true, "2001:db8::1": false, "2001:db8::ffff:ffff:ffff:ffff": false,
	} {
		if got := isEdge(netip.MustParseAddr(address), subnets); got != want {
			t.Errorf("%s: %v, want %v", address, got, want)
		}
	}
}
