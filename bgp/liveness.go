package bgp

import (
	"context"
	"log/slog"
	"slices"
	"time"
)

// Liveness watches the paths to peers, faster than a hold timer does, by BFD (RFC 5882).
type Liveness interface {
	// Watch replaces the peers that are watched; all have an Address and BFD.Enabled. A peer that is left out is
	// told that this is on purpose. It must not block.
	Watch(peers []Peer)
	// Changes is the stream of changes of all paths.
	Changes() <-chan PathChange
}

// PathState is the state of the path to a peer.
type PathState string

// The states of paths.
const (
	// PathUp: both ends hear each other.
	PathUp PathState = "Up"
	// PathDown: they do not, or not yet.
	PathDown PathState = "Down"
	// PathUnwatched: the peer has stopped watching on purpose (AdminDown), which says nothing of the path.
	PathUnwatched PathState = "AdminDown"
)

// PathChange says that the path to a peer changed its state.
type PathChange struct {
	Peer   string // its name
	State  PathState
	Reason string // why it is down
	Time   time.Time
}

// changes is the stream of the configured Liveness; none without one.
func (o *owner) changes() <-chan PathChange {
	if o.config.Liveness == nil {
		return nil
	}
	return o.config.Liveness.Changes()
}

// watchPaths has the paths to those peers watched of which that is wanted.
func (o *owner) watchPaths() {
	if o.config.Liveness == nil {
		return
	}
	var peers []Peer
	for _, p := range o.usable {
		s := o.board.sessions[p.Name]
		switch {
		case p.BFD.Enabled:
			peers = append(peers, p)
		case s != nil && s.path != "":
			o.board.update(func() { s.path = "" })
		}
	}
	if !slices.Equal(peers, o.watched) {
		o.watched = peers
		o.config.Liveness.Watch(slices.Clone(peers))
	}
}

// unwatchPaths tells the peers that we stop watching on purpose, so that they do not take it for a failure.
func (o *owner) unwatchPaths() {
	if o.config.Liveness != nil && len(o.watched) > 0 {
		o.watched = nil
		o.config.Liveness.Watch(nil)
	}
}

// pathChanged resets a session whose path was up and fails. A path that has not been up yet stops no session
// (RFC 5882 section 4.1): the peer may not know BFD.
func (o *owner) pathChanged(ctx context.Context, c PathChange) {
	s := o.board.sessions[c.Peer]
	if s == nil || s.invalid || !s.peer.BFD.Enabled || s.path == c.State {
		return
	}
	failed := s.path == PathUp && c.State == PathDown
	o.board.update(func() { s.path = c.State })
	o.log.Info("BGP path", slog.String("peer", c.Peer), slog.String("state", string(c.State)), slog.String("reason", c.Reason))
	if !failed {
		return
	}
	// Also if our word of the session is old: where there is none, nothing is reset.
	s.cut = "BFD: " + c.Reason
	if err := o.server.reset(ctx, s.peer.Address, s.cut); err != nil {
		o.log.Error("BGP session not reset", slog.String("peer", c.Peer), slog.Any("error", err))
	}
}
