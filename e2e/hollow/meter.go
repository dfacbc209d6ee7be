//go:build linux

package hollow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// meter is a TCP proxy in front of the API server that counts bytes by the client's address: what
// TLS makes of requests and answers, as a wire has it, without the headers of TCP and IP.
type meter struct {
	to     string
	listen net.Listener

	mu     sync.Mutex
	counts map[netip.Addr]*traffic // guarded by mu
}

// traffic is what a client sent and received, in bytes.
type traffic struct{ sent, received atomic.Int64 }

// newMeter listens at an address, and passes on to another until the context ends.
func newMeter(ctx context.Context, at, to string) (*meter, error) {
	l, err := net.Listen("tcp", at)
	if err != nil {
		return nil, fmt.Errorf("count bytes in front of the API server: %w", err)
	}
	m := &meter{to: to, listen: l, counts: map[netip.Addr]*traffic{}}
	context.AfterFunc(ctx, func() { _ = l.Close() }) // ends accept
	go m.accept(ctx)
	return m, nil
}

func (m *meter) accept(ctx context.Context) {
	for {
		conn, err := m.listen.Accept()
		if err != nil {
			return
		}
		go m.pass(ctx, conn)
	}
}

// pass carries one connection until either side or the context ends.
func (m *meter) pass(ctx context.Context, client net.Conn) {
	defer client.Close()
	server, err := (&net.Dialer{}).DialContext(ctx, "tcp", m.to)
	if err != nil {
		return
	}
	defer server.Close()
	defer context.AfterFunc(ctx, func() { _ = errors.Join(client.Close(), server.Close()) })()
	from, err := netip.ParseAddrPort(client.RemoteAddr().String())
	if err != nil {
		return
	}
	t := m.of(from.Addr())
	done := make(chan struct{}, 2)
	go func() { copyCounted(server, client, &t.sent); done <- struct{}{} }()
	go func() { copyCounted(client, server, &t.received); done <- struct{}{} }()
	<-done
	_ = errors.Join(client.Close(), server.Close()) // ends the other direction
	<-done
}

func copyCounted(to io.Writer, from io.Reader, count *atomic.Int64) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		count.Add(int64(n))
		if _, failed := to.Write(buffer[:n]); err != nil || failed != nil {
			return
		}
	}
}

// of returns the counters of a client.
func (m *meter) of(client netip.Addr) *traffic {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.counts[client.Unmap()]
	if t == nil {
		t = &traffic{}
		m.counts[client.Unmap()] = t
	}
	return t
}

// bytes returns how many a client sent and received so far.
func (m *meter) bytes(client netip.Addr) int64 {
	t := m.of(client)
	return t.sent.Load() + t.received.Load()
}
