package steering

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
	"github.com/berth-lb/berth/speaker/dataplane/steering/table"
)

// Desired is what a node steers, as a whole.
type Desired struct {
	// Enabled: if not, everything passes, as if there were no program.
	Enabled bool
	// Seed is the cluster's secret. It is not zero, and never changes while anything is pinned.
	Seed decide.Seed
	// Self is the name of this node.
	Self string
	// Interfaces are those that packets for Services come by. All must be of the kind Ethernet; of
	// a bond, or of a VLAN, it is the one that has the address.
	Interfaces []string
	// Nodes by name, this one too. A node that is not here gets nothing, whatever Services say.
	Nodes map[string]Node
	// Services by name.
	Services map[string]Service
}

// Node is how a node is reached.
type Node struct {
	// IPv4 and IPv6 are its addresses, at least one. Without one of a family it gets no packets of
	// that family.
	IPv4, IPv6 netip.Addr
	// Interface is the index of the interface to it.
	Interface int
	// Encapsulate: it is not on a segment with this node.
	Encapsulate bool
	// MTU of the path to it in bytes. Larger packets are not encapsulated.
	MTU int
}

// Service is what is steered.
type Service struct {
	// Frontends are its addresses and ports.
	Frontends []Frontend
	// Members are the nodes that have endpoints.
	Members []table.Member
	// Affinity: all connections of a client go to one node.
	Affinity bool
	// TCPChance and UDPChance: what a node does not know it asks other nodes about.
	TCPChance, UDPChance bool
	// SourceRanges are the only sources that are steered; none: all are. kube-proxy drops the
	// others, on the node that they come to, and has the same rule on the one that packets are
	// steered to.
	SourceRanges []netip.Prefix
}

// Frontend is an address and port of a Service.
type Frontend struct {
	Address netip.AddrPort
	// Protocol is TCP, UDP or SCTP by its number.
	Protocol uint8
}

func (s Service) equal(other Service) bool {
	return s.Affinity == other.Affinity && s.TCPChance == other.TCPChance && s.UDPChance == other.UDPChance &&
		slices.Equal(s.Frontends, other.Frontends) && slices.Equal(s.Members, other.Members) &&
		slices.Equal(s.SourceRanges, other.SourceRanges)
}

// check returns what is wrong with all of it.
func (d Desired) check() error {
	self, ok := d.Nodes[d.Self]
	switch {
	case d.Seed == decide.Seed{}:
		return errors.New("steering has no seed: give one of 16 random bytes that all nodes share")
	case !ok:
		return fmt.Errorf("steering does not know this node: %q is not among its %d nodes", d.Self, len(d.Nodes))
	case len(d.Nodes) >= decide.MaxNodes:
		return fmt.Errorf("steering takes up to %d nodes, there are %d", decide.MaxNodes-1, len(d.Nodes))
	case !self.IPv4.IsValid() && !self.IPv6.IsValid():
		return fmt.Errorf("node %s has no address that packets could be steered to", d.Self)
	}
	return nil
}
