package speaker

import (
	"errors"
	"testing"
	"time"

	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
)

func TestReadiness_review(t *testing.T) {
	begun, failed := time.Now(), errors.New("no memory")
	groups := readiness{}
	for _, step := range []struct {
		name  string
		after time.Duration
		err   error
		want  Readiness
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
			want: Readiness{Shown: true},
		},
		{
			name:  "a port is new",
			after: 1,
			err:   ipvs.ErrPending,
			want:  Readiness{Shown: true},
		},
		{
			name:  "it begins to fail",
			after: 2,
			err:   failed,
			want:  Readiness{Shown: true},
			again: FailureGrace,
		},
		{
			name:  "it still fails",
			after: 2 + FailureGrace/2,
			err:   failed,
			want:  Readiness{Shown: true, Failing: FailureGrace / 2},
			again: FailureGrace / 2,
		},
		{
			name:  "it has failed for as long as it may",
			after: 2 + FailureGrace,
			err:   failed,
			want:  Readiness{Shown: true, Failing: FailureGrace},
		},
		{
			name:  "it has failed for longer",
			after: 2 + 2*FailureGrace,
			err:   failed,
			want:  Readiness{Shown: true, Failing: 2 * FailureGrace},
		},
		{
			name:  "it is fixed",
			after: 3 + 2*FailureGrace,
			want:  Readiness{Shown: true},
		},
		{
			name:  "it fails again, which counts from then",
			after: 4 + 3*FailureGrace,
			err:   failed,
			want:  Readiness{Shown: true},
			again: FailureGrace,
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
