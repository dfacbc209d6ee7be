package election

import (
	"fmt"
	"slices"
	"testing"
)

func anyone(string) bool { return true }

func TestWeight(t *testing.T) {
	// Nodes of different versions must agree: these values never change.
	for _, c := range []struct {
		key, node string
		want      uint64
	}{{"g", "a", 0xa8157f554acaf11a}, {"default/web", "node-1", 0x7e4b1cd2e3eb69f4}} {
		if got := weight(c.key, c.node); got != c.want {
			t.Errorf("weight(%q, %q) = %#x, want %#x", c.key, c.node, got, c.want)
		}
	}
}

// choose returns the node that takes a fresh address, among those that may.
func choose(key string, nodes []string, preferred map[string]int32, may func(string) bool) string {
	var best string
	for _, n := range nodes {
		if may(n) && (best == "" || RanksBefore(key, preferred, n, best)) {
			best = n
		}
	}
	return best
}

func TestRanksBeforePreference(t *testing.T) {
	nodes := []string{"a", "b", "c", "d"}
	if got := choose("g", nodes, map[string]int32{"c": 1}, anyone); got != "c" {
		t.Errorf("%s comes first, want the one preferred", got)
	}
	if got := choose("g", nodes, map[string]int32{
		"c": 1,
		"d": 2,
		"a": 2,
	}, func(n string) bool { return n != "a" }); got != "d" {
		t.Errorf("%s comes first, want the one preferred most", got)
	}
}

func TestRanksBeforeDeathMovesOnlyItsAddresses(t *testing.T) {
	nodes := []string{"node-1", "node-2", "node-3", "node-4", "node-5"}
	owned, inherited := map[string]int{}, map[string]int{}
	for i := range 1000 {
		g := fmt.Sprintf("192.0.%d.%d", i>>8, i&0xff)
		before := choose(g, nodes, nil, anyone)
		after := choose(g, nodes, nil, func(n string) bool { return n != "node-3" })
		owned[before]++
		if before == "node-3" {
			inherited[after]++
		} else if after != before {
			t.Errorf("%s moved from %s to %s when node-3 died", g, before, after)
		}
	}
	for _, n := range nodes {
		if n != "node-3" && (inherited[n] < 25 || inherited[n] > 80) {
			t.Errorf("%s inherits %d of %d addresses, want about a quarter", n, inherited[n], owned["node-3"])
		}
	}
}

// TestRanksBeforeSpreadsEvenly distributes 1 000 addresses to 5 nodes, with 100 sets of node names.
// In 99 of them no node has more than 1.2 times the mean.
func TestRanksBeforeSpreadsEvenly(t *testing.T) {
	var worst []float64
	for set := range 100 {
		var nodes []string
		for i := range 5 {
			nodes = append(nodes, fmt.Sprintf("rack%d-node-%d.example", set, i))
		}
		owned := map[string]int{}
		most := 0
		for i := range 1000 {
			n := choose(fmt.Sprintf("192.0.%d.%d", i>>8, i&0xff), nodes, nil, anyone)
			owned[n]++
			most = max(most, owned[n])
		}
		worst = append(worst, float64(most)/200)
	}
	slices.Sort(worst)
	if p99 := worst[98]; p99 > 1.2 {
		t.Errorf("the 99th of 100 sets has max/mean %.3f, want at most 1.2", p99)
	}
	t.Logf("max/mean: median %.3f, 99th %.3f, worst %.3f", worst[50], worst[98], worst[99])
}
