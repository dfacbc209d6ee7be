package steering

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
	"github.com/berth-lb/berth/speaker/dataplane/steering/table"
)

// Whatever a slot remembers, it has a first node if it had one, the same one, and only members.
func TestKeep(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		drains := map[uint16]bool{}
		for i := range rapid.IntRange(1, 9).Draw(t, "members") {
			drains[uint16(i)] = rapid.Bool().Draw(t, "drains")
		}
		some := func(known bool) decide.Slot {
			s := decide.NoSlot.WithMoved(true)
			nodes := rapid.Permutation([]uint16{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}).Draw(t, "nodes")
			if known {
				nodes = slices.DeleteFunc(nodes, func(n uint16) bool { _, ok := drains[n]; return !ok })
			}
			for i, n := range nodes[:min(len(nodes), rapid.IntRange(1, decide.Ranks).Draw(t, "ranks"))] {
				s = s.With(i, n, drains[n])
			}
			return s
		}
		slot := some(true)
		n, _ := slot.At(rapid.IntRange(0, len(ranks(slot))-1).Draw(t, "ready"))
		drains[n] = false // so has each table that is built
		for i, n := range ranks(slot) {
			slot = slot.With(i, n, drains[n])
		}
		before := []decide.Slot{some(false), some(false)}[:rapid.IntRange(0, 2).Draw(t, "tables")]
		kept := keep(slot, before, drains)
		if kept.First() != slot.First() || !kept.Moved() {
			t.Fatalf("first in %x is %d, before in %x %d", kept, kept.First(), slot, slot.First())
		}
		if again := keep(slot, append([]decide.Slot{kept}, before...), drains); again != kept {
			t.Fatalf("a second time %x becomes %x", kept, again)
		}
		for i := range decide.Ranks {
			n, d := kept.At(i)
			want, member := drains[n]
			if n != decide.Nobody && (!member || d != want) {
				t.Fatalf("%x ranks %d, draining %t", kept, n, d)
			}
		}
	})
}

// ranking is a table of up to four nodes.
type ranking struct {
	slots  []decide.Slot
	order  func(slot int) func(a, b uint16) bool
	drains map[uint16]bool
}

// at returns a slot as a node has it that remembers some tables.
func (r ranking) at(slot int, before ...decide.Slot) decide.Slot {
	return inOrder(keep(r.slots[slot].WithMoved(true), before, r.drains), r.order(slot))
}

func rankingOf(members []table.Member) ranking {
	nodes, builder, r := index(decide.Ranks), table.NewBuilder(), ranking{drains: map[uint16]bool{}}
	for _, m := range members {
		r.drains[nodes[m.Node]] = m.Draining
	}
	r.slots, r.order = pack(builder.Build(members), nodes), ordersOf(builder, members, nodes)
	return r
}

// walk returns the way of a packet in the middle of a connection: nodes have these slots, and
// suspect others.
func walk(self, has uint16, slots map[uint16]decide.Slot, suspects map[[2]uint16]bool, bounces bool) []uint16 {
	ttl, way := uint8(freshTTL), []uint16{self}
	for {
		v := decide.View{Slot: slots[self], Self: self, TTL: ttl, Local: true, Chance: true, Bounces: bounces}
		for i := range v.Alive {
			n, _ := v.Slot.At(i)
			v.Alive[i] = !suspects[[2]uint16{self, n}]
		}
		verdict := v.Decide(self == has)
		if verdict.Action != decide.Steer {
			return way
		}
		self, ttl, way = verdict.Node, verdict.TTL, append(way, verdict.Node)
	}
}

// bits returns the nodes of a number of nodes whose bits are set: n1 has the lowest.
func bits(n, set int, draining bool) []table.Member {
	var members []table.Member
	for i := range n {
		isSet := set>>i&1 == 1
		if isSet || draining {
			members = append(members, table.Member{Node: fmt.Sprint("n", i+1), Weight: 1, Draining: !isSet})
		}
	}
	return members
}

// A packet of a connection gets to the node that has it, whatever each node remembers of the slot,
// whomever each suspects, whether or not each has heard that others left, and whichever it comes
// to.
func TestKeep_chain(t *testing.T) {
	rankings := map[[2]int]ranking{} // by how many nodes there are, and which are left
	for n := 2; n <= decide.Ranks; n++ {
		for left := 1; left < 1<<n; left++ {
			rankings[[2]int{n, left}] = rankingOf(bits(n, left, true))
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, decide.Ranks).Draw(t, "nodes")
		left := rapid.IntRange(1, 1<<n-1).Draw(t, "that are left")
		slot := rapid.IntRange(0, table.Slots-1).Draw(t, "slot")
		node := rapid.Uint16Range(1, uint16(n))
		slots := map[uint16]decide.Slot{}
		for i := range n {
			r := rankings[[2]int{n, left}]
			if rapid.Bool().Draw(t, "has not heard of that") {
				r = rankings[[2]int{n, 1<<n - 1}]
			}
			var before []decide.Slot
			for range rapid.IntRange(0, 3).Draw(t, "tables before") {
				before = append(before, decide.NoSlot.With(0, node.Draw(t, "first"), false))
			}
			slots[uint16(i+1)] = r.at(slot, before...)
		}
		stays := node.Filter(func(n uint16) bool { return left>>(n-1)&1 == 1 })
		has, self := stays.Draw(t, "node with the connection"), node.Draw(t, "node that it comes to")
		suspects := map[[2]uint16]bool{}
		for range rapid.IntRange(0, 6).Draw(t, "suspicions") {
			suspects[[2]uint16{node.Draw(t, "who suspects"), node.Draw(t, "whom")}] = true
		}
		way := walk(self, has, slots, suspects, rapid.Bool().Draw(t, "UDP"))
		if way[len(way)-1] != has {
			t.Fatalf("the connection is on %d, and its packet went %v; slots %x; suspicions %v", has, way, slots, suspects)
		}
	})
}

// It does, too, if up to two nodes joined, whichever of them each has heard of, itself included.
func TestKeep_chainJoin(t *testing.T) {
	rankings := map[int]ranking{} // by members
	for members := 1; members < 1<<decide.Ranks; members++ {
		rankings[members] = rankingOf(bits(decide.Ranks, members, false))
	}
	rapid.Check(t, func(t *rapid.T) {
		before := rapid.IntRange(1, 1<<decide.Ranks-1).Draw(t, "members before")
		joined := 0
		for range 2 {
			joined |= 1 << rapid.IntRange(0, decide.Ranks-1).Draw(t, "joins")
		}
		slot := rapid.IntRange(0, table.Slots-1).Draw(t, "slot")
		slots := map[uint16]decide.Slot{}
		for i := range decide.Ranks {
			heard := joined & rapid.IntRange(0, 1<<decide.Ranks-1).Draw(t, "has heard of")
			slots[uint16(i+1)] = rankings[before|heard].at(slot, rankings[before].slots[slot])
		}
		has := rankings[before].slots[slot].First()
		self := rapid.Uint16Range(1, decide.Ranks).Draw(t, "node that it comes to")
		way := walk(self, has, slots, nil, rapid.Bool().Draw(t, "UDP"))
		if way[len(way)-1] != has {
			t.Fatalf("the connection is on %d, and its packet went %v; slots %x", has, way, slots)
		}
	})
}

// What is not remembered is as in the table, and the ranks that decide stay.
func TestInOrder(t *testing.T) {
	members := table.Normalize([]table.Member{
		{Node: "n1", Weight: 1}, {Node: "n2", Weight: 3}, {Node: "n3", Weight: 1}, {Node: "n4", Weight: 2, Draining: true},
		{Node: "n5", Weight: 1},
	})
	nodes, builder := index(5), table.NewBuilder()
	base := pack(builder.Build(members), nodes)
	order := ordersOf(builder, members, nodes)
	for i, slot := range base {
		if got := inOrder(slot, order(i)); got != slot {
			t.Fatalf("slot %d: %x becomes %x", i, slot, got)
		}
		third, drains3 := slot.At(2)
		fourth, drains4 := slot.At(3)
		swapped := slot.With(2, fourth, drains4).With(3, third, drains3)
		if slot.First() == fourth {
			continue // the only one that is ready ranks last
		}
		if got := inOrder(swapped, order(i)); got != slot {
			t.Fatalf("slot %d: %x becomes %x, want %x", i, swapped, got, slot)
		}
	}
	gaps := decide.NoSlot.With(0, 1, false).With(2, 3, false)
	if got := ranks(inOrder(gaps, order(0))); !slices.Equal(got, []uint16{1, 3}) {
		t.Errorf("with gaps: %v", got)
	}
}
