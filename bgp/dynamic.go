package bgp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// maxNeighbors is how many routers of one prefix may be connected at a time. GoBGP has no bound of
// its own, and keeps every router that connected until we delete it.
const maxNeighbors = 64

// acceptRouter adds a router of a prefix that has connected; nil: it is none, or not wanted
// now.
func (o *loop) acceptRouter(ctx context.Context, e sessionEvent) *session {
	prefix := o.prefixOf(e.address)
	if prefix == nil ||
		e.state != gobgp.BGP_FSM_OPENSENT && e.state != gobgp.BGP_FSM_OPENCONFIRM && e.state != gobgp.BGP_FSM_ESTABLISHED {
		return nil
	}
	s := &session{peer: prefix.peer, since: e.time}
	s.peer.Address, s.local = e.address, o.newcomers[e.address]
	delete(o.newcomers, e.address)
	for address, until := range o.backoffUntil {
		if time.Now().After(until) {
			delete(o.backoffUntil, address)
		}
	}
	_, rests := o.backoffUntil[e.address]
	if rests || prefix.routers == maxNeighbors {
		if !rests {
			o.routerFailed(
				e.address,
				fmt.Sprintf("not accepted: %d routers of %s are connected, which is the limit", maxNeighbors, prefix.peer.Prefix),
				e.time,
			)
		}
		o.forgetRouter(ctx, s)
		return nil
	}
	o.byAddress[e.address] = s
	o.published.update(func() {
		o.published.sessions[s.peer.Label()] = s
		prefix.routers++
	})
	return s
}

// releaseRouter forgets a router of a prefix whose session ended, so that another may connect.
func (o *loop) releaseRouter(ctx context.Context, s *session, wasUp bool) {
	delete(o.byAddress, s.peer.Address)
	prefix := o.prefixOf(s.peer.Address)
	o.published.update(func() {
		delete(o.published.sessions, s.peer.Label())
		if prefix != nil {
			prefix.routers--
		}
	})
	if wasUp && prefix != nil {
		o.setError(prefix, s.peer.Address.String()+": "+s.lastError, s.lastErrorAt)
	}
	if !s.backoffUntil.IsZero() {
		o.backoffUntil[s.peer.Address] = s.backoffUntil
	}
	if s.extended || s.beside.IsValid() {
		o.sets.news = true
	}
	if !wasUp { // else GoBGP has forgotten it already
		o.forgetRouter(ctx, s)
	}
}

func (o *loop) forgetRouter(ctx context.Context, s *session) {
	if err := o.server.deletePeer(ctx, s.peer); err != nil {
		o.log.Debug("router of a prefix was not deleted", "peer", s.peer.Name, "error", err)
	}
}

// routerFailed notes why a router of a prefix has no session.
func (o *loop) routerFailed(address netip.Addr, reason string, at time.Time) {
	if prefix := o.prefixOf(address); prefix != nil {
		o.attemptFailed(prefix, address.String()+": "+reason, at, false)
	}
}

// prefixOf returns the session that stands for the prefix that holds the address, or nil.
func (o *loop) prefixOf(address netip.Addr) *session {
	for _, s := range o.published.sessions {
		if !s.invalid && !s.peer.Address.IsValid() && s.peer.Prefix.Contains(address) {
			return s
		}
	}
	return nil
}

// start starts GoBGP; without a listener if there can be none, since that concerns some peers only.
func (o *loop) start(ctx context.Context) error {
	o.listenError = "the speaker runs without --bgp-listen, so that no router can connect; install manifests/bgp-passive, or have the speaker connect: leave out passive and give an address"
	if o.listener.port > 0 {
		e, err := o.listener.open()
		if err == nil {
			o.listenError = ""
			o.server, err = startServer(ctx, o.routerID, e, o.gobgpLog)
			return err
		}
		o.listenError = fmt.Sprintf("no router can connect: %v; it is tried again every %s", err, retryPause)
		o.log.Warn("BGP does not listen for connections", "error", err)
	}
	var err error
	o.server, err = startServer(ctx, o.routerID, nil, o.gobgpLog)
	return err
}

// mayListen reports whether there is a listener to be had that peers are waiting for.
func (o *loop) mayListen() bool {
	return o.listener.port > 0 && slices.ContainsFunc(o.peers, Peer.Listens) && o.listener.try() == nil
}

// restart replaces GoBGP for what is global in it: the router ID and the listener. The sessions end
// with NOTIFICATION Cease, Peer De-configured, and come up again.
func (o *loop) restart(ctx context.Context) error {
	o.log.Info("restarting BGP", "reason", o.restartReason)
	for _, s := range o.published.sessions {
		if !s.invalid && !s.peer.ByPrefix() {
			o.dropPeer(ctx, s, o.restartReason)
		}
	}
	o.restartReason = ""
	old := o.server
	old.cancel() // its events are not read any more
	stopped := make(chan struct{})
	go func() { // ends when GoBGP has; if that hangs, so does GoBGP
		old.stop(ctx, false)
		close(stopped)
	}()
	last := time.NewTimer(stopPause + time.Duration(len(o.byAddress))*sessionStop)
	defer last.Stop()
	select {
	case <-stopped:
	case <-last.C: // its port stays taken, which is reported
	}
	if err := o.start(ctx); err != nil {
		return err
	}
	for prefix := range o.announced {
		o.dirty[prefix] = true
	}
	o.peersNews = true
	return nil
}

// connectedTo gives GoBGP a connection that a router made, if it is one of ours.
func (o *loop) connectedTo(conn *net.TCPConn) {
	var from netip.Addr
	if remote, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		from = remote.AddrPort().Addr().Unmap()
	}
	s, prefix := o.byAddress[from], o.prefixOf(from)
	var p Peer
	switch {
	case o.leftAlone[from] != "":
		o.routerFailed(from, o.leftAlone[from], time.Now())
		conn.Close()
		return
	case s != nil:
		p = s.peer
		if !s.up() { // else GoBGP decides which of the two stays
			s.local = localEnd(conn)
		}
	case prefix != nil:
		p = prefix.peer
		if len(o.newcomers) >= maxNeighbors {
			clear(o.newcomers) // of most of them no session came
		}
		o.newcomers[from] = localEnd(conn)
	default:
		o.log.Debug("a connection of nobody's was closed", "address", from)
		conn.Close()
		return
	}
	if err := o.server.take(o.sifted(conn, p, from)); err != nil {
		o.log.Error("GoBGP did not take a connection", "address", from, "error", err)
	}
}

// localEnd is our end of a connection.
func localEnd(conn net.Conn) netip.Addr {
	if local, ok := conn.LocalAddr().(*net.TCPAddr); ok {
		return local.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// hear tells the peers that can reach us from those that cannot.
func (o *loop) hear(peers []Peer) (usable []Peer, problems []problem) {
	for _, p := range peers {
		switch {
		case !p.Listens() || o.listenError == "" && o.listener.reachedFrom(p):
			usable = append(usable, p)
		case o.listenError == "":
			problems = append(
				problems,
				problem{
					p,
					fmt.Sprintf(
						"%s cannot connect to %s, where the speaker listens (--bgp-listen): it is of another family",
						p.Place(),
						o.listener.texts(),
					),
				},
			)
		default:
			problems = append(problems, problem{p, o.listenError})
			if o.listener.port > 0 {
				o.peersDone = false
				o.retry.Reset(retryPause)
			}
		}
	}
	return usable, problems
}
