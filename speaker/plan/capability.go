package plan

import (
	"slices"

	"github.com/berth-lb/berth/l2"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
)

// requirements returns what a node must be capable of to announce these Services. What kube-proxy serves requires nothing.
func requirements(services []ClassifiedService) l2.Capabilities {
	var needs l2.Capabilities
	for _, s := range services {
		if s.Proxied {
			needs |= Capability(s.IPVSScheduler)
		}
	}
	return needs
}

// Capability returns the bit that stands for forwarding with these schedulers, the same on all nodes: see
// docs/design/l2-protocol.md.
func Capability(schedulers ...string) l2.Capabilities {
	var c l2.Capabilities
	for i, known := range ipvs.Schedulers {
		if slices.Contains(schedulers, known) {
			c |= 1 << i
		}
	}
	return c
}
