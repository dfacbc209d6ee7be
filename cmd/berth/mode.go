package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"github.com/berth-lb/berth/controller"
)

// way is how the controller drives Services: false by its own reconciler, true by
// Kubernetes' service controller, with Berth as the cloud provider.
//
// Only one way works at a time. All instances contend for one Lease, and its holder
// has its way in its name, so that an instance of the other way can say what it is
// that it waits for.
type way bool

// providerMark ends the holder's name in the Lease when it leads as cloud provider.
// No name of a Pod has a slash.
const providerMark = "/cloud-provider"

var errNothingToServe = errors.New("--cloud-provider and --serve-classless=false contradict each other: as cloud provider Berth serves the Services without spec.loadBalancerClass, and no others; take one of the two out")

func (w way) String() string {
	if w {
		return "with --cloud-provider"
	}
	return "without --cloud-provider"
}

// leader does the work of the leader until the context ends.
type leader interface{ Lead(context.Context) error }

// of returns the Controller, to be led in this way.
func (w way) of(c *controller.Controller) leader {
	if w {
		return controller.NewProvider(c)
	}
	return c
}

// holder is the identity's name in the Lease.
func (w way) holder(identity string) string {
	if w {
		return identity + providerMark
	}
	return identity
}

// meet logs who holds the Lease, and warns if it works the other way.
func (w way) meet(logger *slog.Logger, holder, identity string) {
	name, marked := strings.CutSuffix(holder, providerMark)
	if other := way(marked); other != w {
		logger.Warn("the leader runs the other way; this instance waits until that one has ended: run all with --cloud-provider, or all without",
			"leader", name, "runs", other.String(), "self", w.String())
		return
	}
	logger.Info("leader", "leader", name, "self", name == identity)
}
