// Package frametest builds frames for tests, by other codecs than those that are tested.
package frametest

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
)

// The MAC addresses of this node and of another host.
var (
	Ours   = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	Theirs = net.HardwareAddr{2, 0, 0, 0, 0, 9}
)

// ARP returns a broadcast ARP packet as a frame.
func ARP(t testing.TB, op arp.Operation, mac net.HardwareAddr, sender, target netip.Addr) []byte {
	t.Helper()
	p, err := arp.NewPacket(op, mac, sender, make(net.HardwareAddr, 6), target)
	if err != nil {
		t.Fatal(err)
	}
	body, err := p.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return marshal(t, &ethernet.Frame{
		Destination: ethernet.Broadcast, Source: mac, EtherType: ethernet.EtherTypeARP, Payload: body,
	})
}

// NDP returns a neighbor discovery message as a frame from Theirs to Ours.
func NDP(t testing.TB, m ndp.Message, from, to netip.Addr) []byte {
	t.Helper()
	body, err := ndp.MarshalMessageChecksum(m, from, to)
	if err != nil {
		t.Fatal(err)
	}
	ip := append([]byte{6 << 4, 0, 0, 0, 0, 0, 58, 255}, from.AsSlice()...)
	ip = append(ip, to.AsSlice()...)
	binary.BigEndian.PutUint16(ip[4:], uint16(len(body)))
	return marshal(t, &ethernet.Frame{
		Destination: Ours, Source: Theirs, EtherType: ethernet.EtherTypeIPv6, Payload: append(ip, body...),
	})
}

// Solicitation returns a neighbor solicitation as a frame from Theirs to Ours. With option set it
// carries the source link-layer address.
func Solicitation(t testing.TB, from, to, target netip.Addr, option bool) []byte {
	t.Helper()
	m := &ndp.NeighborSolicitation{TargetAddress: target}
	if option {
		m.Options = []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: Theirs}}
	}
	return NDP(t, m, from, to)
}

// SolicitedNode returns an address's solicited-node group.
func SolicitedNode(t testing.TB, addr netip.Addr) netip.Addr {
	t.Helper()
	g, err := ndp.SolicitedNodeMulticast(addr)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// ListenerQuery returns an MLD query as a frame from Theirs, of MLD's first version if short is
// set. The delay is in milliseconds.
func ListenerQuery(from, to, group netip.Addr, delay uint16, short bool) []byte {
	body := binary.BigEndian.AppendUint16([]byte{130, 0, 0, 0}, delay)
	body = append(append(body, 0, 0), group.AsSlice()...)
	if !short {
		body = append(body, 2, 125, 0, 0)
	}
	pseudo := slices.Concat(from.AsSlice(), to.AsSlice(), []byte{0, 0, 0, byte(len(body)), 0, 0, 0, 58}, body)
	binary.BigEndian.PutUint16(body[2:], checksum(pseudo))
	g := to.As16()
	b := slices.Concat([]byte{0x33, 0x33}, g[12:], Theirs, []byte{0x86, 0xdd, 6 << 4, 0, 0, 0})
	b = append(binary.BigEndian.AppendUint16(b, uint16(8+len(body))), 0, 1)
	return slices.Concat(b, from.AsSlice(), to.AsSlice(), []byte{58, 0, 5, 2, 0, 0, 1, 0}, body)
}

// Tagged puts a VLAN tag into a frame, as no kernel hands it out.
func Tagged(frame []byte) []byte {
	return slices.Concat(frame[:12], []byte{0x81, 0, 0, 7}, frame[12:])
}

func marshal(t testing.TB, f *ethernet.Frame) []byte {
	t.Helper()
	b, err := f.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// checksum is the Internet checksum (RFC 1071) of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 0; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
