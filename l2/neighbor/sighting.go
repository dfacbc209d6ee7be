package neighbor

import "net/netip"

// Sighting is another host's use of an address that this node knows.
type Sighting struct {
	Addr netip.Addr
	MAC  [6]byte
	Use  Use
}

// Use is what another host does with an address.
type Use uint8

// The uses of an address.
const (
	// Announced: the host says that it has the address, by an ARP reply, a gratuitous ARP or a
	// neighbor advertisement.
	Announced Use = iota + 1
	// Spoken: the host asks about another address in this one's name. A peer may do so without
	// owning the address if its kernel has it too (kube-proxy's IPVS mode).
	Spoken
	// Probed: the host asks whether another host has the address that it wants for itself (RFC 5227
	// section 2.1.1, RFC 4862 section 5.4). If this node answers for it, the answer has told it.
	Probed
)

// Question is another host's question which host has an address that this node knows.
type Question struct {
	Addr     netip.Addr
	From     netip.Addr // unspecified: the host wants the address for itself
	MAC      [6]byte
	Answered bool
}

// Counter counts packets.
type Counter interface{ Inc() }
