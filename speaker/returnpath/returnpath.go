// Package returnpath says by which interfaces replies to clients beyond a segment leave. If that is
// not the interface on the segment, the requests are not answered the way they came.
package returnpath

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Of returns the names of the interfaces by which the kernel's routes to clients
// beyond the segment leave, for the families that the interface has an address of.
// None: there are no such routes.
func Of(iface string) ([]string, error) {
	v4, v6, err := Families(iface)
	for _, name := range v6 {
		if !slices.Contains(v4, name) {
			v4 = append(v4, name)
		}
	}
	return v4, err
}

// Families is Of for IPv4 and IPv6 apart.
func Families(iface string) (v4, v6 []string, err error) {
	link, err := netlink.LinkByName(iface)
	if err != nil {
		return nil, nil, fmt.Errorf("find interface %s: %w", iface, err)
	}
	if v4, err = of(link, netlink.FAMILY_V4); err != nil {
		return nil, nil, err
	}
	if v6, err = of(link, netlink.FAMILY_V6); err != nil {
		return nil, nil, err
	}
	return v4, v6, nil
}

func of(link netlink.Link, family int) ([]string, error) {
	addresses, err := netlink.AddrList(link, family)
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", link.Attrs().Name, err)
	}
	if !slices.ContainsFunc(addresses, func(a netlink.Addr) bool { return a.IP.IsGlobalUnicast() }) {
		return nil, nil
	}
	by, err := leavesBy(elsewhere(family))
	if by == "" {
		return nil, err
	}
	return []string{by}, err
}

// elsewhere is an address that stands for a client beyond every segment. It is from a network
// reserved for documentation (RFC 5737, RFC 3849), so only a default route leads there. Nothing is
// sent to it.
func elsewhere(family int) net.IP {
	if family == netlink.FAMILY_V4 {
		return net.IPv4(203, 0, 113, 1)
	}
	return net.ParseIP("2001:db8:ffff::1")
}

// leavesBy returns the interface by which packets to the address leave; none without
// a route.
func leavesBy(to net.IP) (string, error) {
	routes, err := netlink.RouteGet(to)
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || err == nil && len(routes) == 0 {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("ask for the route to %s: %w", to, err)
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return "", fmt.Errorf("find the interface of the route to %s: %w", to, err)
	}
	return link.Attrs().Name, nil
}
