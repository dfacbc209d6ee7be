package speaker

import (
	"errors"
	"time"

	"github.com/berth-lb/berth/ipvs"
)

// trust is what the kernel showed of each group that this node forwards for. One that was never shown is not announced.
type trust map[string]shown

// shown is of a group that the kernel showed as desired at least once.
type shown struct {
	failing time.Time // since when it does not; zero: it does
}

// forgiven is for how long a failure changes nothing for a group that was shown: the driver tries again every two seconds, and
// what is in the kernel goes on to forward.
const forgiven = 5 * time.Second

// carries tells whether the node may announce a group, of which the kernel shows what err says. It asks to be asked again when
// that may change by time alone.
func (t trust) carries(group string, err error, now time.Time, again func(after time.Duration)) bool {
	s, was := t[group]
	switch {
	case err == nil:
		t[group] = shown{}
		return true
	case !was:
		return false
	case errors.Is(err, ipvs.ErrPending):
		return true // a port or an address is new
	case s.failing.IsZero():
		t[group] = shown{failing: now}
		again(forgiven)
		return true
	}
	return now.Sub(s.failing) < forgiven
}
