package verdict

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/config/v1alpha1/v1alpha1test"
	"github.com/berth-lb/berth/controller/announcement"
)

// The status of a neighbor says which sessions are down.
func TestSessionsDescribe(t *testing.T) {
	tor := v1alpha1test.SelectsAll(
		&v1alpha1.BGPNeighbor{
			ObjectMeta: metav1.ObjectMeta{Name: "tor"},
			Spec: v1alpha1.BGPNeighborSpec{Address: "192.0.2.1", LocalASN: 1, RemoteASN: 2,
				NodeSelector: &v1alpha1.Selector{MatchLabels: map[string]string{"rack": "a"}}},
		},
	)
	snapshot, _ := config.Compile(config.Objects{BGPNeighbors: []*v1alpha1.BGPNeighbor{tor}})
	rack := map[string]string{"rack": "a"}
	up := announcement.Node{Labels: rack, Alive: true, Speaker: v1alpha1.SpeakerAnnouncing}
	with := func(change func(*announcement.Node)) announcement.Node {
		n := up
		change(&n)
		return n
	}
	of := func(sessions ...v1alpha1.SessionReport) *v1alpha1.SpeakerStatus {
		return &v1alpha1.SpeakerStatus{Sessions: sessions}
	}
	established := v1alpha1.SessionReport{NeighborName: "tor", State: v1alpha1.SessionEstablished}
	refused := v1alpha1.SessionReport{
		NeighborName: "tor",
		State:        v1alpha1.SessionDown,
		LastError:    "cannot connect: connection refused",
	}
	for _, c := range []struct {
		name                     string
		nodes                    map[string]announcement.Node
		reports                  map[string]*v1alpha1.SpeakerStatus
		summary, reason, message string
	}{
		{
			name:    "no node",
			nodes:   map[string]announcement.Node{"n1": with(func(n *announcement.Node) { n.Labels = nil })},
			summary: "0/0",
			reason:  "NoNodes",
			message: "spec.nodeSelector matches no node, or other BGPNeighbors have its address there",
		},
		{
			name:    "all",
			nodes:   map[string]announcement.Node{"n1": up, "n2": up},
			reports: map[string]*v1alpha1.SpeakerStatus{"n1": of(established), "n2": of(established)},
			summary: "2/2",
			reason:  "AllEstablished",
			message: "2 sessions established",
		},
		{
			name: "some",
			nodes: map[string]announcement.Node{
				"n1": up,
				"n2": up,
				"n3": with(func(n *announcement.Node) { n.Alive = false }),
				"n4": with(func(n *announcement.Node) { n.Speaker = v1alpha1.SpeakerReplaced }),
				"n5": up,
				"n6": up,
			},
			reports: map[string]*v1alpha1.SpeakerStatus{
				"n1": of(established), "n2": of(refused), "n3": of(established), "n4": of(established), "n6": of(),
			},
			summary: "1/6",
			reason:  "SessionsDown",
			message: "5 of 6 sessions not established: n2: cannot connect: connection refused, n3: the node is not ready, n4: the speaker has ended, n5: the node has no speaker, n6: its speaker does not report the session yet",
		},
		{
			name:    "several routers of a prefix on one node",
			nodes:   map[string]announcement.Node{"n1": up},
			reports: map[string]*v1alpha1.SpeakerStatus{"n1": of(established, established, refused)},
			summary: "2/3",
			reason:  "SessionsDown",
			message: "1 of 3 sessions not established: n1: cannot connect: connection refused",
		},
	} {
		o := tor.DeepCopy()
		o.Generation = 3
		Gather(snapshot, c.nodes, c.reports)["tor"].Describe(o)
		status := metav1.ConditionFalse
		if c.reason == "AllEstablished" {
			status = metav1.ConditionTrue
		}
		want := []metav1.Condition{
			{Type: "Established", Status: status, ObservedGeneration: 3, Reason: c.reason, Message: c.message},
		}
		if diff := cmp.Diff(
			want, o.Status.Conditions, cmpopts.IgnoreFields(metav1.Condition{}, "LastTransitionTime"),
		); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", c.name, diff)
		}
		if got := o.Status.SessionCounts.Summary; got != c.summary {
			t.Errorf("%s: %s sessions, want %s", c.name, got, c.summary)
		}
	}
	o := tor.DeepCopy()
	Gather(snapshot, nil, nil)["nobody"].Describe(o)
	if c := o.Status.Conditions[0]; c.Reason != "NotAccepted" || c.Status != metav1.ConditionFalse {
		t.Errorf("one that is not in effect says %+v", c)
	}
}

// A status that is a little behind is written after a minute; what is more, at once.
func TestLag_Wait(t *testing.T) {
	neighbor := func(established, desired int, down ...string) *v1alpha1.BGPNeighbor {
		o := &v1alpha1.BGPNeighbor{ObjectMeta: metav1.ObjectMeta{Name: "tor", Generation: 1}}
		(&Sessions{accepted: true, established: established, desired: desired, down: down}).Describe(o)
		return o
	}
	changed := neighbor(400, 500, "n1: refused")
	changed.Status.Conditions[0].ObservedGeneration = 2
	begun := time.Unix(1000, 0)
	for _, c := range []struct {
		name        string
		before, now *v1alpha1.BGPNeighbor
		waits       bool
	}{
		{"nothing new", neighbor(400, 500, "n1: refused"), neighbor(400, 500, "n1: refused"), false},
		{"another node", neighbor(400, 500, "n1: refused"), neighbor(400, 500, "n2: refused"), true},
		{"one session less", neighbor(400, 500, "n1: refused"), neighbor(399, 500, "n1: refused"), true},
		{"a node more", neighbor(400, 500, "n1: refused"), neighbor(400, 501, "n1: refused"), true},
		{"many less", neighbor(400, 500, "n1: refused"), neighbor(340, 500, "n1: refused"), false},
		{"none is left", neighbor(1, 500, "n1: refused"), neighbor(0, 500, "n1: refused"), false},
		{"the first one", neighbor(0, 500, "n1: refused"), neighbor(1, 500, "n1: refused"), false},
		{"the last one", neighbor(499, 500, "n1: refused"), neighbor(500, 500), false},
		{"the first that fails", neighbor(500, 500), neighbor(499, 500, "n1: refused"), false},
		{"all of one node more", neighbor(500, 500), neighbor(501, 501), true},
		{"of few another one", neighbor(6, 7, "n1: refused"), neighbor(6, 7, "n2: refused"), false},
		{"of few one less", neighbor(7, 8, "n1: refused"), neighbor(6, 8, "n1: refused"), false},
		{"another generation", neighbor(400, 500, "n1: refused"), changed, false},
		{"the first status", &v1alpha1.BGPNeighbor{}, neighbor(400, 500, "n1: refused"), false},
	} {
		lag := Lag{}
		want := time.Duration(0)
		if c.waits {
			want = DetailAtMost
		}
		if got := lag.Wait(c.before, c.now, begun); got != want {
			t.Errorf("%s: waits %s, want %s", c.name, got, want)
		}
		if got := lag.Wait(c.before, c.now, begun.Add(DetailAtMost-1)); got != min(want, 1) {
			t.Errorf("%s: waits %s when the minute is nearly over", c.name, got)
		}
		if got := lag.Wait(c.before, c.now, begun.Add(DetailAtMost)); got != 0 || len(lag) > 0 {
			t.Errorf("%s: waits %s after a minute, then %v", c.name, got, lag)
		}
	}
	lag := Lag{}
	lag.Wait(neighbor(400, 500), neighbor(399, 500), begun)
	lag.Wait(neighbor(400, 500), neighbor(400, 500), begun.Add(DetailAtMost/2)) // it is back
	if got := lag.Wait(neighbor(400, 500), neighbor(399, 500), begun.Add(DetailAtMost)); got != DetailAtMost {
		t.Errorf("a session that is back has the next one wait %s only", got)
	}
}
