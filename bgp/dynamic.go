package bgp

import (
	"context"
	"fmt"
	"net/netip"
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
	s.peer.Address = e.address
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
