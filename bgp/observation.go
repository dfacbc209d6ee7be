package bgp

import (
	"net/netip"
	"time"
)

// Kind says what an Observation is about.
type Kind string

// The kinds of observations.
const (
	// SessionUp: the session with Peer is established.
	SessionUp Kind = "SessionUp"
	// SessionDown: an established session with Peer ended; Reason says why.
	SessionDown Kind = "SessionDown"
	// SessionFailed: Peer has no session, and the Reason is a new one.
	SessionFailed Kind = "SessionFailed"
	// RouteFailed: Prefix cannot be announced or withdrawn; Reason says why. It is retried.
	RouteFailed Kind = "RouteFailed"
)

// Observation is something that happened to a session or to a route. Routes that are announced and
// withdrawn as desired are not observed one by one: they are counted in Status and in the metrics.
type Observation struct {
	Time time.Time
	Kind Kind
	Peer string
	// Neighbour is the router of a Peer with a Prefix that this is about.
	Neighbour netip.Addr
	Prefix    netip.Prefix
	Reason    string
}

// observations is a bounded stream with one sender: a slow reader loses the oldest.
type observations chan Observation

const observationsKept = 256

func (o observations) send(v Observation) {
	for {
		select {
		case o <- v:
			return
		default:
		}
		select {
		case <-o:
		default:
		}
	}
}
