package measure

import (
	"testing"

	"github.com/berth-lb/berth/internal/probe"
)

// To ask the kernel for IPVS has it load a module, so nobody does for pools that do not need it.
func TestKernelIsNotAskedForIPVS(t *testing.T) {
	n := &notes{asked: probe.Request{Node: "n1"}}
	n.kernel()
	if k := n.report.Kernel; k.IPVS != probe.Unknown || k.Release == "" || k.NFTables == probe.Unknown {
		t.Errorf("kernel %+v, failures %q", k, n.report.Failures)
	}
}
