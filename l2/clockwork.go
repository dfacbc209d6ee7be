package l2

import "time"

// clockwork says when a segment's loop is due, and what its own lateness means. It has no clock: times are
// arguments.
type clockwork struct {
	base     time.Duration // the interval in small company
	interval time.Duration
	listen   time.Duration

	last     time.Time // the last tick
	awake    bool      // caught up: the last tick was not after an oversleep
	deferred bool      // the last tick left judging to the next one

	up         bool
	downAt     time.Time
	listenFrom time.Time

	quick     int // hellos still to be sent at once
	lastQuick time.Time
}

type lateness uint8

const (
	onTime    lateness = iota
	late               // by more than an interval: others may be wrongly judged
	overslept          // for so long that others judge us dead
)

const (
	// quickHellos tell of a new state, so many because one may be lost.
	quickHellos = 3
	quickPause  = 10 * time.Millisecond
)

func (c *clockwork) due(now time.Time) bool {
	return c.last.IsZero() || now.Sub(c.last) >= c.interval
}

// tick takes the beginning of a tick, and says how late it is.
func (c *clockwork) tick(now time.Time) lateness {
	age := now.Sub(c.last)
	first := c.last.IsZero()
	c.last = now
	switch {
	case first:
		c.awake, c.deferred = true, false
		return onTime
	case age <= 2*c.interval:
		c.awake, c.deferred = true, false
		return onTime
	case age <= silence*c.interval:
		c.awake, c.deferred = true, !c.deferred
		return late
	}
	c.awake, c.deferred = false, !c.deferred
	return overslept
}

// mayJudge reports whether silence can be held against others now: not on a late tick, when what they said may
// still be on its way through this process; but on the second late one in a row, lest a slow node never judge.
func (c *clockwork) mayJudge() bool { return !c.deferred }

// opened and closed take the interface's coming and going.
func (c *clockwork) opened(now time.Time) {
	// After a moment so short that nobody judged us dead, there is nothing new to listen for.
	if !c.up && (c.downAt.IsZero() || now.Sub(c.downAt) >= silence*c.interval) {
		c.listenFrom = now
	}
	c.up = true
}

func (c *clockwork) closed(now time.Time) {
	if c.up {
		c.downAt = now
	}
	c.up = false
}

// listenAnew begins the listening time again: hellos could not be understood before.
func (c *clockwork) listenAnew(now time.Time) { c.listenFrom = now }

// listenedFor reports whether the interface was listened on for so long.
func (c *clockwork) listenedFor(now time.Time, long time.Duration) bool {
	return c.up && now.Sub(c.listenFrom) >= long
}

// hurry asks for quick hellos.
func (c *clockwork) hurry(now time.Time) {
	c.quick = quickHellos
	c.lastQuick = now.Add(-quickPause)
}

func (c *clockwork) quickLeft() bool { return c.quick > 0 }

func (c *clockwork) quickDue(now time.Time) bool {
	return c.quick > 0 && now.Sub(c.lastQuick) >= quickPause
}

func (c *clockwork) sent(now time.Time) {
	if c.quick > 0 {
		c.quick--
	}
	c.lastQuick = now
}

// next is when the loop is due again.
func (c *clockwork) next() time.Time {
	t := c.last.Add(c.interval)
	if c.quick > 0 {
		if q := c.lastQuick.Add(quickPause); q.Before(t) {
			t = q
		}
	}
	return t
}
