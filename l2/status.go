package l2

import (
	"net"
	"net/netip"
)

// Status is a bounded summary: its size grows with interfaces and peers, not with addresses.
type Status struct {
	State    State
	Keyed    bool      // hellos can be signed; without a key nothing is claimed
	Segments []Segment // by interface name
	Err      string    // what fails for the driver as a whole; empty: nothing
	Lost     uint64    // observations that nobody read in time
}

// Segment is one interface as this node sees it.
type Segment struct {
	Interface string
	MAC       net.HardwareAddr // empty while there is none
	Up        bool             // the link is up and the sockets are open
	Claiming  bool             // this node may own addresses here: it is ready, has a key and has listened
	Peers     []Peer           // alive, by name
	Wanted    int              // addresses wanted here
	Owned     int              // of those, how many this node owns, handovers included
	Outdated  bool             // this node's desired state is stale, and a peer's is not
	Unheard   []string         // nodes that own addresses here, and were never heard here, by name
	Err       string           // the last failure that still stands
	Subnets   []netip.Prefix   // of the interface, without link-local ones and single addresses
	ProxyARP  net.HardwareAddr // a host that answers for every address; empty: none is known
}
