package election

import (
	"fmt"
	"log/slog"
	"time"
)

// State is what a node says about itself on every segment. Only a Ready node is given addresses.
type State uint8

// The states in the order of a speaker's life. Their values are part of the message format.
const (
	// Starting: not yet able to forward, or still listening. It owns nothing.
	Starting State = iota
	// Ready: it may own every address for which it is a candidate.
	Ready
	// Leaving: the node goes away. Others take its addresses, and it answers until they have.
	Leaving
	// Restarting: the speaker goes away and comes back. It is handled like Leaving; the difference
	// is for users.
	Restarting
	// Holding: the speaker goes away and comes back. The others keep what it owns for it, for up to
	// 10 s.
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

// Departing reports whether a speaker in this state is about to end.
func (s State) Departing() bool { return s == Leaving || s == Restarting || s == Holding }

// Capabilities are the ways in which a node is able to forward, one bit each. The caller gives the
// bits their meaning, which must be the same on all nodes: docs/design/l2-protocol.md lists them.
// They are part of the message format.
type Capabilities uint16

// Has reports whether c includes all needed capabilities.
func (c Capabilities) Has(needed Capabilities) bool { return c&needed == needed }

// freshness is how old this node's desired state is, and what ages mean. A node that has not heard
// from the API for long may answer for an address that is somebody else's by now, so a node that
// knows better takes the address. When all nodes are equally stale, because the API is away,
// nothing changes.
//
// Nor does anything when the API comes back, to one node after the other. So a node that was not
// fresh until a moment ago does not say how fresh it is: its peers may not have had the time yet.
type freshness struct {
	freshWithin, staleAfter, grace time.Duration

	contact Contact
	age     time.Duration // at the last tick, as this node says and counts it
}

// Contact is when a node's desired state was known to be what the API has. The zero value: never.
type Contact struct {
	at       time.Time // the last time
	returned time.Time // when it was again, after it had not been fresh
	lost     time.Time // the last time at which it was fresh before that; zero: none is known
	fresh    time.Time // the last time that was fresh when it was confirmed
}

// Confirm returns the contact of a node that learns now that its desired state was up to date at a
// time, which is not after now. It is fresh for freshWithin.
func (c Contact) Confirm(now, at time.Time, freshWithin time.Duration) Contact {
	if now.Sub(c.at) > freshWithin {
		c.returned, c.lost = now, c.fresh
	}
	c.at = at
	if now.Sub(at) <= freshWithin {
		c.fresh = at
	}
	return c
}

// IsZero reports whether the desired state was never confirmed.
func (c Contact) IsZero() bool { return c.at.IsZero() }

// mayLag reports whether a peer with a desired state of that age may only need longer to hear from
// the API again than this node, which has been back for a while: it was not confirmed since, and
// had not lost the API long before this node did. A node that has just started cannot know when
// others lost it.
func (f *freshness) mayLag(now time.Time, age time.Duration) bool {
	since := now.Sub(f.contact.returned)
	return age >= since && (f.contact.lost.IsZero() || age < now.Sub(f.contact.lost)+f.staleAfter)
}

// undecided is an age at which a node is neither fresh nor stale.
func (f *freshness) undecided() time.Duration {
	if f.staleAfter == 0 {
		return 0 // no node is ever stale
	}
	return (f.freshWithin + f.staleAfter) / 2
}

// isFresh reports whether a desired state of that age is up to date.
func (f *freshness) isFresh(age time.Duration) bool { return age != ageUnknown && age <= f.freshWithin }

// isStale reports whether a desired state of that age may be out of date.
func (f *freshness) isStale(age time.Duration) bool { return f.staleAfter > 0 && age >= f.staleAfter }
