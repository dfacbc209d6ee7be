package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"github.com/berth-lb/berth/controller"
)

// mode is how the controller drives Services.
//
// Only one mode is active at a time: all instances compete for one Lease. The name of its holder
// contains the mode, so that an instance in the other mode can log what it is waiting for.
type mode int

const (
	reconcilerMode mode = iota // by Berth's own reconciler
	providerMode               // by Kubernetes' service controller, with Berth as the cloud provider
)

// providerMark ends the holder's name in the Lease in providerMode. Names of Pods have no slash.
const providerMark = "/cloud-provider"

var errNothingToServe = errors.New("--cloud-provider and --serve-classless=false contradict each other: as cloud provider Berth serves only Services without spec.loadBalancerClass; remove one of the two flags")

func (m mode) String() string {
	if m == providerMode {
		return "with --cloud-provider"
	}
	return "without --cloud-provider"
}

// leader does the leader's work until the context ends.
type leader interface{ Lead(context.Context) error }

// leader returns what runs the Controller in this mode.
func (m mode) leader(c *controller.Controller) (leader, error) {
	if m == providerMode {
		return controller.NewProvider(c)
	}
	return c, nil
}

// holder returns the name that an instance has in the Lease.
func (m mode) holder(identity string) string {
	if m == providerMode {
		return identity + providerMark
	}
	return identity
}

// logLeader logs which instance holds the Lease, and warns if that one runs in the other mode.
func (m mode) logLeader(logger *slog.Logger, holder, identity string) {
	name, marked := strings.CutSuffix(holder, providerMark)
	other := reconcilerMode
	if marked {
		other = providerMode
	}
	if other != m {
		logger.Warn("the leader runs in the other mode; this instance waits until the leader has ended: "+
			"run all instances with --cloud-provider, or none", "leader", name, "runs", other.String(), "self", m.String())
		return
	}
	logger.Info("leader elected", "leader", name, "self", name == identity)
}
