package neighbor

import (
	"net/netip"
	"slices"
	"testing"
)

// What was found counts for a minute, once, and until another host is heard.
func TestScoutClaim(t *testing.T) {
	found := func(s *Scout) { s.Found(epoch, held4) }
	again := func(s *Scout) { s.Begin(held4) }
	elsewhere := func(s *Scout) { s.Postpone(after(50_000), held4) }
	doubt := func(s *Scout) { s.Doubt(held4) }
	for name, c := range map[string]struct {
		happens []func(*Scout)
		claimed int
		want    bool
	}{
		"found":                     {[]func(*Scout){found}, 0, true},
		"a minute ago":              {[]func(*Scout){found}, 60_000, true},
		"longer ago":                {[]func(*Scout){found}, 60_001, false},
		"still probed":              {nil, 100, false},
		"probed again":              {[]func(*Scout){found, again}, 50_000, true},
		"answered when probed":      {[]func(*Scout){found, again, doubt}, 50_000, false},
		"used":                      {[]func(*Scout){found, func(s *Scout) { s.Used(after(10), held4) }}, 20, false},
		"claimed before":            {[]func(*Scout){found, func(s *Scout) { s.Claim(after(10), held4) }}, 20, false},
		"not listened":              {[]func(*Scout){found, func(s *Scout) { s.Reset(after(10)) }}, 20, false},
		"another node's by now":     {[]func(*Scout){found, elsewhere}, 50_001, false},
		"not next":                  {[]func(*Scout){found, func(s *Scout) { s.Set(after(10), nil) }}, 20, false},
		"found when it is not next": {[]func(*Scout){func(s *Scout) { s.Set(epoch, nil) }, found}, 20, false},
	} {
		s := NewScout()
		s.Set(epoch, []netip.Addr{held4})
		s.Begin(held4)
		for _, happens := range c.happens {
			happens(s)
		}
		if got := s.Claim(after(c.claimed), held4); got != c.want {
			t.Errorf("%s: it needs no probe: %v, want %v", name, got, c.want)
		}
	}
}

// Each address is looked at when its time has come, and listened for from the first probe on.
func TestScoutSteps(t *testing.T) {
	s := NewScout()
	expect := func(ms int, due ...netip.Addr) {
		t.Helper()
		if next := s.Next(); !next.Equal(after(ms)) {
			t.Errorf("the next look is at %v, want %v", next, after(ms))
		}
		if got := s.Due(after(ms)); !slices.Equal(got, due) {
			t.Errorf("to look at: %v, want %v", got, due)
		}
	}
	if !s.Next().IsZero() {
		t.Error("there is something to look at")
	}
	s.Set(epoch, []netip.Addr{held4})
	expect(0, held4)
	if s.Postpone(epoch, held4) || s.Listens(held4) {
		t.Error("it was listened for")
	}
	expect(1000, held4)
	if !s.Begin(held4) || !s.Listens(held4) || !s.Next().IsZero() {
		t.Error("it is not probed and listened for")
	}
	s.Set(after(1100), []netip.Addr{held4, held6})
	s.Found(after(1200), held4)
	expect(1100, held6)
	s.Postpone(after(1200), held6)
	s.Postpone(after(50_000), held6)
	expect(51_000, held6)
	s.Postpone(after(51_000), held6)
	expect(51_200, held4)
	if s.Begin(held4) {
		t.Error("it was not listened for")
	}
	s.Used(after(51_400), held4)
	s.Set(after(51_400), []netip.Addr{held4})
	expect(61_400, held4)
	if got := s.Set(after(61_400), nil); !slices.Equal(got, []netip.Addr{held4}) || s.Listens(held4) ||
		!s.Next().IsZero() {
		t.Errorf("no longer listened for: %v, want %v", got, held4)
	}
}
