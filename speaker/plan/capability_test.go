package plan

import (
	"testing"

	"github.com/berth-lb/berth/l2"
)

func TestBitsOfCapabilities(t *testing.T) {
	if got := Capability("rr", "mh"); got != l2.Capabilities(1|1<<8) {
		t.Errorf("rr and mh are %b, want bits 0 and 8", got)
	}
	if got := Capability(); got != 0 {
		t.Errorf("nothing is %b", got)
	}
}
