package neighbor

import (
	"bytes"
	"net"
	"net/netip"

	"github.com/mdlayher/arp"
)

// arpLength is the length of an ARP packet for IPv4 over Ethernet, RFC 826.
const arpLength = 28

// ARPResponder answers requests for addresses, and reports other hosts that use them.
type ARPResponder struct {
	MAC               net.HardwareAddr
	Table             *AddressTable
	Requests, Replies Counter
	Sighted           func(Sighting)
	Asked             func(Question) // nil: nobody wants to know
}

// Respond takes a received frame and returns the frame that answers it, or nil. Probes (RFC 5227,
// sender address 0.0.0.0) are answered like requests. Its cost does not depend on the number of
// addresses.
func (r *ARPResponder) Respond(frame []byte) []byte {
	p, ok := ParseARP(frame)
	if !ok || bytes.Equal(p.SenderHardwareAddr, r.MAC) {
		return nil
	}
	if seen := sightedARP(p); r.Table.Knows(seen.Addr) {
		r.Sighted(seen)
	}
	if p.Operation == arp.OperationReply || p.SenderIP == p.TargetIP {
		return nil
	}
	r.Requests.Inc()
	answers := isSender(p.SenderIP) && reaches(frame, r.MAC) && r.Table.Answering(p.TargetIP)
	if r.Asked != nil && r.Table.Knows(p.TargetIP) {
		r.Asked(Question{p.TargetIP, p.SenderIP, [6]byte(p.SenderHardwareAddr), answers})
	}
	if !answers {
		return nil
	}
	r.Replies.Inc()
	return ARPFrame(p.SenderHardwareAddr, &arp.Packet{
		Operation:          arp.OperationReply,
		SenderHardwareAddr: r.MAC, SenderIP: p.TargetIP,
		TargetHardwareAddr: p.SenderHardwareAddr, TargetIP: p.SenderIP,
	})
}

// sightedARP returns which address the packet's sender uses, or wants to use.
func sightedARP(p arp.Packet) Sighting {
	seen := Sighting{p.SenderIP, [6]byte(p.SenderHardwareAddr), Announced}
	switch {
	case p.Operation == arp.OperationReply || p.SenderIP == p.TargetIP:
	case p.SenderIP.IsUnspecified():
		seen.Addr, seen.Use = p.TargetIP, Probed
	default:
		seen.Use = Spoken
	}
	return seen
}

// isSender reports whether an IPv4 address may belong to one host, or to one that has no address
// yet.
func isSender(a netip.Addr) bool {
	return !a.IsMulticast() && !a.IsLoopback() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// ParseARP accepts requests and replies for IPv4 over Ethernet from a single sender, and nothing
// else.
func ParseARP(frame []byte) (p arp.Packet, ok bool) {
	// The codec trusts the lengths inside, so they are checked first.
	if len(frame) < EthernetHeader+arpLength || frame[EthernetHeader+4] != 6 || frame[EthernetHeader+5] != 4 {
		return p, false
	}
	if err := p.UnmarshalBinary(frame[EthernetHeader:]); err != nil {
		return p, false
	}
	known := p.Operation == arp.OperationRequest || p.Operation == arp.OperationReply
	return p, known && p.HardwareType == 1 && p.ProtocolType == EtherTypeIPv4 &&
		IsUnicast(p.SenderHardwareAddr) && IsUnicast(net.HardwareAddr(frame[6:12]))
}

// GratuitousARP returns the announcement of addr in both forms: the request that RFC 5227 section 3
// asks for, and the reply that some hosts need (RFC 5944 section 4.6 describes both).
func GratuitousARP(mac net.HardwareAddr, addr netip.Addr) [][]byte {
	return [][]byte{
		ARPFrame(broadcast(), &arp.Packet{
			Operation:          arp.OperationRequest,
			SenderHardwareAddr: mac, SenderIP: addr,
			TargetHardwareAddr: make(net.HardwareAddr, 6), TargetIP: addr,
		}),
		ARPFrame(broadcast(), &arp.Packet{
			Operation:          arp.OperationReply,
			SenderHardwareAddr: mac, SenderIP: addr,
			TargetHardwareAddr: mac, TargetIP: addr,
		}),
	}
}

// ARPProbe returns a frame that asks which host has addr (RFC 5227 section 2.1.1). It changes no
// cache.
func ARPProbe(mac net.HardwareAddr, addr netip.Addr) []byte {
	return ARPFrame(broadcast(), &arp.Packet{
		Operation:          arp.OperationRequest,
		SenderHardwareAddr: mac, SenderIP: netip.IPv4Unspecified(),
		TargetHardwareAddr: make(net.HardwareAddr, 6), TargetIP: addr,
	})
}

// ARPRequest returns a frame that asks which host has target, in the name of the sender.
func ARPRequest(mac net.HardwareAddr, sender, target netip.Addr) []byte {
	return ARPFrame(broadcast(), &arp.Packet{
		Operation:          arp.OperationRequest,
		SenderHardwareAddr: mac, SenderIP: sender,
		TargetHardwareAddr: make(net.HardwareAddr, 6), TargetIP: target,
	})
}

// ARPFrame returns an ARP packet for IPv4 over Ethernet as a frame.
func ARPFrame(to net.HardwareAddr, p *arp.Packet) []byte {
	p.HardwareType, p.ProtocolType, p.HardwareAddrLength, p.IPLength = 1, EtherTypeIPv4, 6, 4
	body, _ := p.MarshalBinary() // documented never to fail
	b := make([]byte, 0, EthernetHeader+len(body))
	return append(AppendEthernet(b, to, p.SenderHardwareAddr, EtherTypeARP), body...)
}
