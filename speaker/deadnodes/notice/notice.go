package notice

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
)

// Kind is what a notice says of a node.
type Kind byte

const (
	// Silent: it was heard on a segment, or answered its watcher, and does not any more.
	Silent Kind = iota + 1
	// Serves: it was silent, and its speaker says that it is ready.
	Serves
	// Watch: the node that sends it wants to be watched.
	Watch
	// Ask: the node that sends it watches the one that gets it, and wants an answer.
	Ask
	// Answer: the node that sends it serves.
	Answer
	// Leave: the node that sends it has others watch it.
	Leave
	// Ends: the node that sends it watches the one that gets it no longer.
	Ends
)

func (k Kind) String() string {
	switch k {
	case Silent:
		return "silent"
	case Serves:
		return "serves"
	case Watch:
		return "watch"
	case Ask:
		return "ask"
	case Answer:
		return "answer"
	case Leave:
		return "leave"
	case Ends:
		return "ends"
	}
	return "unknown"
}

// Notice is what one node tells another one. Silent and Serves are about a third. Nothing keeps a
// notice from being sent to the same node again by somebody who saw it: it has a kernel asked, a
// node that boots count as ready, or somebody watched, or not. An Answer counts for a second only.
type Notice struct {
	Kind Kind
	// Number of an Ask, and of the Answer to it; else 0.
	Number uint64
	// Node that it is about: the sender, but in Silent and Serves. 1 to 253 bytes.
	Node string
}

// A datagram is magic, version, kind, number, length of the name, the name, and an HMAC-SHA256 of
// all that and the name of who gets it.
const (
	magic       = "bthN" // differs from that of hellos, so that none passes for the other
	version     = 2
	fixed       = len(magic) + 2 + 8 + 1
	maxNodeName = 253
	mostBytes   = fixed + maxNodeName + sha256.Size
)

// Keys sign notices: one to sign with, and others that are accepted, too.
type Keys struct {
	Sign   []byte
	Accept [][]byte
}

var (
	errFormat = errors.New("not a notice")
	errKey    = errors.New("not signed for this node by a key of this cluster")
	errKind   = errors.New("a notice of a newer version")
)

// Seal returns the datagram for a node, signed with the key.
func (n Notice) Seal(to string, key []byte) []byte {
	b := append([]byte(magic), version, byte(n.Kind))
	b = append(binary.BigEndian.AppendUint64(b, n.Number), byte(len(n.Node)))
	b = append(b, n.Node...)
	return sign(b, b, to, key)
}

// Open returns the notice in a datagram for a node. Nothing is trusted before the HMAC was
// verified.
func Open(b []byte, to string, keys Keys) (Notice, error) {
	if len(b) <= fixed+sha256.Size || len(b) > mostBytes || string(b[:len(magic)]) != magic {
		return Notice{}, errFormat
	}
	signed, got := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	right := func(key []byte) bool { return len(key) > 0 && hmac.Equal(sign(nil, signed, to, key), got) }
	if !right(keys.Sign) && !slices.ContainsFunc(keys.Accept, right) {
		return Notice{}, errKey
	}
	n := Notice{
		Kind: Kind(signed[len(magic)+1]), Number: binary.BigEndian.Uint64(signed[len(magic)+2:]),
		Node: string(signed[fixed:]),
	}
	switch {
	case signed[len(magic)] != version || n.Kind < Silent || n.Kind > Ends:
		return Notice{}, errKind
	case int(signed[fixed-1]) != len(n.Node):
		return Notice{}, errFormat
	}
	return n, nil
}

func sign(b, signed []byte, to string, key []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(signed) // writing to a hash never fails
	m.Write([]byte(to))
	return m.Sum(b)
}
