package decide

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// The reference vectors of SipHash-2-4: the message is 00 01 02 and so on, the seed 00 to 0f.
func TestSipHash_vectors(t *testing.T) {
	var seed [16]byte
	message := make([]byte, 64)
	for i := range message {
		message[i] = byte(i)
	}
	copy(seed[:], message)
	for n, want := range map[int]uint64{0: 0x726fdb47dd0e0e31, 1: 0x74f839c593dc67fd, 15: 0xa129ca6149be45e5} {
		if got := sipHash(SeedFrom(seed), message[:n], 2, 4); got != want {
			t.Errorf("SipHash-2-4 of %d bytes is %#x, want %#x", n, got, want)
		}
	}
}

func TestHash(t *testing.T) {
	flow := Flow{netip.MustParseAddrPort("203.0.113.7:40000"), netip.MustParseAddrPort("198.51.100.1:443"), TCP}
	seed := Seed{1, 2}
	other := flow
	other.Client = netip.AddrPortFrom(flow.Client.Addr(), 40001)
	if flow.Hash(seed, false) == other.Hash(seed, false) || flow.Hash(seed, true) != other.Hash(seed, true) {
		t.Error("another port of the client must give another hash, unless by source only")
	}
	other.Service = netip.MustParseAddrPort("198.51.100.2:80")
	if flow.Hash(seed, true) != other.Hash(seed, true) {
		t.Error("by source only, the Service matters")
	}
	if flow.Hash(Seed{1, 3}, false) == flow.Hash(seed, false) {
		t.Error("the seed does not matter")
	}
	mapped := flow
	mapped.Client = netip.AddrPortFrom(netip.AddrFrom16(flow.Client.Addr().As16()), 40000)
	if mapped.Hash(seed, false) != flow.Hash(seed, false) {
		t.Error("an IPv4 address that is mapped to IPv6 is another one")
	}
}

func TestSlotOf(t *testing.T) {
	for _, c := range []struct {
		hash        uint32
		slots, want int
	}{{0, 1024, 0}, {1 << 31, 1024, 512}, {^uint32(0), 1024, 1023}, {^uint32(0), 3, 2}} {
		if got := SlotOf(c.hash, c.slots); got != c.want {
			t.Errorf("hash %#x selects slot %d of %d, want %d", c.hash, got, c.slots, c.want)
		}
	}
}

func TestSlot(t *testing.T) {
	s := NoSlot.With(0, 5, true).With(1, 4095, false).WithMoved(true)
	if n, drains := s.At(0); n != 5 || !drains || !s.Moved() || s.First() != 4095 {
		t.Errorf("%#x: first rank %d, drains %t, moved %t, first %d", uint64(s), n, drains, s.Moved(), s.First())
	}
	s = s.With(0, 6, false).WithMoved(true)
	if n, drains := s.At(0); n != 6 || drains || !s.Moved() || s.First() != 6 {
		t.Errorf("%#x: a rank is not replaced alone", uint64(s))
	}
	if n, _ := s.At(3); n != Nobody || NoSlot.First() != Nobody || s.WithMoved(false).Moved() {
		t.Error("nobody is somebody")
	}
}

// view draws what a node may see; ranks and self are of few nodes, so that they meet.
func view(t *rapid.T) View {
	v := View{
		Slot: NoSlot, Self: uint16(rapid.IntRange(1, 6).Draw(t, "self")), TTL: rapid.Byte().Draw(t, "ttl"),
		Local: rapid.Bool().Draw(t, "local"), Chance: rapid.Bool().Draw(t, "chance"),
		Held: rapid.Bool().Draw(t, "held"), Bounces: rapid.Bool().Draw(t, "bounces"),
	}
	nodes := rapid.Permutation([]uint16{1, 2, 3, 4, 5, 6}).Draw(t, "nodes")
	for i := range rapid.IntRange(0, Ranks).Draw(t, "ranks") {
		v.Slot = v.Slot.With(i, nodes[i], rapid.IntRange(0, 3).Draw(t, "drains") == 0)
		v.Alive[i] = rapid.IntRange(0, 3).Draw(t, "dead") != 0
		v.Dead[i] = !v.Alive[i] && rapid.Bool().Draw(t, "beyond doubt")
		v.Returned[i] = rapid.IntRange(0, 3).Draw(t, "returned") == 0
	}
	v.Slot = v.Slot.WithMoved(rapid.Bool().Draw(t, "moved"))
	return v
}

// Whatever tables say, the TTL of a packet that is steered falls: no loop is longer than that. And
// nothing is steered to nobody, or to oneself.
func TestDecide_ttlFalls(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := view(t)
		got := v.Decide(rapid.Bool().Draw(t, "known"))
		if got.Action == Steer && (got.TTL >= v.TTL || got.TTL == 0 || got.Node == Nobody || got.Node == v.Self) {
			t.Fatalf("%+v: %+v", v, got)
		}
		if got.Action != Steer && (got.TTL != v.TTL || got.Node != v.Self) {
			t.Fatalf("%+v: %+v changes what stays", v, got)
		}
	})
}

// What conntrack says matters only where it is asked.
func TestDecide_asksConntrack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := view(t)
		if !v.AsksConntrack() && v.Decide(true) != v.Decide(false) {
			t.Fatalf("%+v depends on what nobody asked", v)
		}
		if v.AsksConntrack() && v.Decide(true).Reason != Known {
			t.Fatalf("%+v: a known connection is not served here: %+v", v, v.Decide(true))
		}
	})
}

// A packet goes through nodes that may disagree about everything: it ends after few hops.
func TestDecide_noLoop(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ttl := uint8(rapid.IntRange(1, 255).Draw(t, "ttl"))
		at := uint16(rapid.IntRange(1, 6).Draw(t, "at"))
		hops := 0
		for ; ; hops++ {
			v := view(t)
			v.Self, v.TTL = at, ttl
			got := v.Decide(rapid.Bool().Draw(t, "known"))
			if got.Action != Steer {
				break
			}
			at, ttl = got.Node, got.TTL
		}
		if hops > 16 { // to a TTL of 24, 20, 16, 12, 11, 10, 9, 8, 7 and so on
			t.Fatalf("%d hops", hops)
		}
	})
}

// slot ranks nodes 1, 2, 3, all alive, none moved.
func slot(changes ...func(*View)) View {
	v := View{
		Slot: NoSlot.With(0, 1, false).With(1, 2, false).With(2, 3, false), Self: 9, TTL: 64,
		Alive: [Ranks]bool{true, true, true, false},
	}
	for _, c := range changes {
		c(&v)
	}
	return v
}

func self(n uint16) func(*View) { return func(v *View) { v.Self = n } }
func ttl(n uint8) func(*View)   { return func(v *View) { v.TTL = n } }
func dead(rank int) func(*View) { return func(v *View) { v.Alive[rank] = false } }
func buried(rank int) func(*View) {
	return func(v *View) { v.Alive[rank], v.Dead[rank] = false, true }
}
func returned(rank int) func(*View)    { return func(v *View) { v.Returned[rank] = true } }
func draining(node uint16) func(*View) { return func(v *View) { v.Slot = v.Slot.With(0, node, true) } }
func local(v *View)                    { v.Local = true }
func chance(v *View)                   { v.Chance = true }
func held(v *View)                     { v.Held = true }
func bounces(v *View)                  { v.Bounces = true }
func fourth(v *View) {
	v.Slot, v.Alive[3] = v.Slot.With(3, 4, false), true
}
func moved(v *View) { v.Slot = v.Slot.WithMoved(true) }

func TestDecide(t *testing.T) {
	const unknown, known = false, true
	for _, c := range []struct {
		name  string
		view  View
		known bool
		want  Verdict
	}{
		{"a new connection at the owner", slot(), unknown, Verdict{Steer, First, 1, 24}},
		{"at the first", slot(self(1), local, ttl(24)), unknown, Verdict{Pass, Local, 1, 24}},
		{"the first is dead", slot(dead(0)), unknown, Verdict{Steer, First, 2, 24}},
		{"all are dead: it is me", slot(dead(0), dead(1), dead(2)), unknown, Verdict{Steer, First, 1, 24}},
		{"the first drains", slot(draining(1)), unknown, Verdict{Steer, First, 2, 24}},
		{"in the middle, at the first, not moved", slot(self(1), local, chance), unknown, Verdict{Pass, Local, 1, 64}},
		{"moved, and known", slot(self(1), local, chance, moved), known, Verdict{Pass, Known, 1, 64}},
		{"moved, and not known", slot(self(1), local, chance, moved), unknown, Verdict{Steer, Second, 2, 16}},
		{
			"the first was dead lately", slot(self(1), local, chance, returned(0)),
			unknown, Verdict{Steer, Second, 2, 16},
		},
		{
			"the second is suspected, which may be alive", slot(self(1), local, chance, moved, dead(1)),
			unknown, Verdict{Steer, Second, 2, 16},
		},
		{
			"the second is dead: the third first", slot(self(1), local, chance, moved, buried(1)),
			unknown, Verdict{Steer, Second, 3, 16},
		},
		{
			"the dead at last", slot(self(3), local, chance, ttl(16), buried(1)),
			unknown, Verdict{Steer, Second, 2, 12},
		},
		{
			"one that drains ranks before: the next in rank", slot(self(2), local, chance, moved, draining(1)),
			unknown, Verdict{Steer, Second, 3, 16},
		},
		{
			"the last one asks the best", slot(self(3), local, chance, moved, dead(0), dead(1), ttl(20)),
			unknown, Verdict{Steer, Second, 1, 16},
		},
		{
			"not in this table, and asked after another one", slot(self(9), local, chance, ttl(12)),
			unknown, Verdict{Steer, Second, 3, 11},
		},
		{"at the second, known", slot(self(2), local, chance, ttl(16)), known, Verdict{Pass, Known, 2, 16}},
		{"at the second, not known", slot(self(2), local, chance, ttl(16)), unknown, Verdict{Steer, Second, 3, 12}},
		{"at the third", slot(self(3), local, chance, ttl(12)), unknown, Verdict{Steer, Second, 1, 11}},
		{"at the first again", slot(self(1), local, chance, ttl(11)), unknown, Verdict{Steer, Second, 2, 10}},
		{"at the second again", slot(self(2), local, chance, ttl(10)), unknown, Verdict{Steer, Returned, 1, 8}},
		{
			"at the third, and a fourth is suspected", slot(self(3), local, chance, ttl(12), fourth, dead(3)),
			unknown, Verdict{Steer, Second, 4, 11},
		},
		{"at the fourth", slot(self(4), local, chance, ttl(9), fourth), unknown, Verdict{Steer, Returned, 1, 8}},
		{"asked, and first by a late table", slot(self(1), local, chance, ttl(16)), unknown, Verdict{Steer, Second, 2, 12}},
		{
			"asked, first by a late table, and nobody is left", slot(self(1), local, chance, ttl(9)),
			unknown, Verdict{Drop, Unsettled, 1, 9},
		},
		{"returned, and known by now", slot(self(1), local, chance, ttl(8)), known, Verdict{Pass, Known, 1, 8}},
		{"returned while unsettled", slot(self(1), local, chance, held, ttl(8)), unknown, Verdict{Drop, Unsettled, 1, 8}},
		{
			"returned to one that is not the first", slot(self(2), local, chance, ttl(8)),
			unknown, Verdict{Steer, Corrected, 1, 7},
		},
		{"while unsettled", slot(self(2), local, chance, held, ttl(10)), unknown, Verdict{Drop, Unsettled, 2, 10}},
		{"UDP that nobody knows", slot(self(2), local, chance, bounces, ttl(10)), unknown, Verdict{Steer, Returned, 1, 8}},
		{
			"UDP that may be new, and the others are suspected", slot(self(1), local, chance, bounces, moved, dead(1), dead(2)),
			unknown, Verdict{Steer, Second, 2, 16},
		},
		{
			"UDP that may be new, and the others are dead", slot(self(1), local, chance, bounces, moved, buried(1), buried(2)),
			unknown, Verdict{Pass, Unknown, 1, 64},
		},
		{
			"UDP that may be new, and the first is dead", slot(self(2), local, chance, bounces, ttl(20), buried(0), buried(2)),
			unknown, Verdict{Pass, Unknown, 2, 20},
		},
		{
			"TCP in the middle, and the others are dead", slot(self(1), local, chance, moved, buried(1), buried(2)),
			unknown, Verdict{Steer, Second, 2, 16},
		},
		{"no pods here any more", slot(self(2), chance, ttl(10)), unknown, Verdict{Steer, Returned, 1, 8}},
		{"final", slot(self(1), chance, ttl(8)), unknown, Verdict{Pass, Exhausted, 1, 8}},
		{"a late table: new", slot(self(2), ttl(24)), unknown, Verdict{Steer, Corrected, 1, 20}},
		{"a late table: new, but pods are here", slot(self(2), local, ttl(24)), unknown, Verdict{Pass, Local, 2, 24}},
		{"a late table: in the middle", slot(self(2), local, chance, ttl(24)), unknown, Verdict{Steer, Corrected, 1, 20}},
		{"a late table, and known", slot(self(2), local, chance, ttl(24)), known, Verdict{Pass, Known, 2, 24}},
		{"from far away, no pods", slot(ttl(5)), unknown, Verdict{Steer, Corrected, 1, 4}},
		{"from far away, pods", slot(self(2), ttl(5), local), unknown, Verdict{Pass, Exhausted, 2, 5}},
		{"at the end of its way", slot(ttl(1)), unknown, Verdict{Pass, Exhausted, 9, 1}},
		{
			"UDP that may be new, near the end of its way, and pods are here", slot(self(2), local, chance, bounces, ttl(2)),
			unknown, Verdict{Pass, Exhausted, 2, 2},
		},
		{
			"UDP near the end of its way, and no pods", slot(self(2), chance, bounces, ttl(2)),
			unknown, Verdict{Steer, Corrected, 1, 1},
		},
		{"TCP near the end of its way", slot(self(2), local, chance, ttl(2)), unknown, Verdict{Steer, Corrected, 1, 1}},
		{"nobody in the table", View{Slot: NoSlot, Self: 9, TTL: 64}, unknown, Verdict{Pass, NoTable, 9, 64}},
	} {
		if got := c.view.Decide(c.known); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestReason_String(t *testing.T) {
	if First.String() != "first" || Decapsulated.String() != "decapsulated" || Reason(99).String() != "reason_99" {
		t.Error(First, Decapsulated, Reason(99))
	}
}

// walk follows a packet from a node to where it ends.
func walk(t *rapid.T, views map[uint16]View, at uint16, knows uint16) (Verdict, uint16) {
	ttl := uint8(64)
	for range 16 {
		v := views[at]
		v.TTL = ttl
		got := v.Decide(v.AsksConntrack() && at == knows)
		if got.Action != Steer {
			return got, at
		}
		if got.TTL >= ttl {
			t.Fatalf("the TTL goes from %d to %d", ttl, got.TTL)
		}
		at, ttl = got.Node, got.TTL
	}
	t.Fatal("the packet does not end")
	return Verdict{}, 0
}

// While some nodes have the tables of before a change and others those of after it, a packet of a
// connection ends on the node that knows it, or is dropped, and the client sends it again: no other
// node's Pod gets it, which would reset the connection.
func TestDecide_lateTables(t *testing.T) {
	for range 20 {
		rapid.Check(t, checkLateTables)
	}
}

func checkLateTables(t *rapid.T) {
	all := []uint16{1, 2, 3, 4, 5, 6}
	ranked := rapid.Permutation(all).Draw(t, "ranked")[:Ranks]
	draw := func(name string) []bool {
		return rapid.SliceOfN(rapid.Bool(), Ranks, Ranks).Draw(t, name)
	}
	before, after, drains := draw("before"), draw("after"), draw("drains")
	// The connection's node was the first and stays, perhaps draining; some node takes new ones.
	was, takes := rapid.IntRange(0, Ranks-1).Draw(t, "was first"), rapid.IntRange(0, Ranks-1).Draw(t, "takes")
	clear(before[:was])
	before[was], after[was] = true, true
	after[takes], drains[takes] = true, false
	slot := func(in []bool, draining bool) Slot {
		s, rank := NoSlot, 0
		for i, n := range ranked {
			if in[i] {
				s = s.With(rank, n, draining && drains[i])
				rank++
			}
		}
		return s
	}
	older, newer := slot(before, false), slot(after, true)
	knows := ranked[was]
	newer = newer.WithMoved(newer.First() != knows)
	late := rapid.SliceOfN(rapid.Bool(), len(all), len(all)).Draw(t, "late")
	views := map[uint16]View{}
	for i, n := range all {
		v := View{
			Slot: newer, Self: n, Alive: [Ranks]bool{true, true, true, true}, Chance: true, Held: true,
			Local: slices.Contains(ranked, n) && after[slices.Index(ranked, n)],
		}
		if late[i] {
			v.Slot, v.Held = older, false
			v.Local = slices.Contains(ranked, n) && before[slices.Index(ranked, n)]
		}
		views[n] = v
	}
	got, at := walk(t, views, rapid.SampledFrom(all).Draw(t, "comes to"), knows)
	if got.Action == Pass && at != knows {
		t.Errorf("the packet ends on %d (reason %d), and %d knows the connection", at, got.Reason, knows)
	}
	if !slices.Contains(late, true) && (got.Action != Pass || at != knows) {
		t.Errorf("with one table on all nodes it ends on %d: %+v", at, got)
	}
}

// While others think a node dead, connections of its slots begin on the next in rank. Once they
// hear it again their packets end there, though the node itself has noticed nothing: wherever they
// come from, unless it is from that node.
func TestDecide_thoughtDead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ranked := rapid.Permutation([]uint16{1, 2, 3, 4, 5}).Draw(t, "ranked")[:Ranks]
		back, knows := ranked[0], ranked[1]
		s := NoSlot
		for i, n := range ranked {
			s = s.With(i, n, false)
		}
		views := map[uint16]View{}
		for n := uint16(1); n <= 6; n++ {
			v := View{
				Slot: s, Self: n, Alive: [Ranks]bool{true, true, true, true}, Chance: true,
				Local: slices.Contains(ranked, n), Held: n != back && rapid.Bool().Draw(t, "held"),
			}
			v.Returned[0] = n != back
			views[n] = v
		}
		from := rapid.SampledFrom([]uint16{1, 2, 3, 4, 5, 6}).Filter(func(n uint16) bool { return n != back })
		got, at := walk(t, views, from.Draw(t, "comes to"), knows)
		if got.Action != Pass || at != knows {
			t.Errorf("the packet ends on %d: %+v; %d knows the connection", at, got, knows)
		}
	})
}
