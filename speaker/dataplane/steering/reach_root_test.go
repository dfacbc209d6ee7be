//go:build root

package steering

import (
	"net/netip"
	"testing"

	"github.com/berth-lb/berth/speaker/dataplane/nft/nettest"
)

func TestReach(t *testing.T) {
	newRack(t)
	nettest.Shell(t, `ip route add 10.7.0.0/16 via 10.0.0.2; ip -6 route add fd07::/16 via fd00::2 mtu 1400`)
	for _, c := range []struct {
		ipv4, ipv6  string
		encapsulate bool
		mtu         int
	}{
		{"10.0.0.2", "fd00::2", false, 1500}, {"", "fd00::3", false, 1500},
		{"10.7.0.1", "", true, 1500}, {"", "fd07::1", true, 1400},
	} {
		ipv4, _ := netip.ParseAddr(c.ipv4)
		ipv6, _ := netip.ParseAddr(c.ipv6)
		n, err := Reach(ipv4, ipv6)
		if err != nil || n.Encapsulate != c.encapsulate || n.MTU != c.mtu || n.Interface == 0 || n.IPv4 != ipv4 ||
			n.IPv6 != ipv6 {
			t.Errorf("%s%s: %+v, %v", c.ipv4, c.ipv6, n, err)
		}
	}
	if _, err := Reach(netip.MustParseAddr("192.0.2.1"), netip.Addr{}); err == nil {
		t.Error("there is no route, and it is found")
	}
}
