package bgp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
	_ "unsafe" // for go:linkname

	"golang.org/x/sys/unix"
)

// listener is where routers connect to us; a zero one is nowhere.
type listener struct {
	addresses []netip.Addr
	port      uint16
}

// newListener reads host:port; the host is an IP address, or left out for all of the node's.
func newListener(text string) (listener, error) {
	if text == "" {
		return listener{}, nil
	}
	host, service, err := net.SplitHostPort(text)
	if err != nil {
		return listener{}, fmt.Errorf("listen for BGP on %q: %w; write [address]:port, such as :179", text, err)
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil || port == 0 {
		return listener{}, fmt.Errorf("listen for BGP on %q: %q is not a port from 1 to 65535", text, service)
	}
	l := listener{port: uint16(port)}
	if host != "" {
		address, err := netip.ParseAddr(host)
		if err != nil {
			return listener{}, fmt.Errorf("listen for BGP on %q: %w", text, err)
		}
		l.addresses = []netip.Addr{address}
		return l, nil
	}
	l.addresses = []netip.Addr{netip.IPv4Unspecified()}
	if _, err := os.Stat("/proc/net/if_inet6"); err == nil { // the kernel knows IPv6
		l.addresses = append(l.addresses, netip.IPv6Unspecified())
	}
	return l, nil
}

func (l listener) texts() []string {
	var texts []string
	for _, a := range l.addresses {
		texts = append(texts, a.String())
	}
	return texts
}

//go:linkname signListener github.com/osrg/gobgp/v4/internal/pkg/netutils.SetTCPMD5SigSockopt
func signListener(l *net.TCPListener, device, address, key string) error

// ears are sockets on which routers connect; nil ones are none.
type ears struct {
	sockets []*net.TCPListener
	heard   chan *net.TCPConn
	closed  chan struct{}
	running sync.WaitGroup
}

// open begins to listen.
func (l listener) open() (*ears, error) {
	e := &ears{heard: make(chan *net.TCPConn), closed: make(chan struct{})}
	for _, a := range l.addresses {
		socket, err := l.listen(a)
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			err = fmt.Errorf("%w (ss -ltnp shows on the node who has the port; with Calico it is often BIRD)", err)
		case errors.Is(err, syscall.EACCES):
			err = fmt.Errorf(
				"%w (the speaker needs the capability NET_BIND_SERVICE, which manifests/bgp-passive gives)",
				err,
			)
		}
		if err != nil {
			e.close()
			return nil, err
		}
		e.sockets = append(e.sockets, socket)
		e.running.Go(func() { e.accept(socket) }) // ends with close
	}
	return e, nil
}

func (l listener) listen(a netip.Addr) (*net.TCPListener, error) {
	network, level, option := "tcp4", unix.IPPROTO_IP, unix.IP_TTL
	if a.Is6() {
		network, level, option = "tcp6", unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
	}
	config := net.ListenConfig{
		KeepAlive: -1, // BGP has its own
		Control: func(_, _ string, c syscall.RawConn) error {
			var failed error // 255 is what a peer with TTL security expects of the first answer
			err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, option, 255) })
			return errors.Join(err, failed)
		},
	}
	config.SetMultipathTCP(false) // it has no signatures
	at := netip.AddrPortFrom(a, l.port).String()
	found, err := config.Listen(context.Background(), network, at) // it resolves nothing
	if err != nil {
		return nil, err
	}
	socket, ok := found.(*net.TCPListener)
	if !ok {
		return nil, errors.New("no TCP socket")
	}
	return socket, nil
}

// acceptPause is how long no connection is taken after one that could not be.
const acceptPause = 100 * time.Millisecond

func (e *ears) accept(socket *net.TCPListener) {
	for {
		conn, err := socket.AcceptTCP()
		if err == nil {
			select {
			case e.heard <- conn:
			case <-e.closed:
				conn.Close()
				return
			}
			continue
		}
		select { // one that was gone again, or there are too many open files
		case <-time.After(acceptPause):
		case <-e.closed:
			return
		}
	}
}

// connections are those that routers made; nil without ears.
func (e *ears) connections() <-chan *net.TCPConn {
	if e == nil {
		return nil
	}
	return e.heard
}

// sign has the kernel take connections of the peer with its password only.
func (e *ears) sign(p Peer) error { return e.key(p, p.Password) }

func (e *ears) unsign(p Peer) error { return e.key(p, "") }

func (e *ears) key(p Peer, password string) error {
	if e == nil || p.Password == "" {
		return nil
	}
	where := p.Address.String()
	if !p.Address.IsValid() {
		where = p.Prefix.String()
	}
	for _, socket := range e.sockets {
		at, ok := socket.Addr().(*net.TCPAddr)
		if !ok || at.AddrPort().Addr().Unmap().Is4() != p.Covers().Addr().Is4() {
			continue
		}
		if err := signListener(socket, p.VRF, where, password); err != nil {
			return fmt.Errorf("TCP MD5 on the listener: %w", err)
		}
	}
	return nil
}

func (e *ears) close() {
	if e == nil {
		return
	}
	close(e.closed)
	for _, socket := range e.sockets {
		socket.Close()
	}
	e.running.Wait()
}

// try listens for a moment, to see whether it can be done.
func (l listener) try() error {
	e, err := l.open()
	if err == nil {
		e.close()
	}
	return err
}

func (l listener) reachedFrom(p Peer) bool {
	return slices.ContainsFunc(l.addresses, func(a netip.Addr) bool { return a.BitLen() == p.Covers().Addr().BitLen() })
}
