package guard

import "net/netip"

// Frontend is an address and port that IPVS forwards, and the rules for its packets.
type Frontend struct {
	Address    netip.Addr
	Port       uint16
	Protocol   uint8 // IANA's number: 6 TCP, 17 UDP, 132 SCTP
	Masquerade bool  // endpoints see this node as the client
	// Refuse new connections: no endpoint takes any. IPVS drops them, and the client would wait.
	Refuse bool
	// Mark is set on packets from pods (SetPods) and processes of this node, for IPVS, and their
	// connections are masqueraded. It is one of ipvs.Marks; 0: they are treated like all others.
	Mark uint32
	// Sources may connect; none: all may. A frontend whose sources are all of the other address family
	// is closed. A process of this node whose source is the address itself, because a route says so,
	// is not an exception.
	Sources []netip.Prefix
}
