package election

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A late tick judges at the next one. One that is too late has to catch up.
func TestPacerTick(t *testing.T) {
	c := pacer{interval: 100 * time.Millisecond, listen: time.Second}
	for i, step := range []struct {
		at           int
		lateness     Lateness
		judge, awake bool
	}{
		{0, OnTime, true, true},
		{100, OnTime, true, true},
		{300, OnTime, true, true},
		{501, Late, false, true},
		{702, Late, true, true}, // late again: judging cannot be put off forever
		{802, OnTime, true, true},
		{5802, TooLate, false, false},
		{5902, OnTime, true, true},
		{9002, TooLate, false, false},
		{9402, TooLate, true, false},
		{9652, Late, false, true},
	} {
		got := c.tick(at(step.at))
		if got != step.lateness || c.mayJudge() != step.judge || c.caughtUp != step.awake {
			t.Errorf("step %d, at %d ms: lateness %d, judge %v, awake %v; want %+v",
				i, step.at, got, c.mayJudge(), c.caughtUp, step)
		}
	}
}

func TestPacerListenedFor(t *testing.T) {
	c := pacer{interval: 100 * time.Millisecond, listen: time.Second}
	c.opened(at(0))
	if c.listenedFor(at(999), c.listen) || !c.listenedFor(at(1000), c.listen) {
		t.Errorf("listened after 999 ms: %v, after 1 s: %v",
			c.listenedFor(at(999), c.listen), c.listenedFor(at(1000), c.listen))
	}
	c.closed(at(2000))
	if c.listenedFor(at(2100), c.listen) {
		t.Error("listening while down")
	}
	c.opened(at(2299)) // no peer can count this node as dead yet
	if !c.listenedFor(at(2299), c.listen) {
		t.Error("a flap of 299 ms made it listen again")
	}
	c.closed(at(3000))
	c.opened(at(3300))
	if c.listenedFor(at(4299), c.listen) || !c.listenedFor(at(4300), c.listen) {
		t.Error("a flap of 300 ms did not make it listen again")
	}
}

// News are sent three times in quick succession.
func TestPacerHurry(t *testing.T) {
	c := pacer{interval: 100 * time.Millisecond}
	c.tick(at(0))
	c.hurry(at(50))
	var sent []int
	for ms := range 100 {
		if c.quickDue(at(ms)) && ms >= 50 {
			c.sent(at(ms))
			sent = append(sent, ms)
		}
	}
	if want := []int{50, 60, 70}; !cmp.Equal(sent, want) {
		t.Errorf("sent at %v ms, want %v", sent, want)
	}
}
