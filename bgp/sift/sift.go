// Package sift keeps a router's routes from who reads its BGP session. Berth wants none of them,
// and GoBGP would decode and keep each. It also tells what a router says when a session is opened
// or refused, of which GoBGP says little.
package sift

import (
	"encoding/binary"
	"net"
	"time"
)

// Messages of BGP (RFC 4271 section 4.1), and MP_UNREACH_NLRI, of which an End-of-RIB consists (RFC
// 4724 section 2).
const (
	headerLength     = 19
	typeOpen         = 1
	typeUpdate       = 2
	typeNotification = 3
	typeKeepalive    = 4
	unreach          = 15
	// longestSaid is the longest message that is told (RFC 4271 section 4.1).
	longestSaid = 4096
	// longestEnd is the length of an End-of-RIB whose attribute has a length of two bytes.
	longestEnd = headerLength + 4 + 4 + 3
)

// keepalivePause is the least time between the KEEPALIVEs that stand for UPDATEs: of hold times,
// the shortest is 3 s.
const keepalivePause = time.Second

// Conn is a connection to a router without the UPDATEs that it sends, but for End-of-RIB. A router
// that sends UPDATEs may send no KEEPALIVE (RFC 4271 section 4.4), so these stand for them. What is
// no BGP is let through, for the reader to complain.
type Conn struct {
	*net.TCPConn

	raw    []byte // read, and not looked at
	ready  []byte // for the reader
	pass   int    // so many bytes that come belong to a message that is let through,
	skip   int    // or to one that is not
	broken bool   // what comes is no BGP
	heard  time.Time
	each   func()
	said   func(message []byte)
	buffer [4096]byte
}

// New sifts a connection. Each is called before a message, or what is none, is let through or told;
// said is told each OPEN and NOTIFICATION, whole, before it is let through, and may not keep it.
func New(conn *net.TCPConn, each func(), said func(message []byte)) *Conn {
	return &Conn{TCPConn: conn, each: each, said: said}
}

// Read is for one reader at a time.
func (c *Conn) Read(b []byte) (int, error) {
	for len(c.ready) == 0 {
		n, err := c.TCPConn.Read(c.buffer[:])
		if n > 0 {
			c.raw = append(c.raw, c.buffer[:n]...)
			c.look()
		}
		if err != nil && len(c.ready) == 0 {
			return 0, err
		}
	}
	c.each()
	n := copy(b, c.ready)
	c.ready = append(c.ready[:0], c.ready[n:]...)
	return n, nil
}

// look moves what has come to where it belongs. What is left in raw is the beginning of a message.
func (c *Conn) look() {
	rest := c.raw
	for len(rest) > 0 {
		n := min(len(rest), c.skip)
		rest, c.skip = rest[n:], c.skip-n
		n = min(len(rest), c.pass)
		if c.broken {
			n = len(rest)
		}
		c.ready, rest, c.pass = append(c.ready, rest[:n]...), rest[n:], c.pass-n
		if len(rest) < headerLength {
			break
		}
		length := int(binary.BigEndian.Uint16(rest[16:]))
		switch {
		case length < headerLength || !marked(rest):
			c.broken = true
		case (rest[18] == typeOpen || rest[18] == typeNotification) && length <= longestSaid:
			if len(rest) < length {
				c.raw = append(c.raw[:0], rest...)
				return
			}
			c.each() // who reads it may crash, as who reads on
			c.said(rest[:length])
			c.pass, c.heard = length, time.Now()
		case rest[18] != typeUpdate:
			c.pass, c.heard = length, time.Now()
		case length <= longestEnd && len(rest) < length:
			c.raw = append(c.raw[:0], rest...)
			return
		case length <= longestEnd && isEnd(rest[headerLength:length]):
			c.pass, c.heard = length, time.Now()
		default:
			c.skip = length
			if now := time.Now(); now.Sub(c.heard) >= keepalivePause {
				c.heard = now
				c.ready = append(c.ready, keepalive...)
			}
		}
	}
	c.raw = append(c.raw[:0], rest...)
}

var keepalive = []byte{
	255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, headerLength, typeKeepalive,
}

// marked reports whether a header begins as it has to.
func marked(header []byte) bool { return string(header[:16]) == string(keepalive[:16]) }

// isEnd reports whether the body of an UPDATE is an End-of-RIB.
func isEnd(body []byte) bool {
	if len(body) < 4 || body[0] != 0 || body[1] != 0 {
		return false
	}
	attributes := body[4:]
	if int(binary.BigEndian.Uint16(body[2:])) != len(attributes) {
		return false
	}
	return len(attributes) == 0 ||
		len(attributes) == 6 && attributes[1] == unreach && attributes[2] == 3 ||
		len(attributes) == 7 && attributes[1] == unreach && attributes[2] == 0 && attributes[3] == 3
}
