package plan

import (
	"slices"
	"testing"

	"github.com/berth-lb/berth/l2"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
)

// The bits are in hellos: a node of another version understands them as these.
func TestCapability(t *testing.T) {
	for scheduler, want := range map[string]l2.Capabilities{
		"rr": 1, "wrr": 2, "lc": 4, "wlc": 8, "dh": 16, "sh": 32, "sed": 64, "nq": 128, "mh": 256, "": 0, "fifo": 0,
	} {
		if got := Capability(scheduler); got != want {
			t.Errorf("%q is %b, want %b", scheduler, got, want)
		}
		if known := slices.Contains(ipvs.Schedulers, scheduler); known != (want != 0) {
			t.Errorf("%q is a scheduler of IPVS: %v", scheduler, known)
		}
	}
	if got := Capability("rr", "mh"); got != 1|256 {
		t.Errorf("rr and mh are %b", got)
	}
	if got := Capability(ipvs.Schedulers...); got != 1<<len(ipvs.Schedulers)-1 {
		t.Errorf("all schedulers are %b", got)
	}
}
