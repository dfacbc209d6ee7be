package notice

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"slices"
)

// Kind is what a notice says of a node.
type Kind byte

const (
	// Silent: it was heard on a segment, and is not any more.
	Silent Kind = iota + 1
	// Serves: it was silent, and its speaker says that it is ready.
	Serves
)

func (k Kind) String() string {
	switch k {
	case Silent:
		return "silent"
	case Serves:
		return "serves"
	}
	return "unknown"
}

// Notice is what one node tells another about a third. Nothing keeps one from being sent again by
// somebody who saw it: it has a kernel asked, or a node that boots count as ready.
type Notice struct {
	Kind Kind
	Node string // 1 to 253 bytes
}

// A datagram is magic, version, kind, length of the name, the name, and an HMAC-SHA256 of all that.
const (
	magic       = "bthN" // differs from that of hellos, so that none passes for the other
	version     = 1
	fixed       = len(magic) + 3
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
	errKey    = errors.New("not signed by a key of this cluster")
	errKind   = errors.New("a notice of a newer version")
)

// Seal returns the datagram, signed with the key.
func (n Notice) Seal(key []byte) []byte {
	b := append([]byte(magic), version, byte(n.Kind), byte(len(n.Node)))
	b = append(b, n.Node...)
	return sign(b, b, key)
}

// Open returns the notice in a datagram. Nothing is trusted before the HMAC was verified.
func Open(b []byte, keys Keys) (Notice, error) {
	if len(b) <= fixed+sha256.Size || len(b) > mostBytes || string(b[:len(magic)]) != magic {
		return Notice{}, errFormat
	}
	signed, got := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	right := func(key []byte) bool { return len(key) > 0 && hmac.Equal(sign(nil, signed, key), got) }
	if !right(keys.Sign) && !slices.ContainsFunc(keys.Accept, right) {
		return Notice{}, errKey
	}
	n := Notice{Kind: Kind(signed[len(magic)+1]), Node: string(signed[fixed:])}
	switch {
	case signed[len(magic)] != version || n.Kind != Silent && n.Kind != Serves:
		return Notice{}, errKind
	case int(signed[fixed-1]) != len(n.Node):
		return Notice{}, errFormat
	}
	return n, nil
}

func sign(to, signed, key []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(signed) // writing to a hash never fails
	return m.Sum(to)
}
