package neighbor

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/mdlayher/ndp"
)

// Neighbor discovery is received and sent as whole frames, not on an ICMPv6 socket. A neighbor's
// unreachability probe (RFC 4861 section 7.3) is unicast to the address itself, which no interface
// holds, so the kernel hands it to no other socket. And an answer goes to the station that asked,
// without the kernel resolving it first.
const (
	IPv6Header        = 40
	ProtoICMPv6       = 58
	TypeSolicitation  = 135
	TypeAdvertisement = 136
	NDPHopLimit       = 255
	maxNDPLength      = 1280
)

// NDPResponder answers solicitations for addresses, and reports other hosts that use them.
type NDPResponder struct {
	MAC                           net.HardwareAddr
	Table                         *AddressTable
	Solicitations, Advertisements Counter
	Sighted                       func(Sighting)
	Asked                         func(Question) // nil: nobody wants to know
}

// Respond takes a received frame and returns the frame that answers it, or nil. A probe for
// duplicates, from the unspecified address, is answered to all nodes (RFC 4861 section 7.2.4).
func (r *NDPResponder) Respond(frame []byte) []byte {
	p, ok := ParseNDP(frame)
	if !ok || bytes.Equal(p.Station, r.MAC) {
		return nil
	}
	if seen := p.sighted(); r.Table.Knows(seen.Addr) {
		r.Sighted(seen)
	}
	m, ok := p.Message.(*ndp.NeighborSolicitation)
	if !ok {
		return nil
	}
	r.Solicitations.Inc()
	answers := reaches(frame, r.MAC) && r.Table.Answering(m.TargetAddress)
	if r.Asked != nil && r.Table.Knows(m.TargetAddress) {
		r.Asked(Question{m.TargetAddress, p.Source, [6]byte(p.Station), answers})
	}
	if !answers {
		return nil
	}
	r.Advertisements.Inc()
	if p.Source.IsUnspecified() {
		return advertisement(r.MAC, MulticastMAC(netip.IPv6LinkLocalAllNodes()),
			netip.IPv6LinkLocalAllNodes(), m.TargetAddress, false)
	}
	return advertisement(r.MAC, p.Station, p.Source, m.TargetAddress, true)
}

// NDPPacket is a neighbor discovery message with what is needed to check it.
type NDPPacket struct {
	Station     net.HardwareAddr // the link-layer option's address, or the frame's source
	option      bool             // there was such an option
	Source, dst netip.Addr
	Message     ndp.Message
}

// sighted returns which address the packet's sender uses, or wants to use.
func (p NDPPacket) sighted() Sighting {
	seen := Sighting{MAC: [6]byte(p.Station)}
	switch m := p.Message.(type) {
	case *ndp.NeighborAdvertisement:
		seen.Addr, seen.Use = m.TargetAddress, Announced
	case *ndp.NeighborSolicitation:
		seen.Addr, seen.Use = p.Source, Spoken
		if p.Source.IsUnspecified() {
			seen.Addr, seen.Use = m.TargetAddress, Probed
		}
	}
	return seen
}

// solicits checks the addresses of a solicitation by RFC 4861 section 7.1.1.
func (p NDPPacket) solicits(m *ndp.NeighborSolicitation) bool {
	group, err := ndp.SolicitedNodeMulticast(m.TargetAddress)
	if err != nil || m.TargetAddress.IsMulticast() {
		return false
	}
	if p.Source.IsUnspecified() {
		return p.dst == group && !p.option
	}
	return p.dst == group || p.dst == m.TargetAddress
}

// ParseNDP accepts neighbor solicitations and advertisements that are valid by RFC 4861 section
// 7.1: hop limit 255, a correct checksum, code 0, well-formed options, addresses that fit together.
func ParseNDP(frame []byte) (NDPPacket, bool) {
	const start = EthernetHeader + IPv6Header
	if len(frame) < start+24 || len(frame) > maxNDPLength {
		return NDPPacket{}, false
	}
	ip := frame[EthernetHeader:]
	length := int(binary.BigEndian.Uint16(ip[4:]))
	if ip[0]>>4 != 6 || ip[6] != ProtoICMPv6 || ip[7] != NDPHopLimit || length < 24 || start+length > len(frame) {
		return NDPPacket{}, false
	}
	body := frame[start : start+length]
	p := NDPPacket{
		Station: net.HardwareAddr(frame[6:12]),
		Source:  netip.AddrFrom16([16]byte(ip[8:])),
		dst:     netip.AddrFrom16([16]byte(ip[24:])),
	}
	if !IsUnicast(p.Station) || p.Source.IsMulticast() || p.Source.IsLoopback() || body[1] != 0 ||
		checksum(p.Source, p.dst, body) != 0 {
		return NDPPacket{}, false
	}
	m, err := ndp.ParseMessage(body)
	if err != nil {
		return NDPPacket{}, false
	}
	p.Message = m
	switch m := m.(type) {
	case *ndp.NeighborSolicitation:
		return p, p.learn(m.Options, ndp.Source) && p.solicits(m)
	case *ndp.NeighborAdvertisement:
		return p, p.learn(m.Options, ndp.Target)
	}
	return NDPPacket{}, false
}

// learn takes the sender's link-layer address from the options if they have one. It reports false
// for an address that no host can have.
func (p *NDPPacket) learn(options []ndp.Option, direction ndp.Direction) bool {
	for _, option := range options {
		l, ok := option.(*ndp.LinkLayerAddress)
		if !ok || l.Direction != direction {
			continue
		}
		if !IsUnicast(l.Addr) {
			return false
		}
		p.Station, p.option = l.Addr, true
	}
	return true
}

// UnsolicitedNA returns a frame that announces addr to all nodes and overrides their caches (RFC
// 4861 section 7.2.6).
func UnsolicitedNA(mac net.HardwareAddr, addr netip.Addr) []byte {
	return advertisement(mac, MulticastMAC(netip.IPv6LinkLocalAllNodes()), netip.IPv6LinkLocalAllNodes(), addr, false)
}

// NDPProbe returns a frame that asks which host has addr (RFC 4862 section 5.4.2). The answer goes
// to all nodes. It returns nil if addr is not an IPv6 address.
func NDPProbe(mac net.HardwareAddr, addr netip.Addr) []byte {
	group, err := ndp.SolicitedNodeMulticast(addr)
	if err != nil {
		return nil
	}
	return NDPFrame(mac, MulticastMAC(group), netip.IPv6Unspecified(), group,
		&ndp.NeighborSolicitation{TargetAddress: addr})
}

// advertisement returns a neighbor advertisement of target, sent from target itself: that is
// assigned to this node's interface in all but name, and unlike a link-local address it cannot be
// tentative. It returns nil if target is not an IPv6 address.
func advertisement(mac, station net.HardwareAddr, to, target netip.Addr, solicited bool) []byte {
	return NDPFrame(mac, station, target, to, &ndp.NeighborAdvertisement{
		Solicited:     solicited,
		Override:      true,
		TargetAddress: target,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: mac}},
	})
}

// NDPFrame returns a neighbor discovery message as a frame. It returns nil if the message cannot be
// marshaled.
func NDPFrame(mac, station net.HardwareAddr, from, to netip.Addr, m ndp.Message) []byte {
	body, err := ndp.MarshalMessage(m)
	if err != nil {
		return nil
	}
	binary.BigEndian.PutUint16(body[2:], 0)
	binary.BigEndian.PutUint16(body[2:], checksum(from, to, body))
	from16, to16 := from.As16(), to.As16()
	b := make([]byte, 0, EthernetHeader+IPv6Header+len(body))
	b = AppendEthernet(b, station, mac, EtherTypeIPv6)
	b = append(b, 6<<4, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	b = append(b, ProtoICMPv6, NDPHopLimit)
	b = append(b, from16[:]...)
	b = append(b, to16[:]...)
	return append(b, body...)
}

// MulticastMAC returns the Ethernet group of an IPv6 group, RFC 2464 section 7.
func MulticastMAC(group netip.Addr) net.HardwareAddr {
	g := group.As16()
	return net.HardwareAddr{0x33, 0x33, g[12], g[13], g[14], g[15]}
}

// checksum is ICMPv6's checksum, over the pseudo-header and body (RFC 8200 section 8.1). It is 0
// over a body that contains a correct checksum.
func checksum(from, to netip.Addr, body []byte) uint16 {
	total := uint32(ProtoICMPv6) + uint32(len(body))
	add := func(b []byte) {
		for ; len(b) > 1; b = b[2:] {
			total += uint32(b[0])<<8 | uint32(b[1])
		}
		if len(b) == 1 {
			total += uint32(b[0]) << 8
		}
	}
	from16, to16 := from.As16(), to.As16()
	add(from16[:])
	add(to16[:])
	add(body)
	for total > 0xffff {
		total = total>>16 + total&0xffff
	}
	return ^uint16(total)
}
