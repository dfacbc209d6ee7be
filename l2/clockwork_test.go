package l2

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestALateTickJudgesLaterAndAnOversleptOneAnswersLater(t *testing.T) {
	c := clockwork{interval: 100 * time.Millisecond, listen: time.Second}
	for i, step := range []struct {
		at           int
		lateness     lateness
		judge, awake bool
	}{
		{0, onTime, true, true},
		{100, onTime, true, true},
		{300, onTime, true, true},
		{501, late, false, true},
		{702, late, true, true}, // late again: judging cannot be put off for ever
		{802, onTime, true, true},
		{5802, overslept, false, false},
		{5902, onTime, true, true},
		{9002, overslept, false, false},
		{9402, overslept, true, false},
		{9652, late, false, true},
	} {
		got := c.tick(at(step.at))
		if got != step.lateness || c.mayJudge() != step.judge || c.awake != step.awake {
			t.Errorf("step %d, at %d ms: lateness %d, judge %v, awake %v; want %+v", i, step.at, got, c.mayJudge(), c.awake, step)
		}
	}
}

func TestAnInterfaceIsListenedOnBeforeAnythingIsClaimed(t *testing.T) {
	c := clockwork{interval: 100 * time.Millisecond, listen: time.Second}
	c.opened(at(0))
	if c.listenedFor(at(999), c.listen) || !c.listenedFor(at(1000), c.listen) {
		t.Errorf("listened after 999 ms: %v, after 1 s: %v", c.listenedFor(at(999), c.listen), c.listenedFor(at(1000), c.listen))
	}
	c.closed(at(2000))
	if c.listenedFor(at(2100), c.listen) {
		t.Error("listening while down")
	}
	c.opened(at(2299)) // nobody can have judged us dead
	if !c.listenedFor(at(2299), c.listen) {
		t.Error("a flap of 299 ms made it listen again")
	}
	c.closed(at(3000))
	c.opened(at(3300))
	if c.listenedFor(at(4299), c.listen) || !c.listenedFor(at(4300), c.listen) {
		t.Error("a flap of 300 ms did not make it listen again")
	}
}

func TestNewsAreToldThreeTimesQuickly(t *testing.T) {
	c := clockwork{interval: 100 * time.Millisecond}
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

func TestATakeOverIsAnnouncedFourTimes(t *testing.T) {
	a := newAnnouncer()
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}) }
	a.begin(at(0), addr(1))
	a.begin(at(50), addr(2))
	a.begin(at(60), addr(3))
	a.end(addr(3))
	var got []string
	for ms := 0; ms <= 2000; ms += 10 {
		if n := a.next(); n.IsZero() || n.After(at(ms)) {
			continue
		}
		for _, x := range a.due(at(ms), 100) {
			got = append(got, fmt.Sprintf("%d %s", ms, x))
		}
	}
	want := []string{
		"0 192.0.2.1", "50 192.0.2.2", "100 192.0.2.1", "150 192.0.2.2",
		"300 192.0.2.1", "350 192.0.2.2", "1000 192.0.2.1", "1050 192.0.2.2",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("announced (-want +got):\n%s", diff)
	}
	if len(a.latest) != 0 || !a.next().IsZero() {
		t.Errorf("left behind: %d addresses, next %s", len(a.latest), a.next())
	}
}

func TestManyTakeOversLeaveTimeForOtherThings(t *testing.T) {
	a := newAnnouncer()
	for i := range 1000 {
		a.begin(at(0), netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
	}
	for i := range 4 {
		want := 256
		if i == 3 {
			want = 1000 - 3*256
		}
		if got := len(a.due(at(0), 256)); got != want {
			t.Errorf("burst %d announces %d addresses, want %d", i, got, want)
		}
	}
}
