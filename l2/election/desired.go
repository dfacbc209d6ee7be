package election

import "net/netip"

// Desired is what is wanted of one group.
type Desired struct {
	// Addresses are announced together. None: the group is not announced.
	Addresses []netip.Addr
	// Interfaces are names, or patterns as of path.Match; "" stands for the interfaces that hold a node
	// address. None: those alone.
	Interfaces []string
	// Candidates names the nodes that may own the group, this node included only if it may.
	Candidates []string
	// Preferred weighs candidates, by name: of those that are free to take the group, the ones of highest
	// weight come first. One that is not in it weighs 0.
	Preferred map[string]int32
	// Needs are the capabilities that a candidate must have to own the group: this node as SetCapabilities says,
	// another as it tells on the segment.
	Needs Capabilities
}
