package doctor

import (
	"slices"

	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/doctor/nodes"
)

// Seen is what probes on the nodes saw.
type Seen = nodes.Seen

// DefaultRate and MaxRate are those of questions for addresses on a segment, in a second.
const (
	DefaultRate = nodes.DefaultRate
	MaxRate     = nodes.MaxRate
)

// PlanNodes plans what probes on the nodes do. proposed are pools that are to be; nil: look at
// those that are. rate is how many questions for addresses they send on a segment in a second.
func PlanNodes(s *cluster.State, proposed *Proposal, rate int) *nodes.Plan {
	e := &examination{State: s}
	snapshot, _, names := e.compile(proposed)
	return nodes.PlanOf(s, snapshot, names, rate)
}

// fromNodes adds what probes on the nodes saw, but for what the speakers say too.
func (e *examination) fromNodes(seen *nodes.Seen) {
	if seen == nil {
		return
	}
	known := map[string]bool{} // what speakers found, by ID and object
	for _, f := range e.report.Findings {
		known[f.ID+" "+f.Object] = true
	}
	c := nodes.Judge(e.State, seen)
	for _, f := range c.Found {
		if !known[f.ID+" "+f.Object] {
			e.find(f.ID, f.Object, "%s", f.What)
		}
	}
	e.report.Facts = slices.Concat(e.report.Facts, c.Facts)
	e.report.Unknown = slices.Concat(e.report.Unknown, c.Unknown)
}
