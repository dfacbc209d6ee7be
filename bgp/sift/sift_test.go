package sift

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
)

func message(kind byte, body ...byte) []byte {
	head := bytes.Repeat([]byte{0xff}, 16)
	head = binary.BigEndian.AppendUint16(head, uint16(19+len(body)))
	return slices.Concat(head, []byte{kind}, body)
}

// openings returns the OPENs and NOTIFICATIONs of what was let through.
func openings(stream []byte) []byte {
	var found []byte
	for len(stream) >= headerLength && marked(stream) {
		length := int(binary.BigEndian.Uint16(stream[16:]))
		if length < headerLength || length > len(stream) {
			break
		}
		if kind := stream[18]; (kind == typeOpen || kind == typeNotification) && length <= longestSaid {
			found = append(found, stream[:length]...)
		}
		stream = stream[length:]
	}
	return found
}

// sifted sends bytes over a connection, cut as cut says, and returns what is read.
func sifted(t *testing.T, sent []byte, cut func() int) []byte {
	t.Helper()
	listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() { // ends when all is sent
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		for len(sent) > 0 {
			n := min(cut(), len(sent))
			if _, err := conn.Write(sent[:n]); err != nil {
				t.Error(err)
				return
			}
			sent = sent[n:]
		}
	}()
	conn, err := listener.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	told := 0
	var said []byte
	got, err := io.ReadAll(New(conn, func() { told++ }, func(message []byte) { said = append(said, message...) }))
	if err != nil {
		t.Fatal(err)
	}
	if (told > 0) != (len(got) > 0) {
		t.Errorf("%d bytes came through, and it was told %d times before", len(got), told)
	}
	if want := openings(got); !bytes.Equal(said, want) {
		t.Errorf("it was told of\n%x, and what came through has\n%x", said, want)
	}
	return got
}

func TestOnlyRoutesAreLeftOut(t *testing.T) {
	open := message(1, make([]byte, 40)...)
	refresh := message(5, 0, 1, 0, 1)
	route := message(2, make([]byte, 300)...)
	long := message(2, make([]byte, 65535-19)...)
	notification := message(3, 6, 2)
	end4 := message(2, 0, 0, 0, 0)
	end6 := message(2, 0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1)
	end6long := message(2, 0, 0, 0, 7, 0x90, 15, 0, 3, 0, 2, 1)
	withdrawal := message(2, 0, 2, 8, 10, 0, 0)
	short := append(slices.Clone(keepalive[:16]), 0, 3, 2)
	// The first thing that comes is no route, so that no KEEPALIVE stands for one.
	for name, c := range map[string]struct{ sent, want [][]byte }{
		"routes":        {[][]byte{open, keepalive, route, route, long, refresh}, [][]byte{open, keepalive, refresh}},
		"ends of RIBs":  {[][]byte{open, route, end4, end6, end6long}, [][]byte{open, end4, end6, end6long}},
		"a withdrawal":  {[][]byte{open, withdrawal, notification}, [][]byte{open, notification}},
		"not BGP":       {[][]byte{open, make([]byte, 50), route}, [][]byte{open, make([]byte, 50), route}},
		"a short one":   {[][]byte{open, short, route}, [][]byte{open, short, route}},
		"a route first": {[][]byte{route, route, open}, [][]byte{keepalive, open}},
		"nothing":       {},
		"half a header": {[][]byte{open, keepalive[:7]}, [][]byte{open}},
	} {
		t.Run(name, func(t *testing.T) {
			sent, want := slices.Concat(c.sent...), slices.Concat(c.want...)
			r := rand.New(rand.NewPCG(1, 2))
			for _, cut := range []func() int{
				func() int { return 1 << 20 },
				func() int { return 1 + r.IntN(40) },
				func() int { return 1 + r.IntN(5000) },
			} {
				if got := sifted(t, bytes.Clone(sent), cut); !bytes.Equal(got, want) {
					t.Errorf("got %d bytes, want %d:\n%x\n%x", len(got), len(want), got, want)
				}
			}
		})
	}
}
