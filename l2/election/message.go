package election

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
)

// A message is the payload of one Ethernet frame, big endian:
//
//	magic "BRTH" | version 1 | kind 1 | state 1 | reserved 1 | interval ms 2 | cluster 8 |
//	boot nonce 8 | sequence 8 | digest 8 | MAC 6 | name length 1 | name | body length 2 | body |
//	capabilities 2 | age in 100 ms 2 | HMAC-SHA256 32
//
// The HMAC covers everything before it. The shortest message is longer than the 46 bytes to which
// Ethernet pads. A later minor version appends fields before the HMAC; older versions ignore them.
// The capabilities were added in this way, and so was the age.
//
// Bodies: a pull, a challenge, a proof and an echo have "to boot 8 | nonce 8". Claims have "flags 1
// | from 16 | to 16" and 25 bytes for each claim: "address 16 | term 8 | flags 1".
const (
	messageMagic    = "BRTH"
	messageVersion  = 1
	messageFixed    = len(messageMagic) + 4 + 2 + 8 + 8 + 8 + 8 + 6 + 1
	bodyLength      = 2
	capabilityBytes = 2
	ageBytes        = 2
	ageUnit         = 100 * time.Millisecond
	ageUnknown      = time.Duration(-1) // an older version sent the message
	oldest          = 1<<16 - 1         // in units, or older
	addressedBody   = 16
	claimsFixed     = 1 + 2*len(addressKey{})
	claimBytes      = len(addressKey{}) + 8 + 1

	minMessage = messageFixed + 1 + bodyLength + sha256.Size
)

// The limits of what a message can carry.
const (
	// MaxMessage is the longest message, in bytes. Every interface can carry it: 1280 is the lowest
	// MTU that IPv6 allows (RFC 8200, section 5). It does not depend on the sender's interface,
	// because a receiver's may have a lower MTU.
	MaxMessage       = 1280
	MaxNodeName      = 253 // bytes; a DNS subdomain, RFC 1123
	MinHelloInterval = 10 * time.Millisecond
	MaxHelloInterval = 10 * time.Second
)

// Keys sign hellos.
type Keys struct {
	Sign   []byte   // signs; empty: this node sends nothing
	Accept [][]byte // other keys that are accepted, besides Sign
}

// messageKind is what a message is for. Every message is also a sign of life.
type messageKind uint8

const (
	kindHello     messageKind = iota + 1
	kindClaims                // claims of the sender
	kindPull                  // asks one node for all of its claims
	kindChallenge             // asks a boot to prove that it is alive
	kindProof                 // proves it
	kindEcho                  // tells another interface of the same node that its hello was heard
)

// addressKey is an address on the wire: 16 bytes, of which an IPv4 address has the last 4 (RFC
// 4291, section 2.5.5.2).
type addressKey [16]byte

func keyOf(addr netip.Addr) addressKey { return addr.As16() }

// ClusterID returns a cluster's name on the wire: the first bytes of its SHA-256.
func ClusterID(name string) uint64 {
	full := sha256.Sum256([]byte(name))
	return binary.BigEndian.Uint64(full[:])
}

// Message is what a node says about itself to all, and perhaps to one other node. The machine fills
// it except for MAC and Cluster.
type Message struct {
	Node    string
	Boot    uint64  // random for each process and segment
	MAC     [6]byte // of the sender's interface: it shows whose gratuitous ARP is a peer's
	Cluster uint64

	kind     messageKind
	sequence uint64 // grows with each message of one boot
	interval time.Duration
	state    State
	digest   uint64 // of all the sender's claims

	capabilities Capabilities  // none: also if an older version sent it
	age          time.Duration // of the sender's desired state since it was last confirmed, or ageUnknown

	to, nonce uint64    // of kindPull, kindChallenge, kindProof and kindEcho
	claims    claimList // of kindClaims
}

// Rejection is why a message was ignored. Its text is the metric's label.
type Rejection string

func (r Rejection) Error() string { return "hello rejected: " + string(r) }

// The reasons to ignore a message.
const (
	RejectLength  Rejection = "length"
	RejectVersion Rejection = "version"
	RejectCluster Rejection = "cluster"
	RejectHMAC    Rejection = "hmac"
	RejectField   Rejection = "field"
	RejectOwn     Rejection = "own"
	RejectReplay  Rejection = "replay"
	RejectBoot    Rejection = "boot" // a boot that has not proved yet that it is alive
	RejectTooMany Rejection = "too_many"
	RejectNoKey   Rejection = "no_key"
	RejectCut     Rejection = "truncated" // longer than what a socket reads
)

// Seal returns the message's payload, signed with the key.
func (m Message) Seal(key []byte) []byte {
	b := make([]byte, 0, messageFixed+len(m.Node)+bodyLength+claimsFixed+len(m.claims.entries)*claimBytes+
		capabilityBytes+ageBytes+sha256.Size)
	b = append(b, messageMagic...)
	b = append(b, messageVersion, byte(m.kind), byte(m.state), 0)
	b = binary.BigEndian.AppendUint16(b, uint16(m.interval/time.Millisecond))
	for _, n := range []uint64{m.Cluster, m.Boot, m.sequence, m.digest} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	b = append(b, m.MAC[:]...)
	b = append(b, byte(len(m.Node)))
	b = append(b, m.Node...)
	body := len(b)
	b = append(b, 0, 0)
	switch m.kind {
	case kindHello:
	case kindPull, kindChallenge, kindProof, kindEcho:
		b = binary.BigEndian.AppendUint64(b, m.to)
		b = binary.BigEndian.AppendUint64(b, m.nonce)
	case kindClaims:
		b = m.claims.append(b)
	}
	binary.BigEndian.PutUint16(b[body:], uint16(len(b)-body-bodyLength))
	b = binary.BigEndian.AppendUint16(b, uint16(m.capabilities))
	b = binary.BigEndian.AppendUint16(b, uint16(min(m.age/ageUnit, oldest)))
	return sign(b, b, key)
}

// OpenMessage returns the message in a payload, or a Rejection. Nothing is trusted before the HMAC
// was verified.
func OpenMessage(payload []byte, cluster uint64, keys Keys) (Message, error) {
	switch {
	case len(keys.Sign) == 0:
		return Message{}, RejectNoKey
	case len(payload) < minMessage:
		return Message{}, RejectLength
	case string(payload[:4]) != messageMagic || payload[4] != messageVersion:
		return Message{}, RejectVersion
	case binary.BigEndian.Uint64(payload[10:]) != cluster:
		return Message{}, RejectCluster
	}
	signed, got := payload[:len(payload)-sha256.Size], payload[len(payload)-sha256.Size:]
	if !slices.ContainsFunc(append([][]byte{keys.Sign}, keys.Accept...), func(key []byte) bool {
		return hmac.Equal(sign(nil, signed, key), got)
	}) {
		return Message{}, RejectHMAC
	}
	return readMessage(signed)
}

// SenderOf returns the node and the cluster that a payload says that it is from. It believes it
// without a key.
func SenderOf(payload []byte) (node string, cluster uint64, is bool) {
	if len(payload) < minMessage || string(payload[:4]) != messageMagic {
		return "", 0, false
	}
	name := int(payload[messageFixed-1])
	if name == 0 || name > MaxNodeName || len(payload) < messageFixed+name {
		return "", 0, false
	}
	return string(payload[messageFixed : messageFixed+name]), binary.BigEndian.Uint64(payload[10:]), true
}

func readMessage(b []byte) (Message, error) {
	number := func(at int) uint64 { return binary.BigEndian.Uint64(b[at:]) }
	m := Message{
		kind: messageKind(b[5]), state: State(b[6]),
		interval: time.Duration(binary.BigEndian.Uint16(b[8:])) * time.Millisecond,
		Cluster:  number(10), Boot: number(18), sequence: number(26), digest: number(34), MAC: [6]byte(b[42:]),
	}
	name := int(b[messageFixed-1])
	if name == 0 || name > MaxNodeName || len(b) < messageFixed+name+bodyLength {
		return Message{}, RejectLength
	}
	m.Node = string(b[messageFixed : messageFixed+name])
	b = b[messageFixed+name:]
	length := int(binary.BigEndian.Uint16(b))
	if len(b) < bodyLength+length {
		return Message{}, RejectLength
	}
	if m.state > Holding || m.interval < MinHelloInterval || m.interval > MaxHelloInterval {
		return Message{}, RejectField
	}
	body, appended := b[bodyLength:bodyLength+length], b[bodyLength+length:]
	if len(appended) >= capabilityBytes {
		m.capabilities = Capabilities(binary.BigEndian.Uint16(appended))
	}
	if m.age = ageUnknown; len(appended) >= capabilityBytes+ageBytes {
		m.age = time.Duration(binary.BigEndian.Uint16(appended[capabilityBytes:])) * ageUnit
	}
	return m, m.readBody(body)
}

// readBody reads the body of known kinds. Other kinds are still a sign of life.
func (m *Message) readBody(b []byte) error {
	switch m.kind {
	case kindPull, kindChallenge, kindProof, kindEcho:
		if len(b) < addressedBody {
			return RejectLength
		}
		m.to, m.nonce = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	case kindClaims:
		if len(b) < claimsFixed || (len(b)-claimsFixed)%claimBytes != 0 {
			return RejectLength
		}
		m.claims = claimList{whole: b[0]&flagWhole != 0, from: addressKey(b[1:]), to: addressKey(b[17:])}
		for b = b[claimsFixed:]; len(b) > 0; b = b[claimBytes:] {
			flags := b[24]
			m.claims.entries = append(m.claims.entries, claimEntry{
				address: addressKey(b), claim: claimOf(binary.BigEndian.Uint64(b[16:]),
					flags), removed: flags&flagRemoved != 0,
			})
		}
	case kindHello:
	}
	return nil
}

func sign(to, signed, key []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(signed) // writing to a hash never fails
	return m.Sum(to)
}

// claimsPerMessage returns how many claims of a node with that name fit into a frame with that MTU,
// and into every message.
func claimsPerMessage(mtu int, node string) int {
	room := min(mtu, MaxMessage) - messageFixed - len(node) - bodyLength - claimsFixed -
		capabilityBytes - ageBytes - sha256.Size
	return max(1, room/claimBytes)
}
