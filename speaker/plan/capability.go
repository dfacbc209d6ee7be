package plan

import (
	"github.com/berth-lb/berth/internal/scheduler"
	"github.com/berth-lb/berth/l2"
)

// Capability returns the bits of a node's capabilities that stand for forwarding with these
// schedulers.
func Capability(schedulers ...string) l2.Capabilities {
	return l2.Capabilities(scheduler.Bits(schedulers...))
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
