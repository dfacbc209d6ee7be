package plan

import "time"

// Readiness is what this node's kernel shows of the connections that the node forwards for a group.
// The zero value: nothing yet.
type Readiness struct {
	// Shown: the kernel showed all of it at least once.
	Shown bool
	// Failing is for how long the kernel has failed to show it since then; 0: it has not.
	Failing time.Duration
	// Steers: this node steers the connections of the group, if they are steered.
	Steers bool
	// Starting: whether it does is not known yet, as this process, or this node, has just begun.
	Starting bool
}

// FailureGrace is how long a group stays announced after its node begins to fail to program the
// kernel: the driver tries again every two seconds, and what is in the kernel still forwards.
const FailureGrace = 5 * time.Second

func (r Readiness) forwards() bool { return r.Shown && r.Failing < FailureGrace }
