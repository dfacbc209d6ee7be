package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/berth-lb/berth/internal/async"
)

// gobgpLog passes GoBGP's log on to ours and keeps, per peer, the last of what explains a failure.
// GoBGP's events say nothing of a session that does not come up: neither why a connection failed,
// nor which NOTIFICATION ended it. Its log says which one it sent, and which one ended an
// established session; the rest is read from the connections (see said). The tests of failing
// sessions hold the messages that it looks for.
type gobgpLog struct {
	inner slog.Handler
	wake  async.Signal // has an element when there is something to take

	mu      sync.Mutex
	names   map[netip.Prefix]string
	pending map[netip.Addr]failure
}

type failureKind int

const (
	nothing failureKind = iota
	connectFailed
	openFailed // the connection broke before the session was established
	notificationSent
	notificationReceived
)

// failure is one reason for which a session is not up.
type failure struct {
	kind          failureKind
	text          string
	code, subcode uint8 // of a NOTIFICATION
	byWire        bool  // read from a connection, and not told by GoBGP
	time          time.Time
}

// notification reports whether a NOTIFICATION was exchanged.
func (n failure) notification() bool {
	return n.kind == notificationSent || n.kind == notificationReceived
}

// deconfigured reports whether the session ended since we removed the peer (RFC 4486).
func (n failure) deconfigured() bool {
	return n.kind == notificationSent && n.code == gobgp.BGP_ERROR_CEASE &&
		n.subcode == gobgp.BGP_ERROR_SUB_PEER_DECONFIGURED
}

// badPeerAS reports whether an OPEN was refused for its AS number (RFC 4271 section 6.2).
func (n failure) badPeerAS() bool {
	return n.notification() && n.code == gobgp.BGP_ERROR_OPEN_MESSAGE_ERROR &&
		n.subcode == gobgp.BGP_ERROR_SUB_BAD_PEER_AS
}

// collision reports whether one of two connections was ended since the router dialed while we did
// (RFC 4271 section 6.8). That is no failure: the other one goes on, and says what is wrong.
func (n failure) collision() bool {
	return n.notification() && n.code == gobgp.BGP_ERROR_CEASE &&
		n.subcode == gobgp.BGP_ERROR_SUB_CONNECTION_COLLISION_RESOLUTION
}

// about is the note in words, of the session with this peer.
func (n failure) about(p Peer) string {
	if n.badPeerAS() && n.kind == notificationReceived {
		return fmt.Sprintf("%s: it does not expect AS %d", n.text, p.LocalASN)
	}
	return n.text
}

func newGobgpLog(inner slog.Handler) *gobgpLog {
	return &gobgpLog{
		inner:   inner,
		wake:    async.NewSignal(),
		names:   map[netip.Prefix]string{},
		pending: map[netip.Addr]failure{},
	}
}

func (n *gobgpLog) logger() *slog.Logger {
	return slog.New(&logBridge{log: n, inner: n.inner})
}

// rename tells which peer is at which address, or has its routers in which prefix.
func (n *gobgpLog) rename(names map[netip.Prefix]string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.names = names
	for address := range n.pending {
		if n.nameOf(address) == "" {
			delete(n.pending, address)
		}
	}
}

// take returns and forgets the last note of each peer.
func (n *gobgpLog) take() map[netip.Addr]failure {
	n.mu.Lock()
	defer n.mu.Unlock()
	taken := n.pending
	n.pending = map[netip.Addr]failure{}
	return taken
}

func (n *gobgpLog) put(address netip.Addr, v failure) {
	if v.collision() {
		return
	}
	n.mu.Lock()
	known := n.nameOf(address) != ""
	if known {
		n.pending[address] = v
	}
	n.mu.Unlock()
	if known {
		n.wake.Notify()
	}
}

// said takes an OPEN or a NOTIFICATION that comes from a router, before GoBGP does, which keeps the
// AS number of an OPEN that it refuses to itself, and the NOTIFICATION that answers its own OPEN.
func (n *gobgpLog) said(router netip.Addr, p Peer, message []byte) {
	m, err := gobgp.ParseBGPMessage(message)
	if err != nil {
		return // GoBGP answers it, and says so
	}
	f := failure{byWire: true, time: time.Now()}
	switch body := m.Body.(type) {
	case *gobgp.BGPOpen:
		asn := openASN(body)
		if p.Expects(asn) {
			return
		}
		f.kind, f.code, f.subcode = notificationSent, gobgp.BGP_ERROR_OPEN_MESSAGE_ERROR, gobgp.BGP_ERROR_SUB_BAD_PEER_AS
		f.text = fmt.Sprintf("peer says AS %d, configured %s; correct remoteASN of the BGPNeighbor, or the router", asn, p.AS())
	case *gobgp.BGPNotification:
		f.kind, f.code, f.subcode = notificationReceived, body.ErrorCode, body.ErrorSubcode
		f.text = "peer sent " + notificationText(f.code, f.subcode, communication(body))
	}
	n.put(router, f)
}

// communication is the text of a Cease (RFC 9003).
func communication(n *gobgp.BGPNotification) string {
	if n.ErrorCode != gobgp.BGP_ERROR_CEASE || n.ErrorSubcode != gobgp.BGP_ERROR_SUB_ADMINISTRATIVE_SHUTDOWN &&
		n.ErrorSubcode != gobgp.BGP_ERROR_SUB_ADMINISTRATIVE_RESET {
		return ""
	}
	if len(n.Data) == 0 || int(n.Data[0]) > len(n.Data)-1 {
		return ""
	}
	return string(n.Data[1 : 1+n.Data[0]])
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

func (n *gobgpLog) name(address netip.Addr) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.nameOf(address)
}

// nameOf returns who is at an address, "" if nobody is. It needs the lock.
func (n *gobgpLog) nameOf(address netip.Addr) string {
	address = address.WithZone("")
	if name, ok := n.names[netip.PrefixFrom(address, address.BitLen())]; ok {
		return name
	}
	for prefix, name := range n.names {
		if prefix.Contains(address) {
			return name
		}
	}
	return ""
}

// logBridge is the slog.Handler GoBGP writes to.
type logBridge struct {
	log     *gobgpLog
	inner   slog.Handler
	address netip.Addr // of the peer this logger belongs to, if any
}

// Enabled is true for debug messages too, because failed connections are told there.
func (b *logBridge) Enabled(context.Context, slog.Level) bool { return true }

func (b *logBridge) Handle(ctx context.Context, r slog.Record) error {
	if b.address.IsValid() {
		if n, ok := explain(r); ok {
			b.log.put(b.address, n)
		}
	}
	// What GoBGP calls information is every detail of a session; the loop logs the essence by name.
	if r.Level == slog.LevelInfo {
		r.Level = slog.LevelDebug
	}
	if !b.inner.Enabled(ctx, r.Level) {
		return nil
	}
	out := slog.NewRecord(r.Time, r.Level, "gobgp: "+r.Message, r.PC)
	if b.address.IsValid() {
		out.Add("peer", b.log.name(b.address))
	}
	r.Attrs(func(a slog.Attr) bool {
		out.AddAttrs(a)
		return true
	})
	return b.inner.Handle(ctx, out)
}

func (b *logBridge) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *b
	for _, a := range attrs {
		if a.Key != "Key" {
			continue
		}
		if address, err := netip.ParseAddr(a.Value.String()); err == nil {
			next.address = address
		}
	}
	next.inner = b.inner.WithAttrs(attrs)
	return &next
}

func (b *logBridge) WithGroup(name string) slog.Handler {
	next := *b
	next.inner = b.inner.WithGroup(name)
	return &next
}

// explain reads a record that says why a session is not up.
func explain(r slog.Record) (failure, bool) {
	n := failure{time: r.Time}
	switch r.Message {
	case "sent notification":
		n.kind = notificationSent
		n.code, n.subcode = uint8(attr(r, "Code").Int64()), uint8(attr(r, "Subcode").Int64())
		n.text = "sent " + notificationText(n.code, n.subcode, attr(r, "Communicated-Reason").String())
		if n.badPeerAS() {
			return failure{}, false // said tells more of it
		}
	case "received notification":
		n.kind = notificationReceived
		n.code, n.subcode = uint8(attr(r, "Code").Int64()), uint8(attr(r, "Subcode").Int64())
		n.text = "peer sent " + notificationText(n.code, n.subcode, attr(r, "Communicated-Reason").String())
	default:
		return failure{}, false
	}
	return n, true
}

// unreached is why there is no connection.
func unreached(err error) failure {
	_, cause, _ := strings.Cut(err.Error(), ": ")
	return failure{
		kind: connectFailed, time: time.Now(), text: "cannot connect: " + strings.TrimPrefix(cause, "connect: "),
	}
}

// silent reports whether the peer did not answer at all.
func (n failure) silent() bool {
	return n.kind == connectFailed && strings.HasSuffix(n.text, "i/o timeout")
}

// refused reports whether the peer's kernel answered that nobody listens.
func (n failure) refused() bool {
	return n.kind == connectFailed && strings.HasSuffix(n.text, syscall.ECONNREFUSED.Error())
}

// attr returns a record's attribute, or a zero of the kind that is expected of it.
func attr(r slog.Record, key string) slog.Value {
	found := slog.StringValue("")
	if key == "Code" || key == "Subcode" {
		found = slog.Int64Value(0)
	}
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == key && a.Value.Kind() == found.Kind() {
			found = a.Value
			return false
		}
		return true
	})
	return found
}

// notificationText decodes a NOTIFICATION (RFC 4271 section 4.5) with its shutdown communication
// (RFC 9003).
func notificationText(code, subcode uint8, communication string) string {
	text := fmt.Sprintf("NOTIFICATION %s", gobgp.NewNotificationErrorCode(code, subcode))
	if communication != "" {
		text += fmt.Sprintf(": %q", communication)
	}
	return text
}
