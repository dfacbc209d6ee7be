package l2

import (
	"net"
	"net/netip"
	"time"
)

// Kind is what an Observation is about.
type Kind uint8

// The kinds of observations, with the fields that they set besides Time, Kind and Interface.
const (
	// AddressGained: this node answers for Address from now on. Node is this node.
	AddressGained Kind = iota + 1
	// AddressLost: this node no longer answers for Address. Node is the new owner if known, or
	// empty.
	AddressLost
	// PeerUp: Node is alive, in State, with Capabilities. Sent again when one of them changes.
	PeerUp
	// PeerDown: Node was silent for three of its intervals. State is the last one that was heard.
	PeerDown
	// Conflict: MAC uses Address, which this node answers for, or is about to. Node is the peer
	// with that MAC, which does not claim the address: its kernel has it, or another program there
	// answers. It is empty for a foreign host.
	Conflict
	// Failure: Err, on Interface if that is not empty. The driver will retry.
	Failure
	// Outdated: this node has not heard from the API for long, and Node has. What it owns is taken
	// by nodes that know better.
	Outdated
	// UpToDate ends Outdated.
	UpToDate
	// ProxyFound: MAC answers for every address (proxy ARP), as it did for Address. Its answers are
	// ignored.
	ProxyFound
	// Restarted: another process hears and answers now, which has heard nobody before. The driver in
	// one process with its owner has none.
	Restarted
	// PeerOverdue: Node was silent for two of its intervals, and may be about to be down. It is not
	// sent of a node that said that it leaves.
	PeerOverdue
)

// String returns the kind in lower case.
func (k Kind) String() string {
	names := [...]string{
		"", "address gained", "address lost", "peer up", "peer down", "conflict", "failure", "outdated", "up to date",
		"proxy found", "restarted", "peer overdue",
	}
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
	Node      string
	State     State
	// Capabilities are the ways in which Node is able to forward.
	Capabilities Capabilities
	Cause        Cause
	Address      netip.Addr
	MAC          net.HardwareAddr
	Err          error
}

// maxObservations is how many observations wait for a reader before the oldest are lost.
const maxObservations = 1024
