package doctor

import (
	"slices"

	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/doctor/nodes"
)

// Seen is what probes on the nodes saw.
type Seen = nodes.Seen

// PlanNodes plans what probes on the nodes do. proposed are pools that are to be; nil: look at
// those that are.
func PlanNodes(s *cluster.State, proposed *Proposal) *nodes.Plan {
	e := &examination{State: s}
	snapshot, _, names := e.compile(proposed)
	return nodes.PlanOf(s, snapshot, names)
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
