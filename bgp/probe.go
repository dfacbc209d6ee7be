package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/bgp/discover"
)

const (
	probePause = time.Minute // between probes of one peer

	unsignedTimeout = 2 * time.Second // of a connection that a peer drops or takes at once
	pingTimeout     = time.Second

	// A router that is silent, or has no BGP, is called so often for a minute, and from then on every
	// callPauseLater if it is silent, and as often as the peer's ConnectRetryTime says if it refuses.
	callPause      = 500 * time.Millisecond
	callPauseLater = 900 * time.Millisecond
	callsAtFirst   = time.Minute
	// One call in so many waits so long, for peers that are that far away.
	longCall, longCallEvery = 2 * time.Second, 8
)

// connect calls a peer after a while, and then until it takes the connection; nil: the context
// ended first. Why it does not is told when that changes, and else every ConnectRetryTime.
//
// A call is a SYN, which the kernel would repeat ever more seldom: so each has a socket of its own.
func connect(ctx context.Context, p Peer, wait time.Duration, failed func(failure)) *net.TCPConn {
	dialer := sessionDialerTo(p)
	_, _, retry := p.Timers()
	var first, told failure // of those alike in a row
	for i := 1; ; i++ {
		pause := time.NewTimer(time.Duration(float64(wait) * (0.75 + rand.Float64()/4))) // not all nodes at once
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil
		}
		wait = callPause
		if !first.time.IsZero() && time.Since(first.time) > callsAtFirst {
			wait = callPauseLater
			if first.refused() {
				wait = max(wait, retry)
			}
		}
		dialer.Timeout = min(wait, callPauseLater)
		if i%longCallEvery == 0 {
			dialer.Timeout = longCall
		}
		began := time.Now()
		conn, err := dialer.DialContext(ctx, "tcp", p.AddrPort().String())
		if tcp, ok := conn.(*net.TCPConn); ok {
			return tcp
		}
		if ctx.Err() != nil {
			return nil
		}
		f := unreached(err)
		if first.time.IsZero() || f.refused() != first.refused() {
			first, told = f, failure{}
		}
		if f.silent() && told.text != "" { // the kernel says so by turns of a host that is not there
			f.text = told.text
		}
		if f.text != told.text || f.time.Sub(told.time) >= retry {
			told = f
			failed(f)
		}
		wait = max(0, wait-time.Since(began))
	}
}

// sessionDialerTo dials as GoBGP does for a session.
func sessionDialerTo(p Peer) net.Dialer {
	dialer := dialerTo(p)
	dialer.KeepAlive = -1 // BGP has its own
	var ttl, minTTL uint8
	switch {
	case p.TTLSecurityHops > 0:
		ttl, minTTL = 255, uint8(256-int(p.TTLSecurityHops))
	case p.RemoteASN != 0 && p.External():
		ttl = max(1, p.EBGPMultihop)
	}
	log := slog.New(slog.DiscardHandler)
	dialer.Control = func(network, address string, c syscall.RawConn) error {
		return dialerControl(log, network, address, c, ttl, minTTL, 0, p.Password, p.VRF, 0)
	}
	return dialer
}

// probeUnsigned finds out why a peer with a password does not answer: kernels drop what is not
// signed as they expect, on both sides, without a word.
func probeUnsigned(ctx context.Context, p Peer) string {
	ctx, cancel := context.WithTimeout(ctx, unsignedTimeout)
	defer cancel()
	dialer := dialerTo(p)
	conn, err := dialer.DialContext(ctx, "tcp", p.AddrPort().String())
	switch {
	case err == nil:
		_ = conn.Close()
		return "peer answers without TCP MD5, and not with it: it has no password for this node; set the same one on the router, " +
			"or leave out authentication of the BGPNeighbor"
	case errors.Is(err, syscall.ECONNREFUSED):
		return refuses(p)
	}
	ctx, cancelPing := context.WithTimeout(context.WithoutCancel(ctx), pingTimeout)
	defer cancelPing()
	if answers, err := discover.Answers(ctx, p.Address, dialer.Control); err != nil || !answers {
		return ""
	}
	return fmt.Sprintf(
		"peer answers ping, and no connection to port %d: it has another password for this node, or a filter is on the way",
		p.AddrPort().Port(),
	)
}

// Knock connects to a peer as a session does, with its password if it has one, and closes the
// connection before a byte was said. Where that fails the error says why, as far as it can be found
// out; signed: it is about the password. It must not call while there is a session: see RFC 4724
// section 4.2. So free is asked right before each of up to two calls, and Knock returns its error.
func Knock(ctx context.Context, p Peer, free func() error) (signed bool, err error) {
	if err := free(); err != nil {
		return false, err
	}
	dialer := sessionDialerTo(p)
	dialer.Timeout = unsignedTimeout
	conn, err := dialer.DialContext(ctx, "tcp", p.AddrPort().String())
	if err == nil {
		return false, conn.Close()
	}
	if f := unreached(err); p.Password == "" || f.refused() {
		return false, errors.New(f.text)
	}
	if err := free(); err != nil {
		return false, err
	}
	if text := probeUnsigned(ctx, p); text != "" {
		return text != refuses(p), errors.New(text)
	}
	return false, errors.New(unreached(err).text)
}

func refuses(p Peer) string {
	return fmt.Sprintf("peer refuses connections to port %d", p.AddrPort().Port())
}

// dialerTo dials as the session does, but for a signature.
func dialerTo(p Peer) net.Dialer {
	dialer := net.Dialer{}
	if p.SourceAddress.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(p.SourceAddress, 0))
	}
	if p.VRF != "" {
		dialer.Control = boundTo(p.VRF)
	}
	return dialer
}

// boundTo has a socket bound to a device, as that of the session is: another router may have the
// address elsewhere.
func boundTo(device string) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var bound error
		err := c.Control(func(fd uintptr) { bound = unix.BindToDevice(int(fd), device) })
		if err := errors.Join(err, bound); err != nil {
			return fmt.Errorf("bind to %s: %w", device, err)
		}
		return nil
	}
}
