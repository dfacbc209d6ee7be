// Package decide is what the program decides about a packet, in Go: the same hash, the same order
// of nodes, the same verdict, word for word as in program/bpf/decide.h and siphash.h. It tells
// where a packet goes without sending it. The package is pure.
package decide

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// Seed is the secret of a cluster that packets are hashed with: without it nobody can choose
// connections that all go to one node. It never changes in place, since all connections would move.
type Seed [2]uint64

// SeedFrom makes a Seed of 16 bytes.
func SeedFrom(b [16]byte) Seed {
	return Seed{binary.LittleEndian.Uint64(b[:8]), binary.LittleEndian.Uint64(b[8:])}
}

// Protocols as the IP header has them.
const (
	TCP  = 6
	UDP  = 17
	SCTP = 132
)

// Flow is a connection, as its client sends.
type Flow struct {
	Client, Service netip.AddrPort
	Protocol        uint8
}

// Hash is SipHash-1-3 of the client's address; unless by source only also of the Service's, the
// ports (client's, Service's), and the protocol, all as they are in a packet. Of its 64 bits it
// returns the upper half.
func (f Flow) Hash(seed Seed, bySource bool) uint32 {
	client, service := f.Client.Addr().Unmap(), f.Service.Addr().Unmap()
	message := client.AsSlice()
	if !bySource {
		message = append(message, service.AsSlice()...)
		message = binary.BigEndian.AppendUint16(message, f.Client.Port())
		message = binary.BigEndian.AppendUint16(message, f.Service.Port())
		message = append(message, f.Protocol)
	}
	return uint32(sipHash(seed, message, 1, 3) >> 32)
}

// SlotOf returns which of so many slots a hash selects.
func SlotOf(hash uint32, slots int) int {
	return int(uint64(hash) * uint64(slots) >> 32)
}

// sipHash is SipHash-c-d (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012).
func sipHash(seed Seed, message []byte, c, d int) uint64 {
	v0, v1 := seed[0]^0x736f6d6570736575, seed[1]^0x646f72616e646f6d
	v2, v3 := seed[0]^0x6c7967656e657261, seed[1]^0x7465646279746573
	round := func(n int) {
		for range n {
			v0 += v1
			v2 += v3
			v1 = bits.RotateLeft64(v1, 13) ^ v0
			v3 = bits.RotateLeft64(v3, 16) ^ v2
			v0 = bits.RotateLeft64(v0, 32)
			v2 += v1
			v0 += v3
			v1 = bits.RotateLeft64(v1, 17) ^ v2
			v3 = bits.RotateLeft64(v3, 21) ^ v0
			v2 = bits.RotateLeft64(v2, 32)
		}
	}
	word := func(m uint64) {
		v3 ^= m
		round(c)
		v0 ^= m
	}
	rest := message
	for ; len(rest) >= 8; rest = rest[8:] {
		word(binary.LittleEndian.Uint64(rest))
	}
	var last [8]byte
	copy(last[:], rest)
	last[7] = byte(len(message))
	word(binary.LittleEndian.Uint64(last[:]))
	v2 ^= 0xff
	round(d)
	return v0 ^ v1 ^ v2 ^ v3
}
