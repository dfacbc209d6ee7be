package verdict

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/announcement"
	"github.com/berth-lb/berth/controller/condition"
)

// Reasons of the condition Established of a BGPNeighbor.
const (
	ReasonAllEstablished = "AllEstablished" // True
	ReasonSessionsDown   = "SessionsDown"   // False: some of them, or all
	ReasonNoNodes        = "NoNodes"        // False: no node is to have a session
	ReasonNotAccepted    = "NotAccepted"    // False: the BGPNeighbor is not in effect
)

// Sessions are the sessions with one neighbor.
type Sessions struct {
	accepted             bool
	desired, established int
	down                 []string // "node: why", ascending
}

// Gather returns the sessions with each neighbor that is in effect, by its name: one session for
// each node that is to have it, or for each router of a prefix.
func Gather(
	snapshot *config.Snapshot,
	nodes map[string]announcement.Node,
	reports map[string]*v1alpha1.SpeakerStatus,
) map[string]*Sessions {
	gathered := map[string]*Sessions{}
	for _, n := range snapshot.Neighbors {
		gathered[n.Name] = &Sessions{accepted: true}
	}
	for node, view := range nodes {
		for _, n := range snapshot.NeighborsOf(view.Labels) {
			gathered[n.Name].add(n.Name, node, view, reports[node])
		}
	}
	for _, s := range gathered {
		slices.Sort(s.down)
	}
	return gathered
}

// add adds the sessions of a node.
func (s *Sessions) add(neighbor, node string, view announcement.Node, report *v1alpha1.SpeakerStatus) {
	why := ""
	switch {
	case !view.Alive:
		why = "the node is not ready"
	case report == nil || view.Speaker == v1alpha1.SpeakerPending:
		why = "the node has no speaker"
	case view.Speaker.Ended():
		why = "the speaker has ended"
	}
	if why != "" {
		s.desired++
		s.down = append(s.down, node+": "+why)
		return
	}
	found := false
	for _, session := range report.Sessions {
		if session.NeighborName != neighbor {
			continue
		}
		found = true
		s.desired++
		if session.State == v1alpha1.SessionEstablished {
			s.established++
		} else {
			s.down = append(s.down, node+": "+cmp.Or(session.LastError, "not established yet"))
		}
	}
	if !found {
		s.desired++
		s.down = append(s.down, node+": its speaker does not report the session yet")
	}
}

// Describe sets the status of the neighbor. A nil Sessions stands for a neighbor that is not in
// effect.
func (s *Sessions) Describe(neighbor *v1alpha1.BGPNeighbor) {
	if s == nil {
		s = &Sessions{}
	}
	c := condition.Condition{Kind: v1alpha1.ConditionEstablished, Reason: ReasonSessionsDown}
	switch {
	case !s.accepted:
		c.Reason, c.Message = ReasonNotAccepted, "the object is not in effect: see condition Accepted"
	case s.desired == 0:
		c.Reason, c.Message = ReasonNoNodes, "spec.nodeSelector matches no node, or other BGPNeighbors have its address there"
	case s.established == s.desired:
		c.OK, c.Reason = true, ReasonAllEstablished
		c.Message = condition.Counted(s.established, "session") + " established"
	default:
		c.Message = fmt.Sprintf(
			"%d of %s not established: %s", s.desired-s.established, condition.Counted(s.desired, "session"),
			condition.Few(s.down),
		)
	}
	neighbor.Status.SessionCounts = v1alpha1.Counted(s.established, s.desired)
	c.Apply(neighbor.ConditionList(), neighbor.Generation, metav1.Now())
}

// DetailAtMost is how long the status of a neighbor may be a little behind.
const DetailAtMost = time.Minute

// Lag is since when the status of each neighbor is a little behind, by name. All speakers watch
// BGPNeighbors: were each session that comes or goes written at once, each would be sent to
// hundreds of nodes.
type Lag map[string]time.Time

// Wait returns how much longer the status may stay as it was before; zero: it is to be written, if
// it differs.
func (l Lag) Wait(before, now *v1alpha1.BGPNeighbor, at time.Time) time.Duration {
	if !detail(before.Status, now.Status) {
		delete(l, now.Name)
		return 0
	}
	if _, known := l[now.Name]; !known {
		l[now.Name] = at
	}
	wait := l[now.Name].Add(DetailAtMost).Sub(at)
	if wait <= 0 {
		delete(l, now.Name)
	}
	return max(0, wait)
}

// fewSessions are told of at once: each of them is more than an eighth.
const fewSessions = 8

// detail reports whether two statuses differ only in numbers that are almost the same, and in which
// of many nodes have no session.
func detail(a, b v1alpha1.BGPNeighborStatus) bool {
	before := meta.FindStatusCondition(a.Conditions, v1alpha1.ConditionEstablished)
	now := meta.FindStatusCondition(b.Conditions, v1alpha1.ConditionEstablished)
	if before == nil || now == nil || before.Status != now.Status || before.Reason != now.Reason ||
		before.ObservedGeneration != now.ObservedGeneration {
		return false
	}
	was, is := a.SessionCounts, b.SessionCounts
	return (was.Summary != is.Summary || before.Message != now.Message) &&
		is.Desired != nil && *is.Desired >= fewSessions &&
		almost(was.Established, is.Established) && almost(was.Desired, is.Desired)
}

// almost reports whether a number changed by an eighth at most, and neither began nor ended to be
// 0.
func almost(before, now *int32) bool {
	if before == nil || now == nil {
		return false
	}
	low, high := min(*before, *now), max(*before, *now)
	return low == high || low > 0 && 8*(high-low) <= high
}
