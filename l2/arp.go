package l2

import (
	"bytes"
	"net"
	"net/netip"

	"github.com/mdlayher/arp"
	"golang.org/x/net/bpf"
)

// arpLength is the length of an ARP packet for IPv4 over Ethernet, RFC 826.
const arpLength = 28

// sighting is somebody's announcement of an address that is one of ours.
type sighting struct {
	addr netip.Addr
	mac  [6]byte
}

// arpResponder answers requests for the addresses this node owns, and notes who else announces them.
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
	if p.Operation == arp.OperationReply || p.SenderIP == p.TargetIP {
		if len(r.answers.groupsOf(p.SenderIP)) > 0 {
			r.sighted(sighting{p.SenderIP, [6]byte(p.SenderHardwareAddr)})
		}
		return nil
	}
	r.counts.arpRequests.Inc()
	if !r.answers.answering(p.TargetIP) {
		return nil
	}
	r.counts.arpReplies.Inc()
	return arpFrame(p.SenderHardwareAddr, &arp.Packet{
		Operation:          arp.OperationReply,
		SenderHardwareAddr: r.mac, SenderIP: p.TargetIP,
		TargetHardwareAddr: p.SenderHardwareAddr, TargetIP: p.SenderIP,
	})
}

// parseARP accepts requests and replies for IPv4 over Ethernet from a single sender, and nothing else.
func parseARP(frame []byte) (*arp.Packet, bool) {
	// The lengths inside are checked before the codec sees them: it believes them.
	if len(frame) < ethernetHeader+arpLength || frame[ethernetHeader+4] != 6 || frame[ethernetHeader+5] != 4 {
		return nil, false
	}
	p := new(arp.Packet)
	if err := p.UnmarshalBinary(frame[ethernetHeader:]); err != nil {
		return nil, false
	}
	known := p.Operation == arp.OperationRequest || p.Operation == arp.OperationReply
	return p, known && p.HardwareType == 1 && p.ProtocolType == etherTypeIPv4 && unicast(p.SenderHardwareAddr)
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

func arpFrame(to net.HardwareAddr, p *arp.Packet) []byte {
	p.HardwareType, p.ProtocolType, p.HardwareAddrLength, p.IPLength = 1, etherTypeIPv4, 6, 4
	body, _ := p.MarshalBinary() // documented never to fail
	b := make([]byte, 0, ethernetHeader+len(body))
	return append(appendEthernet(b, to, p.SenderHardwareAddr, etherTypeARP), body...)
}

// arpFilter passes ARP requests and replies for IPv4 over Ethernet whose sender or target address lies
// between low and high: on a busy segment the rest never wakes this process.
func arpFilter(low, high netip.Addr) []bpf.Instruction {
	lo, hi := word(low), word(high)
	const sender, target = ethernetHeader + 14, ethernetHeader + 24
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: ethernetHeader, Size: 4}, // hardware and protocol type
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 1<<16 | etherTypeIPv4, SkipTrue: 10},
		bpf.LoadAbsolute{Off: ethernetHeader + 4, Size: 4}, // lengths and operation
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 6<<24 | 4<<16 | uint32(arp.OperationRequest), SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 6<<24 | 4<<16 | uint32(arp.OperationReply), SkipTrue: 7},
		bpf.LoadAbsolute{Off: target, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: lo, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpLessOrEqual, Val: hi, SkipTrue: 3},
		bpf.LoadAbsolute{Off: sender, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: lo, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: hi, SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 16},
		bpf.RetConstant{Val: 0},
	}
}

func word(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}
