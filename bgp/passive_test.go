package bgp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/osrg/gobgp/v4/api"
	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// ear has the driver listen on a port of its own and returns where.
func ear(t testing.TB) (at netip.AddrPort, change func(*Config)) {
	t.Helper()
	at = netip.AddrPortFrom(driverAddress, freePort(t, driverAddress.String()))
	return at, func(c *Config) { c.Listen = at.String() }
}

func loopback(name, prefix string) Peer {
	return Peer{Name: name, Prefix: netip.MustParsePrefix(prefix), LocalASN: nodeASN, RemoteASN: torASN}
}

const torASN = 64513

// dial connects to the driver from an address.
func dial(t testing.TB, from string, to netip.AddrPort) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := dialer.DialContext(t.Context(), "tcp", to.String())
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	return conn
}

// greet exchanges OPEN and KEEPALIVE messages.
func greet(t testing.TB, conn net.Conn, asn uint32) {
	t.Helper()
	must(t, sendOpen(conn, Peer{LocalASN: asn}, netip.MustParseAddr("192.0.2.77")))
	hello, err := gobgp.NewBGPKeepAliveMessage().Serialize()
	must(t, err)
	_, err = conn.Write(hello)
	must(t, err)
}

// sends waits for a message of a type, and returns it.
func sends(t testing.TB, conn net.Conn, kind uint8) *gobgp.BGPMessage {
	t.Helper()
	for {
		m, err := readMessage(conn)
		if err != nil {
			t.Fatalf("waited for a message of type %d: %v", kind, err)
		}
		if m.Header.Type == kind {
			return m
		}
	}
}

func (r *running) neighbors(t testing.TB) (found []string) {
	t.Helper()
	must(t, r.owner.server.bgp.ListPeer(context.Background(), &api.ListPeerRequest{}, func(p *api.Peer) {
		found = append(found, p.GetState().GetNeighborAddress())
	}))
	return found
}

func TestRoutersOfAPrefixComeAndGo(t *testing.T) {
	at, listen := ear(t)
	d := run(t, listen)
	d.SyncPeers([]Peer{loopback("racks", "127.0.1.0/24")})
	d.Sync("web", routes(nil, "192.0.2.1/32"))
	d.becomes(t, func(st Status) bool {
		return len(st.Peers) == 1 && !st.Peers[0].Address.IsValid() && st.Peers[0].LastError == ""
	})
	first := dial(t, "127.0.1.1", at)
	greet(t, first, torASN)
	sends(t, first, gobgp.BGP_MSG_UPDATE)
	second := dial(t, "127.0.1.2", at)
	greet(t, second, torASN)
	sends(t, second, gobgp.BGP_MSG_UPDATE)
	d.becomes(t, func(st Status) bool {
		return len(st.Peers) == 2 && st.Peers[0].Established() && st.Peers[1].Established() &&
			st.Peers[0].Address.String() == "127.0.1.1" && st.Peers[1].Address.String() == "127.0.1.2" && st.Peers[1].IPv4 == 1
	})
	metrics := gather(t, d.metrics)
	if metrics["berth_bgp_session_up{peer=racks/127.0.1.1}"] != 1 ||
		metrics["berth_bgp_session_up{peer=racks/127.0.1.2}"] != 1 {
		t.Errorf("metrics %v", metrics)
	}
	must(t, first.Close())
	o := d.observes(t, SessionDown, "racks")
	if o.Router.String() != "127.0.1.1" {
		t.Errorf("neighbor %s went, want 127.0.1.1", o.Router)
	}
	d.becomes(t, func(st Status) bool { return len(st.Peers) == 1 && st.Peers[0].Address.String() == "127.0.1.2" })
	again := dial(t, "127.0.1.1", at)
	greet(t, again, torASN)
	sends(t, again, gobgp.BGP_MSG_UPDATE)

	d.SyncPeers(nil)
	for _, conn := range []net.Conn{second, again} {
		n := sends(t, conn, gobgp.BGP_MSG_NOTIFICATION).Body.(*gobgp.BGPNotification)
		if n.ErrorCode != gobgp.BGP_ERROR_CEASE || n.ErrorSubcode != gobgp.BGP_ERROR_SUB_PEER_DECONFIGURED {
			t.Errorf("NOTIFICATION %d/%d, want Cease, Peer De-configured", n.ErrorCode, n.ErrorSubcode)
		}
	}
	d.becomes(t, func(st Status) bool { return len(st.Peers) == 0 })
	if left := d.neighbors(t); len(left) > 0 {
		t.Errorf("GoBGP still has %v", left)
	}
}

func TestARouterOfAPrefixInAnotherASIsExplainedAndForgotten(t *testing.T) {
	at, listen := ear(t)
	d := run(t, listen)
	d.SyncPeers([]Peer{loopback("racks", "127.0.1.0/24")})
	d.becomes(t, func(st Status) bool { return len(st.Peers) == 1 })
	for range 2 { // the second attempt is judged again
		conn := dial(t, "127.0.1.1", at)
		greet(t, conn, 64999)
		n := sends(t, conn, gobgp.BGP_MSG_NOTIFICATION).Body.(*gobgp.BGPNotification)
		if n.ErrorCode != gobgp.BGP_ERROR_OPEN_MESSAGE_ERROR || n.ErrorSubcode != gobgp.BGP_ERROR_SUB_BAD_PEER_AS {
			t.Errorf("NOTIFICATION %d/%d, want Bad Peer AS", n.ErrorCode, n.ErrorSubcode)
		}
		await(
			t,
			time.Tick(10*time.Millisecond),
			func() bool { return len(d.neighbors(t)) == 0 },
			func() string { return fmt.Sprint(d.neighbors(t)) },
		)
	}
	o := d.observes(t, SessionFailed, "racks")
	if want := "127.0.1.1: peer says AS 64999, configured 64513"; !strings.HasPrefix(o.Reason, want) {
		t.Errorf("reason %q, want %q", o.Reason, want)
	}
	d.becomes(t, func(st Status) bool {
		return len(st.Peers) == 1 && strings.HasPrefix(st.Peers[0].LastError, "127.0.1.1: ")
	})
}

func TestNoMoreThan64RoutersOfAPrefixAreAccepted(t *testing.T) {
	at, listen := ear(t)
	d := run(t, listen)
	d.SyncPeers([]Peer{loopback("racks", "127.0.1.0/24")})
	d.becomes(t, func(st Status) bool { return len(st.Peers) == 1 })
	for i := range maxNeighbors {
		sends(t, dial(t, fmt.Sprintf("127.0.1.%d", i+1), at), gobgp.BGP_MSG_OPEN)
	}
	d.becomes(t, func(st Status) bool { return len(st.Peers) == maxNeighbors })
	more := dial(t, "127.0.1.99", at)
	d.observesReason(t, SessionFailed, "racks", "127.0.1.99: not accepted: 64 routers of 127.0.1.0/24")
	if _, err := io.Copy(io.Discard, more); err != nil && errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the connection stays: %v", err)
	}
	await(
		t,
		time.Tick(10*time.Millisecond),
		func() bool { return len(d.neighbors(t)) == maxNeighbors },
		func() string { return fmt.Sprint(len(d.neighbors(t))) },
	)
}

func TestAListenerThatFailsForAWhileGoesOn(t *testing.T) {
	at, listen := ear(t)
	d := run(t, listen)
	d.SyncPeers([]Peer{loopback("racks", "127.0.1.0/24")})
	d.becomes(t, func(st Status) bool { return len(st.Peers) == 1 })
	conn := dial(t, "127.0.1.1", at)
	greet(t, conn, torASN)
	d.observes(t, SessionUp, "racks")
	socket := d.owner.server.ears.sockets[0]
	must(t, socket.SetDeadline(time.Unix(1, 0))) // every call fails
	next := dial(t, "127.0.1.2", at)
	greet(t, next, torASN)
	must(t, socket.SetDeadline(time.Time{}))
	d.observes(t, SessionUp, "racks")
	d.becomes(t, func(st Status) bool { return len(st.Peers) == 2 })
}

func TestAPasswordThatTheListenerDoesNotTakeIsReported(t *testing.T) {
	_, listen := ear(t)
	d := run(t, listen)
	p := loopback("racks", "127.0.1.0/24")
	p.Password = strings.Repeat("x", 81) // the kernel's limit is 80
	d.SyncPeers([]Peer{p})
	d.observesReason(t, SessionFailed, "racks", "TCP MD5 on the listener")
	p.Prefix, p.Address, p.Passive = netip.Prefix{}, netip.MustParseAddr("127.0.1.1"), true
	d.SyncPeers([]Peer{p})
	d.observesReason(t, SessionFailed, "racks", "TCP MD5 on the listener")
	if left := d.neighbors(t); len(left) > 0 {
		t.Errorf("GoBGP has %v, unsigned", left)
	}
}

func TestPeersThatCannotConnectToUsSayWhy(t *testing.T) {
	for _, c := range []struct {
		name, listen string
		peer         Peer
		want         string
	}{
		{
			"passive", "",
			Peer{Name: "tor", Address: netip.MustParseAddr("192.0.2.1"), Passive: true, LocalASN: 1, RemoteASN: 2},
			"without --bgp-listen",
		},
		{
			"by prefix", "", Peer{Name: "tor", Prefix: netip.MustParsePrefix("192.0.2.0/24"), LocalASN: 1, RemoteASN: 2},
			"without --bgp-listen",
		},
		{
			"of another family", "127.0.0.1:0",
			Peer{Name: "tor", Address: netip.MustParseAddr("2001:db8::1"), Passive: true, LocalASN: 1, RemoteASN: 2},
			"of another family",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := run(t, func(config *Config) {
				if c.listen != "" {
					config.Listen = fmt.Sprintf("127.0.0.1:%d", freePort(t, "127.0.0.1"))
				}
			})
			d.SyncPeers([]Peer{c.peer})
			d.observesReason(t, SessionFailed, "tor", c.want)
		})
	}
}

func TestWhereToListenIsRead(t *testing.T) {
	for text, want := range map[string]string{
		"":                  "[] 0",
		":179":              "[0.0.0.0 ::] 179",
		"192.0.2.1:1179":    "[192.0.2.1] 1179",
		"[2001:db8::1]:179": "[2001:db8::1] 179",
		"179":               `listen for BGP on "179": address 179: missing port in address; write [address]:port, such as :179`,
		":bgp":              `listen for BGP on ":bgp": "bgp" is not a port from 1 to 65535`,
		"node:179":          `listen for BGP on "node:179": ParseAddr("node"): unable to parse IP`,
	} {
		l, err := newListener(text)
		got := fmt.Sprint(l.texts(), l.port)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestPeersThatOverlapARoutersPrefixAreRefused(t *testing.T) {
	usable, problems := checkPeers([]Peer{
		loopback("racks", "127.0.1.0/24"),
		{Name: "tor", Address: netip.MustParseAddr("127.0.1.7"), LocalASN: 1, RemoteASN: 2},
		loopback("wider", "127.0.0.0/16"),
		{Name: "spine", Address: netip.MustParseAddr("127.0.2.7"), LocalASN: 1, RemoteASN: 2},
	})
	if len(usable) != 2 || usable[0].Name != "racks" || usable[1].Name != "spine" {
		t.Errorf("usable: %v", usable)
	}
	for i, want := range []string{
		"peer tor (127.0.1.7) overlaps peer racks (127.0.1.0/24)", "peer wider (127.0.0.0/16) overlaps peer racks",
	} {
		if len(problems) != 2 || !strings.Contains(problems[i].text, want) {
			t.Errorf("problems %v, want %q", problems, want)
		}
	}
}

func TestOneRouterOfAPrefixIsLeftAlone(t *testing.T) {
	at, listen := ear(t)
	d := run(t, listen)
	d.LeaveAlone(map[netip.Addr]string{netip.MustParseAddr("127.0.1.2"): "it bites"})
	d.SyncPeers([]Peer{loopback("racks", "127.0.1.0/24")})
	d.becomes(t, func(st Status) bool { return len(st.Peers) == 1 && st.Peers[0].LastError == "" })
	bad := dial(t, "127.0.1.2", at)
	if n, err := bad.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
		t.Errorf("a router that is left alone reads %d bytes, %v; want the end", n, err)
	}
	d.becomes(t, func(st Status) bool { return len(st.Peers) == 1 && st.Peers[0].LastError == "127.0.1.2: it bites" })
	greet(t, dial(t, "127.0.1.1", at), torASN)
	d.becomes(t, func(st Status) bool {
		return len(st.Peers) == 1 && st.Peers[0].Address == netip.MustParseAddr("127.0.1.1") && st.Peers[0].Established()
	})
}

// sendOpen opens a session as p says.
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

// readMessage reads one message.
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
