package steering

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Reach finds the way to a node by the kernel's routes in this network namespace. A node that is on
// the segment of an Ethernet interface gets packets by its MAC address, another one encapsulated;
// one that is on the segment by one of its addresses only, too. If its addresses are reached by two
// interfaces, Reach returns the way to the IPv4 one, and an error. Both should be the node's.
func Reach(ipv4, ipv6 netip.Addr) (Node, error) {
	var found []Node
	for _, address := range []netip.Addr{ipv4, ipv6} {
		if !address.IsValid() {
			continue
		}
		n, err := reach(address)
		if err != nil {
			return Node{}, err
		}
		found = append(found, n)
	}
	if len(found) == 0 {
		return Node{}, errors.New("it has no address")
	}
	n := found[0]
	n.IPv4, n.IPv6 = ipv4, ipv6
	if len(found) == 1 {
		return n, nil
	}
	if found[1].Interface != n.Interface {
		n.IPv6 = netip.Addr{}
		return n, fmt.Errorf(
			"it gets no IPv6 packets, since %s and %s are reached by two interfaces: route both by one", ipv4, ipv6,
		)
	}
	n.MTU = min(n.MTU, found[1].MTU)
	n.Encapsulate = n.Encapsulate || found[1].Encapsulate
	return n, nil
}

// reach returns the way to one address, without the address.
func reach(address netip.Addr) (Node, error) {
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
