package steer

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/speaker/dataplane/steering"
	"github.com/berth-lb/berth/speaker/dataplane/steering/table"
	"github.com/berth-lb/berth/speaker/plan"
)

// services returns the ports of all groups in the driver's terms. Each is one of its own there, by
// a name that lasts: what is known of its connections does not get lost when the endpoints of one
// family or port are told of before those of another. A node without an address of the port's
// family cannot be reached by it, and is left out.
func services(
	groups map[string][]plan.SteeredPort,
	addresses map[string][]netip.Addr,
) map[string]steering.Service {
	all := map[string]steering.Service{}
	for _, ports := range groups {
		for _, p := range ports {
			at := netip.AddrPortFrom(p.Address, p.Port)
			all[fmt.Sprintf("%s %s/%d", p.Service, at, p.Protocol)] = steering.Service{
				Frontends: []steering.Frontend{{Address: at, Protocol: uint8(p.Protocol)}},
				Members:   members(p.Members, p.Address.Is4(), addresses),
				Affinity:  p.Affinity,
				TCPChance: p.How.SecondChance != v1alpha1.SecondChanceNever,
				UDPChance: p.How.SecondChance == v1alpha1.SecondChanceTCPAndUDP, SourceRanges: p.SourceRanges,
			}
		}
	}
	return all
}

func members(steered []plan.SteeredMember, ipv4 bool, addresses map[string][]netip.Addr) []table.Member {
	var found []table.Member
	for _, m := range steered {
		if !slices.ContainsFunc(addresses[m.Node], func(a netip.Addr) bool { return a.Is4() == ipv4 }) {
			continue
		}
		found = append(found, table.Member{Node: m.Node, Weight: m.Endpoints, Draining: m.Draining})
	}
	return found
}

// ways returns how the nodes are reached that have these addresses: of each family the first
// counts. A node that there is no way to is left out.
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
			continue
		}
		found[name] = way
	}
	return found, errs
}
