package steering

import (
	"net/netip"
	"testing"
	"time"

	"github.com/berth-lb/berth/speaker/dataplane/steering/program"
	"github.com/berth-lb/berth/speaker/dataplane/steering/table"
)

func twoNodes() map[string]Node {
	return map[string]Node{
		"a": {IPv4: netip.MustParseAddr("10.0.0.1"), Interface: 2},
		"b": {
			IPv4:        netip.MustParseAddr("10.0.0.2"),
			IPv6:        netip.MustParseAddr("fd00::2"),
			Interface:   2,
			Encapsulate: true,
			MTU:         1400,
		},
	}
}

// A node keeps its index when others come and go, and through a restart.
func TestNodes_index(t *testing.T) {
	n, desired := newNodes(nil), twoNodes()
	if !n.sync(desired, nil, start) || n.sync(desired, nil, start) {
		t.Error("changes are not told from none")
	}
	b := n.index["b"]
	found, _ := n.entries(Desired{Nodes: desired})
	delete(desired, "a")
	desired["c"] = Node{}
	if !n.sync(desired, nil, start) || n.index["b"] != b || n.index["c"] == 0 || n.index["c"] == b {
		t.Errorf("indices %v, b had %d", n.index, b)
	}
	if a := foundIndex(found, "a"); n.index["c"] == a {
		t.Error("an index is given away as soon as it is free")
	}
	n = newNodes(found)
	n.sync(desired, found, start)
	if n.index["b"] != b || n.index["c"] == foundIndex(found, "a") {
		t.Errorf("after a restart: %v, b had %d", n.index, b)
	}
}

func foundIndex(found map[uint16]program.Node, name string) uint16 {
	for i, n := range found {
		if n.Name == nameOf(name) {
			return i
		}
	}
	return 0
}

func TestNodes_entries(t *testing.T) {
	n := newNodes(nil)
	n.sync(twoNodes(), nil, start)
	byIndex, byAddress := n.entries(Desired{Self: "a", Nodes: twoNodes()})
	want := program.Node{
		Name: nameOf("b"), Flags: program.Alive | program.Encapsulate, Interface: 2, MTU: 1400,
		Addr4: [4]byte{10, 0, 0, 2}, Addr6: netip.MustParseAddr("fd00::2").As16(),
	}
	if got := byIndex[n.index["b"]]; got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if len(byAddress) != 2 || byAddress[program.AddressOf(netip.MustParseAddr("10.0.0.2"))] != uint32(n.index["b"]) {
		t.Errorf("addresses %v: want those of b only", byAddress)
	}
}

// A node that was thought dead is marked for as long as connections may be elsewhere because of it.
func TestNodes_suspect(t *testing.T) {
	n, desired := newNodes(nil), twoNodes()
	n.sync(desired, nil, start)
	second, known := uint64(0), true
	flags := func(at time.Time) uint32 {
		n.forget(at, func() (uint64, bool) { return second, known })
		return n.entry("a", desired["a"]).Flags
	}
	if !n.suspect("a", true, start) || n.suspect("a", true, start) {
		t.Error("news are not told from none")
	}
	if f := flags(start.Add(99 * time.Hour)); f != program.Returned {
		t.Errorf("dead for long: flags %#x", f)
	}
	back := start.Add(time.Hour)
	n.suspect("a", false, back)
	if f := flags(back.Add(table.MovedFor - 1)); f != program.Alive|program.Returned {
		t.Errorf("back: flags %#x", f)
	}
	found, _ := n.entries(Desired{Nodes: desired})
	second = 5
	if f := flags(back.Add(table.MovedFor)); f != program.Alive|program.Returned {
		t.Errorf("back for long, and connections need it: flags %#x", f)
	}
	known = false
	if f := flags(back.Add(2 * table.MovedFor)); f != program.Alive|program.Returned {
		t.Errorf("back for long, and nobody knows who needs it: flags %#x", f)
	}
	known = true
	if f := flags(back.Add(3 * table.MovedFor)); f != program.Alive {
		t.Errorf("back for long: flags %#x", f)
	}
	n = newNodes(found)
	n.sync(desired, found, back.Add(time.Hour))
	if f := flags(back.Add(time.Hour)); f != program.Alive|program.Returned {
		t.Errorf("after a restart: flags %#x", f)
	}
}

// That a node is dead beyond doubt is news after it was suspected, and ends.
func TestNodes_bury(t *testing.T) {
	n, desired := newNodes(nil), twoNodes()
	n.sync(desired, nil, start)
	n.suspect("a", true, start)
	if !n.bury("a", true) || n.bury("a", true) {
		t.Error("news are not told from none")
	}
	if f := n.entry("a", desired["a"]).Flags; f != program.Returned|program.Dead {
		t.Errorf("dead: flags %#x", f)
	}
	n.suspect("a", false, start)
	if !n.bury("a", false) || n.bury("a", false) {
		t.Error("news are not told from none")
	}
	if f := n.entry("a", desired["a"]).Flags; f != program.Alive|program.Returned {
		t.Errorf("it lives: flags %#x", f)
	}
}

// All pages can be used, and are given back.
func TestLocations(t *testing.T) {
	l := newLocations([]uint32{0})
	var taken []location
	seen := map[location]bool{}
	const each = program.PageSlots / table.Slots
	for i := range 2*each + 1 {
		at, fresh, ok := l.take()
		if !ok || at.page == 0 || seen[at] || fresh != (i%each == 0) {
			t.Fatalf("place %d: %+v, fresh %t", i, at, fresh)
		}
		taken, seen[at] = append(taken, at), true
	}
	if empty := l.endRound(); len(empty) != 1 || empty[0] != 0 {
		t.Errorf("pages %v are empty, want the one that was there before", empty)
	}
	for _, at := range taken {
		l.give(at)
	}
	if at, _, _ := l.take(); seen[at] {
		t.Error("a place is given away in the round that it was freed in")
	}
	if empty := l.endRound(); len(empty) != 1 {
		t.Errorf("pages %v are given back, want one: another one is kept for the next tables", empty)
	}
}

func TestLocations_full(t *testing.T) {
	l := newLocations(nil)
	for range program.MaxPages * program.PageSlots / table.Slots {
		if _, _, ok := l.take(); !ok {
			t.Fatal("there is no place before all are taken")
		}
	}
	if _, _, ok := l.take(); ok {
		t.Error("there is a place after all are taken")
	}
}
