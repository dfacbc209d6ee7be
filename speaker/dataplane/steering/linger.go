package steering

import (
	"slices"
	"time"

	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
	"github.com/berth-lb/berth/speaker/dataplane/steering/table"
)

const (
	// lingers is for how long a node whose last endpoint is gone stays in a table, without new
	// connections, where there is room. Nodes ask each other in the order of their tables, and some
	// hear of it later.
	lingers = 15 * time.Second
	// selfLingers is the same for this node. Another node that has not heard of it may still send it
	// packets, and it knows its place in the order then. Nobody is sent more by that.
	selfLingers = 12 * time.Hour
)

// leaver is a node that had endpoints.
type leaver struct {
	weight int
	until  time.Time
}

// withLeavers returns the members, and if a slot has room for all of them, those that were until
// lately.
func (r *record) withLeavers(members table.Members, self string, nodes map[string]uint16, now time.Time) table.Members {
	left, all := map[string]leaver{}, slices.Clone(members)
	if r.group != nil && len(members) > 0 {
		for _, m := range r.group.members {
			isMember := slices.ContainsFunc(members, func(o table.Member) bool { return o.Node == m.Node })
			_, isNode := nodes[m.Node]
			l, ok := r.left[m.Node]
			if !ok {
				l = leaver{m.Weight, now.Add(lingers)}
				if m.Node == self {
					l.until = now.Add(selfLingers)
				}
			}
			if !isMember && isNode && now.Before(l.until) {
				left[m.Node] = l
				all = append(all, table.Member{Node: m.Node, Weight: l.weight, Draining: true})
			}
		}
	}
	if len(all) > decide.Ranks {
		left, all = nil, members
	}
	r.left = left
	return table.Normalize(all)
}

// lingered reports whether the time of a node that left is over.
func (r *record) lingered(now time.Time) bool {
	for _, l := range r.left {
		if !now.Before(l.until) {
			return true
		}
	}
	return false
}
