package config

import (
	"fmt"
	"slices"
)

// mostTypos is by how many letters a name may differ from the one that is meant, and by one in how
// many.
const mostTypos, oneIn = 2, 3

// MeantPool says what to do about a name in a list that no pool has: to write one that is nearly
// the same, and not in the list, if there is any.
func (s *Snapshot) MeantPool(name string, list []string) string {
	var names []string
	for _, p := range s.Pools {
		names = append(names, p.Name)
	}
	return meant(name, list, names)
}

func (s *Snapshot) meantNeighbor(name string, list []string) string {
	var names []string
	for _, n := range s.Neighbors {
		names = append(names, n.Name)
	}
	return meant(name, list, names)
}

func meant(name string, list, names []string) string {
	names = slices.DeleteFunc(names, func(n string) bool { return slices.Contains(list, n) })
	const other = "create it or take the name out"
	if nearest := Nearest(name, names); nearest != "" && distance(name, nearest) <= min(mostTypos, len(name)/oneIn) {
		return fmt.Sprintf("write %q if you mean that, or %s", nearest, other)
	}
	return other
}

// Nearest returns the name that differs least from the text; empty: there is none.
func Nearest(text string, names []string) string {
	if len(names) == 0 {
		return ""
	}
	return slices.MinFunc(names, func(a, b string) int { return distance(text, a) - distance(text, b) })
}

// distance is how many letters have to be put in, taken out, changed or swapped with the next one.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j-1]+cost, rows[i-1][j]+1, rows[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
