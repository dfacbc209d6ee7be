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
		{"10.0.0.2", "fd07::1", true, 1400}, {"10.7.0.1", "fd00::2", true, 1500},
	} {
		ipv4, _ := netip.ParseAddr(c.ipv4)
		ipv6, _ := netip.ParseAddr(c.ipv6)
		n, err := Reach(ipv4, ipv6)
		if err != nil || n.Encapsulate != c.encapsulate || n.MTU != c.mtu || n.Interface == 0 || n.IPv4 != ipv4 ||
			n.IPv6 != ipv6 {
			t.Errorf("%s%s: %+v, %v", c.ipv4, c.ipv6, n, err)
		}
	}
	nettest.Shell(t, `ip link add aside type veth peer name aside2; ip link set aside up; ip link set aside2 up
ip addr add fd09::1/64 dev aside nodad`)
	ipv4 := netip.MustParseAddr("10.0.0.2")
	n, err := Reach(ipv4, netip.MustParseAddr("fd09::2"))
	if err == nil || n.IPv4 != ipv4 || n.IPv6.IsValid() || n.Encapsulate {
		t.Errorf("addresses by two interfaces: %+v, %v", n, err)
	}
	nettest.Shell(t, "ip link del aside; ip -6 route add unreachable fd0a::/64")
	n, err = Reach(ipv4, netip.MustParseAddr("fd0a::2"))
	if err == nil || n.IPv4 != ipv4 || n.IPv6.IsValid() || n.Interface == 0 {
		t.Errorf("no route by IPv6: %+v, %v", n, err)
	}
	if _, err := Reach(netip.MustParseAddr("192.0.2.1"), netip.Addr{}); err == nil {
		t.Error("there is no route, and it is found")
	}
}
