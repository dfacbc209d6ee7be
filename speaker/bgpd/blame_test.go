package bgpd

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestBlame(t *testing.T) {
	bad, good := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var b blame
	crash := func(after time.Duration, router netip.Addr) time.Duration {
		now = now.Add(after)
		return b.crashed(now, router, "panic: oh")
	}
	alone := func() []netip.Addr {
		routers, _ := b.leftAlone(now)
		return slices.SortedFunc(maps.Keys(routers), netip.Addr.Compare)
	}
	// Crashes of nobody's: the pause grows, and is forgotten.
	for i, want := range []time.Duration{100, 200, 400, 800} {
		if got := crash(time.Second, netip.Addr{}); got != want*time.Millisecond {
			t.Errorf("the pause after crash %d is %s, want %s", i+1, got, want*time.Millisecond)
		}
	}
	for range 20 {
		crash(time.Second, netip.Addr{})
	}
	if got := crash(time.Second, netip.Addr{}); got != againAtMost {
		t.Errorf("the pause after many crashes is %s, want %s", got, againAtMost)
	}
	if got := crash(crashesCount+time.Second, netip.Addr{}); got != againFirst {
		t.Errorf("the pause after a long time is %s, want %s", got, againFirst)
	}
	// One router causes three, another one by chance.
	crash(0, bad)
	crash(time.Second, good)
	crash(time.Second, bad)
	if got := alone(); len(got) > 0 {
		t.Errorf("%v are left alone after two crashes", got)
	}
	if got := crash(time.Second, bad); got != againFirst {
		t.Errorf("the pause after a crash that is explained is %s, want %s", got, againFirst)
	}
	if got := alone(); !slices.Equal(got, []netip.Addr{bad}) {
		t.Errorf("%v are left alone, want %s", got, bad)
	}
	routers, changes := b.leftAlone(now)
	if why := routers[bad]; !strings.Contains(why, `"panic: oh"`) || !strings.Contains(why, "2026-01-02T03:") {
		t.Errorf("it says %q", why)
	}
	if want := now.Add(leftAloneFirst); !changes.Equal(want) {
		t.Errorf("that changes at %s, want %s", changes, want)
	}
	// It may try again, and one crash is enough then: for twice as long, up to a bound.
	for i, want := range []time.Duration{2, 4, 8, 16, 32, 36, 36} {
		_, changes := b.leftAlone(now)
		now = changes
		if got := alone(); len(got) > 0 {
			t.Errorf("%v are left alone when the time is over", got)
		}
		crash(time.Minute, bad)
		if _, until := b.leftAlone(now); until.Sub(now) != want*leftAloneFirst {
			t.Errorf("the time %d is %s, want %s", i+2, until.Sub(now), want*leftAloneFirst)
		}
	}
	// Two crashes with a long time between are not three.
	for range 5 {
		crash(crashesCount+time.Second, good)
	}
	if got := alone(); slices.Contains(got, good) {
		t.Errorf("%v are left alone for rare crashes", got)
	}
}
