package doctor

import (
	"slices"

	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/doctor/nodes"
)

// Look looks for everything. proposed are addresses of pools that are to be; nil: look at those
// that are. seen is what probes on the nodes saw; nil: there were none.
func Look(s *cluster.State, extras *Extras, proposed *Proposal, seen *nodes.Seen) Report {
	e := &examination{State: s, extras: extras, report: Report{Findings: []Finding{}}}
	e.platform()
	e.kubeProxy()
	e.others()
	e.services()
	e.addresses(proposed)
	if e.installed() {
		e.parts()
		e.conditions()
		e.network()
	} else {
		e.fact("Berth is not installed: the API server does not know its kinds")
	}
	e.fromNodes(seen)
	e.report.sort()
	e.report.Unknown = slices.Concat(s.Lacks(), extras.lacks(), e.report.Unknown)
	return e.report
}
