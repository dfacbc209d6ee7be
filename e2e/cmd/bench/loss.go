//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// losses measures for how long a client on the segment gets no answers when the owner of an address
// is lost, in several ways.
func (b *bench) losses(ctx context.Context, st *steady) error {
	for _, loss := range []struct {
		name            string
		address         netip.Addr
		lose, bringBack func(context.Context, string) error
		fresh           bool
	}{
		{"gap_owner_node_cut", st.v4, b.cut, b.heal, false},
		{"gap_owner_node_cut_ipv6", st.v6, b.cut, b.heal, false},
		// The node of a killed or frozen heart keeps forwarding for clients that know it. A client that
		// asks for the address again gets no answer for a while.
		{"gap_owner_heart_killed", st.v4, b.stop, b.renew, false},
		{"gap_owner_heart_killed_new_clients", st.v4, b.stop, b.renew, true},
		{"gap_owner_heart_frozen", st.v4, b.freeze, b.wake, false},
		{"gap_owner_heart_frozen_new_clients", st.v4, b.freeze, b.wake, true},
	} {
		var gaps []time.Duration
		for range b.rounds {
			gap, err := b.loss(ctx, st, loss.address, loss.lose, loss.bringBack, loss.fresh)
			if err != nil {
				return fmt.Errorf("%s: %w", loss.name, err)
			}
			gaps = append(gaps, gap)
		}
		b.report.times(loss.name, gaps)
	}
	return nil
}

// loss removes the owner, returns for how long the client had no answer, and brings the owner back.
func (b *bench) loss(
	ctx context.Context,
	st *steady,
	address netip.Addr,
	lose, bringBack func(context.Context, string) error,
	fresh bool,
) (time.Duration, error) {
	owner, err := b.settle(ctx, st)
	if err != nil {
		return 0, err
	}
	gap, err := b.lose(ctx, address, owner, lose, fresh)
	if err != nil {
		return 0, err
	}
	return gap, bringBack(ctx, owner)
}

func (b *bench) lose(
	ctx context.Context,
	address netip.Addr,
	owner string,
	lose func(context.Context, string) error,
	fresh bool,
) (time.Duration, error) {
	watch := b.StartWatch(ctx, lab.Client, address, every, timeout, fresh)
	defer watch.Stop()
	if err := answered(ctx, watch, time.Time{}); err != nil {
		return 0, err
	}
	mac, err := b.NodeMAC(owner)
	if err != nil {
		return 0, err
	}
	if err := lose(ctx, owner); err != nil {
		return 0, err
	}
	err = stage.Eventually(ctx, patience, func(context.Context) error {
		// The cache is only read: announcements alone must update it.
		now, err := b.Neighbor(lab.Client, address)
		if err == nil && (now == nil || now.String() == mac.String()) {
			err = fmt.Errorf("the client has %q for %s, want another than that of %s", now, address, owner)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	err = answered(ctx, watch, time.Now())
	return watch.Stop().Gap(), err
}

// answered waits until 50 requests that were sent after the given time were answered.
func answered(ctx context.Context, w *stage.Watch, after time.Time) error {
	return stage.Eventually(ctx, patience, func(context.Context) error {
		if n := len(w.Record().SentAfter(after).Good()); n < 50 {
			return fmt.Errorf("%d requests were answered", n)
		}
		return nil
	})
}

func (b *bench) cut(_ context.Context, node string) error { return b.Cut(node) }

func (b *bench) heal(ctx context.Context, node string) error {
	if err := b.Heal(node); err != nil {
		return err
	}
	_, err := b.Kubectl(ctx, "", "wait", "--for=condition=Ready", "node/"+node, "--timeout=60s")
	return err
}

func (b *bench) kill(ctx context.Context, node string) error { return b.Kill(ctx, "bgp@"+node) }

func (b *bench) stop(ctx context.Context, node string) error { return b.Kill(ctx, "heart@"+node) }

// renew replaces the pod of a killed speaker: the kubelet would restart it later each time.
func (b *bench) renew(ctx context.Context, node string) error {
	_, err := b.Kubectl(ctx, "", "-n", stage.Namespace, "delete", "pod", "--timeout=60s",
		"-l", "app.kubernetes.io/component=speaker", "--field-selector", "spec.nodeName="+node)
	if err != nil {
		return err
	}
	return b.AwaitBerth(ctx)
}

func (b *bench) freeze(ctx context.Context, node string) error {
	return b.Pause(ctx, "heart@"+node)
}

func (b *bench) wake(ctx context.Context, node string) error { return b.Resume(ctx, "heart@"+node) }
