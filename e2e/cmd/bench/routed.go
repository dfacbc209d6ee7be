//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// late is how long a new connection may take if nothing goes wrong. A connection to a lost next hop
// takes at least a second, after which TCP retries.
const late = 500 * time.Millisecond

// lasting is how long a session must be up to count as stable.
const lasting = 10 * time.Second

// routed is a Service that is announced by BGP, with pods on all nodes but the one that is lost.
type routed struct {
	address netip.Addr
	lost    string
}

// routedLosses measures what a client behind the router misses when one of the nodes that the
// router spreads its connections over is lost, in several ways, and when the router itself is.
func (b *bench) routedLosses(ctx context.Context) error {
	nodes := b.Nodes()
	app := stage.App{Namespace: namespace, Name: "routed", Nodes: nodes[:len(nodes)-1]}
	if err := b.Deploy(ctx, app); err != nil {
		return err
	}
	svc := b.Expose(app, app.Name)
	svc.Spec.LoadBalancerIP = "198.51.100.200"
	svc, err := b.Create(ctx, svc)
	if err != nil {
		return err
	}
	r := &routed{address: stage.Addresses(svc)[0], lost: nodes[len(nodes)-1]}
	for _, loss := range []struct {
		name, bfd       string
		lose, bringBack func(context.Context, string) error
	}{
		{"routed_gap_node_cut_hold_time_3s", "null", b.cut, b.heal},
		{"routed_gap_node_cut_bfd_3x100ms", `{"receiveInterval":"100ms","transmitInterval":"100ms","multiplier":3}`, b.cut, b.heal},
		{"routed_gap_bgp_killed", "null", b.kill, b.renew},
	} {
		if _, err := b.Kubectl(
			ctx, "", "patch", "bgpneighbor", "tor", "--type=merge", "-p", `{"spec":{"bfd":`+loss.bfd+`}}`,
		); err != nil {
			return err
		}
		var gaps []time.Duration
		for range b.rounds {
			gap, err := b.routedLoss(ctx, r, loss.bfd != "null", loss.lose)
			if err != nil {
				return fmt.Errorf("%s: %w", loss.name, err)
			}
			gaps = append(gaps, gap)
			if err := loss.bringBack(ctx, r.lost); err != nil {
				return fmt.Errorf("%s: %w", loss.name, err)
			}
		}
		b.report.times(loss.name, gaps)
	}
	if err := b.routerLosses(ctx, r); err != nil {
		return fmt.Errorf("router killed: %w", err)
	}
	return b.routedLeaves(ctx, r)
}

// rested waits until all nodes announce the address, with BFD if it is to be used, and nothing has
// changed for a while.
func (b *bench) rested(ctx context.Context, r *routed, bfd bool) error {
	if err := b.AwaitSpeakers(ctx, true); err != nil {
		return err
	}
	if err := b.AwaitRoutes(ctx, patience, r.address, b.Nodes()...); err != nil {
		return err
	}
	if bfd {
		err := stage.Eventually(ctx, patience, func(ctx context.Context) error {
			for _, node := range b.Nodes() {
				status, err := b.Berth.Speakers.Get(ctx, node, metav1.GetOptions{})
				if err != nil {
					return err
				}
				if got := status.Status.Sessions[0].BFD; got != "Up" {
					return fmt.Errorf("BFD of %s is %q", node, got)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return pause(ctx, 2*rest)
}

// routedLoss loses a node, and returns the time from the first new connection that was late or
// failed to the last one.
func (b *bench) routedLoss(
	ctx context.Context,
	r *routed,
	bfd bool,
	lose func(context.Context, string) error,
) (time.Duration, error) {
	if err := b.rested(ctx, r, bfd); err != nil {
		return 0, err
	}
	watch := b.StartWatch(ctx, lab.Remote, r.address, every, timeout, false)
	defer watch.Stop()
	if err := answered(ctx, watch, time.Time{}); err != nil {
		return 0, err
	}
	begun := time.Now()
	if err := lose(ctx, r.lost); err != nil {
		return 0, err
	}
	if err := b.AwaitRoutes(ctx, patience, r.address, b.Nodes()[:len(b.Nodes())-1]...); err != nil {
		return 0, err
	}
	if err := answered(ctx, watch, time.Now()); err != nil {
		return 0, err
	}
	if err := pause(ctx, timeout); err != nil { // for what was sent and not answered
		return 0, err
	}
	var first, last time.Time
	for _, request := range watch.Stop().SentAfter(begun) {
		if request.Err == nil && request.Done.Sub(request.Sent) < late {
			continue
		}
		if first.IsZero() || request.Sent.Before(first) {
			first = request.Sent
		}
		if request.Sent.After(last) {
			last = request.Sent
		}
	}
	return last.Sub(first), nil
}

// routerLosses kills the router's BGP daemon and starts it at once. Clients are not served while it
// has no routes.
func (b *bench) routerLosses(ctx context.Context, r *routed) error {
	var gaps []time.Duration
	for range b.rounds {
		if err := b.rested(ctx, r, false); err != nil {
			return err
		}
		// Only after a stable session is the next attempt made at once.
		if err := pause(ctx, lasting); err != nil {
			return err
		}
		watch := b.StartWatch(ctx, lab.Remote, r.address, every, timeout, false)
		err := answered(ctx, watch, time.Time{})
		if err == nil {
			err = b.Kill(ctx, "bgpd@"+lab.Router)
		}
		if err == nil {
			// Once the killed one is gone.
			err = stage.Eventually(ctx, patience, func(ctx context.Context) error { return b.Start(ctx, "bgpd@"+lab.Router) })
		}
		if err == nil {
			err = b.AwaitRoutes(ctx, patience, r.address, b.Nodes()...)
		}
		if err == nil {
			err = answered(ctx, watch, time.Now())
		}
		gaps = append(gaps, watch.Stop().Gap())
		if err != nil {
			return err
		}
	}
	b.report.times("routed_gap_router_killed_and_started", gaps)
	return nil
}

// routedLeaves counts the new connections that fail, and the open ones that break, while a node
// leaves on purpose and returns.
func (b *bench) routedLeaves(ctx context.Context, r *routed) error {
	t := toll{name: "routed_planned_leave"}
	for range b.rounds {
		if err := b.rested(ctx, r, false); err != nil {
			return fmt.Errorf("planned leave: %w", err)
		}
		err := t.during(ctx, b, lab.Remote, r.address, func() error {
			if err := b.exclude(ctx, r.lost); err != nil {
				return err
			}
			if err := b.AwaitRoutes(ctx, patience, r.address, b.Nodes()[:len(b.Nodes())-1]...); err != nil {
				return err
			}
			if err := pause(ctx, rest); err != nil {
				return err
			}
			if err := b.include(ctx, r.lost); err != nil {
				return err
			}
			if err := b.AwaitRoutes(ctx, patience, r.address, b.Nodes()...); err != nil {
				return err
			}
			return pause(ctx, rest)
		})
		if err != nil {
			return fmt.Errorf("planned leave: %w", err)
		}
	}
	t.tell(b.report)
	return nil
}
