package election

import "strings"

// Cause is why an address was gained, lost or announced again. The values are labels of metrics.
type Cause string

// Reason returns the cause in CamelCase, as conditions, events and L2Owners have it.
func (c Cause) Reason() string {
	var reason strings.Builder
	for word := range strings.SplitSeq(string(c), "_") {
		reason.WriteString(strings.ToUpper(word[:min(1, len(word))]) + word[min(1, len(word)):])
	}
	return reason.String()
}

// The causes of moves and of changes of peers.
const (
	Configured      Cause = "configured"       // the desired state or the candidates changed
	Removed         Cause = "removed"          // the address is not wanted here any more
	Joined          Cause = "joined"           // this node became able to own addresses
	Departing       Cause = "departing"        // this node is leaving or restarting
	PeerSeen        Cause = "peer_seen"        // a peer appeared that is not ready
	PeerReady       Cause = "peer_ready"       // a peer became able to own addresses
	PeerLeft        Cause = "peer_left"        // a peer is leaving or restarting, or is no longer ready
	PeerCapability  Cause = "peer_capability"  // a peer gained or lost a capability
	PeerStale       Cause = "peer_stale"       // a peer's desired state has not been confirmed for long
	PeerSilent      Cause = "peer_silent"      // a peer sent no message for three of its intervals
	HandedOver      Cause = "handed_over"      // the new owner was heard
	HandoverTimeout Cause = "handover_timeout" // the new owner was not heard in time
	LinkUp          Cause = "link_up"
	LinkDown        Cause = "link_down"
	LinkChanged     Cause = "link_changed" // another MAC address
	Overslept       Cause = "overslept"    // this process stood still for longer than its peers wait
	Unable          Cause = "unable"       // this node is not ready, or has no key
	Capability      Cause = "capability"   // this node gained or lost a capability
	Stopped         Cause = "stopped"      // Run ended
)
