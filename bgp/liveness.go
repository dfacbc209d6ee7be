package bgp

import (
	"context"
	"slices"
)

// changes is the stream of the configured Liveness; none without one.
func (o *loop) changes() <-chan PathChange {
	if o.config.Liveness == nil {
		return nil
	}
	return o.config.Liveness.Changes()
}

// watchPaths starts to watch the paths to the peers that ask for BFD, and stops the others.
func (o *loop) watchPaths() {
	if o.config.Liveness == nil {
		return
	}
	var peers []Peer
	for _, p := range o.usable {
		s := o.published.sessions[p.Name]
		switch {
		case p.BFD.Enabled:
			peers = append(peers, p)
		case s != nil && s.path != "":
			o.published.update(func() { s.path = "" })
		}
	}
	if !o.watches || !slices.Equal(peers, o.watched) { // a process before may have had others watched
		o.watches, o.watched = true, peers
		o.config.Liveness.Watch(slices.Clone(peers))
	}
}

// unwatchPaths tells the peers that we stop watching on purpose, so that they do not take it for a
// failure.
func (o *loop) unwatchPaths() {
	if o.config.Liveness != nil && len(o.watched) > 0 {
		o.watched = nil
		o.config.Liveness.Watch(nil)
	}
}

// pathChanged resets a session whose path was up and fails. A path that has not been up yet stops
// no session (RFC 5882 section 4.1): the peer may not know BFD.
func (o *loop) pathChanged(ctx context.Context, c PathChange) {
	s := o.published.sessions[c.Peer]
	if s == nil || s.invalid || !s.peer.BFD.Enabled || s.path == c.State {
		return
	}
	failed := s.path == PathUp && c.State == PathDown
	o.published.update(func() { s.path = c.State })
	o.log.Info("BFD path changed", "peer", c.Peer, "state", c.State, "reason", c.Reason)
	if !failed {
		return
	}
	// Also if our word of the session is old: where there is none, nothing is reset.
	s.closedBecause = "BFD: " + c.Reason
	if err := o.server.reset(ctx, s.peer.Address, s.closedBecause); err != nil {
		o.log.Error("BGP session was not reset", "peer", c.Peer, "error", err)
	}
}
