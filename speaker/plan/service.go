package plan

import (
	"cmp"
	"net/netip"
	"time"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
)

// Service is what a plan needs to know of a Service.
type Service struct {
	// Name is namespace/name.
	Name string
	// Addresses that the controller gave, of both families.
	Addresses []netip.Addr
	// Local: spec.externalTrafficPolicy is Local, so only nodes with an endpoint of
	// their own serve it.
	Local bool
	// SharingKeys of the Service; without one in common no two share an address.
	SharingKeys []string
	// Labels of the Service, which announcements may ask for.
	Labels map[string]string
	// Created decides which of two Services is older.
	Created time.Time

	// Proxied: its status has ipMode Proxy, so Berth forwards its connections, not kube-proxy. The
	// rest is for that.
	Proxied bool
	// Scheduler of IPVS that it asks for, or "".
	Scheduler string
	Ports     []Port
	// Persistence is for how long a client's connections go to one endpoint; 0: no affinity.
	Persistence time.Duration
	// SourceRanges may connect; nil: everybody.
	SourceRanges []netip.Prefix

	// Bound: an implementation that puts addresses on interfaces serves it too, so one that is there
	// is the Service's own.
	Bound bool
}

// older orders Services by precedence.
func (s Service) older(other Service) int {
	if c := s.Created.Compare(other.Created); c != 0 {
		return c
	}
	return cmp.Compare(s.Name, other.Name)
}

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
	// ForNodes and ForZones are its hints: where it is preferred (KEP-3015, KEP-4444).
	ForNodes, ForZones []string
}

func (b Backend) takes() bool   { return b.State == candidate.Ready }
func (b Backend) lingers() bool { return b.State == candidate.Serving }
