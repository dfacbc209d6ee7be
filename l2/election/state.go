package election

import (
	"fmt"
	"log/slog"
)

// State is what a node says about itself on every segment. Only a Ready node is given addresses.
type State uint8

// The states in the order of a speaker's life. Their values are part of the hello's format.
const (
	// Starting: not yet able to forward, or still listening. Owns nothing.
	Starting State = iota
	// Ready: may own every group that names it a candidate.
	Ready
	// Leaving: the node goes away. Others take its groups, it answers until they have.
	Leaving
	// Restarting: the speaker goes away and comes back. Handled like Leaving, told apart for those who watch.
	Restarting
	// Holding: the speaker goes away and comes back, and the others keep for it what it owns, up to holdTime.
	Holding
)

// String returns the state in lower case, as it appears in logs and statuses.
func (s State) String() string {
	switch s {
	case Starting:
		return "starting"
	case Ready:
		return "ready"
	case Leaving:
		return "leaving"
	case Restarting:
		return "restarting"
	case Holding:
		return "holding"
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// LogValue shows the state by name in logs.
func (s State) LogValue() slog.Value { return slog.StringValue(s.String()) }

// departing reports whether a speaker in this state is about to end.
func (s State) Departing() bool { return s == Leaving || s == Restarting || s == Holding }
