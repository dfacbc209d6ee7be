package steer

import (
	"fmt"
	"maps"
	"net/netip"

	"github.com/berth-lb/berth/speaker/dataplane/steering"
)

// ways returns how the nodes are reached that have these addresses: of each family the first
// counts. A node that there is no way to is left out; of one that is reached in part, errs says so.
func ways(
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
