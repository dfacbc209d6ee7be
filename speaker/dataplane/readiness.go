package dataplane

import (
	"errors"
	"time"

	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
	"github.com/berth-lb/berth/speaker/plan"
)

// readiness knows, by group, what the kernel showed of what this node forwards. Groups that were
// never shown are not in it.
type readiness map[string]shownGroup

// shownGroup is a group that the kernel showed as desired at least once.
type shownGroup struct {
	failing time.Time // since when it does not; zero: it does
}

// review notes what the kernel shows of a group: nil if all is as desired, or what is not. If time
// alone changes the readiness, again is when to review the group again.
func (r readiness) review(group string, err error, now time.Time) (ready plan.Readiness, again time.Duration) {
	g, shown := r[group]
	switch {
	case err == nil:
		r[group] = shownGroup{}
		return plan.Readiness{Shown: true}, 0
	case !shown:
		return plan.Readiness{}, 0
	case errors.Is(err, ipvs.ErrPending):
		return plan.Readiness{Shown: true}, 0 // a port or an address is new
	case g.failing.IsZero():
		g.failing = now
		r[group] = g
	}
	failing := now.Sub(g.failing)
	return plan.Readiness{Shown: true, Failing: failing}, max(plan.FailureGrace-failing, 0)
}
