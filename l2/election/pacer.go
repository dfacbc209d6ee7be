package election

import "time"

// pacer knows when a segment's loop is due, and what its lateness means.
type pacer struct {
	base     time.Duration // the interval with few peers
	interval time.Duration
	listen   time.Duration

	lastTick time.Time
	caughtUp bool // the last tick was not too late
	deferred bool // the last tick left judging to the next one

	up         bool
	downAt     time.Time
	listenFrom time.Time

	quickLeft int // hellos still to be sent in quick succession
	lastQuick time.Time
}

// Lateness is how late a tick is.
type Lateness uint8

// How late a tick is.
const (
	OnTime  Lateness = iota // by at most one interval
	Late                    // by more than that: others may be judged wrongly
	TooLate                 // for so long that peers count this node as dead
)

const (
	// quickHellos announce a new state. Some of them may be lost.
	quickHellos = 3
	quickPause  = 10 * time.Millisecond
)

func (c *pacer) due(now time.Time) bool {
	return c.lastTick.IsZero() || now.Sub(c.lastTick) >= c.interval
}

// tick begins a tick and returns how late it is.
func (c *pacer) tick(now time.Time) Lateness {
	age := now.Sub(c.lastTick)
	first := c.lastTick.IsZero()
	c.lastTick = now
	switch {
	case first:
		c.caughtUp, c.deferred = true, false
		return OnTime
	case age <= 2*c.interval:
		c.caughtUp, c.deferred = true, false
		return OnTime
	case age <= silence*c.interval:
		c.caughtUp, c.deferred = true, !c.deferred
		return Late
	}
	c.caughtUp, c.deferred = false, !c.deferred
	return TooLate
}

// mayJudge reports whether peers can be declared silent now. They cannot on a late tick, when their
// messages may still be waiting in this process. They can on the second late tick in a row, or a
// slow node would never judge.
func (c *pacer) mayJudge() bool { return !c.deferred }

// opened and closed say that the interface came and went.
func (c *pacer) opened(now time.Time) {
	// If it was away for so short that no peer counts us as dead, there is nothing new to listen
	// for.
	if !c.up && (c.downAt.IsZero() || now.Sub(c.downAt) >= silence*c.interval) {
		c.listenFrom = now
	}
	c.up = true
}

func (c *pacer) closed(now time.Time) {
	if c.up {
		c.downAt = now
	}
	c.up = false
}

// restartListening begins the listening time again: earlier messages could not be verified.
func (c *pacer) restartListening(now time.Time) { c.listenFrom = now }

// listenedFor reports whether the interface was listened on for that long.
func (c *pacer) listenedFor(now time.Time, long time.Duration) bool {
	return c.up && now.Sub(c.listenFrom) >= long
}

// hurry asks for quick hellos.
func (c *pacer) hurry(now time.Time) {
	c.quickLeft = quickHellos
	c.lastQuick = now.Add(-quickPause)
}

func (c *pacer) hasQuick() bool { return c.quickLeft > 0 }

func (c *pacer) quickDue(now time.Time) bool {
	return c.quickLeft > 0 && now.Sub(c.lastQuick) >= quickPause
}

func (c *pacer) sent(now time.Time) {
	if c.quickLeft > 0 {
		c.quickLeft--
	}
	c.lastQuick = now
}

// next returns when the loop is due again.
func (c *pacer) next() time.Time {
	t := c.lastTick.Add(c.interval)
	if c.quickLeft > 0 {
		if q := c.lastQuick.Add(quickPause); q.Before(t) {
			t = q
		}
	}
	return t
}
