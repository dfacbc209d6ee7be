//go:build root

package program

import (
	"encoding/binary"
	"net/netip"

	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
)

// A frame is built from the inside out: each function puts a header before what it is given.

func ports(from, to uint16, more ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, from)
	return append(binary.BigEndian.AppendUint16(b, to), more...)
}

const (
	syn = 0x02
	ack = 0x10
)

func tcp(from, to uint16, flags byte) []byte {
	return ports(from, to, 0, 0, 0, 1, 0, 0, 0, 0, 5<<4, flags, 0, 0, 0, 0, 0, 0)
}

func udp(from, to uint16, data ...byte) []byte {
	return append(ports(from, to, 0, byte(8+len(data)), 0, 0), data...)
}

func sctp(from, to uint16) []byte { return ports(from, to, 0, 0, 0, 0, 0, 0, 0, 0) }

// packet is an IP packet of a flow.
func packet(f decide.Flow, ttl uint8, payload []byte) []byte {
	return ip(f.Client.Addr(), f.Service.Addr(), f.Protocol, ttl, payload)
}

func ip(from, to netip.Addr, protocol, ttl uint8, payload []byte) []byte {
	if from.Is4() {
		return ipv4(from, to, protocol, ttl, 0, payload)
	}
	return ipv6(from, to, protocol, ttl, payload)
}

// fragmentID is of all fragments.
const fragmentID = 0x1234

func ipv4(from, to netip.Addr, protocol, ttl uint8, fragment uint16, payload []byte, options ...byte) []byte {
	h := make([]byte, 12, 60)
	h[0], h[8], h[9] = 0x40|byte(5+len(options)/4), ttl, protocol
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(options)+len(payload)))
	binary.BigEndian.PutUint16(h[4:], fragmentID)
	binary.BigEndian.PutUint16(h[6:], fragment)
	h = append(append(append(h, from.AsSlice()...), to.AsSlice()...), options...)
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	return append(h, payload...)
}

func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

func ipv6(from, to netip.Addr, next, hopLimit uint8, payload []byte) []byte {
	h := []byte{0x60, 0, 0, 0, byte(len(payload) >> 8), byte(len(payload)), next, hopLimit}
	return append(append(append(h, from.AsSlice()...), to.AsSlice()...), payload...)
}

// fragment6 is a fragment header; offset is in bytes.
func fragment6(next uint8, offset uint16, more bool, payload []byte) []byte {
	if more {
		offset |= 1
	}
	h := []byte{next, 0, byte(offset >> 8), byte(offset), 0, 0, fragmentID >> 8, fragmentID & 0xff}
	return append(h, payload...)
}

// extension is a header of hop-by-hop or destination options of 16 bytes.
func extension(next uint8, payload []byte) []byte {
	return append([]byte{next, 1, 1, 4, 0, 0, 0, 0, 1, 6, 0, 0, 0, 0, 0, 0}, payload...)
}

// routing is a routing header; left is how many segments are.
func routing(next, left uint8, payload []byte) []byte {
	return append([]byte{next, 0, 253, left, 0, 0, 0, 0}, payload...)
}

// icmpError quotes a packet of the Service's.
func icmpError(kind, code uint8, quoted []byte) []byte {
	return append([]byte{kind, code, 0, 0, 0, 0, 5, 0xb4}, quoted...)
}

// ethernet is a frame for the host that runs the program.
func ethernet(payload []byte, tags ...byte) []byte {
	f := append(make([]byte, 12, 14+len(payload)), tags...)
	if payload[0]>>4 == 6 {
		f = append(f, 0x86, 0xdd)
	} else {
		f = append(f, 8, 0)
	}
	return append(f, payload...)
}
