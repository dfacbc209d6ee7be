package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// maxNeighbours is how many routers of one prefix may be connected at a time. GoBGP has no bound of its own, and
// keeps whoever connected until we delete it.
const maxNeighbours = 64

// acceptRouter takes in a router of a prefix that has connected; nil: it is none, or not wanted now.
func (o *owner) acceptRouter(ctx context.Context, e sessionEvent) *session {
	prefix := o.prefixOf(e.address)
	if prefix == nil || e.state != gobgp.BGP_FSM_OPENSENT && e.state != gobgp.BGP_FSM_OPENCONFIRM && e.state != gobgp.BGP_FSM_ESTABLISHED {
		return nil
	}
	s := &session{peer: prefix.peer, since: e.time}
	s.peer.Address = e.address
	for address, until := range o.resting {
		if time.Now().After(until) {
			delete(o.resting, address)
		}
	}
	_, rests := o.resting[e.address]
	if rests || prefix.neighbours == maxNeighbours {
		if !rests {
			o.routerFailed(e.address, fmt.Sprintf("not accepted: %d routers of %s are connected, which is the limit", maxNeighbours, prefix.peer.Prefix), e.time)
		}
		o.forgetRouter(ctx, s)
		return nil
	}
	o.byAddress[e.address] = s
	o.board.update(func() {
		o.board.sessions[s.peer.Label()] = s
		prefix.neighbours++
	})
	return s
}

// releaseRouter forgets a router of a prefix whose session ended, so that another may connect.
func (o *owner) releaseRouter(ctx context.Context, s *session, wasUp bool) {
	delete(o.byAddress, s.peer.Address)
	prefix := o.prefixOf(s.peer.Address)
	o.board.update(func() {
		delete(o.board.sessions, s.peer.Label())
		if prefix != nil {
			prefix.neighbours--
		}
	})
	if wasUp && prefix != nil {
		o.setError(prefix, s.peer.Address.String()+": "+s.lastError, s.lastErrorAt)
	}
	if !s.rested.IsZero() {
		o.resting[s.peer.Address] = s.rested
	}
	if s.withheld {
		o.book.news = true
	}
	if !wasUp { // else GoBGP has forgotten it already
		o.forgetRouter(ctx, s)
	}
}

func (o *owner) forgetRouter(ctx context.Context, s *session) {
	if err := o.server.deletePeer(ctx, s.peer); err != nil {
		o.log.Debug("BGP router of a prefix not deleted", slog.String("peer", s.peer.Name), slog.Any("error", err))
	}
}

// routerFailed notes why a router of a prefix has no session.
func (o *owner) routerFailed(address netip.Addr, reason string, at time.Time) {
	if prefix := o.prefixOf(address); prefix != nil {
		o.attemptFailed(prefix, address.String()+": "+reason, at)
	}
}

// prefixOf returns the session that stands for the prefix that holds the address, or nil.
func (o *owner) prefixOf(address netip.Addr) *session {
	for _, s := range o.board.sessions {
		if !s.invalid && !s.peer.Address.IsValid() && s.peer.Prefix.Contains(address) {
			return s
		}
	}
	return nil
}
