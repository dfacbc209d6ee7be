package soak

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	begin  = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	first4 = netip.MustParseAddr("192.0.2.1")
	second = netip.MustParseAddr("192.0.2.2")
)

func at(seconds float64) time.Time { return begin.Add(time.Duration(seconds * float64(time.Second))) }

func span(from, to float64) Span { return Span{From: at(from), To: at(to)} }

func TestLedger(t *testing.T) {
	l := NewLedger()
	l.Note(at(1), "shop/a", first4)
	l.Note(at(2), "shop/b", second)
	l.Note(at(3), "shop/a", first4) // nothing new
	l.Note(at(5), "shop/b")
	l.Note(at(6), "shop/c", first4) // before it is known that a lost it
	l.Note(at(7), "shop/a")
	l.Gone(at(8), "shop/c")
	l.Note(at(8.5), "shop/c", first4) // from a watch that is behind
	l.Note(at(9), "shop/d", second)
	for _, c := range []struct {
		name     string
		from, to float64
		want     map[netip.Addr][]Span
	}{
		{
			name: "all of it", from: 0, to: 10,
			want: map[netip.Addr][]Span{first4: {span(1, 8)}, second: {span(2, 5), span(9, 10)}},
		},
		{name: "a part", from: 3, to: 4, want: map[netip.Addr][]Span{first4: {span(3, 4)}, second: {span(3, 4)}}},
		{name: "nothing", from: 0, to: 1, want: map[netip.Addr][]Span{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, l.Between(at(c.from), at(c.to))); diff != "" {
				t.Error(diff)
			}
		})
	}
	l.Forget(at(6))
	want := map[netip.Addr][]Span{first4: {span(1, 8)}, second: {span(9, 10)}}
	if diff := cmp.Diff(want, l.Between(at(0), at(10))); diff != "" {
		t.Errorf("after it forgot: %s", diff)
	}
}

func TestLongestGap(t *testing.T) {
	served := func(seconds float64) Look { return Look{At: at(seconds), Served: true} }
	lost := func(seconds float64) Look { return Look{At: at(seconds)} }
	for _, c := range []struct {
		name  string
		looks []Look
		want  Span
	}{
		{name: "never looked at", want: Span{}},
		{name: "always served", looks: []Look{served(1), served(2), served(3)}, want: span(0, 1)},
		{name: "lost in the middle", looks: []Look{served(1), lost(2), lost(3), served(4), served(5)}, want: span(1, 4)},
		{name: "not served at first", looks: []Look{lost(1), lost(2), served(3), served(4)}, want: span(0, 3)},
		{name: "lost at the end", looks: []Look{served(1), lost(2), lost(9)}, want: span(1, 9)},
		{name: "never served", looks: []Look{lost(1), lost(8)}, want: span(0, 8)},
		{name: "beyond the span", looks: []Look{lost(-5), served(1), lost(10), served(30)}, want: span(0, 1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := LongestGap(c.looks, span(0, 10)); got != c.want {
				t.Errorf("from %s for %s, want from %s for %s", got.From, got.Lasts(), c.want.From, c.want.Lasts())
			}
		})
	}
}
