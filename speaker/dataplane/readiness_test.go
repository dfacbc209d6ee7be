package dataplane

import (
	"errors"
	"testing"
	"time"

	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
	"github.com/berth-lb/berth/speaker/plan"
)

func TestReadiness_review(t *testing.T) {
	begun, failed := time.Now(), errors.New("no memory")
	groups := readiness{}
	for _, step := range []struct {
		name  string
		after time.Duration
		err   error
		want  plan.Readiness
		again time.Duration
	}{
		{
			name: "it was not read yet",
			err:  ipvs.ErrPending,
		},
		{
			name: "it cannot be programmed",
			err:  failed,
		},
		{
			name: "it is as desired",
			want: plan.Readiness{Shown: true},
		},
		{
			name:  "a port is new",
			after: 1,
			err:   ipvs.ErrPending,
			want:  plan.Readiness{Shown: true},
		},
		{
			name:  "it begins to fail",
			after: 2,
			err:   failed,
			want:  plan.Readiness{Shown: true},
			again: plan.FailureGrace,
		},
		{
			name:  "it still fails",
			after: 2 + plan.FailureGrace/2,
			err:   failed,
			want:  plan.Readiness{Shown: true, Failing: plan.FailureGrace / 2},
			again: plan.FailureGrace / 2,
		},
		{
			name:  "it has failed for as long as it may",
			after: 2 + plan.FailureGrace,
			err:   failed,
			want:  plan.Readiness{Shown: true, Failing: plan.FailureGrace},
		},
		{
			name:  "it has failed for longer",
			after: 2 + 2*plan.FailureGrace,
			err:   failed,
			want:  plan.Readiness{Shown: true, Failing: 2 * plan.FailureGrace},
		},
		{
			name:  "it is fixed",
			after: 3 + 2*plan.FailureGrace,
			want:  plan.Readiness{Shown: true},
		},
		{
			name:  "it fails again, which counts from then",
			after: 4 + 3*plan.FailureGrace,
			err:   failed,
			want:  plan.Readiness{Shown: true},
			again: plan.FailureGrace,
		},
	} {
		if got, again := groups.review("g", step.err, begun.Add(step.after)); got != step.want || again != step.again {
			t.Errorf("%s: %+v, to be reviewed again after %s; want %+v, %s", step.name, got, again, step.want, step.again)
		}
	}
	if got, _ := groups.review("other", ipvs.ErrPending, begun); got.Shown {
		t.Error("a group that was never shown is ready")
	}
}
