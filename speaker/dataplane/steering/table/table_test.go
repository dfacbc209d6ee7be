package table

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// some draws members: a few nodes, or up to 40.
func some(t *rapid.T, label string) Members {
	n := rapid.IntRange(1, 6).Draw(t, label+" nodes")
	if rapid.IntRange(0, 9).Draw(t, label+" many") == 0 {
		n = rapid.IntRange(30, 40).Draw(t, label+" many nodes")
	}
	var members []Member
	for range n {
		members = append(members, Member{
			Node:     fmt.Sprint("n", rapid.IntRange(1, 60).Draw(t, label+" node")),
			Weight:   rapid.IntRange(1, 9).Draw(t, label+" weight"),
			Draining: rapid.IntRange(0, 4).Draw(t, label+" draining") == 0,
		})
	}
	return Normalize(members)
}

// ranking is a slot by name.
func ranking(t *Table, slot int) []string {
	var names []string
	for _, m := range t.Ranking(slot) {
		names = append(names, m.Node)
	}
	return names
}

func TestNormalize(t *testing.T) {
	got := Normalize(
		[]Member{{"b", 2, true}, {"a", 1 << 20, false}, {"c", 0, false}, {"", 1, false}, {"b", 3, false}},
	)
	if want := (Members{{"a", MaxWeight, false}, {"b", 2, true}}); !slices.Equal(got, want) {
		t.Errorf("Normalize gives %v, want %v", got, want)
	}
	got = Normalize([]Member{{"b", 1, true}, {"a", 1, true}})
	if want := (Members{{"a", 1, false}, {"b", 1, false}}); !slices.Equal(got, want) {
		t.Errorf("where all drain: %v, want %v", got, want)
	}
}

// Each node has its share of the slots by weight.
func TestBuild_shares(t *testing.T) {
	b := NewBuilder()
	for _, weights := range [][]int{
		{1}, {1, 1}, {2, 1}, {9, 1}, {1, 1, 1}, {3, 2, 1}, {1, 1, 1, 1, 1, 1, 1, 1}, {40, 1, 1}, {110, 1},
		slices.Repeat([]int{1}, 32), slices.Repeat([]int{1}, 100), slices.Repeat([]int{1, 2, 3}, 33),
	} {
		members, total := make([]Member, len(weights)), 0
		for i, w := range weights {
			members[i], total = Member{fmt.Sprint("node-", i), w, false}, total+w
		}
		table := b.Build(Normalize(members))
		slots := float64(len(table.Slots))
		for i, got := range table.Shares() {
			share := float64(table.Members[i].Weight) / float64(total)
			// Four times what the scatter of independent draws would be.
			bound := 4 * math.Sqrt(share*(1-share)*slots)
			if off := math.Abs(float64(got) - share*slots); off > bound {
				t.Errorf("weights %v: %s has %d of %.0f slots, want %.0f within %.0f",
					weights, table.Members[i].Node, got, slots, share*slots, bound)
			}
		}
	}
}

// A node joins: it takes slots, and in those the one that was first is next. Everywhere else the
// ranking is as it was. A node leaves: its slots go to the next, and nothing else moves.
func TestBuild_leastMovement(t *testing.T) {
	b := NewBuilder()
	rapid.Check(t, func(t *rapid.T) {
		without := some(t, "")
		joins := Member{"joins", rapid.IntRange(1, 9).Draw(t, "weight"), false}
		with := Normalize(append(slices.Clone(without), joins))
		for i := range with { // that all of the others drain is undone by the one who joins
			if j := slices.IndexFunc(without, func(m Member) bool { return m.Node == with[i].Node }); j >= 0 {
				with[i].Draining = without[j].Draining
			}
		}
		small, large := b.Build(without), b.Build(with)
		for i := range small.Slots {
			before, after := ranking(small, i), ranking(large, i)
			at := slices.Index(after, joins.Node)
			if at >= 0 {
				after = slices.Delete(after, at, at+1)
			}
			if n := min(len(before), len(after)); !slices.Equal(before[:n], after[:n]) {
				t.Fatalf("slot %d: %q, and once a node joined, without it: %q", i, before, after)
			}
			if at == 0 && len(with) > 1 && after[0] != before[0] {
				t.Fatalf("slot %d: %s was first and is not next", i, before[0])
			}
		}
	})
}

// A weight changes: slots move to this node, or away from it, and never between others.
func TestBuild_weightChanges(t *testing.T) {
	b := NewBuilder()
	rapid.Check(t, func(t *rapid.T) {
		before := some(t, "")
		after := slices.Clone(before)
		i := rapid.IntRange(0, len(before)-1).Draw(t, "which")
		after[i].Weight += rapid.IntRange(1, 5).Draw(t, "more")
		was, is := b.Build(before), b.Build(after)
		for slot := range was.Slots {
			if a, b := first(was, slot), first(is, slot); a != b && b != before[i].Node {
				t.Fatalf("slot %d moved from %s to %s, but %s became heavier", slot, a, b, before[i].Node)
			}
		}
	})
}

// A node drains: it keeps its rank, and the first that does not drain gets what is new.
func TestBuild_drains(t *testing.T) {
	b := NewBuilder()
	before := Normalize([]Member{{"a", 1, false}, {"b", 1, false}, {"c", 1, false}})
	after := Normalize([]Member{{"a", 1, false}, {"b", 1, true}, {"c", 1, false}})
	was, is := b.Build(before), b.Build(after)
	if !slices.Equal(was.Slots, is.Slots) {
		t.Error("a node lost its rank because it drains")
	}
	for i := range is.Slots {
		switch f := first(is, i); {
		case f == "b":
			t.Fatalf("slot %d: new connections go to a node that drains", i)
		case first(was, i) != "b" && f != first(was, i):
			t.Fatalf("slot %d moved from %s to %s because another node drains", i, first(was, i), f)
		}
	}
}

func TestChange_equalsBuild(t *testing.T) {
	b := NewBuilder()
	rapid.Check(t, func(t *rapid.T) {
		before, after := some(t, "before"), some(t, "after")
		if rapid.Bool().Draw(t, "nearly the same") {
			after = Normalize(append(slices.Clone(before[rapid.IntRange(0, 1).Draw(t, "one less"):]), after[0]))
		}
		got, want := b.Change(b.Build(before), after), b.Build(after)
		if !slices.Equal(got.Members, want.Members) || !slices.Equal(got.Slots, want.Slots) {
			t.Fatalf("from %v to %v: another table than one that is built", before, after)
		}
	})
}

// The order and the number in which nodes are known do not matter, nor what was built before.
func TestBuild_independent(t *testing.T) {
	plain, used := NewBuilder(), NewBuilder()
	rapid.Check(t, func(t *rapid.T) {
		members := some(t, "")
		shuffled := rapid.Permutation([]Member(members)).Draw(t, "shuffled")
		used.Build(some(t, "other"))
		if !slices.Equal(plain.Build(members).Slots, used.Build(Normalize(shuffled)).Slots) {
			t.Fatal("the table depends on more than its members")
		}
	})
}

// All versions and machines compute the same: a change here breaks connections while speakers are
// upgraded, and wants a new version of the maps' layout.
func TestBuild_golden(t *testing.T) {
	var members []Member
	for i := range 100 {
		members = append(members, Member{fmt.Sprint("node-", i), i%5 + 1, i%7 == 0})
	}
	for _, c := range []struct {
		members int
		want    uint64
	}{{3, 0x59dc80b9bcc32975}, {100, 0xaabd100cfea09484}} {
		h := fnv.New64a()
		for _, s := range NewBuilder().Build(Normalize(members[:c.members])).Slots {
			fmt.Fprint(h, s)
		}
		if got := h.Sum64(); got != c.want {
			t.Errorf("the table of %d members is another: %#x", c.members, got)
		}
	}
}

func TestCheck(t *testing.T) {
	one := func(int) int { return 7 }
	for _, c := range []struct {
		name    string
		members Members
		first   func(int) int
		want    error
	}{
		{"one node has endpoints", Members{{"a", 1, false}}, one, nil},
		{"the other one drains", Members{{"a", 1, false}, {"b", 9, true}}, one, nil},
		{"everything to one of two", Members{{"a", 1, false}, {"b", 1, false}}, one, ErrOneSided},
		{"one by chance", Members{{"a", 999, false}, {"b", 1, false}}, one, nil},
		{"to none", Members{{"a", 1, false}}, func(i int) int { return 500 - i }, ErrNobody},
		{"spread", Members{{"a", 1, false}, {"b", 1, false}}, func(i int) int { return i % 2 }, nil},
	} {
		if err := Check(c.members, c.first, Slots); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if err := Check(nil, one, 0); !errors.Is(err, ErrNobody) {
		t.Errorf("without slots: %v", err)
	}
	rapid.Check(t, func(t *rapid.T) {
		table := NewBuilder().Build(some(t, ""))
		if err := Check(table.Members, func(i int) int { return int(table.First(i)) }, len(table.Slots)); err != nil {
			t.Fatalf("a table that was built is refused: %v", err)
		}
	})
}

func TestBuild_empty(t *testing.T) {
	b := NewBuilder()
	full := b.Build(Normalize([]Member{{"a", 1, false}}))
	if n := len(b.Change(full, nil).Slots) + len(b.Build(nil).Slots); n != 0 {
		t.Errorf("%d slots without members", n)
	}
	b.Forget()
	b.Forget()
	if len(b.columns) != 0 {
		t.Error("a node that nobody asks for is kept")
	}
}
