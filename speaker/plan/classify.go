package plan

import (
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
}

// Classify returns the Services of a group that are announced, oldest first, and says who forwards
// for each. Every later step of a plan builds on it. Services that lose an address to an older one
// are left out.
func Classify(group Group, snapshot *config.Snapshot) []ClassifiedService {
	won := winners(group)
	classified := make([]ClassifiedService, 0, len(won))
	for _, s := range won {
		classified = append(classified, ClassifiedService{s, schedulerOf(s, snapshot)})
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
			return taken && (s.SharingKey == "" || s.SharingKey != other.SharingKey)
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
