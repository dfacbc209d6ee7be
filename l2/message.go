package l2

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"net"
	"slices"
	"time"
)

// A message is one Ethernet frame with a local experimental EtherType (IEEE 802, 0x88b5), big endian:
//
//	magic "BRTH" | version 1 | kind 1 | state 1 | reserved 1 | interval ms 2 | cluster 8 | boot nonce 8 |
//	sequence 8 | digest 8 | MAC 6 | name length 1 | name | body length 2 | body | capabilities 2 | HMAC-SHA256 32
//
// The HMAC covers everything before it. The shortest message is longer than the 46 bytes Ethernet pads to. What
// a later minor version appends stands before the HMAC, and is passed over by those who do not know it. So came the
// capabilities, which the first version did not send.
//
// Bodies: a pull and the two of a challenge are addressed, "to boot 8 | nonce 8". Claims are
// "flags 1 | from 16 | to 16" and 25 bytes for each: "group 16 | term 8 | flags 1".
const (
	etherTypeHello = 0x88b5

	messageMagic    = "BRTH"
	messageVersion  = 1
	messageFixed    = len(messageMagic) + 4 + 2 + 8 + 8 + 8 + 8 + 6 + 1
	bodyLength      = 2
	capabilityBytes = 2
	addressedBody   = 16
	claimsFixed     = 1 + 2*len(groupKey{})
	claimBytes      = len(groupKey{}) + 8 + 1

	maxNodeName      = 253 // a DNS subdomain, RFC 1123
	minMessage       = messageFixed + 1 + bodyLength + sha256.Size
	minHelloInterval = 10 * time.Millisecond
	maxHelloInterval = 10 * time.Second
)

// helloGroup is locally administered multicast: switches and bridges flood it like any unknown group,
// while they keep the standard's own link-local groups (01:80:c2:00:00:0x) to themselves.
func helloGroup() net.HardwareAddr { return net.HardwareAddr{0x03, 'b', 'e', 'r', 't', 'h'} }

// messageKind is what a message is for, beside being a sign of life.
type messageKind uint8

const (
	kindHello     messageKind = iota + 1
	kindClaims                // claims of the sender
	kindPull                  // asks one node for all its claims
	kindChallenge             // asks a boot to show that it lives
	kindProof                 // shows it
)

// groupKey is a group's name on the wire: the beginning of its SHA-256.
type groupKey [16]byte

func keyOf(group string) groupKey {
	full := sha256.Sum256([]byte(group))
	return groupKey(full[:16])
}

// message is what a node says of itself, and perhaps to another.
type message struct {
	kind     messageKind
	node     string
	cluster  uint64
	boot     uint64 // random for each process
	sequence uint64 // grows with each message of one boot on one segment
	interval time.Duration
	state    State
	digest   uint64  // of all the sender's claims
	mac      [6]byte // of the sender's interface: whose gratuitous ARP is a peer's

	capabilities Capabilities // none: also an older sender's

	to, nonce uint64 // of kindPull, kindChallenge and kindProof
	claims    claims // of kindClaims
}

// claims are some of a node's claims, or all of them between two groups.
type claims struct {
	whole    bool     // all of those between from and to: others are void
	from, to groupKey // inclusive
	entries  []claimEntry
}

// claimEntry is one claim on the wire.
type claimEntry struct {
	group groupKey
	claim
	removed bool
}

// claim is one node's word that it owns a group.
type claim struct {
	term      uint64
	witnessed bool
	offered   bool // to whoever takes it
	// relayed: it is not this node's, but one of a node that is silent here and of which the mirror tells.
	relayed bool
	// partial: its node does not answer for all of the group's addresses, or not yet.
	partial bool
	// held, never on the wire: it was its former process's, and is kept for the one that has come.
	held bool
}

const (
	flagWhole = 1 << iota
)

const (
	flagWitnessed = 1 << iota
	flagOffered
	flagRelayed
	flagRemoved
	flagPartial
)

// sum is the claim's part of a digest, which is the sum over all claims, modulo 2^64. Older versions drop partial when
// they read it: it is no part of the digest, lest theirs differ for ever.
func (c claim) sum(group groupKey) uint64 {
	flags := c.flags() &^ flagPartial
	return mix(binary.BigEndian.Uint64(group[:]) ^ mix(binary.BigEndian.Uint64(group[8:])^mix(c.term<<8|uint64(flags))))
}

func (c claim) flags() byte {
	return flagIf(c.witnessed, flagWitnessed) | flagIf(c.offered, flagOffered) | flagIf(c.relayed, flagRelayed) | flagIf(c.partial, flagPartial)
}

func claimOf(term uint64, flags byte) claim {
	return claim{
		term: term, witnessed: flags&flagWitnessed != 0, offered: flags&flagOffered != 0, relayed: flags&flagRelayed != 0,
		partial: flags&flagPartial != 0,
	}
}

// rejection is why a message was ignored; its text is the metric's label.
type rejection string

func (r rejection) Error() string { return "hello rejected: " + string(r) }

const (
	rejectLength  rejection = "length"
	rejectVersion rejection = "version"
	rejectCluster rejection = "cluster"
	rejectHMAC    rejection = "hmac"
	rejectField   rejection = "field"
	rejectOwn     rejection = "own"
	rejectReplay  rejection = "replay"
	rejectBoot    rejection = "boot" // a boot that has not shown yet that it lives
	rejectTooMany rejection = "too_many"
	rejectNoKey   rejection = "no_key"
)

// seal returns the message's payload, signed with key.
func (m message) seal(key []byte) []byte {
	b := make([]byte, 0, messageFixed+len(m.node)+bodyLength+claimsFixed+len(m.claims.entries)*claimBytes+capabilityBytes+sha256.Size)
	b = append(b, messageMagic...)
	b = append(b, messageVersion, byte(m.kind), byte(m.state), 0)
	b = binary.BigEndian.AppendUint16(b, uint16(m.interval/time.Millisecond))
	for _, n := range []uint64{m.cluster, m.boot, m.sequence, m.digest} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	b = append(b, m.mac[:]...)
	b = append(b, byte(len(m.node)))
	b = append(b, m.node...)
	body := len(b)
	b = append(b, 0, 0)
	switch m.kind {
	case kindHello:
	case kindPull, kindChallenge, kindProof:
		b = binary.BigEndian.AppendUint64(b, m.to)
		b = binary.BigEndian.AppendUint64(b, m.nonce)
	case kindClaims:
		b = m.claims.append(b)
	}
	binary.BigEndian.PutUint16(b[body:], uint16(len(b)-body-bodyLength))
	b = binary.BigEndian.AppendUint16(b, uint16(m.capabilities))
	return sign(b, b, key)
}

func (c claims) append(b []byte) []byte {
	b = append(b, flagIf(c.whole, flagWhole))
	b = append(b, c.from[:]...)
	b = append(b, c.to[:]...)
	for _, e := range c.entries {
		b = append(b, e.group[:]...)
		b = binary.BigEndian.AppendUint64(b, e.term)
		b = append(b, e.flags()|flagIf(e.removed, flagRemoved))
	}
	return b
}

func flagIf(set bool, flag byte) byte {
	if set {
		return flag
	}
	return 0
}

// openMessage returns the message that payload holds, or a rejection. Nothing is believed before the HMAC held.
func openMessage(payload []byte, cluster uint64, keys Keys) (message, error) {
	switch {
	case len(keys.Sign) == 0:
		return message{}, rejectNoKey
	case len(payload) < minMessage:
		return message{}, rejectLength
	case string(payload[:4]) != messageMagic || payload[4] != messageVersion:
		return message{}, rejectVersion
	case binary.BigEndian.Uint64(payload[10:]) != cluster:
		return message{}, rejectCluster
	}
	signed, got := payload[:len(payload)-sha256.Size], payload[len(payload)-sha256.Size:]
	if !slices.ContainsFunc(append([][]byte{keys.Sign}, keys.Accept...), func(key []byte) bool { return hmac.Equal(sign(nil, signed, key), got) }) {
		return message{}, rejectHMAC
	}
	return readMessage(signed)
}

func readMessage(b []byte) (message, error) {
	number := func(at int) uint64 { return binary.BigEndian.Uint64(b[at:]) }
	m := message{
		kind: messageKind(b[5]), state: State(b[6]),
		interval: time.Duration(binary.BigEndian.Uint16(b[8:])) * time.Millisecond,
		cluster:  number(10), boot: number(18), sequence: number(26), digest: number(34), mac: [6]byte(b[42:]),
	}
	name := int(b[messageFixed-1])
	if name == 0 || name > maxNodeName || len(b) < messageFixed+name+bodyLength {
		return message{}, rejectLength
	}
	m.node = string(b[messageFixed : messageFixed+name])
	b = b[messageFixed+name:]
	length := int(binary.BigEndian.Uint16(b))
	if len(b) < bodyLength+length {
		return message{}, rejectLength
	}
	if m.state > Holding || m.interval < minHelloInterval || m.interval > maxHelloInterval {
		return message{}, rejectField
	}
	body, appended := b[bodyLength:bodyLength+length], b[bodyLength+length:]
	if len(appended) >= capabilityBytes {
		m.capabilities = Capabilities(binary.BigEndian.Uint16(appended))
	}
	return m, m.readBody(body)
}

// readBody reads the body of kinds that are known. Others are a sign of life all the same.
func (m *message) readBody(b []byte) error {
	switch m.kind {
	case kindPull, kindChallenge, kindProof:
		if len(b) < addressedBody {
			return rejectLength
		}
		m.to, m.nonce = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	case kindClaims:
		if len(b) < claimsFixed || (len(b)-claimsFixed)%claimBytes != 0 {
			return rejectLength
		}
		m.claims = claims{whole: b[0]&flagWhole != 0, from: groupKey(b[1:]), to: groupKey(b[17:])}
		for b = b[claimsFixed:]; len(b) > 0; b = b[claimBytes:] {
			flags := b[24]
			m.claims.entries = append(m.claims.entries, claimEntry{
				group: groupKey(b), claim: claimOf(binary.BigEndian.Uint64(b[16:]), flags), removed: flags&flagRemoved != 0,
			})
		}
	case kindHello:
	}
	return nil
}

func sign(to, signed, key []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(signed) // a hash never fails to be written
	return m.Sum(to)
}

// claimsPerMessage is how many claims of a node of that name a frame of that MTU has room for.
func claimsPerMessage(mtu int, node string) int {
	return max(1, (mtu-messageFixed-len(node)-bodyLength-claimsFixed-capabilityBytes-sha256.Size)/claimBytes)
}

// helloFrame puts a payload into an Ethernet frame from mac to all speakers of the segment.
func helloFrame(mac net.HardwareAddr, payload []byte) []byte {
	b := make([]byte, 0, ethernetHeader+len(payload))
	b = appendEthernet(b, helloGroup(), mac, etherTypeHello)
	return append(b, payload...)
}
