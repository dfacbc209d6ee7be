package ipam

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"go4.org/netipx"
)

var (
	noon  = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	until = noon.Add(5 * time.Second)
)

// A resting address is not given to another owner.
func TestAssignRestingOfAnother(t *testing.T) {
	a := with(pool("p", Automatic, "192.0.2.1-192.0.2.1"))
	mustAssign(t, a, "a/b", v4, "192.0.2.1")
	a.Free("a/b", addrs("192.0.2.1"), until)
	fails(t, a, "a/c", v4, "no IPv4 address is free in LoadBalancerPool p")
	fails(t, a, "a/c", pinned(v4, "192.0.2.1"), "192.0.2.1 was Service a/b's until a moment ago, and rests until 12:00:05")
	var e *ExhaustedError
	if _, err := a.ReserveAny("a/r", "p", IPv4, "a/c"); !errors.As(err, &e) {
		t.Errorf("reserve any: %v, want that the pool is full", err)
	}
	if woke, next := a.Wake(noon); len(woke) > 0 || !next.Equal(until) {
		t.Errorf("at noon: woke %v, next %v; want that it rests still", woke, next)
	}
	if woke, next := a.Wake(until); len(woke) == 0 || !next.IsZero() {
		t.Errorf("at the end: woke %v, next %v; want that it no longer rests", woke, next)
	}
	mustAssign(t, a, "a/c", v4, "192.0.2.1")
}

// The owner that had a resting address gets it back.
func TestAssignRestingOfOwner(t *testing.T) {
	for _, c := range []struct {
		name    string
		request Request
		want    []string
	}{
		{
			name:    "by itself, before anything else",
			request: v4,
			want:    []string{"192.0.2.2"},
		},
		{
			name:    "by a pin",
			request: pinned(v4, "192.0.2.2"),
			want:    []string{"192.0.2.2"},
		},
		{
			name:    "not if it pins another",
			request: pinned(v4, "192.0.2.3"),
			want:    []string{"192.0.2.3"},
		},
		{
			name:    "both families",
			request: both,
			want:    []string{"192.0.2.2", "2001:db8::2"},
		},
		{
			name:    "the other family beside a pin",
			request: pinned(both, "192.0.2.3"),
			want:    []string{"192.0.2.3", "2001:db8::2"},
		},
		{
			name:    "not of a pool that may not give to it",
			request: named(v4, "other"),
			want:    []string{"198.51.100.1"},
		},
		{
			name:    "not what it wants to drop",
			request: Request{Families: []Family{IPv4}, Drop: addrs("192.0.2.2")},
			want:    []string{"192.0.2.3"},
		},
		{
			name:    "before it shares another's",
			request: shared(v4, "k", 81),
			want:    []string{"192.0.2.2"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := with(
				pool("p", Automatic, "192.0.2.1-192.0.2.9", "2001:db8::1-2001:db8::9"),
				pool("other", OnRequest, "198.51.100.1-198.51.100.9"),
			)
			mustAssign(t, a, "n/first", shared(both, "k", 80), "192.0.2.1", "2001:db8::1")
			mustAssign(t, a, "n/a", both, "192.0.2.2", "2001:db8::2")
			a.Free("n/a", a.Holdings("n/a"), until)
			mustAssign(t, a, "n/a", c.request, c.want...)
		})
	}
}

// An address rests when its last holder leaves.
func TestFreeShared(t *testing.T) {
	a := with(pool("p", Automatic, "192.0.2.1-192.0.2.1"))
	mustAssign(t, a, "n/a", shared(v4, "k", 80), "192.0.2.1")
	mustAssign(t, a, "n/b", shared(v4, "k", 81), "192.0.2.1")
	a.Free("n/a", addrs("192.0.2.1"), until)
	if got := a.Resting("p", 9); len(got) != 0 {
		t.Errorf("%v rests, and is held", got)
	}
	mustAssign(t, a, "n/c", shared(v4, "k", 80), "192.0.2.1")
	a.Free("n/c", addrs("192.0.2.1"), until)
	a.Free("n/b", addrs("192.0.2.1"), until)
	if got, want := a.Resting("p", 9), []Rested{{addr("192.0.2.1"), "n/b", until}}; !slices.Equal(got, want) {
		t.Errorf("%v rests, want %v", got, want)
	}
}

// A resting address is reserved for the namespace that had it.
func TestReserveResting(t *testing.T) {
	a := with(pool("p", Automatic, "192.0.2.1-192.0.2.1"))
	mustAssign(t, a, "n/a", v4, "192.0.2.1")
	a.Free("n/a", addrs("192.0.2.1"), until)
	var e *RestingError
	if err := a.Reserve("m/r", addr("192.0.2.1")); !errors.As(err, &e) || e.Owner != "n/a" || !e.Until.Equal(until) {
		t.Errorf("another namespace: %v, want that it rests", err)
	}
	if err := a.Reserve("n/r", addr("192.0.2.1")); err != nil {
		t.Error(err)
	}
	mustAssign(t, a, "n/a", pinned(v4, "192.0.2.1"), "192.0.2.1")
}

// Hold ignores that an address rests.
func TestHoldResting(t *testing.T) {
	a := with(pool("p", Automatic, "192.0.2.1-192.0.2.1"))
	a.Rest(addr("192.0.2.1"), "n/a", until)
	if err := a.Hold("n/b", addr("192.0.2.1"), Terms{}); err != nil {
		t.Error(err)
	}
	if woke, next := a.Wake(until); len(woke) > 0 || !next.IsZero() {
		t.Errorf("woke %v, next %v; what is held does not rest", woke, next)
	}
}

// A new leader makes addresses rest.
func TestRest(t *testing.T) {
	a := with(pool("p", Automatic, "192.0.2.1-192.0.2.4"))
	mustAssign(t, a, "n/a", v4, "192.0.2.1")
	a.Rest(addr("192.0.2.1"), "", until) // held: no effect
	a.Rest(addr("192.0.2.2"), "", until)
	a.Rest(addr("192.0.2.2"), "n/b", noon) // rests longer already
	a.Rest(addr("192.0.2.3"), "", noon)
	a.Rest(addr("192.0.2.3"), "n/b", until.Add(1)) // longer
	a.Rest(addr("192.0.2.4"), "n/c", time.Time{})  // not at all
	want := []Rested{{addr("192.0.2.3"), "n/b", until.Add(1)}, {addr("192.0.2.2"), "", until}}
	if got := a.Resting("p", 9); !slices.Equal(got, want) {
		t.Errorf("%v rest, want %v", got, want)
	}
	if got := a.Resting("p", 1); !slices.Equal(got, want[:1]) {
		t.Errorf("%v rests, want the longest-resting, %v", got, want[:1])
	}
	fails(t, a, "n/c", pinned(v4, "192.0.2.2"), "192.0.2.2 may have been a Service's until a moment ago, and rests until 12:00:05")
	mustAssign(t, a, "n/b", v4, "192.0.2.3")
	mustAssign(t, a, "n/c", v4, "192.0.2.4")
}

// SetPools leaves rests, pins and occupied addresses as they are.
func TestSetPools(t *testing.T) {
	p := pool("p", Automatic, "192.0.2.1-192.0.2.4")
	a := with(p)
	a.Rest(addr("192.0.2.1"), "n/a", until)
	a.SetPins("n/b", addrs("192.0.2.2"))
	a.Occupy("x/y", "y's", addrs("192.0.2.3"))
	a.SetPools(nil)
	a.SetPools([]Pool{p})
	mustAssign(t, a, "n/c", v4, "192.0.2.4")
	fails(t, a, "n/d", v4, "no IPv4 address is free in LoadBalancerPool p")
	mustAssign(t, a, "n/a", v4, "192.0.2.1")
}

// A request that fails leaves resting addresses alone.
func TestAssignFailureResting(t *testing.T) {
	a := with(pool("p", Automatic, "192.0.2.1-192.0.2.4"))
	a.Rest(addr("192.0.2.1"), "n/a", until)
	fails(t, a, "n/a", both, "no LoadBalancerPool gives IPv6 addresses automatically")
	if got, want := a.Resting("p", 9), []Rested{{addr("192.0.2.1"), "n/a", until}}; !slices.Equal(got, want) {
		t.Errorf("%v rests, want %v", got, want)
	}
}

// Recent covers the addresses with a few ranges.
func TestRecent(t *testing.T) {
	a := with(
		pool("p", Automatic, "192.0.2.0-192.0.2.99", "192.0.2.100-192.0.2.255", "2001:db8::-2001:db8::ffff:ffff:ffff:ffff"),
	)
	for i, s := range []string{
		"192.0.2.1", "192.0.2.2", "192.0.2.5", "192.0.2.99", "192.0.2.100", "2001:db8::", "2001:db8::1:0:0:0",
		"2001:db8::1:0:0:3",
	} {
		if err := a.Hold(fmt.Sprintf("n/%d", i), addr(s), Terms{}); err != nil {
			t.Fatal(err)
		}
	}
	a.Rest(addr("192.0.2.8"), "", until)
	for most, want := range map[int][]string{
		9: {
			"192.0.2.1-192.0.2.2", "192.0.2.5-192.0.2.5", "192.0.2.8-192.0.2.8", "192.0.2.99-192.0.2.99",
			"192.0.2.100-192.0.2.100", "2001:db8::-2001:db8::", "2001:db8::1:0:0:0-2001:db8::1:0:0:0",
			"2001:db8::1:0:0:3-2001:db8::1:0:0:3",
		},
		5: {
			"192.0.2.1-192.0.2.8", "192.0.2.99-192.0.2.99", "192.0.2.100-192.0.2.100", "2001:db8::-2001:db8::",
			"2001:db8::1:0:0:0-2001:db8::1:0:0:3",
		},
		3: {"192.0.2.1-192.0.2.99", "192.0.2.100-192.0.2.100", "2001:db8::-2001:db8::1:0:0:3"},
		2: {"192.0.2.1-192.0.2.99", "192.0.2.100-192.0.2.100"}, // more ranges of the pool than that
		0: nil,
	} {
		var ranges []netipx.IPRange
		for _, s := range want {
			ranges = append(ranges, netipx.MustParseIPRange(s))
		}
		if got := a.Recent("p").Ranges(most); !slices.Equal(got, ranges) {
			t.Errorf("at most %d: %v, want %v", most, got, ranges)
		}
	}
	if got := a.Recent("none").Ranges(9); got != nil {
		t.Errorf("no such pool: %v", got)
	}
}

// An owner keeps its address whatever pools it names, unless it changed them.
func TestAssignStrict(t *testing.T) {
	strict := func(r Request) Request {
		r.Strict = true
		return r
	}
	for _, c := range []struct {
		name    string
		pools   []Pool // after the address was given
		request Request
		want    []string
		err     string
	}{
		{
			name:    "its pool is no longer named",
			pools:   []Pool{pool("p", Automatic, "192.0.2.1-192.0.2.9"), pool("q", Automatic, "198.51.100.1-198.51.100.9")},
			request: named(v4, "q"),
			want:    []string{"192.0.2.1"},
		},
		{
			name:    "its pool was renamed",
			pools:   []Pool{pool("q", Automatic, "192.0.2.1-192.0.2.9")},
			request: named(v4, "p"),
			want:    []string{"192.0.2.1"},
		},
		{
			name:    "its pool is gone",
			request: named(v4, "p"),
			want:    []string{"192.0.2.1"},
		},
		{
			name:    "its pool was narrowed",
			pools:   []Pool{pool("p", Automatic, "192.0.2.2-192.0.2.9")},
			request: named(v4, "p"),
			want:    []string{"192.0.2.1"},
		},
		{
			name:    "no pool may give to it",
			pools:   []Pool{pool("p", Automatic, "192.0.2.1-192.0.2.9")},
			request: named(v4),
			want:    []string{"192.0.2.1"},
		},
		{
			name:    "a pin that it holds",
			pools:   []Pool{pool("q", Automatic, "192.0.2.1-192.0.2.9")},
			request: pinned(named(v4, "p"), "192.0.2.1"),
			want:    []string{"192.0.2.1"},
		},
		{
			name:    "it changed the pools it names",
			pools:   []Pool{pool("p", Automatic, "192.0.2.1-192.0.2.9"), pool("q", Automatic, "198.51.100.1-198.51.100.9")},
			request: strict(named(v4, "q")),
			want:    []string{"198.51.100.1"},
		},
		{
			name:    "it changed them, and pins what it holds",
			pools:   []Pool{pool("p", Automatic, "192.0.2.1-192.0.2.9")},
			request: strict(pinned(named(v4, "q"), "192.0.2.1")),
			err:     "192.0.2.1 is in LoadBalancerPool p, which is not among the pools named",
		},
		{
			name:    "it changed them, and its address is in no pool",
			pools:   []Pool{pool("q", Automatic, "198.51.100.1-198.51.100.9")},
			request: strict(named(v4, "q")),
			want:    []string{"192.0.2.1"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := with(pool("p", Automatic, "192.0.2.1-192.0.2.9"))
			mustAssign(t, a, "n/a", named(v4, "p"), "192.0.2.1")
			a.SetPools(c.pools)
			if c.err == "" {
				mustAssign(t, a, "n/a", c.request, c.want...)
			} else {
				fails(t, a, "n/a", c.request, c.err)
			}
		})
	}
}

// A request that names no pool is given nothing.
func TestAssignNoPools(t *testing.T) {
	a := with(pool("p", Automatic, "192.0.2.1-192.0.2.9"))
	var e *ExhaustedError
	if _, err := a.Assign("n/a", named(v4)); !errors.As(err, &e) || !e.Named || len(e.Full) > 0 {
		t.Errorf("err = %v, want that no pool named has one", err)
	}
}
