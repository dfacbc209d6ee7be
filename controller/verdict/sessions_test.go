package verdict

import (
	"testing"

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
