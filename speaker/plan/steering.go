package plan

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/l2/election"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
)

// Steers is the bit of a node's capabilities that stands for steering. It means the same on all
// nodes: see docs/design/l2-protocol.md.
const Steers election.Capabilities = 1 << 15

// SteeredPort is one address, port and protocol whose connections are steered.
type SteeredPort struct {
	Service  string // namespace/name
	Address  netip.Addr
	Port     uint16
	Protocol ipvs.Protocol
	// Members are the nodes with endpoints, in order of their names.
	Members []SteeredMember
	// Affinity: all connections of a client go to the same node.
	Affinity bool
	// SourceRanges may connect, and are of the address's family; nil: everybody.
	SourceRanges []netip.Prefix
	How          config.Steering
	// Pods of this node that get its connections from Berth, ascending. None: kube-proxy forwards.
	Pods []netip.AddrPort
}

// Equal reports whether two ports are the same in all.
func (p SteeredPort) Equal(other SteeredPort) bool {
	return p.Service == other.Service && p.Address == other.Address && p.Port == other.Port &&
		p.Protocol == other.Protocol && p.Affinity == other.Affinity && p.How == other.How &&
		slices.Equal(
			p.Members,
			other.Members,
		) && slices.Equal(p.Pods, other.Pods) && slices.Equal(p.SourceRanges, other.SourceRanges) &&
		(p.SourceRanges == nil) == (other.SourceRanges == nil)
}

// SteeredMember is a node that has endpoints behind a port.
type SteeredMember struct {
	Node string
	// Endpoints that are ready, or if it drains those that terminate and still serve.
	Endpoints int
	// Draining: none of them is ready, so the node gets no new connections.
	Draining bool
}

// PlanSteering says how this node steers the connections of a group. Backends are by name of the
// Service, of those that are steered. A port that two Services have is the older one's.
//
// On the nodes with Pods kube-proxy forwards for a Service of policy Local, and Berth for one of
// policy Cluster, since kube-proxy would choose among all Pods, and hide the client. Where the
// Service has source ranges it does forward: in mode iptables it checks them where Berth, which
// comes before, would end its check.
func PlanSteering(self string, services []ClassifiedService, backends map[string][]Backend) []SteeredPort {
	type frontend struct {
		address  netip.Addr
		port     uint16
		protocol ipvs.Protocol
	}
	taken := map[frontend]bool{}
	var ports []SteeredPort
	for _, s := range services {
		for _, address := range s.Addresses {
			for _, p := range s.Ports {
				f := frontend{address, p.Port, p.Protocol}
				if taken[f] {
					continue
				}
				taken[f] = true
				if s.Steering == nil {
					continue
				}
				behind := Behind(p, address, backends[s.Name])
				port := SteeredPort{
					Service: s.Name, Address: address, Port: p.Port, Protocol: p.Protocol, Members: members(behind),
					Affinity: s.Persistence > 0, SourceRanges: sourcesOf(s.SourceRanges, address), How: *s.Steering,
				}
				if !s.Local && port.SourceRanges == nil {
					port.Pods = podsOf(self, behind)
				}
				ports = append(ports, port)
			}
		}
	}
	return ports
}

// members returns the nodes of these backends. Two slices can have the same endpoint for a while,
// which counts once.
func members(backends []Backend) []SteeredMember {
	ready, lingering := map[string]map[netip.AddrPort]bool{}, map[string]map[netip.AddrPort]bool{}
	for _, b := range backends {
		of := lingering
		switch {
		case b.Node == "":
			continue // outside of the cluster: no node has it
		case b.takes():
			of = ready
		case !b.lingers():
			continue
		}
		if of[b.Node] == nil {
			of[b.Node] = map[netip.AddrPort]bool{}
		}
		of[b.Node][b.Address] = true
	}
	var found []SteeredMember
	for node, endpoints := range ready {
		found = append(found, SteeredMember{Node: node, Endpoints: len(endpoints)})
	}
	for node, endpoints := range lingering {
		if ready[node] == nil {
			found = append(found, SteeredMember{Node: node, Endpoints: len(endpoints), Draining: true})
		}
	}
	slices.SortFunc(found, func(a, b SteeredMember) int { return cmp.Compare(a.Node, b.Node) })
	return found
}

// podsOf returns the Pods of a node that take connections, or if there are none those that
// terminate and still serve.
func podsOf(node string, backends []Backend) []netip.AddrPort {
	var ready, lingering []netip.AddrPort
	for _, b := range backends {
		switch {
		case b.Node != node:
		case b.takes():
			ready = append(ready, b.Address)
		case b.lingers():
			lingering = append(lingering, b.Address)
		}
	}
	if len(ready) == 0 {
		ready = lingering
	}
	slices.SortFunc(ready, netip.AddrPort.Compare)
	return slices.Compact(ready)
}

// steers reports whether connections of a group are steered, so that nodes without endpoints may
// announce it: those of all its Services of policy Local are, or those of policy Cluster where a
// pool asks for it, and IPVS forwards for none.
func steers(services []ClassifiedService) bool {
	steered := false
	for _, s := range services {
		if s.Proxied || s.IPVSScheduler != "" || s.Local && s.Steering == nil {
			return false
		}
		steered = steered || s.Steering != nil
	}
	return steered
}
