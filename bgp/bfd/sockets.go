package bfd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

const (
	portSingleHop = 3784 // RFC 5881 section 4
	portMultihop  = 4784 // RFC 5883 section 5
	firstSource   = 49152
	oneHop        = 255 // TTL of what no router has forwarded

	networkControl = 0xc0 // DSCP CS6, as routers send it
)

// wire is the sockets of all sessions: one to send for each, and one to receive for each local
// address, so that other programs can have other addresses.
type wire struct {
	log     *slog.Logger
	metrics *metrics

	mu        sync.Mutex
	receivers map[place]*receiver // guarded by mu
	links     map[uint32]*link    // guarded by mu; by our discriminator
}

// place is what a receiver is bound to.
type place struct {
	local  netip.AddrPort
	device string
}

type receiver struct {
	conn  *net.UDPConn
	users int
	done  chan struct{}
}

// link is one session's way to its router and back.
type link struct {
	wire          *wire
	peer          Peer
	discriminator uint32
	conn          *net.UDPConn
	to            netip.AddrPort
	place         place
	in            chan<- packet
	far           chan<- int
}

func newWire(log *slog.Logger, m *metrics) *wire {
	return &wire{log: log, metrics: m, receivers: map[place]*receiver{}, links: map[uint32]*link{}}
}

// open opens what a session needs. Its packets go to in, and the TTL of one that comes from too far
// away to far.
func (w *wire) open(peer Peer, in chan<- packet, far chan<- int) (*link, error) {
	port := uint16(portSingleHop)
	if peer.MinTTL > 0 {
		port = portMultihop
	}
	l := &link{wire: w, peer: peer, to: netip.AddrPortFrom(peer.Remote, port), in: in, far: far}
	local, err := localEnd(peer, port)
	if err != nil {
		return nil, err
	}
	if l.conn, err = sender(local, peer.Device); err != nil {
		return nil, err
	}
	l.place = place{netip.AddrPortFrom(local, port), peer.Device}
	if err := w.join(l); err != nil {
		l.conn.Close()
		return nil, err
	}
	return l, nil
}

// localEnd is the address that packets to the router leave from.
func localEnd(peer Peer, port uint16) (netip.Addr, error) {
	if peer.Local.IsValid() {
		return peer.Local, nil
	}
	d := net.Dialer{Control: toDevice(peer.Device)}
	c, err := d.Dial("udp", netip.AddrPortFrom(peer.Remote, port).String())
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find the way to %s: %w", peer.Remote, err)
	}
	defer c.Close()
	a, ok := c.LocalAddr().(*net.UDPAddr)
	if !ok {
		return netip.Addr{}, fmt.Errorf("find the way to %s: no address", peer.Remote)
	}
	return a.AddrPort().Addr().Unmap(), nil
}

// toDevice binds a socket to a device, if one is named.
func toDevice(device string) func(string, string, syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		if device == "" {
			return nil
		}
		var failed error
		if err := c.Control(func(fd uintptr) { failed = unix.BindToDevice(int(fd), device) }); err != nil {
			return err
		}
		return failed
	}
}

func listen(local netip.AddrPort, device string) (*net.UDPConn, error) {
	config := net.ListenConfig{Control: toDevice(device)}
	c, err := config.ListenPacket(context.Background(), "udp", local.String()) // it resolves nothing
	if err != nil {
		return nil, err
	}
	udp, ok := c.(*net.UDPConn)
	if !ok {
		return nil, errors.New("no UDP socket")
	}
	return udp, nil
}

// sender opens a socket with a source port of the range that RFC 5881 section 4 asks for, which the
// session keeps.
func sender(local netip.Addr, device string) (*net.UDPConn, error) {
	var err error
	for range 16 { // some port is free
		port := firstSource + rand.IntN(1<<16-firstSource)
		var c *net.UDPConn
		if c, err = listen(netip.AddrPortFrom(local, uint16(port)), device); err == nil {
			if err := setOut(c, local.Is4()); err != nil {
				c.Close()
				return nil, fmt.Errorf("set TTL: %w", err)
			}
			return c, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return nil, fmt.Errorf("open a socket on %s: %w", local, err)
}

func setOut(c *net.UDPConn, ipv4Local bool) error {
	if ipv4Local {
		p := ipv4.NewPacketConn(c)
		return errors.Join(p.SetTTL(oneHop), p.SetTOS(networkControl))
	}
	p := ipv6.NewPacketConn(c)
	return errors.Join(p.SetHopLimit(oneHop), p.SetTrafficClass(networkControl))
}

// join gives a link its discriminator, and a receiver.
func (w *wire) join(l *link) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	r, ok := w.receivers[l.place]
	if !ok {
		c, err := listen(l.place.local, l.place.device)
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("UDP port %d of %s is taken by another program, a routing daemon with BFD perhaps; end it, or leave BFD to it", l.place.local.Port(), l.place.local.Addr())
		}
		if err != nil {
			return fmt.Errorf("open port %d of %s: %w", l.place.local.Port(), l.place.local.Addr(), err)
		}
		r = &receiver{conn: c, done: make(chan struct{})}
		w.receivers[l.place] = r
		go func() { // ends when the last link that uses it is closed
			defer close(r.done)
			w.receive(c, l.place)
		}()
	}
	r.users++
	for l.discriminator == 0 || w.links[l.discriminator] != nil {
		l.discriminator = rand.Uint32()
	}
	w.links[l.discriminator] = l
	return nil
}

// close gives back what open took.
func (l *link) close() {
	l.conn.Close()
	w := l.wire
	w.mu.Lock()
	delete(w.links, l.discriminator)
	r := w.receivers[l.place]
	r.users--
	last := r.users == 0
	if last {
		delete(w.receivers, l.place)
		r.conn.Close()
	}
	w.mu.Unlock()
	if last {
		<-r.done
	}
}

// send sends a packet. What cannot be sent is lost as if on the way: the other will notice.
func (l *link) send(b []byte) {
	if _, err := l.conn.WriteToUDPAddrPort(b, l.to); err != nil {
		l.wire.log.Debug("BFD packet not sent", "peer", l.peer.Name, "error", err)
		return
	}
	l.wire.metrics.packets.WithLabelValues(l.peer.Name, "sent").Inc()
}

// receive hands packets to their sessions until the socket is closed.
func (w *wire) receive(c *net.UDPConn, at place) {
	read, err := reader(c, at.local.Addr().Is4())
	if err != nil {
		w.log.Error("BFD packets are not received", "address", at.local.String(), "error", err)
		return
	}
	b := make([]byte, 256)
	for {
		n, ttl, from, err := read(b)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // an ICMP error for something that was sent, or one that lasts
			<-time.After(time.Millisecond)
			continue
		}
		if reason := w.deliver(b[:n], ttl, from, at); reason != "" {
			w.metrics.rejected.WithLabelValues(reason).Inc()
		}
	}
}

// reader returns how to read a packet with its TTL.
func reader(c *net.UDPConn, ipv4Local bool) (func([]byte) (int, int, netip.Addr, error), error) {
	source := func(a net.Addr) netip.Addr {
		if u, ok := a.(*net.UDPAddr); ok {
			return u.AddrPort().Addr().Unmap()
		}
		return netip.Addr{}
	}
	if ipv4Local {
		p := ipv4.NewPacketConn(c)
		if err := p.SetControlMessage(ipv4.FlagTTL, true); err != nil {
			return nil, fmt.Errorf("ask for the TTL: %w", err)
		}
		return func(b []byte) (int, int, netip.Addr, error) {
			n, m, from, err := p.ReadFrom(b)
			if m == nil {
				return n, 0, source(from), err
			}
			return n, m.TTL, source(from), err
		}, nil
	}
	p := ipv6.NewPacketConn(c)
	if err := p.SetControlMessage(ipv6.FlagHopLimit, true); err != nil {
		return nil, fmt.Errorf("ask for the hop limit: %w", err)
	}
	return func(b []byte) (int, int, netip.Addr, error) {
		n, m, from, err := p.ReadFrom(b)
		if m == nil {
			return n, 0, source(from), err
		}
		return n, m.HopLimit, source(from), err
	}, nil
}

// deliver finds the session of a packet (RFC 5880 section 6.3, 6.8.6), or says why it has none.
func (w *wire) deliver(b []byte, ttl int, from netip.Addr, at place) (rejected string) {
	p, err := parse(b)
	if err != nil {
		return err.Error()
	}
	w.mu.Lock()
	l := w.links[p.yours]
	if p.yours == 0 {
		for _, one := range w.links {
			if one.place == at && one.peer.Remote == from {
				l = one
			}
		}
	}
	w.mu.Unlock()
	switch {
	case l == nil:
		return "no_session"
	case l.place != at || l.peer.Remote != from:
		return "source"
	case l.peer.MinTTL == 0 && ttl != oneHop, ttl < int(l.peer.MinTTL):
		select {
		case l.far <- ttl:
		default:
		}
		return "ttl"
	}
	w.metrics.packets.WithLabelValues(l.peer.Name, "received").Inc()
	select {
	case l.in <- p:
	default:
		return "busy" // as if lost
	}
	return ""
}
