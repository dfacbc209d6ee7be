package plan

import (
	"slices"

	"github.com/berth-lb/berth/l2"
)

// defaultScheduler is that of a Service whose pools no longer name one.
const defaultScheduler = "rr"

// schedulerBits are the bits of a node's capabilities. They are in hellos, and mean the same on all
// nodes: see docs/design/l2-protocol.md.
var schedulerBits = [...]struct {
	scheduler string
	bit       l2.Capabilities
}{
	{"rr", 1 << 0},
	{"wrr", 1 << 1},
	{"lc", 1 << 2},
	{"wlc", 1 << 3},
	{"dh", 1 << 4},
	{"sh", 1 << 5},
	{"sed", 1 << 6},
	{"nq", 1 << 7},
	{"mh", 1 << 8},
}

// Capability returns the bits that stand for forwarding with these schedulers.
func Capability(schedulers ...string) l2.Capabilities {
	var c l2.Capabilities
	for _, s := range schedulerBits {
		if slices.Contains(schedulers, s.scheduler) {
			c |= s.bit
		}
	}
	return c
}

// requirements returns what a node must be capable of to announce these Services. What kube-proxy
// serves requires nothing.
func requirements(services []ClassifiedService) l2.Capabilities {
	var needs l2.Capabilities
	for _, s := range services {
		if s.Proxied {
			needs |= Capability(s.IPVSScheduler)
		}
	}
	return needs
}
