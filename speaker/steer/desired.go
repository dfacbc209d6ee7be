package steer

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/speaker/dataplane/steering"
	"github.com/berth-lb/berth/speaker/dataplane/steering/table"
	"github.com/berth-lb/berth/speaker/plan"
)

// services returns the ports of all groups in the driver's terms: those of a Service that have the
// same nodes and settings are one there.
func services(groups map[string][]plan.SteeredPort) map[string]steering.Service {
	all := map[string]steering.Service{}
	for _, id := range slices.Sorted(maps.Keys(groups)) {
		for _, p := range groups[id] {
			add(all, p)
		}
	}
	return all
}

func add(all map[string]steering.Service, p plan.SteeredPort) {
	frontend := steering.Frontend{Address: netip.AddrPortFrom(p.Address, p.Port), Protocol: uint8(p.Protocol)}
	one := steering.Service{
		Frontends: []steering.Frontend{frontend},
		Members:   members(p.Members),
		Affinity:  p.Affinity,
		TCPChance: p.How.SecondChance != v1alpha1.SecondChanceNever,
		UDPChance: p.How.SecondChance == v1alpha1.SecondChanceTCPAndUDP, SourceRanges: p.SourceRanges,
	}
	name := p.Service
	for {
		known, exists := all[name]
		if !exists {
			all[name] = one
			return
		}
		if alike(known, one) {
			known.Frontends = append(known.Frontends, frontend)
			all[name] = known
			return
		}
		if name != p.Service {
			return // the port of another Service, which has it
		}
		name = fmt.Sprintf("%s %s/%d", p.Service, frontend.Address, frontend.Protocol)
	}
}

// alike reports whether two Services differ in nothing but their ports.
func alike(a, b steering.Service) bool {
	return a.Affinity == b.Affinity && a.TCPChance == b.TCPChance && a.UDPChance == b.UDPChance &&
		slices.Equal(a.Members, b.Members) && slices.Equal(a.SourceRanges, b.SourceRanges)
}

func members(steered []plan.SteeredMember) []table.Member {
	var found []table.Member
	for _, m := range steered {
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
