package pace

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// begin runs a Pacer of two turns a second, three at once, until the test ends. The function
// returns what was released so far.
func begin(t *testing.T) (*Pacer, func() []string) {
	t.Helper()
	p := New(2, 3, time.Minute)
	released := make(chan string, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx, func(key string) { released <- key }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return p, func() []string {
		synctest.Wait()
		var got []string
		for len(released) > 0 {
			got = append(got, <-released)
		}
		return got
	}
}

func expect(t *testing.T, when string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: released %q, want %q", when, got, want)
	}
}

// Few go at once, and the rest in the order in which they asked.
func TestPacer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, released := begin(t)
		var went []bool
		for i := range 6 {
			went = append(went, p.Ask(fmt.Sprint("s", i), true))
		}
		if want := []bool{true, true, true, false, false, false}; !slices.Equal(went, want) {
			t.Errorf("went %v, want %v", went, want)
		}
		if p.Ask("s3", true) {
			t.Error("asking again is no turn")
		}
		expect(t, "at once", released())
		<-time.After(500 * time.Millisecond)
		expect(t, "after half a second", released(), "s3")
		<-time.After(time.Second)
		expect(t, "after a second more", released(), "s4", "s5")
		if !p.Ask("s3", true) || p.Ask("s3", true) {
			t.Error("s3 had a turn, and only one")
		}
	})
}

// Who needs no turn any longer takes none from those who wait.
func TestPacer_Forget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, released := begin(t)
		for i := range 6 {
			p.Ask(fmt.Sprint("s", i), true)
		}
		p.Forget("s3")
		p.Forget("s4")
		<-time.After(500 * time.Millisecond)
		expect(t, "after half a second", released(), "s5")
		p.Forget("s5")
		if p.Ask("s5", true) {
			t.Error("a turn that was given up was used")
		}
		p.Forget("s5")
		p.Ask("s3", true) // again
		<-time.After(500 * time.Millisecond)
		expect(t, "after a second", released(), "s3")
		<-time.After(time.Minute)
		expect(t, "after a minute", released())
		if !p.Ask("s7", true) {
			t.Error("nobody waits, and there were no turns for a minute")
		}
	})
}

// What is not urgent waits for a while, if it cannot go at once, and goes after what is.
func TestPacer_held(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, released := begin(t)
		for i := range 7 {
			if went := p.Ask(fmt.Sprint("s", i), false); went != (i < 3) {
				t.Errorf("s%d went: %t", i, went)
			}
		}
		if p.Ask("u1", true); p.Ask("s6", true) {
			t.Error("what waits became urgent, and has a turn at once")
		}
		<-time.After(time.Second)
		expect(t, "after a second", released(), "u1", "s6")
		p.Forget("s4")
		<-time.After(59*time.Second - 1)
		expect(t, "before the minute is over", released())
		if !p.Ask("u2", true) || p.Ask("s7", false) {
			t.Error("what is urgent does not wait for what is held, and what is held waits for it")
		}
		<-time.After(time.Second)
		expect(t, "after the minute", released(), "s3", "s5")
	})
}

// What changes all the time is written less and less often in a large cluster, and what changed
// once is written soon.
func TestPause(t *testing.T) {
	for _, c := range []struct {
		nodes, writes int           // in a minute of changes
		last          time.Duration // pause in that minute
	}{
		{nodes: 3, writes: 120, last: 500 * time.Millisecond},
		{nodes: 200, writes: 32, last: 2 * time.Second},
		{nodes: 500, writes: 16, last: 5 * time.Second},
		{nodes: 5000, writes: 16, last: 5 * time.Second},
	} {
		p, now := new(Pause), time.Unix(1000, 0)
		begun, writes, last := now, 0, time.Duration(0)
		for ; now.Sub(begun) < time.Minute; writes++ {
			last = p.Wait(now)
			now = now.Add(last)
			p.Wrote(now, c.nodes)
		}
		if writes != c.writes || last != c.last {
			t.Errorf("%d nodes: %d writes, the last after %s; want %d, %s", c.nodes, writes, last, c.writes, c.last)
		}
		now = now.Add(3 * c.last)
		if wait := p.Wait(now); wait != shortestPause {
			t.Errorf("%d nodes: when it was quiet a change waits %s, want %s", c.nodes, wait, shortestPause)
		}
		p.Wrote(now.Add(shortestPause), c.nodes)
		if wait := p.Wait(now.Add(shortestPause)); wait != shortestPause {
			t.Errorf("%d nodes: the second change waits %s, want %s", c.nodes, wait, shortestPause)
		}
	}
}
