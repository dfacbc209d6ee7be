//go:build linux

package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// proxySysctl makes the router answer on the segment for addresses that it routes elsewhere.
const proxySysctl = "/proc/sys/net/ipv4/conf/" + rackPort + "/proxy_arp"

// StartProxyARP makes the router answer on the segment for all IPv4 addresses of a prefix that no
// host has, by a route that leads away from the segment and sysctl proxy_arp. Its kernel answers
// after up to 0.8 s (sysctl proxy_delay), as it does outside of labs.
func (l *Lab) StartProxyARP(prefix netip.Prefix) error {
	return l.proxyARP(prefix, "1", func(h *netlink.Handle, r *netlink.Route) error { return h.RouteReplace(r) })
}

// StopProxyARP undoes StartProxyARP for the prefix, and stops all of the router's answers for other
// hosts' addresses.
func (l *Lab) StopProxyARP(prefix netip.Prefix) error {
	return l.proxyARP(prefix, "0", func(h *netlink.Handle, r *netlink.Route) error {
		err := h.RouteDel(r)
		if errors.Is(err, unix.ESRCH) { // there is none
			return nil
		}
		return err
	})
}

func (l *Lab) proxyARP(prefix netip.Prefix, value string, change func(*netlink.Handle, *netlink.Route) error) error {
	if !prefix.Addr().Is4() || prefix != prefix.Masked() {
		return fmt.Errorf("proxy ARP for %s: want an IPv4 prefix without host bits, such as 172.30.0.128/25", prefix)
	}
	h, err := l.netlink(Router)
	if err != nil {
		return err
	}
	defer h.Close()
	away, err := h.LinkByName(remotePort)
	if err != nil {
		return fmt.Errorf("find %s of the router: %w", remotePort, err)
	}
	if err := change(
		h, &netlink.Route{Dst: ipNet(prefix), LinkIndex: away.Attrs().Index, Scope: netlink.SCOPE_LINK},
	); err != nil {
		return fmt.Errorf("proxy ARP for %s: change the router's route: %w", prefix, err)
	}
	return l.In(Router, func() error {
		if err := os.WriteFile(proxySysctl, []byte(value), 0o644); err != nil {
			return fmt.Errorf("proxy ARP for %s: %w", prefix, err)
		}
		return nil
	})
}
