package fence

import (
	"fmt"
	"slices"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
)

func silent(node string, since time.Time, probe v1alpha1.SilentNodeProbe) v1alpha1.SilentNodeReport {
	return v1alpha1.SilentNodeReport{NodeName: node, Since: new(metav1.NewTime(since)), Probe: probe}
}

// A silence is as old as this process knows it, whatever its reporter's clock says.
func TestHistory_speaker(t *testing.T) {
	h, at := newHistory(), now
	long := ago(1000 * time.Hour)
	pending, unanswered := v1alpha1.ProbePending, v1alpha1.ProbeUnanswered
	for _, step := range []struct {
		name    string
		reports []v1alpha1.SilentNodeReport
		changed bool
		want    []Report
	}{
		{name: "nothing"},
		{
			name: "a silence", reports: []v1alpha1.SilentNodeReport{silent("n2", long, pending)}, changed: true,
			want: []Report{{Reporter: "n1", Node: "n2", Seen: now.Add(time.Second)}},
		},
		{
			name: "the same", reports: []v1alpha1.SilentNodeReport{silent("n2", long, pending)},
			want: []Report{{Reporter: "n1", Node: "n2", Seen: now.Add(time.Second)}},
		},
		{
			name: "the kernel does not answer", reports: []v1alpha1.SilentNodeReport{silent("n2", long, unanswered)},
			changed: true, want: []Report{{Reporter: "n1", Node: "n2", Seen: now.Add(time.Second), Unanswered: true}},
		},
		{
			name: "another silence", reports: []v1alpha1.SilentNodeReport{silent("n2", now, unanswered)}, changed: true,
			want: []Report{{Reporter: "n1", Node: "n2", Seen: now.Add(4 * time.Second), Unanswered: true}},
		},
		{name: "it is over", changed: true},
	} {
		if changed := h.speaker("n1", step.reports, at); changed != step.changed {
			t.Errorf("%s: changed is %t", step.name, changed)
		}
		if got := h.all(); !slices.Equal(got, step.want) {
			t.Errorf("%s: %+v, want %+v", step.name, got, step.want)
		}
		at = at.Add(time.Second)
	}
	if len(h.reports)+len(h.since) > 0 {
		t.Errorf("what is over is remembered: %v, %v", h.reports, h.since)
	}
}

// A Speaker that says more than it may counts as full, and costs no extra.
func TestHistory_full(t *testing.T) {
	h := newHistory()
	var reports []v1alpha1.SilentNodeReport
	for i := range 50 {
		reports = append(reports, silent(fmt.Sprint("n", i), now, v1alpha1.ProbePending))
	}
	h.speaker("n1", reports, now)
	if all := h.all(); len(all) != 16 || !all[0].Full {
		t.Errorf("%d reports, want 16 that are full: %+v", len(all), all)
	}
	h.speaker("n1", reports[:15], now)
	if all := h.all(); len(all) != 15 || all[0].Full {
		t.Errorf("%d reports, want 15 that are not full: %+v", len(all), all)
	}
}

// A Lease is renewed when its time changes, not when it is read again.
func TestHistory_lease(t *testing.T) {
	h := newHistory()
	lease := func(renewed time.Time) *coordinationv1.Lease {
		time := metav1.NewMicroTime(renewed)
		return &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: coordinationv1.LeaseSpec{RenewTime: &time},
		}
	}
	is := func(want time.Time, when string) {
		t.Helper()
		if got := h.renewed("n1"); !got.Equal(want) {
			t.Errorf("%s: renewed %v, want %v", when, got, want)
		}
	}
	is(time.Time{}, "no Lease")
	h.lease(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, now)
	is(time.Time{}, "never renewed")
	h.lease(lease(ago(time.Hour)), now)
	is(now, "by a clock that is slow")
	h.lease(lease(ago(time.Hour)), now.Add(time.Second))
	is(now, "read again")
	h.lease(lease(ago(time.Minute)), now.Add(time.Minute))
	is(now.Add(time.Minute), "renewed")
	h.noLease("n1")
	is(time.Time{}, "deleted")
}
