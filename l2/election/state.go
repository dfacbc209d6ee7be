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
	Times
	contact Contact
	began   time.Time     // when the age counted first
	age     time.Duration // at the last tick, as this node says and counts it
}

// Contact is when a node's desired state was known to be what the API has. The zero value: never.
type Contact struct {
	at       time.Time     // the last time
	fresh    time.Time     // the last time that was fresh when it was confirmed
	returned time.Time     // when it was fresh again after it had not been; zero: not in this process
	lost     time.Time     // when it was fresh last before that, but for short; zero: that is not known
	had      time.Duration // for how long it was fresh since, before returned
}

// Past is a Contact as ages and a sum of times, for the next process. What is 0 is not known.
type Past struct{ At, Fresh, Returned, Lost, Had time.Duration }

// Past returns what the next process is to know.
func (c Contact) Past(now time.Time) Past {
	age := func(t time.Time) time.Duration {
		if t.IsZero() {
			return 0
		}
		return max(now.Sub(t), 1)
	}
	return Past{At: age(c.at), Fresh: age(c.fresh), Returned: age(c.returned), Lost: age(c.lost), Had: c.had}
}

// Contact returns the contact that the process before this one kept like that then.
func (p Past) Contact(then time.Time) Contact {
	at := func(age time.Duration) time.Time {
		if age == 0 {
			return time.Time{}
		}
		return then.Add(-age)
	}
	return Contact{at: at(p.At), fresh: at(p.Fresh), returned: at(p.Returned), lost: at(p.Lost), had: p.Had}
}

// isNew reports whether this node has just started, and has had contact for no longer than it has.
func (c Contact) isNew() bool { return c.lost.IsZero() && !c.returned.IsZero() }

// brief is what a contact with the API counts that ended at once. Without it nodes that have it
// again and again, and never for longer, would wait for ever for one that is cut off.
const brief = time.Second

// Times are what ages of desired states mean.
type Times struct {
	// A node whose desired state was confirmed within FreshWithin takes what it wants from a node
	// whose desired state was not for StaleAfter. 0: never.
	FreshWithin, StaleAfter time.Duration
	// A node that was not confirmed within FreshWithin, and is again, takes nothing for that reason
	// from peers that were not confirmed since, for Grace at most.
	Grace time.Duration
}

// Confirm returns the contact of a node that learns now that its desired state was up to date at a
// time, which is not after now. Where contact was short, peers that lost it with this node may not
// have had it yet: when it was lost counts from before.
func (c Contact) Confirm(now, at time.Time, t Times) Contact {
	if now.Sub(c.at) > t.FreshWithin {
		if !c.fresh.IsZero() && c.fresh.Equal(c.at) { // what was vouched for since is none
			c.had += max(c.fresh.Sub(c.returned), brief)
		}
		if c.had >= t.Grace {
			c.lost, c.had = c.fresh, 0
		}
		c.returned = now
	}
	c.at = at
	if now.Sub(at) <= t.FreshWithin {
		c.fresh = at
	}
	return c
}

// IsZero reports whether the desired state was never confirmed.
func (c Contact) IsZero() bool { return c.at.IsZero() }

// grace returns how long peers may need longer than this node to hear from the API again. Who asks
// again waits for as long as it did without before.
func (f *freshness) grace() time.Duration {
	if f.contact.lost.IsZero() {
		return f.Grace
	}
	return min(f.Grace, 2*f.contact.returned.Sub(f.contact.lost)+f.FreshWithin)
}

// mayLag reports whether a peer with a desired state of that age may only need longer to hear from
// the API again than this node, which has been back for a while: it was not confirmed since, and
// had not lost the API long before this node did. A node that has just started cannot know when
// others lost it.
func (f *freshness) mayLag(now time.Time, age time.Duration) bool {
	since := now.Sub(f.contact.returned)
	return age > f.undecided() && age >= since &&
		(f.contact.lost.IsZero() || age < now.Sub(f.contact.lost)+f.StaleAfter)
}

// undecided is an age at which a node is neither fresh nor stale.
func (f *freshness) undecided() time.Duration {
	if f.StaleAfter == 0 {
		return 0 // no node is ever stale
	}
	return (f.FreshWithin + f.StaleAfter) / 2
}

// isFresh reports whether a desired state of that age is up to date.
func (f *freshness) isFresh(age time.Duration) bool { return age != ageUnknown && age <= f.FreshWithin }

// isStale reports whether a desired state of that age may be out of date.
func (f *freshness) isStale(age time.Duration) bool { return f.StaleAfter > 0 && age >= f.StaleAfter }
