package steering

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Reach finds the way to a node by the kernel's routes in this network namespace. A node that is on
// the segment of an Ethernet interface gets packets by its MAC address, another one encapsulated.
// Both addresses should be the node's; IPv4 decides the interface if there are both.
func Reach(ipv4, ipv6 netip.Addr) (Node, error) {
	address := ipv4
	if !address.IsValid() {
		address = ipv6
	}
	routes, err := netlink.RouteGet(address.AsSlice())
	if err != nil {
		return Node{}, fmt.Errorf("find the route to %s: %w", address, err)
	}
	if len(routes) == 0 {
		return Node{}, fmt.Errorf("find the route to %s: %w", address, errors.New("there is none"))
	}
	route := routes[0]
	device, err := netlink.LinkByIndex(route.LinkIndex)
	if err != nil {
		return Node{}, fmt.Errorf("find the interface to %s: %w", address, err)
	}
	attrs := device.Attrs()
	n := Node{IPv4: ipv4, IPv6: ipv6, Interface: attrs.Index, MTU: attrs.MTU}
	n.Encapsulate = !onSegment(route, attrs.EncapType)
	if route.MTU > 0 {
		n.MTU = min(n.MTU, route.MTU)
	}
	return n, nil
}

// onSegment reports whether a route leads to a neighbor on an Ethernet interface.
func onSegment(r netlink.Route, encapsulation string) bool {
	return r.Gw == nil && r.Via == nil && encapsulation == "ether"
}
