package speaker

import (
	"net/netip"
	"slices"

	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/ipvs"
	"github.com/berth-lb/berth/l2"
	"github.com/berth-lb/berth/speaker/guard"
)

// Port is a port that a Service exposes.
type Port struct {
	// Name that EndpointSlices know the port by.
	Name     string
	Protocol ipvs.Protocol
	Port     uint16
}

// Backend is an endpoint of a Service behind one of its ports.
type Backend struct {
	Port    string // its name
	Address netip.AddrPort
	Node    string // empty: outside of the cluster, or not known
	State   candidate.State
	// Terminates: it is going away, whether it still serves or not.
	Terminates bool
	// Overdue: it has terminated for longer than it may keep connections.
	Overdue bool
}

func (b Backend) takes() bool   { return b.State == candidate.Ready }
func (b Backend) lingers() bool { return b.State == candidate.Serving }

// Forwarding is what this node's own data plane does for a group.
type Forwarding struct {
	Table  ipvs.Table
	Guards []guard.Frontend
}

// planForwarding says which connections this node forwards, and where. It forwards for every address that Berth
// forwards for, also where it does not announce it: its own pods and processes ask too, and what was on the way when
// it stopped to announce still comes. Under policy Local it sends to endpoints of its own, or, when it has none, to
// all, with its own address as source. Its own pods and processes reach all endpoints under each policy.
func planForwarding(group Group, won []Service, backends map[string][]Backend, world World) Forwarding {
	f := Forwarding{Table: ipvs.Table{}}
	guarded := map[netip.Addr]bool{}
	for _, s := range won {
		scheduler := schedulerOf(s, world.Snapshot)
		if scheduler == "" {
			continue
		}
		for _, address := range s.Addresses {
			guarded[address] = true
			for _, port := range s.Ports {
				frontend := ipvs.Frontend{Address: address, Port: port.Port, Protocol: port.Protocol}
				if _, taken := f.Table[frontend]; taken {
					continue // the older Service's
				}
				all := behind(port, address, backends[s.Name])
				takes := serving(all, world.Dead)
				own := func(b Backend) bool { return b.Node == world.Self }
				local := s.Local && slices.ContainsFunc(all, func(b Backend) bool { return own(b) && takes(b) })
				served := all
				if local {
					served = slices.DeleteFunc(slices.Clone(all), func(b Backend) bool { return !own(b) })
				}
				settings := ipvs.Settings{Scheduler: scheduler, Flags: flags(scheduler), PersistenceTimeout: s.Persistence}
				f.Table[frontend] = ipvs.VirtualServer{Settings: settings, RealServers: realServers(served, takes)}
				mark := group.Marks[frontend]
				if mark != 0 {
					f.Table[ipvs.Marked(mark, address)] = ipvs.VirtualServer{Settings: byMark(settings, world.Capabilities), RealServers: realServers(all, takes)}
				}
				f.Guards = append(f.Guards, guard.Frontend{
					Address: address, Port: port.Port, Protocol: uint8(port.Protocol), Masquerade: !local, Refuse: !slices.ContainsFunc(served, takes), Mark: mark, Sources: sourcesOf(s.SourceRanges, address),
				})
			}
		}
	}
	for _, s := range won {
		for _, address := range s.Addresses {
			// kube-proxy forwards for a Service that shares the address.
			if guarded[address] && schedulerOf(s, world.Snapshot) == "" {
				for _, port := range s.Ports {
					f.Guards = append(f.Guards, guard.Frontend{Address: address, Port: port.Port, Protocol: uint8(port.Protocol)})
				}
			}
		}
	}
	return f
}

// schedulerOf returns the scheduler with which Berth forwards for the Service; "" if it does not. It does so as soon as
// the pools say so: until the status does, too, kube-proxy comes first, and between them there is no gap. While the status
// still asks for it and the pools do not any more, it is round robin.
func schedulerOf(s Service, snapshot *config.Snapshot) string {
	scheduler, _ := snapshot.Scheduler(s.Addresses, s.Scheduler)
	if scheduler == "" && s.Proxied {
		scheduler = ipvs.Schedulers[0]
	}
	return scheduler
}

// needed returns what a node must be capable of to announce these Services: each scheduler is a bit. What kube-proxy
// serves needs nothing.
func needed(services []Service, snapshot *config.Snapshot) l2.Capabilities {
	var needs l2.Capabilities
	for _, s := range services {
		if s.Proxied {
			needs |= capability(schedulerOf(s, snapshot))
		}
	}
	return needs
}

// capability returns the bit that stands for forwarding with these schedulers, the same on all nodes: see
// docs/design/l2-protocol.md.
func capability(schedulers ...string) l2.Capabilities {
	var c l2.Capabilities
	for i, known := range ipvs.Schedulers {
		if slices.Contains(schedulers, known) {
			c |= 1 << i
		}
	}
	return c
}

// flags are those that go with a scheduler: Maglev chooses by the client's port too, and who hashes to an endpoint that
// gets no new connections goes to another.
func flags(scheduler string) ipvs.Flags {
	switch scheduler {
	case "mh":
		return ipvs.HashPort | ipvs.Fallback
	case "sh":
		return ipvs.Fallback
	}
	return 0
}

// sourcesOf returns the source ranges of the address's family; none stands for everybody, and one that nobody has
// for nobody: a list of the other family only lets nobody of this one in.
func sourcesOf(ranges []netip.Prefix, address netip.Addr) []netip.Prefix {
	if ranges == nil {
		return nil
	}
	var found []netip.Prefix
	for _, r := range ranges {
		if r.Addr().Is4() == address.Is4() {
			found = append(found, r)
		}
	}
	if len(found) == 0 {
		found = []netip.Prefix{netip.PrefixFrom(address, address.BitLen())}
	}
	return found
}

// needMarks returns the frontends that have a virtual server of their own for this node's pods and processes: they reach all
// endpoints where others reach those of the node only.
func needMarks(services []Service, snapshot *config.Snapshot) []ipvs.Frontend {
	var found []ipvs.Frontend
	for _, s := range services {
		if !s.Local || !s.Proxied || schedulerOf(s, snapshot) == "" {
			continue
		}
		for _, address := range s.Addresses {
			for _, port := range s.Ports {
				found = append(found, ipvs.Frontend{Address: address, Port: port.Port, Protocol: port.Protocol})
			}
		}
	}
	return found
}

// byMark are the settings of such a virtual server. It cannot be persistent, so that a hash of the client's address stands in
// for affinity.
func byMark(settings ipvs.Settings, able l2.Capabilities) ipvs.Settings {
	if settings.PersistenceTimeout == 0 {
		return settings
	}
	settings.PersistenceTimeout = 0
	for _, hash := range []string{"mh", "sh"} {
		if able&capability(hash) != 0 {
			settings.Scheduler, settings.Flags = hash, ipvs.Fallback
			break
		}
	}
	return settings
}

// behind returns the backends of a port, of the address's family.
func behind(port Port, address netip.Addr, backends []Backend) []Backend {
	var found []Backend
	for _, b := range backends {
		if b.Port == port.Name && b.Address.Addr().Is4() == address.Is4() {
			found = append(found, b)
		}
	}
	return found
}

// realServers returns backends as IPVS has them.
func realServers(backends []Backend, takes func(Backend) bool) []ipvs.RealServer {
	// Two slices can tell of one endpoint for a while: the better word counts.
	backends = slices.SortedStableFunc(slices.Values(backends), func(a, b Backend) int { return weigh(takes(b)) - weigh(takes(a)) })
	known := map[netip.AddrPort]bool{}
	var servers []ipvs.RealServer
	for _, b := range backends {
		if known[b.Address] || b.Overdue && !takes(b) {
			continue
		}
		known[b.Address] = true
		servers = append(servers, ipvs.RealServer{
			Address: b.Address.Addr(), Port: b.Address.Port(), Weight: uint32(weigh(takes(b))), Draining: !takes(b),
		})
	}
	return servers
}

// weigh is the weight of an endpoint that takes new connections, or not.
func weigh(takes bool) int {
	if takes {
		return 1
	}
	return 0
}

// backendsOf returns the endpoints of which these EndpointSlices tell.
func backendsOf(endpointSlices []*discoveryv1.EndpointSlice) []Backend {
	var found []Backend
	for _, slice := range endpointSlices {
		for _, e := range slice.Endpoints {
			if len(e.Addresses) == 0 {
				continue
			}
			address, err := netip.ParseAddr(e.Addresses[0]) // the others are not used: KEP-752
			if err != nil {
				continue // of an FQDN
			}
			b := Backend{State: candidate.StateOf(e.Conditions), Terminates: e.Conditions.Terminating != nil && *e.Conditions.Terminating}
			if e.NodeName != nil {
				b.Node = *e.NodeName
			}
			for _, p := range slice.Ports {
				if p.Port == nil || *p.Port < 1 || *p.Port > 65535 {
					continue
				}
				if p.Name != nil {
					b.Port = *p.Name
				}
				b.Address = netip.AddrPortFrom(address.Unmap(), uint16(*p.Port))
				found = append(found, b)
			}
		}
	}
	return found
}
