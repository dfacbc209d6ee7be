package steering

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Reach finds the way to a node by the kernel's routes in this network namespace. A node that is on
// the segment of an Ethernet interface gets packets by its MAC address, another one encapsulated;
// one that is on the segment by one of its addresses only, too. Both should be the node's. Where
// one of them has no route, or another interface than the IPv4 one, Reach returns the way to the
// other, and an error.
func Reach(ipv4, ipv6 netip.Addr) (Node, error) {
	four, err4 := reach(ipv4)
	six, err6 := reach(ipv6)
	err := errors.Join(err4, err6)
	switch {
	case four.Interface == 0:
		six.IPv6 = ipv6
		return six, err
	case six.Interface == 0:
		four.IPv4 = ipv4
		return four, err
	case four.Interface != six.Interface:
		four.IPv4 = ipv4
		return four, fmt.Errorf(
			"it gets no IPv6 packets, since %s and %s are reached by two interfaces: route both by one", ipv4, ipv6,
		)
	}
	return Node{
		IPv4: ipv4, IPv6: ipv6, Interface: four.Interface, MTU: min(four.MTU, six.MTU),
		Encapsulate: four.Encapsulate || six.Encapsulate,
	}, nil
}

// reach returns the way to one address, without the address; none to an address that is not valid.
func reach(address netip.Addr) (Node, error) {
	if !address.IsValid() {
		return Node{}, nil
	}
	routes, err := netlink.RouteGet(address.AsSlice())
	if err != nil {
		return Node{}, fmt.Errorf("find the route to %s: %w", address, err)
	}
	if len(routes) == 0 {
		return Node{}, fmt.Errorf("find the route to %s: %w", address, errors.New("there is none"))
	}
	device, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return Node{}, fmt.Errorf("find the interface to %s: %w", address, err)
	}
	attrs := device.Attrs()
	n := Node{Interface: attrs.Index, MTU: attrs.MTU, Encapsulate: !onSegment(routes[0], attrs.EncapType)}
	if routes[0].MTU > 0 {
		n.MTU = min(n.MTU, routes[0].MTU)
	}
	return n, nil
}

// onSegment reports whether a route leads to a neighbor on an Ethernet interface.
func onSegment(r netlink.Route, encapsulation string) bool {
	return r.Gw == nil && r.Via == nil && encapsulation == "ether"
}
