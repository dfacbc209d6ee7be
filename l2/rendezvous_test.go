package l2

import (
	"fmt"
	"slices"
	"testing"
)

func anyone(string) bool { return true }

func TestWeightsAreFixed(t *testing.T) {
	// Nodes of different versions must agree: these values never change.
	for _, c := range []struct {
		group, node string
		want        uint64
	}{{"g", "a", 0xa8157f554acaf11a}, {"default/web", "node-1", 0x7e4b1cd2e3eb69f4}} {
		if got := weight(c.group, c.node); got != c.want {
			t.Errorf("weight(%q, %q) = %#x, want %#x", c.group, c.node, got, c.want)
		}
	}
}

func TestTheOrderOfCandidatesDoesNotMatter(t *testing.T) {
	nodes := []string{"a", "b", "c", "d"}
	want := choose("g", nodes, anyone)
	slices.Reverse(nodes)
	if got := choose("g", nodes, anyone); got != want {
		t.Errorf("reversed candidates choose %s, want %s", got, want)
	}
	if got := choose("g", nodes, func(string) bool { return false }); got != "" {
		t.Errorf("nobody may, and %q is chosen", got)
	}
}

func TestADeathMovesOnlyItsOwnGroupsAndSpreadsThem(t *testing.T) {
	nodes := []string{"node-1", "node-2", "node-3", "node-4", "node-5"}
	owned, inherited := map[string]int{}, map[string]int{}
	for i := range 1000 {
		g := fmt.Sprintf("default/service-%d", i)
		before := choose(g, nodes, anyone)
		after := choose(g, nodes, func(n string) bool { return n != "node-3" })
		owned[before]++
		if before == "node-3" {
			inherited[after]++
		} else if after != before {
			t.Errorf("%s moved from %s to %s when node-3 died", g, before, after)
		}
	}
	for _, n := range nodes {
		if owned[n] < 150 || owned[n] > 250 {
			t.Errorf("%s owns %d of 1000 groups, want about 200", n, owned[n])
		}
		if n != "node-3" && (inherited[n] < 25 || inherited[n] > 80) {
			t.Errorf("%s inherits %d of %d groups, want about a quarter", n, inherited[n], owned["node-3"])
		}
	}
}
