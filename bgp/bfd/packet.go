package bfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// State is a session's state (RFC 5880 section 4.1).
type State uint8

// The states, with their values in packets.
const (
	AdminDown State = iota
	Down
	Init
	Up
)

// String returns the name of the state as RFC 5880 writes it.
func (s State) String() string { return [...]string{"AdminDown", "Down", "Init", "Up"}[s&3] }

// Diagnostic says why a session last left Up (RFC 5880 section 4.1).
type Diagnostic uint8

// The diagnostics that are used here.
const (
	NoDiagnostic         Diagnostic = 0
	DetectionTimeExpired Diagnostic = 1
	NeighborSignaledDown Diagnostic = 3
	AdministrativelyDown Diagnostic = 7
)

// String returns the diagnostic in words.
func (d Diagnostic) String() string {
	words := [...]string{
		"no diagnostic",
		"control detection time expired",
		"echo function failed",
		"neighbor signaled session down",
		"forwarding plane reset",
		"path down",
		"concatenated path down",
		"administratively down",
		"reverse concatenated path down",
	}
	if int(d) < len(words) {
		return words[d]
	}
	return fmt.Sprintf("diagnostic %d", uint8(d))
}

// packet is a control packet (RFC 5880 section 4.1). The codec is our own:
// that of GoBGP v4.8.0 reads neither the authentication nor the demand bit, and refuses what
// follows the packet.
type packet struct {
	diag       Diagnostic
	state      State
	poll       bool
	final      bool
	demand     bool
	multiplier uint8
	mine       uint32 // discriminator of the sender's session
	yours      uint32 // that of ours, as far as the sender knows it; 0: it does not
	desiredTx  time.Duration
	requiredRx time.Duration
	signed     bool
	section    [signedLength]byte // the whole packet with its authentication, if signed
}

const (
	packetLength = 24
	version      = 1

	bitPoll           = 1 << 5
	bitFinal          = 1 << 4
	bitAuthentication = 1 << 2
	bitDemand         = 1 << 1
	bitMultipoint     = 1
)

// append writes the packet. The control plane shares its fate with the program's BGP, so bit C is
// not set; there is no echo function.
func (p packet) append(b []byte) []byte {
	flags := byte(p.state) << 6
	if p.poll {
		flags |= bitPoll
	}
	if p.final {
		flags |= bitFinal
	}
	b = append(b, version<<5|byte(p.diag)&0x1f, flags, p.multiplier, packetLength)
	for _, n := range []uint32{p.mine, p.yours, microseconds(p.desiredTx), microseconds(p.requiredRx), 0} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}

func microseconds(d time.Duration) uint32 { return uint32(d / time.Microsecond) }

var (
	errLength         = errors.New("length")
	errVersion        = errors.New("version")
	errMultiplier     = errors.New("multiplier")
	errMultipoint     = errors.New("multipoint")
	errDiscriminator  = errors.New("discriminator")
	errAuthentication = errors.New("authentication")
)

// parse reads a packet and checks what RFC 5880 section 6.8.6 checks before the session is known,
// and after.
func parse(b []byte) (packet, error) {
	switch {
	case len(b) < packetLength:
		return packet{}, errLength
	case b[0]>>5 != version:
		return packet{}, errVersion
	case b[3] < packetLength || int(b[3]) > len(b):
		return packet{}, errLength
	case b[2] == 0:
		return packet{}, errMultiplier
	case b[1]&bitMultipoint != 0:
		return packet{}, errMultipoint
	}
	p := packet{
		diag: Diagnostic(b[0] & 0x1f), state: State(b[1] >> 6), poll: b[1]&bitPoll != 0, final: b[1]&bitFinal != 0,
		demand: b[1]&bitDemand != 0, multiplier: b[2], mine: binary.BigEndian.Uint32(b[4:]),
		yours:      binary.BigEndian.Uint32(b[8:]),
		desiredTx:  time.Duration(binary.BigEndian.Uint32(b[12:])) * time.Microsecond,
		requiredRx: time.Duration(binary.BigEndian.Uint32(b[16:])) * time.Microsecond,
	}
	switch {
	case p.mine == 0, p.yours == 0 && p.state != Down && p.state != AdminDown:
		return packet{}, errDiscriminator
	case b[1]&bitAuthentication == 0:
		return p, nil
	case b[3] < packetLength+2: // as long as what every section has
		return packet{}, errAuthentication
	}
	p.signed = true
	copy(p.section[:], b[:b[3]]) // what is longer, or shorter, is of no kind that is known here
	return p, nil
}
