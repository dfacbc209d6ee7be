package soak

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Thing is what a Census counts: how much of What is at Where.
type Thing struct{ What, Where string }

// What a Census counts with some tolerance.
const (
	Memory     = "memory, MiB"
	Goroutines = "goroutines"
	Files      = "open files"
)

// Census is how much there is of everything that must not grow.
type Census map[Thing]float64

// tolerances are by how much things may grow, by a factor and by a number. What is not among them
// may not grow at all.
var tolerances = map[string]struct{ factor, more float64 }{
	// A heap that once was larger stays so for a while.
	Memory:     {1.5, 24},
	Goroutines: {1.2, 20},
	Files:      {1.2, 10},
}

// Leaks returns what there is more of than at the beginning, a line each.
func Leaks(begin, end Census) []string {
	var lines []string
	for _, thing := range end.things() {
		before, after := begin[thing], end[thing]
		most := before
		if t, some := tolerances[thing.What]; some {
			most = before*t.factor + t.more
		}
		if after > most {
			lines = append(
				lines,
				fmt.Sprintf("%s of %s: %.4g, and %.4g at the beginning", thing.What, thing.Where, after, before),
			)
		}
	}
	return lines
}

// Table compares the beginning and the end, a line for each thing.
func Table(begin, end Census) string {
	both := maps.Clone(begin)
	maps.Copy(both, end)
	var text strings.Builder
	fmt.Fprintf(&text, "%-34s %-22s %10s %10s\n", "what", "where", "beginning", "end")
	for _, thing := range both.things() {
		fmt.Fprintf(&text, "%-34s %-22s %10.4g %10.4g\n", thing.What, thing.Where, begin[thing], end[thing])
	}
	return text.String()
}

func (c Census) things() []Thing {
	return slices.SortedFunc(maps.Keys(c), func(a, b Thing) int {
		return strings.Compare(a.What+"\x00"+a.Where, b.What+"\x00"+b.Where)
	})
}

// AddRuleset counts the rules and the elements of Berth's tables in what `nft -j list ruleset`
// writes.
func (c Census) AddRuleset(text []byte, node string) error {
	type set struct {
		Table string
		Elem  []json.RawMessage
	}
	var list struct {
		Nftables []struct {
			Rule     *struct{ Table string }
			Set, Map *set
		}
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return err
	}
	for _, one := range list.Nftables {
		if one.Rule != nil && strings.HasPrefix(one.Rule.Table, "berth") {
			c[Thing{What: "nft rules of " + one.Rule.Table, Where: node}]++
		}
		for _, elements := range []*set{one.Set, one.Map} {
			if elements != nil && strings.HasPrefix(elements.Table, "berth") {
				c[Thing{What: "nft elements of " + elements.Table, Where: node}] += float64(len(elements.Elem))
			}
		}
	}
	return nil
}

// Metric returns the value of a metric without labels.
func Metric(text, name string) (value float64, found bool) {
	for line := range strings.Lines(text) {
		if n, _ := fmt.Sscanf(line, name+" %g", &value); n == 1 {
			return value, true
		}
	}
	return 0, false
}
