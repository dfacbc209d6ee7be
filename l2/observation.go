package l2

import (
	"net"
	"net/netip"
	"time"
)

// Kind is what an Observation tells of.
type Kind uint8

// The kinds of observations, with the fields they fill beside Time, Kind and Interface.
const (
	// GroupGained: this node answers for Group from now on. Node is this node.
	GroupGained Kind = iota + 1
	// GroupLost: this node answers for Group no more. Node is the owner as far as known, or empty.
	GroupLost
	// PeerUp: Node is alive, in State. Sent again when its state changes.
	PeerUp
	// PeerDown: Node was silent for three of its intervals. State is the last one heard.
	PeerDown
	// Conflict: MAC uses Address, which this node answers for, or is about to. Node is the peer of that MAC, which does
	// not claim the address: its kernel has it, or another program there answers. It is empty for a foreign host.
	Conflict
	// Failure: Err, on Interface if that is not empty. It is being retried.
	Failure
	// ProxyFound: MAC answers for everything (proxy ARP), as it did for Address: it is taken for nobody's holder.
	ProxyFound
)

// String returns the kind in lower case.
func (k Kind) String() string {
	names := [...]string{"", "group gained", "group lost", "peer up", "peer down", "conflict", "failure", "proxy found"}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// Observation is one thing that was seen on a segment.
type Observation struct {
	Time      time.Time
	Kind      Kind
	Interface string
	Group     string
	Node      string
	State     State
	Cause     Cause
	Address   netip.Addr
	MAC       net.HardwareAddr
	Err       error
}

// maxObservations is how many observations wait for a reader before the oldest are lost.
const maxObservations = 1024
