package plan

import (
	"github.com/berth-lb/berth/internal/scheduler"
	"github.com/berth-lb/berth/l2/election"
)

// Capability returns the bits of a node's capabilities that stand for forwarding with these
// schedulers.
func Capability(schedulers ...string) election.Capabilities {
	return election.Capabilities(scheduler.Bits(schedulers...))
}

// requirements returns what a node must be capable of to announce these Services. What kube-proxy
// serves requires nothing.
func requirements(services []ClassifiedService) election.Capabilities {
	var needs election.Capabilities
	for _, s := range services {
		if s.Proxied {
			needs |= Capability(s.IPVSScheduler)
		}
	}
	return needs
}
