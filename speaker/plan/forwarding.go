package plan

import (
	"net/netip"
	"slices"

	"github.com/berth-lb/berth/l2/election"
	"github.com/berth-lb/berth/speaker/dataplane/guard"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
)

// Forwarding is what this node's own data plane does for a group.
type Forwarding struct {
	Table  ipvs.Table
	Guards []guard.Frontend
}

// PlanForwarding says which connections this node forwards, and where. Backends are by name of the
// Service, of those that Berth forwards for; marks are those of MarkedFrontends.
//
// The node forwards for every address that Berth forwards for, also where it does not announce it:
// its own pods and processes connect too, and packets that were on their way when it stopped to
// announce still arrive. Under policy Local it forwards to endpoints of its own or, if it has none,
// to all, with its own address as source. Its own pods and processes reach all endpoints under each
// policy. Among all endpoints hints choose, as they do for kube-proxy, and never among its own.
func PlanForwarding(
	services []ClassifiedService,
	backends map[string][]Backend,
	marks map[ipvs.Frontend]uint32,
	world World,
) Forwarding {
	if !world.Forwards {
		return Forwarding{}
	}
	f := Forwarding{Table: ipvs.Table{}}
	ours := map[netip.Addr]bool{}
	for _, s := range services {
		if s.IPVSScheduler == "" {
			continue
		}
		for _, address := range s.Addresses {
			ours[address] = true
			for _, port := range s.Ports {
				f.add(s, address, port, Behind(port, address, backends[s.Name]), marks, world)
			}
		}
	}
	for _, s := range services {
		if s.IPVSScheduler == "" {
			f.expose(s, ours)
		}
	}
	return f
}

// add forwards for a port of a Service, unless an older Service has it.
func (f *Forwarding) add(
	s ClassifiedService,
	address netip.Addr,
	port Port,
	backends []Backend,
	marks map[ipvs.Frontend]uint32,
	world World,
) {
	frontend := ipvs.Frontend{Address: address, Port: port.Port, Protocol: port.Protocol}
	if _, taken := f.Table[frontend]; taken {
		return
	}
	anywhere := serving(backends, world.Dead)
	near, _ := hinted(backends, anywhere, world.Self, world.zone())
	own := func(b Backend) bool { return b.Node == world.Self }
	local := s.Local && slices.ContainsFunc(backends, func(b Backend) bool { return own(b) && anywhere(b) })
	served, takes := backends, near
	if local {
		served = slices.DeleteFunc(slices.Clone(backends), func(b Backend) bool { return !own(b) })
		takes = anywhere
	}
	settings := ipvs.Settings{Scheduler: s.IPVSScheduler, Flags: flags(s.IPVSScheduler), PersistenceTimeout: s.Persistence}
	f.Table[frontend] = ipvs.VirtualServer{Settings: settings, RealServers: realServers(served, takes)}
	mark := marks[frontend]
	if mark != 0 {
		f.Table[ipvs.Marked(mark, address)] = ipvs.VirtualServer{
			Settings:    byMark(settings, world.Capabilities),
			RealServers: realServers(backends, near),
		}
	}
	f.Guards = append(f.Guards, guard.Frontend{
		Address: address, Port: port.Port, Protocol: uint8(port.Protocol), Masquerade: !local,
		Refuse: !slices.ContainsFunc(served, takes), Mark: mark, Sources: sourcesOf(s.SourceRanges, address),
	})
}

// expose opens the ports of a Service that kube-proxy forwards for, at addresses that it shares
// with one of ours.
func (f *Forwarding) expose(s ClassifiedService, ours map[netip.Addr]bool) {
	for _, address := range s.Addresses {
		if !ours[address] {
			continue
		}
		for _, port := range s.Ports {
			f.Guards = append(f.Guards, guard.Frontend{Address: address, Port: port.Port, Protocol: uint8(port.Protocol)})
		}
	}
}

// flags returns the flags of a scheduler. Maglev hashes the client's port too, and a client that
// hashes to an endpoint without new connections gets another one.
func flags(scheduler string) ipvs.Flags {
	switch scheduler {
	case "mh":
		return ipvs.HashPort | ipvs.Fallback
	case "sh":
		return ipvs.Fallback
	}
	return 0
}

// sourcesOf returns the source ranges of the address's family; none lets everybody connect. If all
// ranges are of the other family nobody may connect, and the address itself stands for that.
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

// byMark returns the settings of a virtual server by mark. It cannot be persistent, so a hash of
// the client's address stands in for affinity.
func byMark(settings ipvs.Settings, able election.Capabilities) ipvs.Settings {
	if settings.PersistenceTimeout == 0 {
		return settings
	}
	settings.PersistenceTimeout = 0
	for _, hash := range []string{"mh", "sh"} {
		if able&Capability(hash) != 0 {
			settings.Scheduler, settings.Flags = hash, ipvs.Fallback
			break
		}
	}
	return settings
}

// Targets returns which backends of a port get the new connections that arrive at this node under
// policy Cluster, and by which hints they are chosen.
func Targets(backends []Backend, world World) (takes func(Backend) bool, by Hints) {
	return hinted(backends, serving(backends, world.Dead), world.Self, world.zone())
}

// serving returns which backends get new connections: those that are ready, or else those that
// terminate and still serve; of these not the ones on dead nodes, unless there are no others.
func serving(backends []Backend, dead map[string]bool) func(Backend) bool {
	alive := func(b Backend) bool { return !dead[b.Node] }
	for _, takes := range []func(Backend) bool{
		func(b Backend) bool { return b.takes() && alive(b) },
		Backend.takes,
		func(b Backend) bool { return b.lingers() && alive(b) },
	} {
		if slices.ContainsFunc(backends, takes) {
			return takes
		}
	}
	return Backend.lingers
}

// Behind returns the backends of a port, of the address's family.
func Behind(port Port, address netip.Addr, backends []Backend) []Backend {
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
	// Two slices can have the same endpoint for a while. If one says that it takes connections, it
	// does.
	backends = slices.SortedStableFunc(
		slices.Values(backends),
		func(a, b Backend) int { return weigh(takes(b)) - weigh(takes(a)) },
	)
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

// weigh returns the weight of an endpoint.
func weigh(takes bool) int {
	if takes {
		return 1
	}
	return 0
}
