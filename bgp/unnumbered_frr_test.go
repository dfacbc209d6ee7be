//go:build root

package bgp

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/berth-lb/berth/bgp/discover"
)

const frrUnnumbered = `
router bgp 64513
 bgp router-id 10.0.0.1
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 neighbor bgpt-tor interface remote-as external
 neighbor bgpt-tor timers 1 3
 address-family ipv4 unicast
  neighbor bgpt-tor activate
 exit-address-family
 address-family ipv6 unicast
  neighbor bgpt-tor activate
 exit-address-family
`

func TestFRRWithoutAddressesIsFoundAndRoutesOfBothFamiliesPointToTheLink(t *testing.T) {
	f := newFRR(t, frrUnnumbered)
	f.shell(t, "ip link set bgpt-tor down")
	d := run(t)
	d.SyncPeers(
		[]Peer{
			{
				Name:             "tor1",
				Interface:        f.link,
				LocalASN:         nodeASN,
				RemoteType:       External,
				HoldTime:         3 * time.Second,
				ConnectRetryTime: time2s,
			},
		},
	)
	d.Sync("web", routes(nil, "192.0.2.1/32", "2001:db8:1::1/128"))
	d.observesReason(t, SessionFailed, "tor1", "looking for the router on "+f.link)
	d.observesReason(t, SessionFailed, "tor1", "no router on "+f.link+" advertises itself or answers")
	f.shell(t, "ip link set bgpt-tor up")
	d.observes(t, SessionUp, "tor1")
	link, err := net.InterfaceByName(f.link)
	must(t, err)
	own, err := discover.LinkLocals(link)
	must(t, err)
	hop := own[0].String()
	f.says(t, "ipv4", "192.0.2.1/32", "path 64512 via "+hop)
	f.says(t, "ipv6", "2001:db8:1::1/128", "path 64512 via "+hop)
	d.Sync("web", routes(nil, "2001:db8:1::1/128"))
	f.says(t, "ipv4", "192.0.2.1/32", "nothing")
	d.counts(t, "tor1", 0, 1)
	if s := d.session(t, "tor1"); s.Address.Zone() != f.link {
		t.Errorf("status %+v", s)
	}

	// Another address of the router's is followed.
	f.shell(t, "ip -6 addr add fe80::77/64 dev bgpt-tor nodad")
	f.shell(t, fmt.Sprintf("ip -6 addr del %s/64 dev bgpt-tor", d.session(t, "tor1").Address.WithZone("")))
	d.observes(t, SessionDown, "tor1")
	d.observes(t, SessionUp, "tor1")
	if s := d.session(t, "tor1"); s.Address.String() != "fe80::77%"+f.link {
		t.Errorf("the session is with %s, want fe80::77%%%s", s.Address, f.link)
	}
	f.says(t, "ipv6", "2001:db8:1::1/128", "path 64512 via "+hop)
}

// The node has a card for the fabric, and its address is on another.
func TestRoutesPointToTheCardOfTheSession(t *testing.T) {
	f := newFRR(t, frrConfig)
	command(t, "ip", "addr", "add", "192.168.7.7/32", "dev", "lo")
	t.Cleanup(func() { command(t, "ip", "addr", "del", "192.168.7.7/32", "dev", "lo") })
	d := run(t, func(c *Config) {
		c.NextHops = []netip.Addr{netip.MustParseAddr("192.168.7.7"), netip.MustParseAddr("2001:db8:7::7")}
	})
	peer := frrPeer("tor1", frrIPv4)
	d.SyncPeers([]Peer{peer})
	d.Sync("web", routes(nil, "192.0.2.1/32", "2001:db8:1::1/128"))
	f.says(t, "ipv4", "192.0.2.1/32", "path 64512 via 10.0.0.9")
	f.says(t, "ipv6", "2001:db8:1::1/128", "path 64512 via 2001:db8::9")
	peer.NodeNextHop = true
	d.SyncPeers([]Peer{peer})
	f.says(t, "ipv4", "192.0.2.1/32", "path 64512 via 192.168.7.7")
	peer = frrPeer("tor1", frrIPv6)
	d.SyncPeers([]Peer{peer})
	f.says(t, "ipv6", "2001:db8:1::1/128", "path 64512 via 2001:db8::9")
}

func TestIPv4RoutesOfANodeWithoutIPv4PointToItsIPv6Address(t *testing.T) {
	v6only := func(c *Config) { c.NextHops = []netip.Addr{netip.MustParseAddr("2001:db8::9")} }
	t.Run("if the router takes that", func(t *testing.T) {
		f := newFRR(t, frrConfig+" neighbor 2001:db8::9 capability extended-nexthop\n")
		command(t, "ip", "addr", "del", "10.0.0.9/24", "dev", f.link)
		d := run(t, v6only)
		d.SyncPeers([]Peer{frrPeer("tor1", frrIPv6)})
		d.Sync("web", routes(nil, "192.0.2.1/32", "2001:db8:1::1/128"))
		f.says(t, "ipv4", "192.0.2.1/32", "path 64512 via 2001:db8::9")
		f.says(t, "ipv6", "2001:db8:1::1/128", "path 64512 via 2001:db8::9")
	})
	t.Run("else they are withheld", func(t *testing.T) {
		f := newFRR(t, frrConfig)
		command(t, "ip", "addr", "del", "10.0.0.9/24", "dev", f.link)
		d := run(t, v6only)
		d.SyncPeers([]Peer{frrPeer("tor1", frrIPv6)})
		d.Sync("web", routes(nil, "192.0.2.1/32", "2001:db8:1::1/128"))
		d.observesReason(t, SessionFailed, "tor1", "IPv4 routes are withheld")
		f.says(t, "ipv6", "2001:db8:1::1/128", "path 64512 via 2001:db8::9")
		d.Sync("more", routes(nil, "192.0.2.2/32", "2001:db8:1::2/128"))
		f.says(t, "ipv6", "2001:db8:1::2/128", "path 64512 via 2001:db8::9")
		f.says(t, "ipv4", "192.0.2.2/32", "nothing")
		d.counts(t, "tor1", 0, 2)
		// A route of IPv4, even one that is withdrawn at once, would be one more.
		if n := f.neighbor(t, "2001:db8::9").MessageStats.UpdatesRecv; n != 2 {
			t.Errorf("FRR got %d updates, want 2: one for each IPv6 route", n)
		}
	})
	t.Run("and no longer when it has stopped to take it", func(t *testing.T) {
		f := newFRR(t, frrConfig+" neighbor 2001:db8::9 capability extended-nexthop\n")
		command(t, "ip", "addr", "del", "10.0.0.9/24", "dev", f.link)
		d := run(t, v6only)
		d.SyncPeers([]Peer{frrPeer("tor1", frrIPv6)})
		d.Sync("web", routes(nil, "192.0.2.1/32", "2001:db8:1::1/128"))
		f.says(t, "ipv4", "192.0.2.1/32", "path 64512 via 2001:db8::9")
		f.says(t, "ipv6", "2001:db8:1::1/128", "path 64512 via 2001:db8::9")
		before := f.neighbor(t, "2001:db8::9").MessageStats.UpdatesRecv
		f.vtysh("bgpd", "configure terminal", "router bgp 64513", "no neighbor 2001:db8::9 capability extended-nexthop")
		d.observes(t, SessionDown, "tor1")
		d.observesReason(t, SessionFailed, "tor1", "IPv4 routes are withheld")
		f.says(t, "ipv6", "2001:db8:1::1/128", "path 64512 via 2001:db8::9")
		d.Sync("more", routes(nil, "2001:db8:1::2/128"))
		f.says(t, "ipv6", "2001:db8:1::2/128", "path 64512 via 2001:db8::9")
		f.says(t, "ipv4", "192.0.2.1/32", "nothing")
		if n := f.neighbor(t, "2001:db8::9").MessageStats.UpdatesRecv - before; n != 2 {
			t.Errorf("FRR got %d updates in the second session, want 2: one for each IPv6 route", n)
		}
	})
	t.Run("nor if it keeps routes over a restart", func(t *testing.T) {
		f := newFRR(t, frrConfig+" bgp graceful-restart\n neighbor 2001:db8::9 capability extended-nexthop\n")
		command(t, "ip", "addr", "del", "10.0.0.9/24", "dev", f.link)
		d := run(t, v6only)
		p := frrPeer("tor1", frrIPv6)
		p.GracefulRestart = time.Minute
		d.SyncPeers([]Peer{p})
		d.Sync("web", routes(nil, "192.0.2.1/32", "2001:db8:1::1/128"))
		f.says(t, "ipv4", "192.0.2.1/32", "path 64512 via 2001:db8::9")
		f.vtysh("bgpd", "configure terminal", "router bgp 64513", "no neighbor 2001:db8::9 capability extended-nexthop")
		d.observesReason(t, SessionFailed, "tor1", "IPv4 routes are withheld")
		f.says(t, "ipv6", "2001:db8:1::1/128", "path 64512 via 2001:db8::9")
		f.says(t, "ipv4", "192.0.2.1/32", "nothing")
	})
}
