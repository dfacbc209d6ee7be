package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sync/errgroup"
)

// answer is what every request gets, as one line of JSON.
type answer struct {
	Pod      string `json:"pod"`
	Node     string `json:"node"`
	Address  string `json:"address"` // where the request arrived, host:port
	Client   string `json:"client"`  // where it came from, host:port
	Protocol string `json:"protocol"`
	Host     string `json:"host"`
	// What a proxy in front says of its client; empty without one.
	ForwardedFor string `json:"forwardedFor,omitempty"`
	RealIP       string `json:"realIP,omitempty"`
}

type server struct {
	self    answer
	ready   atomic.Bool
	leaving atomic.Bool
}

func newServer(self answer) *server {
	s := &server{self: self}
	s.ready.Store(true)
	return s
}

// leave makes the server unready for good.
func (s *server) leave() { s.leaving.Store(true) }

func (s *server) line(protocol, address, client string) []byte {
	a := s.self
	a.Protocol, a.Address, a.Client = protocol, address, client
	return encode(a)
}

func encode(a answer) []byte {
	text, err := json.Marshal(a)
	if err != nil {
		return []byte("{}\n") // a struct of strings: cannot be
	}
	return append(text, '\n')
}

type addresses struct{ http, tcp, udp string }

// sockets are the sockets of the server; udp6 is nil on a machine without IPv6.
type sockets struct {
	http, tcp  net.Listener
	udp4, udp6 net.PacketConn
}

func listen(at addresses) (sockets, error) {
	var s sockets
	var err error
	if s.http, err = net.Listen("tcp", at.http); err != nil {
		return s, fmt.Errorf("serve HTTP: %w", err)
	}
	if s.tcp, err = net.Listen("tcp", at.tcp); err != nil {
		return s, fmt.Errorf("serve TCP: %w", err)
	}
	// There is one socket for each family, since each reports a datagram's destination in its own way.
	if s.udp4, err = net.ListenPacket("udp4", at.udp); err != nil {
		return s, fmt.Errorf("serve UDP: %w", err)
	}
	s.udp6, err = net.ListenPacket("udp6", at.udp)
	if errors.Is(err, syscall.EAFNOSUPPORT) {
		s.udp6 = nil
	} else if err != nil {
		return s, fmt.Errorf("serve UDP: %w", err)
	}
	return s, nil
}

// serve serves until ctx ends, and closes the sockets.
func (s *server) serve(ctx context.Context, on sockets) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.serveHTTP(ctx, on.http) })
	group.Go(func() error { return s.serveTCP(ctx, on.tcp) })
	group.Go(func() error { return s.serveUDP(ctx, on.udp4, s.udp4) })
	if on.udp6 != nil {
		group.Go(func() error { return s.serveUDP(ctx, on.udp6, s.udp6) })
	}
	return group.Wait()
}

func (s *server) serveHTTP(ctx context.Context, listener net.Listener) error {
	server := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP: %w", err)
	}
	return nil
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if !s.ready.Load() || s.leaving.Load() {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	for pattern, ready := range map[string]bool{"POST /ready": true, "POST /unready": false} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
			s.ready.Store(ready)
			fmt.Fprintln(w, "ready:", ready)
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		address := ""
		if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
			address = local.String()
		}
		w.Header().Set("Content-Type", "application/json")
		a := s.self
		a.Protocol, a.Address, a.Client = "http", address, r.RemoteAddr
		a.ForwardedFor, a.RealIP = r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Real-Ip")
		// The client notices if a write fails.
		_, _ = w.Write(encode(a))
	})
	return mux
}

// serveTCP answers each line on each connection.
func (s *server) serveTCP(ctx context.Context, listener net.Listener) error {
	defer context.AfterFunc(ctx, func() { _ = listener.Close() })()
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		} else if err != nil {
			return fmt.Errorf("serve TCP: %w", err)
		}
		go s.converse(ctx, conn) // ends with the connection or ctx
	}
}

func (s *server) converse(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		if _, err := conn.Write(s.line("tcp", conn.LocalAddr().String(), conn.RemoteAddr().String())); err != nil {
			return
		}
	}
}

// serveUDP answers each datagram, from the address it was sent to.
func (s *server) serveUDP(
	ctx context.Context,
	conn net.PacketConn,
	serve func(conn net.PacketConn, port string) error,
) error {
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	_, port, err := net.SplitHostPort(conn.LocalAddr().String())
	if err != nil {
		return fmt.Errorf("serve UDP: %w", err)
	}
	if err := serve(conn, port); ctx.Err() == nil {
		return fmt.Errorf("serve UDP: %w", err)
	}
	return nil
}

const datagram = 2048 // bytes; of a longer one the rest is cut off

func (s *server) udp4(conn net.PacketConn, port string) error {
	packets := ipv4.NewPacketConn(conn)
	if err := packets.SetControlMessage(ipv4.FlagDst, true); err != nil {
		return err
	}
	buffer := make([]byte, datagram)
	for {
		_, meta, from, err := packets.ReadFrom(buffer)
		if err != nil {
			return err
		}
		to := net.JoinHostPort(meta.Dst.String(), port)
		// An answer that cannot be sent is lost, as any datagram may be.
		_, _ = packets.WriteTo(s.line("udp", to, from.String()), &ipv4.ControlMessage{Src: meta.Dst}, from)
	}
}

func (s *server) udp6(conn net.PacketConn, port string) error {
	packets := ipv6.NewPacketConn(conn)
	if err := packets.SetControlMessage(ipv6.FlagDst, true); err != nil {
		return err
	}
	buffer := make([]byte, datagram)
	for {
		_, meta, from, err := packets.ReadFrom(buffer)
		if err != nil {
			return err
		}
		to := net.JoinHostPort(meta.Dst.String(), port)
		_, _ = packets.WriteTo(s.line("udp", to, from.String()), &ipv6.ControlMessage{Src: meta.Dst}, from)
	}
}
