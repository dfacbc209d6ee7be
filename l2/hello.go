package l2

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"net"
	"slices"
	"time"
)

// A hello is one Ethernet frame with a local experimental EtherType (IEEE 802, 0x88b5), big endian:
//
//	magic "BRTH" | version 1 | state 1 | interval ms 2 | boot nonce 8 | sequence 8 | MAC 6 | name length 1 | name | HMAC-SHA256 32
//
// The HMAC covers everything before it. The shortest hello is longer than the 46 bytes Ethernet pads to,
// so that the length is exact.
const (
	etherTypeHello = 0x88b5

	helloMagic   = "BRTH"
	helloVersion = 1
	helloFixed   = len(helloMagic) + 1 + 1 + 2 + 8 + 8 + 6 + 1

	maxNodeName      = 253 // a DNS subdomain, RFC 1123
	maxHello         = helloFixed + maxNodeName + sha256.Size
	minHelloInterval = 10 * time.Millisecond
	maxHelloInterval = 10 * time.Second
)

// helloGroup is locally administered multicast: switches and bridges flood it like any unknown group,
// while they keep the standard's own link-local groups (01:80:c2:00:00:0x) to themselves.
func helloGroup() net.HardwareAddr { return net.HardwareAddr{0x03, 'b', 'e', 'r', 't', 'h'} }

// hello is what a node says of itself, several times a second.
type hello struct {
	node     string
	boot     uint64 // random for each process
	sequence uint64 // grows with each hello of one boot on one segment
	interval time.Duration
	state    State
	mac      [6]byte // of the sender's interface: whose gratuitous ARP is a peer's
}

// rejection is why a hello was ignored; its text is the metric's label.
type rejection string

func (r rejection) Error() string { return "hello rejected: " + string(r) }

const (
	rejectLength  rejection = "length"
	rejectVersion rejection = "version"
	rejectHMAC    rejection = "hmac"
	rejectField   rejection = "field"
	rejectOwn     rejection = "own"
	rejectReplay  rejection = "replay"
	rejectTooMany rejection = "too_many"
	rejectNoKey   rejection = "no_key"
)

// seal returns the hello's payload, signed with key.
func (h hello) seal(key []byte) []byte {
	b := make([]byte, 0, helloFixed+len(h.node)+sha256.Size)
	b = append(b, helloMagic...)
	b = append(b, helloVersion, byte(h.state))
	b = binary.BigEndian.AppendUint16(b, uint16(h.interval/time.Millisecond))
	b = binary.BigEndian.AppendUint64(b, h.boot)
	b = binary.BigEndian.AppendUint64(b, h.sequence)
	b = append(b, h.mac[:]...)
	b = append(b, byte(len(h.node)))
	b = append(b, h.node...)
	return sum(b, b, key)
}

// openHello returns the hello that payload holds, or a rejection. Nothing is believed before the HMAC held.
func openHello(payload []byte, keys Keys) (hello, error) {
	switch {
	case len(keys.Sign) == 0:
		return hello{}, rejectNoKey
	case len(payload) < helloFixed+1+sha256.Size || len(payload) > maxHello:
		return hello{}, rejectLength
	case string(payload[:4]) != helloMagic || payload[4] != helloVersion:
		return hello{}, rejectVersion
	case len(payload) != helloFixed+int(payload[helloFixed-1])+sha256.Size:
		return hello{}, rejectLength
	}
	signed, got := payload[:len(payload)-sha256.Size], payload[len(payload)-sha256.Size:]
	if !slices.ContainsFunc(append([][]byte{keys.Sign}, keys.Accept...), func(key []byte) bool { return hmac.Equal(sum(nil, signed, key), got) }) {
		return hello{}, rejectHMAC
	}
	h := hello{
		state:    State(signed[5]),
		interval: time.Duration(binary.BigEndian.Uint16(signed[6:])) * time.Millisecond,
		boot:     binary.BigEndian.Uint64(signed[8:]),
		sequence: binary.BigEndian.Uint64(signed[16:]),
		mac:      [6]byte(signed[24:]),
		node:     string(signed[helloFixed:]),
	}
	if h.state > Restarting || h.interval < minHelloInterval || h.interval > maxHelloInterval {
		return hello{}, rejectField
	}
	return h, nil
}

func sum(to, signed, key []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(signed) // a hash never fails to be written
	return m.Sum(to)
}

// helloFrame puts a payload into an Ethernet frame from mac to all speakers of the segment.
func helloFrame(mac net.HardwareAddr, payload []byte) []byte {
	b := make([]byte, 0, ethernetHeader+len(payload))
	b = appendEthernet(b, helloGroup(), mac, etherTypeHello)
	return append(b, payload...)
}
