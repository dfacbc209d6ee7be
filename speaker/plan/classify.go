package plan

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/internal/scheduler"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
)

// ClassifiedService is a Service with the data plane that forwards its connections.
type ClassifiedService struct {
	Service
	// IPVSScheduler is the scheduler by which Berth forwards. Empty: kube-proxy forwards.
	IPVSScheduler string
	// Steering of connections, to the nodes that have endpoints; nil: there is none.
	Steering *config.Steering
}

// ByEndpoints reports whether who announces the Service depends on where it has endpoints.
func (s ClassifiedService) ByEndpoints() bool { return s.Local || s.Steering != nil }

// Classify returns the Services of a group that are announced, oldest first, and says who forwards
// for each. Every later step of a plan builds on it. Services that lose an address to an older one
// are left out.
func Classify(group Group, snapshot *config.Snapshot) []ClassifiedService {
	won := winners(group)
	classified := make([]ClassifiedService, 0, len(won))
	for _, s := range won {
		c := ClassifiedService{Service: s, IPVSScheduler: schedulerOf(s, snapshot)}
		if c.IPVSScheduler == "" {
			c.Steering, _ = snapshot.Steered(s.Addresses, s.Local)
		}
		classified = append(classified, c)
	}
	return classified
}

// winners returns the Services of the group without those that have an address in
// their status that an older one has and does not share: two controllers gave it
// twice, and all nodes settle that in the same way.
func winners(group Group) []Service {
	ordered := slices.SortedFunc(slices.Values(group.Services), Service.older)
	first := map[netip.Addr]Service{}
	var won []Service
	for _, s := range ordered {
		lost := slices.ContainsFunc(s.Addresses, func(a netip.Addr) bool {
			other, taken := first[a]
			return taken && !slices.ContainsFunc(s.SharingKeys, func(key string) bool {
				return slices.Contains(other.SharingKeys, key)
			})
		})
		if lost {
			continue
		}
		won = append(won, s)
		for _, a := range s.Addresses {
			if _, taken := first[a]; !taken {
				first[a] = s
			}
		}
	}
	return won
}

// schedulerOf returns the scheduler by which Berth forwards for the Service, or "" if kube-proxy
// does. Berth forwards as soon as the pools say so: until the status does, too, kube-proxy's rules
// come first, and between the two there is no gap. While the status still asks for Berth and the
// pools no longer do, it is the default.
func schedulerOf(s Service, snapshot *config.Snapshot) string {
	name, _ := snapshot.Scheduler(s.Addresses, s.Scheduler)
	if name == "" && s.Proxied {
		name = scheduler.Default
	}
	return name
}

// MarkedFrontends returns the frontends that have a second virtual server, by firewall mark, for
// this node's own pods and processes: these reach all endpoints, where clients from outside reach
// only the node's own.
func MarkedFrontends(services []ClassifiedService) []ipvs.Frontend {
	var found []ipvs.Frontend
	for _, s := range services {
		if !s.Local || !s.Proxied {
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

// MostSources is how many entries of sources a Service may need: one for each of its source ranges
// at each of its ports and addresses. The kernel writes so many in well under a second, in which it
// writes nothing else.
const MostSources = 1 << 16

// LimitSources closes those Services that Berth forwards for and that need more entries, and says
// so; "" if there is none. To open them to everybody is not what their ranges ask for.
func LimitSources(services []ClassifiedService) (limited []ClassifiedService, complaint string) {
	limited = services
	for i, s := range services {
		need := len(s.SourceRanges) * len(s.Ports) * len(s.Addresses)
		if s.IPVSScheduler == "" || need <= MostSources {
			continue
		}
		if complaint == "" {
			limited = slices.Clone(services)
			complaint = fmt.Sprintf(
				"Service %s: nobody can connect, because %d spec.loadBalancerSourceRanges at %d ports and %d addresses are %d entries, and %d are possible; write fewer or larger ranges, or expose fewer ports",
				s.Name,
				len(s.SourceRanges),
				len(s.Ports),
				len(s.Addresses),
				need,
				MostSources,
			)
		}
		limited[i].SourceRanges = []netip.Prefix{}
	}
	return limited, complaint
}
