package steer

import (
	"fmt"
	"maps"
	"net/netip"

	"github.com/berth-lb/berth/speaker/dataplane/steering"
)

// The interface lo of every network namespace.
const loopback, loopbackMTU = 1, 65536

// reached are the addresses of nodes that there is a way to.
func reached(ways map[string]steering.Node) map[string][]netip.Addr {
	addresses := map[string][]netip.Addr{}
	for name, way := range ways {
		for _, a := range []netip.Addr{way.IPv4, way.IPv6} {
			if a.IsValid() {
				addresses[name] = append(addresses[name], a)
			}
		}
	}
	return addresses
}

// ways returns how the nodes are reached that have these addresses: of each family the first
// counts. A node that there is no way to is left out; of one that is reached in part, errs says so.
// This node itself is sent nothing, whatever routes there are.
func ways(
	self string,
	addresses map[string][]netip.Addr,
	reach func(ipv4, ipv6 netip.Addr) (steering.Node, error),
) (found map[string]steering.Node, errs []error) {
	found = map[string]steering.Node{}
	for name, all := range addresses {
		var ipv4, ipv6 netip.Addr
		for _, a := range all {
			switch {
			case a.Is4() && !ipv4.IsValid():
				ipv4 = a
			case a.Is6() && !ipv6.IsValid():
				ipv6 = a
			}
		}
		if !ipv4.IsValid() && !ipv6.IsValid() {
			continue
		}
		if name == self {
			found[name] = steering.Node{IPv4: ipv4, IPv6: ipv6, Interface: loopback, MTU: loopbackMTU, Encapsulate: true}
			continue
		}
		way, err := reach(ipv4, ipv6)
		if err != nil {
			errs = append(errs, fmt.Errorf("node %s: %w", name, err))
		}
		if way.Interface == 0 {
			continue
		}
		found[name] = way
	}
	return found, errs
}

// encapsulated returns the ways to nodes, all by encapsulation.
func encapsulated(ways map[string]steering.Node) map[string]steering.Node {
	all := maps.Clone(ways)
	for name, way := range all {
		way.Encapsulate = true
		all[name] = way
	}
	return all
}
