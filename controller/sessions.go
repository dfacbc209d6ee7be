package controller

import (
	"cmp"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/v1alpha1"
)

// Reasons of the condition Established of a BGPNeighbor.
const (
	ReasonAllEstablished = "AllEstablished" // True
	ReasonSessionsDown   = "SessionsDown"   // False: some of them, or all
	ReasonNoNodes        = "NoNodes"        // False: no node is to have a session
	ReasonNotAccepted    = "NotAccepted"    // False: the BGPNeighbor is not in effect
)

// sessionsOf are the sessions with one neighbor.
type sessionsOf struct {
	accepted             bool
	desired, established int
	down                 []string // node, and why; ascending
}

// reports returns what the speakers report, by node.
func (c *Controller) reports() map[string]*v1alpha1.SpeakerStatus {
	reports := map[string]*v1alpha1.SpeakerStatus{}
	for _, s := range client.Stored[*v1alpha1.Speaker](c.informers.speaker) {
		reports[s.Name] = &s.Status
	}
	return reports
}

// gatherSessions gathers the sessions with each neighbor that is in effect: one of each node that is to have it, or of each
// router of a prefix.
func gatherSessions(snapshot *config.Snapshot, nodes map[string]nodeView, reports map[string]*v1alpha1.SpeakerStatus) map[string]*sessionsOf {
	gathered := map[string]*sessionsOf{}
	for _, n := range snapshot.Neighbors {
		gathered[n.Name] = &sessionsOf{accepted: true}
	}
	for node, view := range nodes {
		for _, n := range snapshot.NeighborsOf(view.labels) {
			gathered[n.Name].add(n.Name, node, view, reports[node])
		}
	}
	for _, s := range gathered {
		slices.Sort(s.down)
	}
	return gathered
}

// add takes in the sessions of a node.
func (s *sessionsOf) add(neighbor, node string, view nodeView, report *v1alpha1.SpeakerStatus) {
	why := ""
	switch {
	case !view.alive:
		why = "the node is not ready"
	case report == nil || view.speaker == v1alpha1.SpeakerPending:
		why = "the node has no speaker"
	case view.speaker.Ended():
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

// describe puts the sessions into the status of the neighbor; nil are those of one that is not in effect.
func (s *sessionsOf) describe(neighbor *v1alpha1.BGPNeighbor) {
	if s == nil {
		s = &sessionsOf{}
	}
	c := condition{kind: v1alpha1.ConditionEstablished, reason: ReasonSessionsDown}
	switch {
	case !s.accepted:
		c.reason, c.message = ReasonNotAccepted, "the object is not in effect: see condition Accepted"
	case s.desired == 0:
		c.reason, c.message = ReasonNoNodes, "spec.nodeSelector matches no node, or other BGPNeighbors have its address there"
	case s.established == s.desired:
		c.ok, c.reason, c.message = true, ReasonAllEstablished, fmt.Sprintf("%s established", counted(s.established, "session"))
	default:
		c.message = fmt.Sprintf("%d of %s not established: %s", s.desired-s.established, counted(s.desired, "session"), few(s.down))
	}
	neighbor.Status.SessionCounts = v1alpha1.Counted(s.established, s.desired)
	c.apply(neighbor.ConditionList(), neighbor.Generation, metav1.Now())
}

// sessionErrors are the last errors of sessions that are not established, by neighbor and node.
type sessionErrors map[string]map[string]string

func (e sessionErrors) note(neighbor, node, text string) {
	if e[neighbor] == nil {
		e[neighbor] = map[string]string{}
	}
	e[neighbor][node] = text
}

// counted returns a number of things in words.
func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
