package ipam

import (
	"fmt"
	"slices"
)

// Port is a port of a Service: its number and its protocol, such as "TCP".
type Port struct {
	Protocol string
	Number   int32
}

func (p Port) String() string { return fmt.Sprintf("%s port %d", p.Protocol, p.Number) }

// Terms say with whom an owner shares an address: with owners of the same key whose ports do not
// clash, in the same namespace unless the pool allows otherwise. The zero Terms share with nobody.
type Terms struct {
	// Key is the same for all that share. Empty: shares with nobody.
	Key string
	// Ports are those that the owner uses.
	Ports []Port
	// Local says that traffic goes only to endpoints on the node where it arrives, so all that share
	// must have the same endpoints.
	Local bool
	// Endpoints identifies what the traffic goes to: the selector.
	Endpoints string
}

func (t Terms) equal(other Terms) bool {
	return t.Key == other.Key && t.Local == other.Local && t.Endpoints == other.Endpoints &&
		slices.Equal(t.Ports, other.Ports)
}

// clash says why two owners may not share an address, "" if they may. near says that their
// namespaces allow it.
func (t Terms) clash(other Terms, near bool) string {
	switch {
	case t.Key == "" || t.Key != other.Key:
		return "without the same sharing key"
	case !near:
		return "in another namespace"
	case (t.Local || other.Local) && t.Endpoints != other.Endpoints:
		return "with another selector under externalTrafficPolicy Local"
	}
	for _, p := range t.Ports {
		for _, q := range other.Ports {
			if p == q {
				return "with the same " + p.String()
			}
		}
	}
	return ""
}
