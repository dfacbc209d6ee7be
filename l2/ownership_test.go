package l2

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Of the candidates self and a, self weighs more for the first group and a for the second.
const (
	mine   = "group-0"
	theirs = "group-1"
)

func TestTheTwoGroupsOfTheseTestsWeighAsTheySay(t *testing.T) {
	all := func(string) bool { return true }
	if got := []string{choose(mine, []string{"a", "self"}, all), choose(theirs, []string{"a", "self"}, all)}; !slices.Equal(got, []string{"self", "a"}) {
		t.Errorf("owners %q, want self and a", got)
	}
}

// script drives an ownership by words and writes down its moves.
type script struct {
	o     *ownership
	ready map[string]bool
	group string
}

var kinds = [...]string{start: "start", announce: "announce", stop: "stop", expect: "expect", forget: "forget"}

func (s *script) do(ms int, verb string) string {
	var moves []move
	now := at(ms)
	word, rest, _ := strings.Cut(verb, " ")
	switch word {
	case "want":
		moves = s.o.set(now, s.group, []netip.Addr{netip.MustParseAddr("192.0.2.1")}, strings.Fields(rest))
	case "unwant":
		moves = s.o.set(now, s.group, nil, nil)
	case "self":
		state := map[string][2]bool{"starting": {}, "ready": {true, false}, "leaving": {false, true}}[rest]
		moves = s.o.stand(now, state[0], state[1], Cause(rest))
	case "up":
		s.ready[rest] = true
		moves = s.o.reconsider(now, PeerReady)
	case "down":
		delete(s.ready, rest)
		moves = s.o.reconsider(now, PeerSilent)
	case "hear":
		moves = s.o.heard(now, s.group, rest)
	case "cut":
		moves = s.o.drop(LinkDown)
	case "wait":
		moves = s.o.advance(now)
	}
	var out []string
	for _, m := range moves {
		if m.kind == expect || m.kind == forget {
			continue
		}
		out = append(out, fmt.Sprintf("%s %s by %s", kinds[m.kind], m.cause, m.owner))
	}
	return strings.Join(out, ", ")
}

type line struct {
	ms   int
	do   string
	want string
}

func TestOwnership(t *testing.T) {
	for name, c := range map[string]struct {
		group string
		lines []line
	}{
		"alone, once ready": {mine, []line{
			{0, "want self", ""},
			{10, "self ready", "start ready by self"},
			{20, "self ready", ""},
			{30, "unwant", "stop removed by self"},
		}},
		"not a candidate": {mine, []line{
			{0, "self ready", ""},
			{10, "want a", ""},
			{20, "up a", ""},
			{30, "down a", ""},
		}},
		"a heavier peer owns, its death moves the group": {theirs, []line{
			{0, "self ready", ""},
			{0, "up a", ""},
			{10, "want self a", ""},
			{20, "down a", "start peer_silent by self"},
		}},
		"the owner comes back and is waited for until heard": {theirs, []line{
			{0, "want self a", ""},
			{0, "self ready", "start ready by self"},
			{100, "up a", ""},
			{150, "wait", ""},
			{200, "hear a", "stop handed_over by a"},
			{300, "hear a", ""},
			{2000, "wait", ""},
		}},
		"the owner comes back and is never heard": {theirs, []line{
			{0, "want self a", ""},
			{0, "self ready", "start ready by self"},
			{100, "up a", ""},
			{1099, "wait", ""},
			{1100, "wait", "stop handover_timeout by a"},
		}},
		"the owner comes back and dies before it was heard": {theirs, []line{
			{0, "want self a", ""},
			{0, "self ready", "start ready by self"},
			{100, "up a", ""},
			{200, "down a", "announce peer_silent by self"},
			{1100, "wait", ""},
			{1200, "up a", ""},
			{2199, "wait", ""},
			{2200, "wait", "stop handover_timeout by a"},
		}},
		"a taker that is faster than our view needs no waiting": {theirs, []line{
			{0, "want self", ""},
			{0, "self ready", "start ready by self"},
			{0, "up a", ""},
			{100, "hear a", ""},
			{200, "want self a", "stop handed_over by a"},
		}},
		"what was heard before a take-over is history": {theirs, []line{
			{0, "want self a", ""},
			{0, "up a", ""},
			{0, "self ready", ""},
			{100, "hear a", ""},
			{200, "down a", "start peer_silent by self"},
			{300, "up a", ""},
			{400, "hear a", "stop handed_over by a"},
		}},
		"leaving, another takes": {mine, []line{
			{0, "want self a", ""},
			{0, "self ready", "start ready by self"},
			{0, "up a", ""},
			{100, "self leaving", ""},
			{150, "hear a", "stop handed_over by a"},
		}},
		"leaving, nobody takes, until somebody does": {mine, []line{
			{0, "want self a", ""},
			{0, "self ready", "start ready by self"},
			{100, "self leaving", ""},
			{9000, "wait", ""},
			{9100, "up a", ""},
			{9200, "hear a", "stop handed_over by a"},
		}},
		"leaving, and the taker dies": {mine, []line{
			{0, "want self a", ""},
			{0, "self ready", "start ready by self"},
			{0, "up a", ""},
			{100, "self leaving", ""},
			{200, "down a", ""},
			{5000, "wait", ""},
		}},
		"leaving, and staying after all": {mine, []line{
			{0, "want self a", ""},
			{0, "self ready", "start ready by self"},
			{0, "up a", ""},
			{100, "self leaving", ""},
			{200, "self ready", "announce ready by self"},
			{5000, "wait", ""},
		}},
		"no candidate any more, another is": {mine, []line{
			{0, "want self a", ""},
			{0, "self ready", "start ready by self"},
			{0, "up a", ""},
			{100, "want a", ""},
			{150, "hear a", "stop handed_over by a"},
		}},
		"no candidate any more, and nobody else": {mine, []line{
			{0, "want self", ""},
			{0, "self ready", "start ready by self"},
			{100, "want a", ""},
			{1100, "wait", "stop handover_timeout by "},
		}},
		"the interface is lost and comes back": {mine, []line{
			{0, "want self", ""},
			{0, "self ready", "start ready by self"},
			{100, "cut", "stop link_down by "},
			{100, "self starting", ""},
			{200, "self ready", "start ready by self"},
		}},
		"removed while it is handed over": {theirs, []line{
			{0, "want self a", ""},
			{0, "self ready", "start ready by self"},
			{100, "up a", ""},
			{200, "unwant", "stop removed by a"},
			{1200, "wait", ""},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := &script{ready: map[string]bool{}, group: c.group}
			s.o = newOwnership("self", time.Second, func(n string) bool { return s.ready[n] })
			for _, l := range c.lines {
				if got := s.do(l.ms, l.do); got != l.want {
					t.Fatalf("at %d ms, %s: %q, want %q", l.ms, l.do, got, l.want)
				}
			}
			owned, pending := 0, 0
			for _, c := range s.o.claims {
				if c.phase == answering {
					owned++
				}
				if c.phase == handingOver {
					pending++
				}
			}
			if s.o.owned != owned || s.o.pending != pending {
				t.Errorf("counts %d owned, %d pending; want %d and %d", s.o.owned, s.o.pending, owned, pending)
			}
		})
	}
}

func TestAddressesThatChangeAreAnnounced(t *testing.T) {
	o := newOwnership("self", time.Second, func(string) bool { return false })
	o.stand(at(0), true, false, Joined)
	one, two := []netip.Addr{netip.MustParseAddr("192.0.2.1")}, []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
	o.set(at(0), "g", one, []string{"self"})
	if got := o.set(at(1), "g", one, []string{"self"}); len(got) != 0 {
		t.Errorf("the same again: %+v, want no move", got)
	}
	want := []move{
		{kind: expect, group: "g", addrs: two},
		{kind: announce, group: "g", owner: "self", cause: Configured, addrs: two},
	}
	if diff := cmp.Diff(want, o.set(at(2), "g", two, []string{"self"}), cmp.AllowUnexported(move{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("one address more (-want +got):\n%s", diff)
	}
}

// A death among five nodes, as one of the four others sees it.
func BenchmarkReconsider(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		o := newOwnership("n1", time.Second, func(node string) bool { return node != "n5" })
		o.stand(at(0), true, false, Joined)
		for i := range n {
			o.set(at(0), fmt.Sprint("default/service-", i), []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})}, []string{"n1", "n2", "n3", "n4", "n5"})
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				o.reconsider(at(0), PeerSilent)
			}
		})
	}
}
