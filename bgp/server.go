package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"
	_ "unsafe" // for go:linkname

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	gobgpserver "github.com/osrg/gobgp/v4/pkg/server"
)

// placeholderASN is GoBGP's own AS number, which no session uses: each peer brings its LocalASN.
const placeholderASN = 65535

// deferral is for how many seconds after a restart a peer's End-of-RIB is waited for before it is
// sent our routes (RFC 4724 section 4.1). Nothing that it sends matters to them.
const deferral = 1

// pathsPerCall bounds how long one call keeps GoBGP's sessions waiting: it holds a server-wide lock
// while it works through its paths.
const pathsPerCall = 500

// server is a running GoBGP. Its calls may come from one goroutine at a time.
type server struct {
	bgp      *gobgpserver.BgpServer
	events   <-chan sessionEvent
	gobgpLog *gobgpLog
	ears     *ears
	cancel   context.CancelFunc // ends events
}

// sessionEvent is a session's change of state, as GoBGP tells it.
type sessionEvent struct {
	address  netip.Addr
	state    gobgp.FSMState
	reason   string // GoBGP's word for why, empty if none
	time     time.Time
	families []gobgp.Family // negotiated; with FSM state ESTABLISHED only
	restarts bool           // the peer knows graceful restart
	peerASN  uint32
	extended bool // the peer takes IPv4 routes with an IPv6 next hop (RFC 8950)
}

// GoBGP's own attempts to connect are 2 s and more apart, and 2 s late. So we connect, and give it
// the connection as its listener does, for which it has no call: these are what the listener calls,
// and what prepares sockets of GoBGP's own. That they are there the linker checks, that they work
// every test of a session. Its listener is not used either: it hands over what bgp/sift has not
// seen.

//go:linkname manage github.com/osrg/gobgp/v4/pkg/server.(*BgpServer).mgmtOperation
func manage(s *gobgpserver.BgpServer, f func() error, checkActive bool) error

//go:linkname passConn github.com/osrg/gobgp/v4/pkg/server.(*BgpServer).passConnToPeer
func passConn(s *gobgpserver.BgpServer, conn net.Conn)

//go:linkname dialerControl github.com/osrg/gobgp/v4/internal/pkg/netutils.DialerControl
func dialerControl(
	logger *slog.Logger,
	network, address string,
	c syscall.RawConn,
	ttl, minTTL uint8,
	mss uint16,
	password, device string,
	tos uint8,
) error

// startServer starts GoBGP. Its events end with ctx; the server itself runs until stop, and the
// ears, which it takes over, as long.
func startServer(ctx context.Context, routerID netip.Addr, ears *ears, log *gobgpLog) (*server, error) {
	ctx, cancel := context.WithCancel(ctx)
	bgp := gobgpserver.NewBgpServer(gobgpserver.LoggerOption(log.logger(), nil))
	go bgp.Serve() // ends with stop
	s := &server{bgp: bgp, gobgpLog: log, ears: ears, cancel: cancel}
	global := &api.Global{Asn: placeholderASN, RouterId: routerID.String(), ListenPort: -1}
	err := bgp.StartBgp(ctx, &api.StartBgpRequest{Global: global})
	if err != nil {
		s.stop(ctx, false)
		return nil, fmt.Errorf("start BGP with router ID %s: %w", routerID, err)
	}
	if err := s.watch(ctx); err != nil {
		s.stop(ctx, false)
		return nil, err
	}
	if err := s.setPeers(ctx, nil, newAttributeSets()); err != nil {
		s.stop(ctx, false)
		return nil, err
	}
	for _, a := range assignments() {
		if err := bgp.SetPolicyAssignment(ctx, &api.SetPolicyAssignmentRequest{Assignment: a}); err != nil {
			s.stop(ctx, false)
			return nil, fmt.Errorf("assign policy %s: %w", a.Policies[0].Name, err)
		}
	}
	return s, nil
}

// watch turns GoBGP's callbacks into a channel. GoBGP queues without bound, so that a slow reader
// holds up nothing but its own news.
func (s *server) watch(ctx context.Context) error {
	events := make(chan sessionEvent)
	s.events = events
	err := s.bgp.WatchEvent(ctx, gobgpserver.WatchEventMessageCallbacks{
		OnPeerUpdate: func(m *apiutil.WatchEventMessage_PeerEvent, at time.Time) {
			if m.Type != apiutil.PEER_EVENT_STATE {
				return
			}
			st := m.Peer.State
			e := sessionEvent{
				address: st.NeighborAddress,
				state:   st.SessionState,
				reason:  st.DisconnectMessage,
				time:    at,
				peerASN: st.PeerASN,
			}
			for _, c := range st.RemoteCap {
				switch v := c.(type) {
				case *gobgp.CapMultiProtocol:
					e.families = append(e.families, v.CapValue)
				case *gobgp.CapExtendedNexthop:
					e.extended = e.extended || slices.ContainsFunc(v.Tuples, extendedIPv4)
				case *gobgp.CapGracefulRestart:
					e.restarts = true
				}
			}
			select {
			case events <- e:
			case <-ctx.Done():
			}
		},
	}, gobgpserver.WatchPeer())
	if err != nil {
		return fmt.Errorf("watch BGP sessions: %w", err)
	}
	return nil
}

func extendedIPv4(t *gobgp.CapExtendedNexthopTuple) bool {
	return t.NLRIAFI == gobgp.AFI_IP && t.NLRISAFI == uint16(gobgp.SAFI_UNICAST) && t.NexthopAFI == gobgp.AFI_IP6
}

// setPeers makes the policies know these peers and sets of attributes, all at once. It touches no
// session.
func (s *server) setPeers(ctx context.Context, peers []recipient, b *attributeSets) error {
	if err := s.bgp.SetPolicies(ctx, policies(peers, b)); err != nil {
		return fmt.Errorf("set BGP policies for %d peers: %w", len(peers), err)
	}
	return nil
}

// addPeer starts a session, which waits for a connection: the peer's, or one that take brings.
func (s *server) addPeer(ctx context.Context, p Peer) error {
	err := s.ears.sign(p)
	if err == nil {
		err = s.introduce(ctx, p)
	}
	if err != nil {
		return fmt.Errorf("add peer %s (%s): %w", p.Name, p.Place(), err)
	}
	return nil
}

func (s *server) introduce(ctx context.Context, p Peer) error {
	n := toAPIPeer(p)
	if !p.Prefix.IsValid() {
		return s.bgp.AddPeer(ctx, &api.AddPeerRequest{Peer: n})
	}
	err := s.bgp.AddPeerGroup(ctx, &api.AddPeerGroupRequest{PeerGroup: &api.PeerGroup{
		Conf: &api.PeerGroupConf{
			PeerGroupName: p.Name, LocalAsn: n.Conf.LocalAsn, PeerAsn: n.Conf.PeerAsn, AuthPassword: n.Conf.AuthPassword,
		},
		Timers: n.Timers, Transport: n.Transport, EbgpMultihop: n.EbgpMultihop, TtlSecurity: n.TtlSecurity,
		AfiSafis: n.AfiSafis,
	}})
	if err != nil {
		return err
	}
	return s.bgp.AddDynamicNeighbor(ctx, &api.AddDynamicNeighborRequest{DynamicNeighbor: &api.DynamicNeighbor{
		Prefix: p.Prefix.String(), PeerGroup: p.Name,
	}})
}

// take gives GoBGP a connection with a peer.
func (s *server) take(conn net.Conn) error {
	err := manage(s.bgp, func() error {
		passConn(s.bgp, conn)
		return nil
	}, true)
	if err != nil {
		return errors.Join(fmt.Errorf("pass a connection to %s on: %w", conn.RemoteAddr(), err), conn.Close())
	}
	return nil
}

// toAPIPeer returns a peer as GoBGP wants it.
func toAPIPeer(p Peer) *api.Peer {
	hold, keepalive, _ := p.Timers()
	neighbor := &api.Peer{
		Conf: &api.PeerConf{
			LocalAsn:     p.LocalASN,
			PeerAsn:      p.RemoteASN,
			AuthPassword: p.Password,
		},
		Timers: &api.Timers{Config: &api.TimersConfig{
			HoldTime:          uint64(hold / time.Second),
			KeepaliveInterval: uint64(keepalive / time.Second),
			// After a reset of ours; GoBGP's default is 30.
			IdleHoldTimeAfterReset: 1,
		}},
		Transport: &api.Transport{RemotePort: uint32(p.AddrPort().Port()), PassiveMode: true},
	}
	if p.Address.IsValid() {
		neighbor.Conf.NeighborAddress = p.Address.String()
	}
	if p.SourceAddress.IsValid() {
		neighbor.Transport.LocalAddress = p.SourceAddress.String()
	}
	if p.EBGPMultihop > 0 {
		neighbor.EbgpMultihop = &api.EbgpMultihop{Enabled: true, MultihopTtl: uint32(p.EBGPMultihop)}
	}
	if p.TTLSecurityHops > 0 {
		neighbor.TtlSecurity = &api.TtlSecurity{Enabled: true, TtlMin: 256 - uint32(p.TTLSecurityHops)}
	}
	if p.RemoteASN == 0 {
		neighbor.Conf.Type = api.PeerType_PEER_TYPE_EXTERNAL
		if !p.External() {
			neighbor.Conf.Type = api.PeerType_PEER_TYPE_INTERNAL
			neighbor.Conf.PeerAsn = p.LocalASN
		}
	}
	neighbor.Transport.BindInterface = p.VRF
	restart := p.GracefulRestart > 0
	if restart {
		neighbor.GracefulRestart = &api.GracefulRestart{
			Enabled: true, RestartTime: uint32(p.GracefulRestart / time.Second), DeferralTime: deferral,
			// So it is after each start, as far as the peer is concerned: forwarding went on, and it keeps
			// the routes.
			LocalRestarting: true,
		}
	}
	for _, f := range familiesOf(p) {
		family := apiutil.ToApiFamily(f.Afi(), f.Safi())
		neighbor.AfiSafis = append(neighbor.AfiSafis, &api.AfiSafi{
			Config: &api.AfiSafiConfig{Family: family, Enabled: true},
			// No limit, for GoBGP counts its whole table at each UPDATE. None comes as far.
			PrefixLimits:      &api.PrefixLimit{Family: family},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: restart}},
		})
	}
	return neighbor
}

// deletePeer ends a session with NOTIFICATION Cease, Peer De-configured; of a prefix the sessions
// with all routers.
func (s *server) deletePeer(ctx context.Context, p Peer) error {
	if !p.Address.IsValid() {
		return s.deletePrefix(ctx, p)
	}
	if err := s.bgp.DeletePeer(ctx, &api.DeletePeerRequest{Address: p.Address.String()}); err != nil {
		return fmt.Errorf("delete peer %s (%s): %w", p.Name, p.Address, err)
	}
	if p.ByPrefix() {
		return nil // its password is that of all routers
	}
	return s.ears.unsign(p)
}

func (s *server) deletePrefix(ctx context.Context, p Peer) error {
	err := s.bgp.DeleteDynamicNeighbor(
		ctx,
		&api.DeleteDynamicNeighborRequest{Prefix: p.Prefix.String(), PeerGroup: p.Name},
	)
	if err != nil {
		return fmt.Errorf("accept no more routers of %s: %w", p.Prefix, err)
	}
	var found []string
	err = s.bgp.ListPeer(ctx, &api.ListPeerRequest{}, func(n *api.Peer) {
		if n.GetConf().GetPeerGroup() == p.Name {
			found = append(found, n.GetState().GetNeighborAddress())
		}
	})
	for _, address := range found {
		err = errors.Join(err, s.bgp.DeletePeer(ctx, &api.DeletePeerRequest{Address: address}))
	}
	err = errors.Join(err, s.bgp.DeletePeerGroup(ctx, &api.DeletePeerGroupRequest{Name: p.Name}), s.ears.unsign(p))
	if err != nil {
		return fmt.Errorf("delete peer %s (%s): %w", p.Name, p.Prefix, err)
	}
	return nil
}

// established asks whether GoBGP sends a peer what changes from now on.
func (s *server) established(ctx context.Context, address netip.Addr) (bool, error) {
	var up bool
	err := s.bgp.ListPeer(ctx, &api.ListPeerRequest{Address: address.String()}, func(p *api.Peer) {
		up = p.GetState().GetSessionState() == api.PeerState_SESSION_STATE_ESTABLISHED
	})
	if err != nil {
		return false, fmt.Errorf("read state of session with %s: %w", address, err)
	}
	return up, nil
}

// resend sends a peer everything it is meant to have, again.
func (s *server) resend(ctx context.Context, address netip.Addr) error {
	err := s.bgp.ResetPeer(ctx, &api.ResetPeerRequest{
		Address: address.String(), Soft: true, Direction: api.ResetPeerRequest_DIRECTION_OUT,
	})
	if err != nil {
		return fmt.Errorf("send all routes to %s again: %w", address, err)
	}
	return nil
}

// add announces paths; all of them or, with an error, an unknown part.
func (s *server) add(paths []*apiutil.Path) error {
	_, err := s.bgp.AddPath(apiutil.AddPathRequest{Paths: paths})
	return err
}

// remove withdraws paths. One that is not there is no error.
func (s *server) remove(paths []*apiutil.Path) error {
	return s.bgp.DeletePath(apiutil.DeletePathRequest{Paths: paths})
}

// paths reads back our own paths of one family.
func (s *server) paths(family gobgp.Family) (map[netip.Prefix]*apiutil.Path, error) {
	found := map[netip.Prefix]*apiutil.Path{}
	err := s.bgp.ListPath(apiutil.ListPathRequest{TableType: api.TableType_TABLE_TYPE_GLOBAL, Family: family},
		func(nlri gobgp.NLRI, paths []*apiutil.Path) {
			prefix, err := netip.ParsePrefix(nlri.String())
			if err == nil && len(paths) > 0 {
				found[prefix] = paths[0]
			}
		})
	if err != nil {
		return nil, fmt.Errorf("read back %s paths: %w", family, err)
	}
	return found, nil
}

// goodbye ends a session with NOTIFICATION Cease and a word for the peer's log (RFC 9003):
// Administrative Shutdown when leaving, Administrative Reset when not. (For all sessions at once
// GoBGP would have them share one message, and race to serialize it.)
func (s *server) goodbye(ctx context.Context, address netip.Addr, leaving bool) error {
	var err error
	if leaving {
		err = s.bgp.DisablePeer(ctx, &api.DisablePeerRequest{Address: address.String(), Communication: "leaving"})
	} else {
		err = s.bgp.ResetPeer(ctx, &api.ResetPeerRequest{Address: address.String(), Communication: "restarting"})
	}
	if err != nil {
		return fmt.Errorf("end session with %s: %w", address, err)
	}
	return nil
}

// reset ends an established session at once with NOTIFICATION Cease, Administrative Reset, and a
// word; the next attempt follows in a second. Without a session it does nothing.
func (s *server) reset(ctx context.Context, address netip.Addr, why string) error {
	if up, err := s.established(ctx, address); err != nil || !up {
		return err
	}
	if err := s.bgp.ResetPeer(ctx, &api.ResetPeerRequest{Address: address.String(), Communication: why}); err != nil {
		return fmt.Errorf("reset session with %s: %w", address, err)
	}
	return nil
}

// enable lets a session come up again after refuse.
func (s *server) enable(ctx context.Context, address netip.Addr) error {
	if err := s.bgp.EnablePeer(ctx, &api.EnablePeerRequest{Address: address.String()}); err != nil {
		return fmt.Errorf("enable session with %s: %w", address, err)
	}
	return nil
}

// refuse ends a session, and lets none come up until enable.
func (s *server) refuse(ctx context.Context, address netip.Addr, why string) error {
	if err := s.bgp.DisablePeer(ctx, &api.DisablePeerRequest{Address: address.String(), Communication: why}); err != nil {
		return fmt.Errorf("end session with %s: %w", address, err)
	}
	return nil
}

// stop ends the server and waits for its goroutines; quietly: without a word to peers that keep our
// routes.
func (s *server) stop(ctx context.Context, quietly bool) {
	s.ears.close()
	if quietly {
		// An error means that it is not running, which is what we want.
		_ = s.bgp.StopBgp(ctx, &api.StopBgpRequest{AllowGracefulRestart: true})
	}
	s.bgp.Stop()
	s.cancel()
}
