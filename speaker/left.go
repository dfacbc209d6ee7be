package speaker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/speaker/dataplane/guard"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
)

// takenOverAtMost is for how long a process without --ipvs leaves in the kernel what kube-proxy is to take over. Where
// other nodes forward on it never does, and they have taken over by then.
const takenOverAtMost = 30 * time.Second

// left is what a process with --ipvs left in this kernel.
type left struct {
	anything  bool
	addresses []netip.Addr
	rules     bool // a table of nftables
}

// findLeft loads no module of IPVS. A kernel that cannot say has nothing.
func findLeft(log *slog.Logger) left {
	addresses, anything, err := ipvs.Left()
	if err != nil {
		log.Debug("routes of a process with --ipvs", "error", err)
	}
	rules, err := guard.Left()
	if err != nil {
		log.Debug("nftables of a process with --ipvs", "error", err)
	}
	return left{anything || rules, addresses, rules}
}

// remove deletes it. The one does not wait for the other: rules that stay would go on dropping.
func (l left) remove() error {
	if !l.anything {
		return nil
	}
	err := ipvs.RemoveLeft()
	if l.rules {
		err = errors.Join(err, guard.RemoveLeft())
	}
	return err
}

// retire removes what a process with --ipvs left, if this one runs without: nobody keeps it up to date any more. Before,
// it waits until kube-proxy has taken over.
func (s *Speaker) retire(ctx context.Context) error {
	if s.IPVS {
		return nil
	}
	found := findLeft(s.Logger)
	if !found.anything {
		return nil
	}
	log := s.Logger.With("addresses", len(found.addresses))
	log.Info("a former process ran with --ipvs: what it left in the kernel is removed when others forward")
	if err := s.awaitProxy(ctx, found.addresses); err != nil {
		return err
	}
	if err := found.remove(); err != nil {
		log.Warn("rules of forwarding of a process with --ipvs were left behind", "error", err)
	} else {
		log.Info("removed what a process with --ipvs left in the kernel: virtual servers, routes, rules")
	}
	return nil
}

// awaitProxy waits until kube-proxy forwards for these addresses, or takenOverAtMost has passed.
func (s *Speaker) awaitProxy(ctx context.Context, addresses []netip.Addr) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changed := make(chan struct{}, 1)
	poke := func(any) {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	registration, err := s.sources.service.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: poke, UpdateFunc: func(_, o any) { poke(o) }, DeleteFunc: poke,
	})
	if err != nil {
		return fmt.Errorf("watch Services: %w", err)
	}
	defer func() { _ = s.sources.service.RemoveEventHandler(registration) }()
	atMost := time.NewTimer(takenOverAtMost)
	defer atMost.Stop()
	for s.proxied(addresses) {
		select {
		case <-changed:
		case <-atMost.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	wait(ctx, handOverTime)
	return ctx.Err()
}

// proxied tells whether kube-proxy still leaves one of the addresses alone.
func (s *Speaker) proxied(addresses []netip.Addr) bool {
	return slices.ContainsFunc(s.sources.service.GetStore().List(), func(o any) bool {
		svc, ok := o.(*corev1.Service)
		return ok && slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(i corev1.LoadBalancerIngress) bool {
			a, err := netip.ParseAddr(i.IP)
			return err == nil && proxied(i) && slices.Contains(addresses, a)
		})
	})
}
