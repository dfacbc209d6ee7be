package steer

import (
	"context"
	"errors"
	"net/netip"

	"github.com/berth-lb/berth/speaker/dataplane/podnat"
	"github.com/berth-lb/berth/speaker/dataplane/steering"
	"github.com/berth-lb/berth/speaker/plan"
)

// None steers nothing, on a node that was not asked to. It removes what a former process left.
type None struct{}

// Run removes what a former process with --steering left, as far as it can without the capabilities
// that steering needs: the programs stop to steer by themselves.
func (*None) Run(ctx context.Context) error {
	_ = errors.Join(steering.Uninstall(Pins), podnat.Remove())
	<-ctx.Done()
	return nil
}

// Remove does nothing: see Run.
func (*None) Remove() error { return nil }

// Sync does nothing.
func (*None) Sync(string, []plan.SteeredPort) {}

// Changed never yields.
func (*None) Changed() <-chan string { return nil }

// Steers is false.
func (*None) Steers(string) bool { return false }

// SetSeed does nothing.
func (*None) SetSeed([16]byte) {}

// SetEnabled does nothing.
func (*None) SetEnabled(bool) {}

// SetNodes does nothing.
func (*None) SetNodes(map[string][]netip.Addr) {}

// SetInterfaces does nothing.
func (*None) SetInterfaces(_, _ []string) {}

// Suspect does nothing.
func (*None) Suspect(_, _ map[string]bool) {}

// Report returns false: the node was not asked to steer.
func (*None) Report() (Report, bool) { return Report{}, false }
