package dataplane

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
	"github.com/berth-lb/berth/speaker/plan"
)

// releasedAtMost is how long a process without --ipvs waits for kube-proxy before it removes what a
// former one left in the kernel. Where other nodes still forward, kube-proxy never takes over, and
// these nodes have by then.
const releasedAtMost = 30 * time.Second

// None is the data plane of a node on which only kube-proxy forwards. It removes what a former
// process with --ipvs left. Make one with NewNone.
type None struct {
	log      *slog.Logger
	released func(context.Context, []netip.Addr) error
}

// NewNone returns a None. Released waits until no Service asks Berth to forward for one of these
// addresses.
func NewNone(log *slog.Logger, released func(context.Context, []netip.Addr) error) *None {
	return &None{log, released}
}

// Run removes what a former process with --ipvs left: nothing keeps it up to date any more. Before,
// it waits until kube-proxy has taken over.
func (n *None) Run(ctx context.Context) error {
	found := findLeftovers(n.log)
	if !found.anything {
		return nil
	}
	log := n.log.With("addresses", len(found.addresses))
	log.Info("a former process ran with --ipvs: what it left in the kernel is removed when others forward")
	if err := n.await(ctx, found.addresses); err != nil {
		if ctx.Err() != nil {
			return nil // the next process goes on with it
		}
		return err
	}
	if err := found.remove(); err != nil {
		log.Warn("rules of forwarding of a process with --ipvs were left behind", "error", err)
	} else {
		log.Info("removed what a process with --ipvs left in the kernel: virtual servers, routes, rules")
	}
	return nil
}

// await waits until kube-proxy forwards for these addresses, or releasedAtMost has passed.
func (n *None) await(ctx context.Context, addresses []netip.Addr) error {
	bounded, cancel := context.WithTimeout(ctx, releasedAtMost)
	defer cancel()
	err := n.released(bounded, addresses)
	switch {
	case err == nil:
		return async.Sleep(ctx, kubeProxyGraceTime)
	case ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
		return nil
	}
	return err
}

// Remove deletes at once what a former process left.
func (n *None) Remove() error { return findLeftovers(slog.New(slog.DiscardHandler)).remove() }

// Sync says that nothing is withheld: what Berth is to forward needs a capability, which this node
// does not have.
func (*None) Sync(plan.Group, plan.Forwarding) Status {
	return Status{Readiness: plan.Readiness{Shown: true}}
}

// Backends returns none.
func (*None) Backends(
	plan.Group,
	[]plan.ClassifiedService,
	func(string) []plan.Backend,
	func([]netip.Addr) time.Duration,
) (map[string][]plan.Backend, time.Duration) {
	return nil, 0
}

// Marks returns none.
func (*None) Marks(string, []ipvs.Frontend) map[ipvs.Frontend]uint32 { return nil }

// Forget does nothing.
func (*None) Forget(string) {}

// ForgetService does nothing.
func (*None) ForgetService(string) {}

// SetSources does nothing.
func (*None) SetSources([]netip.Addr) {}

// SetPods does nothing.
func (*None) SetPods([]netip.Prefix) {}

// Probe does nothing.
func (*None) Probe() {}

// Abilities returns none, and misses none.
func (*None) Abilities() (schedulers []string, lacking string) { return nil, "" }

// Report returns false: the node was not asked to forward.
func (*None) Report() (Report, bool) { return Report{}, false }

// Observed never yields.
func (*None) Observed() <-chan Observation { return nil }
