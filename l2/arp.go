package l2

import (
	"bytes"
	"net"
	"net/netip"

	"github.com/mdlayher/arp"
)

// arpLength is the length of an ARP packet for IPv4 over Ethernet, RFC 826.
const arpLength = 28

// sighting is another host's use of an address that this node knows.
type sighting struct {
	addr netip.Addr
	mac  [6]byte
	use  use
}

// use is what another host does with an address.
type use uint8

const (
	// announced: it tells where the address is, by an ARP reply, a gratuitous ARP or a neighbour
	// advertisement.
	announced use = iota + 1
	// spoken: it asks about something else in the address's name. A peer may, without owning the address, where
	// its kernel has the address too (kube-proxy's IPVS mode).
	spoken
	// probed: it asks whether anybody holds the address that it wants for itself (RFC 5227 section 2.1.1,
	// RFC 4862 section 5.4). Where this node answers, the answer has told it.
	probed
)

// arpResponder answers requests for the addresses this node owns, and notes who else uses them.
type arpResponder struct {
	mac     net.HardwareAddr
	answers *answers
	counts  *segmentCounts
	sighted func(sighting)
}

// respond takes a received frame and returns the frame that answers it, or nil. Probes (RFC 5227, sender
// address 0.0.0.0) are answered like requests. Its cost does not depend on the number of addresses.
func (r *arpResponder) respond(frame []byte) []byte {
	p, ok := parseARP(frame)
	if !ok || bytes.Equal(p.SenderHardwareAddr, r.mac) {
		return nil
	}
	if seen := sightedARP(p); r.answers.knows(seen.addr) {
		r.sighted(seen)
	}
	if p.Operation == arp.OperationReply || p.SenderIP == p.TargetIP {
		return nil
	}
	r.counts.arpRequests.Inc()
	if !asker(p.SenderIP) || !reaches(frame, r.mac) || !r.answers.answering(p.TargetIP) {
		return nil
	}
	r.counts.arpReplies.Inc()
	return arpFrame(p.SenderHardwareAddr, &arp.Packet{
		Operation:          arp.OperationReply,
		SenderHardwareAddr: r.mac, SenderIP: p.TargetIP,
		TargetHardwareAddr: p.SenderHardwareAddr, TargetIP: p.SenderIP,
	})
}

// sightedARP returns which address the packet's sender uses, or wants to.
func sightedARP(p arp.Packet) sighting {
	seen := sighting{p.SenderIP, [6]byte(p.SenderHardwareAddr), announced}
	switch {
	case p.Operation == arp.OperationReply || p.SenderIP == p.TargetIP:
	case p.SenderIP.IsUnspecified():
		seen.addr, seen.use = p.TargetIP, probed
	default:
		seen.use = spoken
	}
	return seen
}

// asker reports whether an IPv4 address may stand for one host, or for one that has none yet.
func asker(a netip.Addr) bool {
	return !a.IsMulticast() && !a.IsLoopback() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// parseARP accepts requests and replies for IPv4 over Ethernet from a single sender, and nothing else.
func parseARP(frame []byte) (p arp.Packet, ok bool) {
	// The lengths inside are checked before the codec sees them: it believes them.
	if len(frame) < ethernetHeader+arpLength || frame[ethernetHeader+4] != 6 || frame[ethernetHeader+5] != 4 {
		return p, false
	}
	if err := p.UnmarshalBinary(frame[ethernetHeader:]); err != nil {
		return p, false
	}
	known := p.Operation == arp.OperationRequest || p.Operation == arp.OperationReply
	return p, known && p.HardwareType == 1 && p.ProtocolType == etherTypeIPv4 &&
		unicast(p.SenderHardwareAddr) && unicast(net.HardwareAddr(frame[6:12]))
}

// gratuitousARP returns the announcement of addr in both forms: the request that RFC 5227 section 3 asks
// for, and the reply that some hosts need (RFC 5944 section 4.6 describes both).
func gratuitousARP(mac net.HardwareAddr, addr netip.Addr) [][]byte {
	return [][]byte{
		arpFrame(broadcast(), &arp.Packet{
			Operation:          arp.OperationRequest,
			SenderHardwareAddr: mac, SenderIP: addr,
			TargetHardwareAddr: make(net.HardwareAddr, 6), TargetIP: addr,
		}),
		arpFrame(broadcast(), &arp.Packet{
			Operation:          arp.OperationReply,
			SenderHardwareAddr: mac, SenderIP: addr,
			TargetHardwareAddr: mac, TargetIP: addr,
		}),
	}
}

// arpProbe asks whether anybody holds addr (RFC 5227 section 2.1.1). It changes nobody's cache.
func arpProbe(mac net.HardwareAddr, addr netip.Addr) []byte {
	return arpFrame(broadcast(), &arp.Packet{
		Operation:          arp.OperationRequest,
		SenderHardwareAddr: mac, SenderIP: netip.IPv4Unspecified(),
		TargetHardwareAddr: make(net.HardwareAddr, 6), TargetIP: addr,
	})
}

// arpRequest asks who has target, in the name of a host.
func arpRequest(mac net.HardwareAddr, sender, target netip.Addr) []byte {
	return arpFrame(broadcast(), &arp.Packet{
		Operation:          arp.OperationRequest,
		SenderHardwareAddr: mac, SenderIP: sender,
		TargetHardwareAddr: make(net.HardwareAddr, 6), TargetIP: target,
	})
}

func arpFrame(to net.HardwareAddr, p *arp.Packet) []byte {
	p.HardwareType, p.ProtocolType, p.HardwareAddrLength, p.IPLength = 1, etherTypeIPv4, 6, 4
	body, _ := p.MarshalBinary() // documented never to fail
	b := make([]byte, 0, ethernetHeader+len(body))
	return append(appendEthernet(b, to, p.SenderHardwareAddr, etherTypeARP), body...)
}
