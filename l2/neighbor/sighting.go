package neighbor

import "net/netip"

// sighting is another host's use of an address that this node knows.
type Sighting struct {
	Addr netip.Addr
	MAC  [6]byte
	Use  Use
}

// use is what another host does with an address.
type Use uint8

const (
	// announced: it tells where the address is, by an ARP reply, a gratuitous ARP or a neighbour
	// advertisement.
	Announced Use = iota + 1
	// spoken: it asks about something else in the address's name. A peer may, without owning the address, where
	// its kernel has the address too (kube-proxy's IPVS mode).
	Spoken
	// probed: it asks whether anybody holds the address that it wants for itself (RFC 5227 section 2.1.1,
	// RFC 4862 section 5.4). Where this node answers, the answer has told it.
	Probed
)

// Counter counts packets.
type Counter interface{ Inc() }
