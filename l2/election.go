package l2

import "github.com/berth-lb/berth/l2/election"

// What users of this package need of package election.
type (
	// Desired is what is wanted of one address.
	Desired = election.Desired
	// Claim is a node's word that it owns an address on a segment, as it is mirrored outside of the
	// segment.
	Claim = election.Claim
	// Past is what a process tells its next one of its contact with the API.
	Past = election.Past
	// Keys sign hellos.
	Keys = election.Keys
	// Peer is another node that is alive on a segment.
	Peer = election.Peer
	// State is what a node says about itself on every segment.
	State = election.State
	// Cause is why an address was gained, lost or announced again.
	Cause = election.Cause
	// Capabilities are the ways in which a node is able to forward.
	Capabilities = election.Capabilities
)

// The states in the order of a speaker's life.
const (
	Starting   = election.Starting
	Ready      = election.Ready
	Leaving    = election.Leaving
	Restarting = election.Restarting
	Holding    = election.Holding
)

// MaxPeers is how many peers of a segment a node remembers.
const MaxPeers = election.MaxPeers

// The causes that users of this package compare with. All of them are in package election.
const (
	HandedOver = election.HandedOver
	Joined     = election.Joined
	PeerSilent = election.PeerSilent
)
