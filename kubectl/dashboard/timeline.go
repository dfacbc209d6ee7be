package dashboard

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/view"
	"github.com/berth-lb/berth/kubectl/why"
)

// Kind says what an Entry is about.
type Kind string

// The kinds.
const (
	OwnerChange   Kind = "owner"
	SessionChange Kind = "session"
	NodeChange    Kind = "node"
	ServiceChange Kind = "service"
	Event         Kind = "event"
)

// Entry is something that happened.
type Entry struct {
	// ID is unique: what happened is told once.
	ID    string    `json:"id"`
	At    time.Time `json:"at"`
	Kind  Kind      `json:"kind"`
	Grade why.Grade `json:"grade"`
	// Object is what it happened to, such as node n1 or Service shop/web.
	Object string `json:"object"`
	Text   string `json:"text"`
}

// Timeline is what happened, the newest first. Nobody changes it: Then returns another one.
type Timeline []Entry

// length bounds a Timeline.
const length = 200

// Begin returns what a first Snapshot says of the past.
func Begin(s *Snapshot) Timeline {
	return Timeline(nil).with(slices.Concat(owners(&Snapshot{}, s), sessions(&Snapshot{}, s), s.events))
}

// Then returns the Timeline with what happened between two Snapshots.
func (t Timeline) Then(before, after *Snapshot) Timeline {
	return t.with(slices.Concat(
		owners(before, after), sessions(before, after), nodes(before, after), services(before, after), after.events,
	))
}

// with adds what it does not have, in the order of time.
func (t Timeline) with(entries []Entry) Timeline {
	has := map[string]bool{}
	for _, e := range t {
		has[e.ID] = true
	}
	all := slices.Clone(t)
	for _, e := range entries {
		if !has[e.ID] {
			has[e.ID] = true
			all = append(all, e)
		}
	}
	slices.SortStableFunc(all, func(a, b Entry) int { return cmp.Or(b.At.Compare(a.At), strings.Compare(a.ID, b.ID)) })
	return all[:min(len(all), length)]
}

func entry(at time.Time, kind Kind, grade why.Grade, object, format string, args ...any) Entry {
	e := Entry{At: at.UTC(), Kind: kind, Grade: grade, Object: object, Text: fmt.Sprintf(format, args...)}
	e.ID = strings.Join([]string{string(kind), object, e.Text, strconv.FormatInt(e.At.UnixMilli(), 36)}, "|")
	return e
}

// missing returns the elements of one list that the other one lacks, by their keys.
func missing[T any](from, in []T, key func(T) string) []T {
	has := map[string]bool{}
	for _, x := range in {
		has[key(x)] = true
	}
	return slices.DeleteFunc(slices.Clone(from), func(x T) bool { return has[key(x)] })
}

// pairs calls do with the elements that both lists have, as they were and are.
func pairs[T any](before, after []T, key func(T) string, do func(was, is T)) {
	were := map[string]T{}
	for _, x := range before {
		were[key(x)] = x
	}
	for _, x := range after {
		if was, ok := were[key(x)]; ok {
			do(was, x)
		}
	}
}

func ownerKey(o view.Owner) string { return o.Address + " on " + o.Segment }

// handover is that a node answers for addresses which another one, or nobody, answered for.
type handover struct{ from, to, segment, reason string }

func (h handover) String() string {
	var text string
	switch {
	case h.to == "":
		text = "nobody answers anymore; node " + h.from + " did"
	case h.from == "":
		text = "node " + h.to + " answers"
	default:
		text = "moved from node " + h.from + " to node " + h.to
	}
	text += " on " + h.segment
	if h.reason != "" {
		text += " (" + h.reason + ")"
	}
	return text
}

func owners(before, after *Snapshot) []Entry {
	changes := map[handover][]view.Owner{}
	note := func(h handover, o view.Owner) { changes[h] = append(changes[h], o) }
	pairs(before.Owners, after.Owners, ownerKey, func(was, is view.Owner) {
		if was.Node != is.Node {
			note(handover{was.Node, is.Node, is.Segment, is.Reason}, is)
		}
	})
	for _, o := range missing(after.Owners, before.Owners, ownerKey) {
		note(handover{"", o.Node, o.Segment, o.Reason}, o)
	}
	for _, o := range missing(before.Owners, after.Owners, ownerKey) {
		o.Since = nil // when that ended nobody says
		note(handover{o.Node, "", o.Segment, ""}, o)
	}
	var entries []Entry
	for h, all := range changes {
		entries = append(entries, h.entry(all, after.Taken))
	}
	return entries
}

// entry tells of all addresses at once: a node may leave with thousands.
func (h handover) entry(all []view.Owner, seen time.Time) Entry {
	grade := why.OK
	if h.to == "" {
		grade = why.Note
	}
	object := all[0].Address
	if more := len(all) - 1; more > 0 {
		object += fmt.Sprintf(" and %d more", more)
	}
	return entry(since(all[0].Since, seen), OwnerChange, grade, object, "%s", h)
}

// since is when something happened by the clock of the node that says so, or else when it was seen.
func since(at *time.Time, seen time.Time) time.Time {
	if at == nil {
		return seen
	}
	return *at
}

func sessionKey(s view.Session) string { return s.Node + " " + s.Neighbor + " " + s.Address }

func sessionChange(s view.Session, at time.Time) Entry {
	object := "session of " + s.Node + " with " + s.Neighbor
	if established(s) {
		return entry(at, SessionChange, why.OK, object, "established")
	}
	return entry(at, SessionChange, why.Warning, object, "%s", strings.TrimSuffix("down: "+s.LastError, ": "))
}

func sessions(before, after *Snapshot) []Entry {
	var entries []Entry
	pairs(before.Sessions, after.Sessions, sessionKey, func(was, is view.Session) {
		if was.State != is.State {
			entries = append(entries, sessionChange(is, since(is.Since, after.Taken)))
		}
	})
	for _, s := range missing(after.Sessions, before.Sessions, sessionKey) {
		entries = append(entries, sessionChange(s, since(s.Since, after.Taken)))
	}
	for _, s := range missing(before.Sessions, after.Sessions, sessionKey) {
		entries = append(entries, entry(
			after.Taken, SessionChange, why.Note, "session of "+s.Node+" with "+s.Neighbor, "is not wanted anymore",
		))
	}
	return entries
}

func nodes(before, after *Snapshot) []Entry {
	key := func(n Node) string { return n.Name }
	var entries []Entry
	tell := func(n Node) {
		grade := why.OK
		if !n.Healthy {
			grade = why.Warning
		}
		entries = append(entries, entry(after.Taken, NodeChange, grade, "node "+n.Name, "%s", cmp.Or(n.Problem, n.State)))
	}
	pairs(before.Nodes, after.Nodes, key, func(was, is Node) {
		if was.State != is.State || was.Problem != is.Problem {
			tell(is)
		}
	})
	for _, n := range missing(after.Nodes, before.Nodes, key) {
		tell(n)
	}
	for _, n := range missing(before.Nodes, after.Nodes, key) {
		entries = append(entries, entry(after.Taken, NodeChange, why.Note, "node "+n.Name, "is gone"))
	}
	return entries
}

func services(before, after *Snapshot) []Entry {
	key := func(s Service) string { return "Service " + s.Namespace + "/" + s.Name }
	var entries []Entry
	pairs(before.Services, after.Services, key, func(was, is Service) {
		switch {
		case was.Health == is.Health:
		case is.Problem != "":
			entries = append(entries, entry(after.Taken, ServiceChange, is.Health, key(is), "%s", is.Problem))
		default:
			entries = append(entries, entry(after.Taken, ServiceChange, is.Health, key(is), "has no problem anymore"))
		}
	})
	for _, s := range missing(before.Services, after.Services, key) {
		entries = append(entries, entry(after.Taken, ServiceChange, why.Note, key(s), "is gone"))
	}
	return entries
}

// toldOtherwise are the reasons of events that say what owners and sessions say of themselves.
var toldOtherwise = []string{"Owner", "SessionUp", "SessionDown", "SessionFailed"}

func eventsOf(s *cluster.State) []Entry {
	var entries []Entry
	for _, e := range s.Events {
		if slices.Contains(toldOtherwise, e.Reason) {
			continue
		}
		grade := why.OK
		if e.Type != corev1.EventTypeNormal {
			grade = why.Warning
		}
		object := e.InvolvedObject.Kind + " " + strings.TrimPrefix(e.InvolvedObject.Namespace+"/"+e.InvolvedObject.Name, "/")
		entries = append(entries, entry(cluster.LastSeen(e), Event, grade, object, "%s: %s", e.Reason, e.Message))
	}
	return entries
}
