package bgp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"
)

const time2s = 2 * time.Second

// rogue is a router that says what it likes: it exchanges OPEN and KEEPALIVE messages as it should,
// and then sends bytes.
type rogue struct {
	address  netip.Addr
	port     uint16
	asn      uint16
	twoBytes bool // it does not know AS numbers of four bytes (RFC 6793)
	listener *net.TCPListener
}

func newRogue(t testing.TB, address string, asn uint16) *rogue {
	t.Helper()
	listener, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), 0)))
	must(t, err)
	t.Cleanup(func() { listener.Close() })
	return &rogue{
		address:  netip.MustParseAddr(address),
		port:     listener.Addr().(*net.TCPAddr).AddrPort().Port(),
		asn:      asn,
		listener: listener,
	}
}

func (r *rogue) peer(name string) Peer {
	return Peer{Name: name, Address: r.address, Port: r.port, LocalASN: nodeASN, RemoteASN: uint32(r.asn),
		SourceAddress: driverAddress, ConnectRetryTime: time2s}
}

// establish takes the next connection through to an established session, as far as the rogue can
// tell.
func (r *rogue) establish() (*net.TCPConn, error) {
	for {
		conn, err := r.listener.AcceptTCP()
		if err != nil {
			return nil, err
		}
		if r.greet(conn) == nil {
			return conn, nil
		}
		conn.Close() // the driver's probe, or an attempt that it gave up
	}
}

func (r *rogue) greet(conn net.Conn) error {
	if _, err := conn.Write(slices.Concat(r.open(), message(4))); err != nil {
		return err
	}
	for _, want := range []byte{1, 4} {
		kind, _, err := readRaw(conn)
		if err != nil {
			return err
		}
		if kind != want {
			return fmt.Errorf("got message type %d, want %d", kind, want)
		}
	}
	return nil
}

func (r *rogue) open() []byte {
	capabilities := []byte{1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 2, 0} // both families, route refresh
	if !r.twoBytes {
		capabilities = append(capabilities, 65, 4, 0, 0, byte(r.asn>>8), byte(r.asn))
	}
	id := r.address.As4()
	body := slices.Concat([]byte{4, byte(r.asn >> 8), byte(r.asn), 0, 90}, id[:],
		[]byte{byte(len(capabilities) + 2), 2, byte(len(capabilities))}, capabilities)
	return message(1, body...)
}

// drain reads until the driver closes the connection. It returns the code and subcode of the
// driver's NOTIFICATION, zeros if it sent none; or an error if the driver leaves it open.
func (r *rogue) drain(conn net.Conn) (code, subcode byte, err error) {
	for {
		kind, body, err := readRaw(conn)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return code, subcode, fmt.Errorf("the driver keeps the session open: %w", err)
		}
		if err != nil {
			return code, subcode, nil
		}
		if kind == 3 && len(body) >= 2 {
			code, subcode = body[0], body[1]
		}
	}
}

// message puts a header before a body.
func message(kind byte, body ...byte) []byte {
	head := bytes.Repeat([]byte{0xff}, 16)
	head = binary.BigEndian.AppendUint16(head, uint16(19+len(body)))
	return slices.Concat(head, []byte{kind}, body)
}

func readRaw(r io.Reader) (kind byte, body []byte, err error) {
	head := make([]byte, 19)
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, nil, err
	}
	length := int(binary.BigEndian.Uint16(head[16:]))
	if length < 19 {
		return 0, nil, errors.New("short message")
	}
	body = make([]byte, length-19)
	_, err = io.ReadFull(r, body)
	return head[18], body, err
}

// update is an UPDATE message of any attributes and prefixes.
func update(withdrawn []byte, attributes [][]byte, nlri ...byte) []byte {
	all := slices.Concat(attributes...)
	body := binary.BigEndian.AppendUint16(nil, uint16(len(withdrawn)))
	body = append(body, withdrawn...)
	body = binary.BigEndian.AppendUint16(body, uint16(len(all)))
	return message(2, slices.Concat(body, all, nlri)...)
}

// attribute is a path attribute with a length of one byte, or of two if the flags say so.
func attribute(flags, kind byte, value ...byte) []byte {
	head := []byte{flags, kind}
	if flags&0x10 != 0 {
		head = binary.BigEndian.AppendUint16(head, uint16(len(value)))
	} else {
		head = append(head, byte(len(value)))
	}
	return append(head, value...)
}

// Attributes as they should be, and a prefix.
var (
	okOrigin  = attribute(0x40, 1, 0)
	okPath    = attribute(0x40, 2, 2, 1, 0, 0, 0xfc, 0x10)
	shortPath = attribute(0x40, 2, 2, 1, 0x5b, 0xa0) // AS_TRANS, from a router without four-byte AS numbers
	okHop     = attribute(0x40, 3, 127, 0, 0, 1)
	okPrefix  = []byte{24, 203, 0, 113}
)

// quiet discards the driver's log.
func quiet(c *Config) { c.Logger = slog.New(slog.DiscardHandler) }
