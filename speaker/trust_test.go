package speaker

import (
	"errors"
	"testing"
	"time"

	"github.com/berth-lb/berth/ipvs"
)

func TestWhatTheKernelShowedIsTrustedForAWhile(t *testing.T) {
	begun, asked, failed := time.Now(), time.Duration(0), errors.New("no memory")
	again := func(after time.Duration) { asked = after }
	groups := trust{}
	for _, step := range []struct {
		name  string
		after time.Duration
		err   error
		want  bool
		again bool
	}{
		{"it was not read yet", 0, ipvs.ErrPending, false, false},
		{"it cannot be", 0, failed, false, false},
		{"it is as desired", 0, nil, true, false},
		{"a port is new", 1, ipvs.ErrPending, true, false},
		{"something fails", 2, failed, true, true},
		{"it still fails", 2 + forgiven/2, failed, true, false},
		{"it fails for long", 2 + forgiven, failed, false, false},
		{"it is mended", 3 + forgiven, nil, true, false},
		{"it fails anew", 4 + 2*forgiven, failed, true, true},
	} {
		asked = 0
		if got := groups.carries("g", step.err, begun.Add(step.after), again); got != step.want {
			t.Errorf("%s: the node announces: %v", step.name, got)
		}
		if (asked == forgiven) != step.again {
			t.Errorf("%s: asks to be asked again after %s", step.name, asked)
		}
	}
	if groups.carries("other", ipvs.ErrPending, begun, again) {
		t.Error("another group is trusted")
	}
}
