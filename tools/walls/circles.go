package main

import (
	"cmp"
	"slices"
	"strings"
)

// circles returns the sets of two files or more each of which needs every other one of its set,
// directly or through others: the strongly connected components, by Tarjan's algorithm. The largest
// is first; files are sorted.
func circles(files []string, needs map[string]map[string]bool) [][]string {
	t := tarjan{needs: needs, index: map[string]int{}, low: map[string]int{}, open: map[string]bool{}}
	for _, f := range files {
		if _, seen := t.index[f]; !seen {
			t.visit(f)
		}
	}
	slices.SortFunc(t.found, func(a, b []string) int {
		return cmp.Or(len(b)-len(a), strings.Compare(a[0], b[0]))
	})
	return t.found
}

type tarjan struct {
	needs map[string]map[string]bool
	index map[string]int // in the order of the visits
	low   map[string]int // the lowest index that is reached from a file
	stack []string
	open  map[string]bool // on the stack
	found [][]string
}

func (t *tarjan) visit(f string) {
	t.index[f] = len(t.index)
	t.low[f] = t.index[f]
	t.stack = append(t.stack, f)
	t.open[f] = true
	for other := range t.needs[f] {
		if _, known := t.needs[other]; !known {
			continue // generated
		}
		if _, seen := t.index[other]; !seen {
			t.visit(other)
			t.low[f] = min(t.low[f], t.low[other])
		} else if t.open[other] {
			t.low[f] = min(t.low[f], t.index[other])
		}
	}
	if t.low[f] != t.index[f] {
		return
	}
	i := slices.Index(t.stack, f)
	set := slices.Clone(t.stack[i:])
	t.stack = t.stack[:i]
	for _, member := range set {
		t.open[member] = false
	}
	if len(set) > 1 {
		slices.Sort(set)
		t.found = append(t.found, set)
	}
}
