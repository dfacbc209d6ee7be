package neighbor

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Addresses move between groups, and two groups may hold one for a moment. What is owned, known and
// joined always follows from the groups.
func TestAddressTableFollowsGroups(t *testing.T) {
	pool := []netip.Addr{held4, known4, asker4, held6, known6, asker6}
	rapid.Check(t, func(t *rapid.T) {
		type group struct {
			addrs []netip.Addr
			owned bool
		}
		a := NewAddressTable()
		a.Watchdog.Extend(time.Now().Add(time.Hour))
		groups := map[string]group{}
		joined := map[netip.Addr]int{}
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "group")
			var on, off []netip.Addr
			if g := groups[name]; rapid.Bool().Draw(t, "set") {
				g.addrs = rapid.SliceOfNDistinct(rapid.SampledFrom(pool), 0, 4, netip.Addr.String).Draw(t, "addresses")
				on, off = a.SetGroup(name, g.addrs)
				if groups[name] = g; len(g.addrs) == 0 {
					delete(groups, name)
				}
			} else {
				yes := rapid.Bool().Draw(t, "owned")
				on, off = a.SetOwned(name, yes)
				if g.owned = yes; len(g.addrs) > 0 {
					groups[name] = g
				}
			}
			for _, addr := range on {
				joined[addr]++
				a.Answer(addr)
			}
			for _, addr := range off {
				joined[addr]--
				if !a.Silence(addr) {
					t.Fatalf("%s went without having been answered for", addr)
				}
			}
			for _, addr := range pool {
				var holders []string
				owned := false
				for name, g := range groups {
					if slices.Contains(g.addrs, addr) {
						holders = append(holders, name)
						owned = owned || g.owned
					}
				}
				got := slices.Sorted(slices.Values(a.GroupsOf(addr)))
				slices.Sort(holders)
				if a.Answering(addr) != owned || a.Knows(addr) != (len(holders) > 0) || !slices.Equal(got, holders) {
					t.Fatalf("%s: answering %v, groups %v; want %v, %v", addr, a.Answering(addr), got, owned, holders)
				}
				if want := map[bool]int{true: 1}[owned]; joined[addr] != want {
					t.Fatalf("%s came and went %d times, want %d", addr, joined[addr], want)
				}
			}
			for name, g := range groups {
				some, all := a.Extent(name)
				if list := a.AnsweredOf(name); some != g.owned || all != g.owned || g.owned &&
					!slices.Equal(list, g.addrs) || !g.owned && list != nil {
					t.Fatalf("of %v, this node's %v, it answers for %v, some %v, all %v",
						g.addrs, g.owned, list, some, all)
				}
			}
		}
	})
}

func TestAddressTableExtent(t *testing.T) {
	a := NewAddressTable()
	a.Watchdog.Extend(time.Now().Add(time.Hour))
	a.SetGroup("g", []netip.Addr{held4, known4})
	a.SetOwned("g", true)
	if a.Holds("g") || a.Answering(held4) {
		t.Error("a group is answered for before one of its addresses is")
	}
	a.Answer(held4)
	list := a.AnsweredOf("g")
	if _, all := a.Extent("g"); !a.Holds("g") || !a.Answering(held4) || a.Answering(known4) ||
		!slices.Equal(list, []netip.Addr{held4}) || all {
		t.Errorf("of two addresses it answers for %v, for all %v; want %s alone", list, all, held4)
	}
	a.SetGroup("h", []netip.Addr{held4})
	a.SetOwned("h", true)
	a.SetGroup("g", []netip.Addr{known4})
	some, _ := a.Extent("g")
	if _, all := a.Extent("h"); some || !all {
		t.Errorf("after the move: some of the first %v, all of the other %v; want none and all",
			some, all)
	}
}
