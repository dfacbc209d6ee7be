package bfd

import (
	"crypto/sha1" //nolint:gosec // what RFC 5880 has
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Authentication signs the packets of a session: Keyed SHA1 (RFC 5880 section 6.7.4). The zero
// value is none.
type Authentication struct {
	// Meticulous: each packet has a sequence number of its own, so that none can be replayed.
	Meticulous bool
	// KeyID is the number that both ends have for the key.
	KeyID uint8
	// Key is of 1 to 20 bytes.
	Key string
}

// LongestKey of an Authentication, in bytes.
const LongestKey = sha1.Size

// Types of authentication (RFC 5880 section 4.1), and where things are in the section that
// follows a packet (section 4.4).
const (
	typeKeyedSHA1      = 4
	typeMeticulousSHA1 = 5

	authLength  = 28
	offsetKeyID = 2
	offsetSeq   = 4
	offsetHash  = 8
	// signedLength is the length of a packet with its section.
	signedLength = packetLength + authLength
)

func (a Authentication) kind() byte {
	if a.Meticulous {
		return typeMeticulousSHA1
	}
	return typeKeyedSHA1
}

// on reports whether packets are signed.
func (a Authentication) on() bool { return a.Key != "" }

// sign appends the section to a packet, and says so in it.
func (a Authentication) sign(b []byte, seq uint32) []byte {
	b[1] |= bitAuthentication
	b[3] = signedLength
	b = append(b, a.kind(), authLength, a.KeyID, 0)
	b = binary.BigEndian.AppendUint32(b, seq)
	hash := a.hash(b)
	return append(b, hash[:]...)
}

// hash is that of a packet, of which everything but the hash is given: the key is in its place.
func (a Authentication) hash(b []byte) [sha1.Size]byte {
	var key [sha1.Size]byte
	copy(key[:], a.Key)
	return sha1.Sum(append(b[:packetLength+offsetHash:packetLength+offsetHash], key[:]...)) //nolint:gosec // see above
}

// Why packets are not taken. They are for the status of a session.
var (
	errUnsigned = errors.New("the router does not sign its BFD packets, and is to: spec.bfd.authentication")
	errSigned   = errors.New("the router signs its BFD packets; give the BGPNeighbor the same key, in spec.bfd.authentication")
	errHash     = errors.New("the router's BFD packets are signed with another key than that of spec.bfd.authentication")
	errReplayed = errors.New("the router's BFD packets have sequence numbers that were used before: somebody sends them again")
)

// sequences are the numbers of one session (RFC 5880 section 6.8.1).
type sequences struct {
	out   uint32 // the last that was sent
	in    uint32 // the last that came, if known
	known bool
}

func newSequences() sequences { return sequences{out: rand.Uint32()} }

// bytes are a packet as it is sent, signed if packets are to be.
func (s *session) bytes(p packet) []byte {
	b := p.append(make([]byte, 0, signedLength))
	if !s.auth.on() {
		return b
	}
	s.sequences.out++
	return s.auth.sign(b, s.sequences.out)
}

// check returns why a packet is not from who has the key, or nil.
func (a Authentication) check(p packet, s *sequences) error {
	switch {
	case !a.on() && !p.signed:
		return nil
	case !a.on():
		return errSigned
	case !p.signed:
		return errUnsigned
	}
	section := p.section[packetLength:]
	switch {
	case section[0] != a.kind():
		return fmt.Errorf("the router signs its BFD packets by method %d of RFC 5880, and spec.bfd.authentication.type is method %d", section[0], a.kind())
	case section[1] != authLength, section[offsetKeyID] != a.KeyID:
		return fmt.Errorf("the router signs its BFD packets with the key %d, and spec.bfd.authentication.keyID is %d", section[offsetKeyID], a.KeyID)
	}
	hash := a.hash(p.section[:])
	if subtle.ConstantTimeCompare(hash[:], section[offsetHash:]) != 1 {
		return errHash
	}
	seq := binary.BigEndian.Uint32(section[offsetSeq:])
	least := uint32(0)
	if a.Meticulous {
		least = 1
	}
	if s.known && seq-s.in-least > 3*uint32(p.multiplier)-least {
		return errReplayed
	}
	s.in, s.known = seq, true
	return nil
}

// forgetAfter is after how many detection times without a packet the router's sequence begins
// again.
const forgetAfter = 2

// silentSince reports whether no packet came for so long that numbers may begin again.
func (s *session) silentSince(now time.Time) bool {
	return !s.verified.IsZero() && now.Sub(s.verified) >= forgetAfter*max(s.detection(), slow)
}
