package plan

import (
	"slices"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/config"
)

// electorate is the nodes that a combination of SegmentAnnouncements selects and that are not
// excluded. It is never changed, and shared by all groups that the same ones announce.
type electorate struct {
	nodes   []string         // ascending
	weights map[string]int32 // without those of 0
}

// Electorates has, for each combination of SegmentAnnouncements that a plan asked for, the nodes
// that it selects: so a plan costs the same whatever the number of nodes. They belong to one
// Snapshot. They are not safe for concurrent use.
type Electorates struct {
	known map[string]selection // by the combination
}

type selection struct {
	announcements []*config.SegmentAnnouncement
	electorate    electorate
}

// NewElectorates returns none: each is found when a plan asks for it.
func NewElectorates() *Electorates { return &Electorates{known: map[string]selection{}} }

// of returns the electorate of these announcements, which are the combination of that name.
func (e *Electorates) of(
	combination string,
	announcements []*config.SegmentAnnouncement,
	nodes map[string]Node,
) electorate {
	if e == nil {
		return newElectorate(announcements, nodes)
	}
	found, known := e.known[combination]
	if !known {
		found = selection{announcements, newElectorate(announcements, nodes)}
		e.known[combination] = found
	}
	return found.electorate
}

// Elect gives a segment of a group with these electors the candidates of now, if there are some;
// else it returns false.
func (e *Electorates) Elect(segment *Segment, electors Electors) bool {
	found := e.known[segment.Combination].electorate.among(electors.servers)
	segment.Candidates, segment.Preferred = found.nodes, found.weights
	return len(found.nodes) > 0
}

// Changes has, by combination, the nodes that came to its electorate, left it, or have another
// weight.
type Changes map[string]map[string]bool

// Of reports whether candidates of a group with these electors are among the changes.
func (c Changes) Of(electors Electors) bool {
	return slices.ContainsFunc(electors.Combinations, func(combination string) bool {
		nodes := c[combination]
		if electors.servers.all {
			return len(nodes) > 0
		}
		return slices.ContainsFunc(electors.servers.named, func(name string) bool { return nodes[name] })
	})
}

// Renew finds all electorates again, since the nodes are others. What is the same stays the same
// memory.
func (e *Electorates) Renew(nodes map[string]Node) Changes {
	changes := Changes{}
	for combination, of := range e.known {
		now := newElectorate(of.announcements, nodes)
		if differ := of.electorate.differ(now); len(differ) > 0 {
			changes[combination] = differ
			e.known[combination] = selection{of.announcements, now}
		}
	}
	return changes
}

// differ returns the nodes that are in one of two electorates only, or differ in weight.
func (e electorate) differ(other electorate) map[string]bool {
	found := map[string]bool{}
	for _, pair := range [][2]electorate{{e, other}, {other, e}} {
		for _, name := range pair[0].nodes {
			if _, in := slices.BinarySearch(pair[1].nodes, name); !in || e.weights[name] != other.weights[name] {
				found[name] = true
			}
		}
	}
	return found
}

func newElectorate(announcements []*config.SegmentAnnouncement, nodes map[string]Node) electorate {
	var found electorate
	for name, node := range nodes {
		if node.Excluded != "" {
			continue
		}
		selected := false
		var sum int32
		for _, a := range announcements {
			if of := labels.Set(node.Labels); a.Nodes.Matches(of) {
				selected = true
				sum += a.Weight(of)
			}
		}
		if !selected {
			continue
		}
		found.nodes = append(found.nodes, name)
		if sum > 0 {
			if found.weights == nil {
				found.weights = map[string]int32{}
			}
			found.weights[name] = sum
		}
	}
	slices.Sort(found.nodes)
	return found
}

// among returns the part of the electorate that serves a group.
func (e electorate) among(serving servers) electorate {
	if serving.all {
		return e
	}
	var part electorate
	for _, name := range serving.named {
		if _, selected := slices.BinarySearch(e.nodes, name); !selected {
			continue
		}
		part.nodes = append(part.nodes, name)
		if weight := e.weights[name]; weight > 0 {
			if part.weights == nil {
				part.weights = map[string]int32{}
			}
			part.weights[name] = weight
		}
	}
	if len(part.nodes) == len(e.nodes) {
		return e
	}
	return part
}
