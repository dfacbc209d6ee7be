package bgp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"time"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/bgp/discover"
	"github.com/berth-lb/berth/bgp/sift"
)

const (
	probeTimeout = 12 * time.Second // for all attempts; peers close connections for some seconds after an error
	probeRetry   = time.Second
	probePause   = time.Minute // between probes of one peer

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
// ended first. Why it does not is told when that changes, and else every ConnectRetryTime. Heard is
// called at each message that the peer sends.
//
// A call is a SYN, which the kernel would repeat ever more seldom: so each has a socket of its own.
func connect(ctx context.Context, p Peer, wait time.Duration, heard func(), failed func(failure)) net.Conn {
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
			return sift.New(tcp, heard) // nothing that a peer announces is wanted
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

// probe opens connections of its own to a peer whose session fails while it is being opened, until
// it can say why in terms of the configuration. GoBGP drops both the AS number of an OPEN it
// refuses and the NOTIFICATION that answers its own. An empty answer means that nothing was found
// out.
func probe(ctx context.Context, p Peer, routerID netip.Addr) string {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	again := time.NewTicker(probeRetry)
	defer again.Stop()
	for {
		if text := probeOnce(ctx, p, routerID); text != "" {
			return text
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return ""
		}
	}
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
		return "peer answers without a signature, and not with one: it has no password for this node; set it there, or leave out authentication here"
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("peer refuses connections to port %d", p.AddrPort().Port())
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

func probeOnce(ctx context.Context, p Peer, routerID netip.Addr) string {
	dialer := dialerTo(p)
	conn, err := dialer.DialContext(ctx, "tcp", p.AddrPort().String())
	if err != nil {
		return ""
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := sendOpen(conn, p, routerID); err != nil {
		return ""
	}
	return readVerdict(conn, p)
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

func sendOpen(w io.Writer, p Peer, routerID netip.Addr) error {
	hold, _, _ := p.Timers()
	asn := uint16(gobgp.AS_TRANS)
	if p.LocalASN <= 65535 {
		asn = uint16(p.LocalASN)
	}
	open, err := gobgp.NewBGPOpenMessage(asn, uint16(hold/time.Second), routerID, []gobgp.OptionParameterInterface{
		gobgp.NewOptionParameterCapability([]gobgp.ParameterCapabilityInterface{
			gobgp.NewCapMultiProtocol(gobgp.RF_IPv4_UC),
			gobgp.NewCapMultiProtocol(gobgp.RF_IPv6_UC),
			gobgp.NewCapFourOctetASNumber(p.LocalASN),
		}),
	})
	if err != nil {
		return fmt.Errorf("build OPEN for %s: %w", p.Name, err)
	}
	raw, err := open.Serialize()
	if err != nil {
		return fmt.Errorf("build OPEN for %s: %w", p.Name, err)
	}
	if _, err := w.Write(raw); err != nil {
		return fmt.Errorf("send OPEN to %s: %w", p.Name, err)
	}
	return nil
}

// readVerdict reads what the peer answers to an OPEN: its own, and a KEEPALIVE or a NOTIFICATION.
func readVerdict(r io.Reader, p Peer) string {
	for {
		m, err := readMessage(r)
		if err != nil {
			return ""
		}
		switch body := m.Body.(type) {
		case *gobgp.BGPOpen:
			if asn := openASN(body); !p.Expects(asn) {
				return fmt.Sprintf("peer says AS %d, configured %s", asn, p.AS())
			}
		case *gobgp.BGPNotification:
			text := "peer refuses our OPEN with " + notificationText(body.ErrorCode, body.ErrorSubcode, "")
			if body.ErrorCode == gobgp.BGP_ERROR_OPEN_MESSAGE_ERROR && body.ErrorSubcode == gobgp.BGP_ERROR_SUB_BAD_PEER_AS {
				text += fmt.Sprintf(": it does not expect AS %d", p.LocalASN)
			}
			return text
		default:
			return ""
		}
	}
}

func readMessage(r io.Reader) (*gobgp.BGPMessage, error) {
	head := make([]byte, gobgp.BGP_HEADER_LENGTH)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, fmt.Errorf("read message header: %w", err)
	}
	length := binary.BigEndian.Uint16(head[16:18])
	if length < gobgp.BGP_HEADER_LENGTH || length > gobgp.BGP_MAX_MESSAGE_LENGTH {
		return nil, errors.New("message length out of range")
	}
	raw := make([]byte, length)
	copy(raw, head)
	if _, err := io.ReadFull(r, raw[gobgp.BGP_HEADER_LENGTH:]); err != nil {
		return nil, fmt.Errorf("read message: %w", err)
	}
	m, err := gobgp.ParseBGPMessage(raw)
	if err != nil {
		return nil, fmt.Errorf("parse message: %w", err)
	}
	return m, nil
}

// openASN is the sender's AS number (RFC 6793: from the capability, if there is one).
func openASN(open *gobgp.BGPOpen) uint32 {
	asn := uint32(open.MyAS)
	for _, param := range open.OptParams {
		caps, ok := param.(*gobgp.OptionParameterCapability)
		if !ok {
			continue
		}
		for _, c := range caps.Capability {
			if four, ok := c.(*gobgp.CapFourOctetASNumber); ok {
				asn = four.CapValue
			}
		}
	}
	return asn
}
