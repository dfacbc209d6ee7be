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
	// Endpoints that are ready; if there are none those that terminate and still serve, and if there
	// are none of these either all others, which may have connections, too.
	Endpoints int
	// Draining: the node gets no new connections, since others have better endpoints.
	Draining bool
	// Unready: none of its endpoints is ready or serves.
	Unready bool
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

// The classes of a node by its best endpoint. New connections go to the best class that there is,
// as with kube-proxy, which however refuses those to the last one.
const (
	withReady = iota
	withServing
	withUnready
	classes
)

// members returns the nodes of these backends. Two slices can have the same endpoint for a while,
// which counts once.
func members(backends []Backend) []SteeredMember {
	type endpoints [classes]map[netip.AddrPort]bool
	nodes, best := map[string]*endpoints{}, classes
	for _, b := range backends {
		if b.Node == "" {
			continue // outside of the cluster: no node has it
		}
		class := withUnready
		switch {
		case b.takes():
			class = withReady
		case b.lingers():
			class = withServing
		}
		best = min(best, class)
		of := nodes[b.Node]
		if of == nil {
			of = &endpoints{}
			nodes[b.Node] = of
		}
		if of[class] == nil {
			of[class] = map[netip.AddrPort]bool{}
		}
		of[class][b.Address] = true
	}
	found := make([]SteeredMember, 0, len(nodes))
	for node, of := range nodes {
		class := slices.IndexFunc(of[:], func(all map[netip.AddrPort]bool) bool { return len(all) > 0 })
		found = append(found, SteeredMember{
			Node: node, Endpoints: len(of[class]), Draining: class > best, Unready: class == withUnready,
		})
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
