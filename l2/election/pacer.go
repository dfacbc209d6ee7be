package election

import "time"

// clockwork says when a segment's loop is due, and what its own lateness means. It has no clock: times are
// arguments.
type pacer struct {
	base     time.Duration // the interval in small company
	interval time.Duration
	listen   time.Duration

	lastTick time.Time // the last tick
	caughtUp bool      // caught up: the last tick was not after an oversleep
	deferred bool      // the last tick left judging to the next one

	up         bool
	downAt     time.Time
	listenFrom time.Time

	quickLeft int // hellos still to be sent at once
	lastQuick time.Time
}

type Lateness uint8

const (
	OnTime  Lateness = iota
	Late             // by more than an interval: others may be wrongly judged
	TooLate          // for so long that others judge us dead
)

const (
	// quickHellos tell of a new state, so many because one may be lost.
	quickHellos = 3
	quickPause  = 10 * time.Millisecond
)

func (c *pacer) due(now time.Time) bool {
	return c.lastTick.IsZero() || now.Sub(c.lastTick) >= c.interval
}

// tick takes the beginning of a tick, and says how late it is.
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

// mayJudge reports whether silence can be held against others now: not on a late tick, when what they said may
// still be on its way through this process; but on the second late one in a row, lest a slow node never judge.
func (c *pacer) mayJudge() bool { return !c.deferred }

// opened and closed take the interface's coming and going.
func (c *pacer) opened(now time.Time) {
	// After a moment so short that nobody judged us dead, there is nothing new to listen for.
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

// listenAnew begins the listening time again: hellos could not be understood before.
func (c *pacer) restartListening(now time.Time) { c.listenFrom = now }

// listenedFor reports whether the interface was listened on for so long.
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

// next is when the loop is due again.
func (c *pacer) next() time.Time {
	t := c.lastTick.Add(c.interval)
	if c.quickLeft > 0 {
		if q := c.lastQuick.Add(quickPause); q.Before(t) {
			t = q
		}
	}
	return t
}
