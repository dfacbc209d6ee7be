//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/berth-lb/berth/e2e/stage"
)

// heldFor is how long a partition lasts during which the nodes can still learn of each other from
// the API server.
const heldFor = 3 * time.Second

// partitions measures for how long two nodes answer for an address when the owner and the other
// nodes do not hear each other on the segment: after the partition has healed, without the API
// server; and during the partition, with the API server.
func (b *bench) partitions(ctx context.Context, st *steady) error {
	var healed, held []time.Duration
	for range b.rounds {
		d, err := b.twoAfterHeal(ctx, st)
		if err != nil {
			return fmt.Errorf("partition healed: %w", err)
		}
		healed = append(healed, d)
		if d, err = b.twoWhileHeld(ctx, st); err != nil {
			return fmt.Errorf("partition held: %w", err)
		}
		held = append(held, d)
	}
	b.report.times("two_owners_after_heal", healed)
	b.report.times("two_owners_in_partition_of_3s", held)
	return nil
}

// twoAfterHeal returns the time from the heal to the last answer of the node that gave way.
func (b *bench) twoAfterHeal(ctx context.Context, st *steady) (two time.Duration, err error) {
	owner, err := b.settle(ctx, st)
	if err != nil {
		return 0, err
	}
	if err := b.Pause(ctx, "kube-apiserver"); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, b.Resume(context.WithoutCancel(ctx), "kube-apiserver")) }()
	if err := b.block(ctx, owner); err != nil {
		return 0, err
	}
	begun := time.Now()
	err = stage.Eventually(ctx, patience, func(context.Context) error {
		// Both must have answered a moment ago.
		last := st.seen.Of(st.v4).Since(later(begun, time.Now().Add(-200*time.Millisecond)))
		if hosts := last.Hosts(); len(hosts) != 2 {
			return fmt.Errorf("%v answer for %s, want two", hosts, st.v4)
		}
		return nil
	})
	if err = errors.Join(err, b.unblock(context.WithoutCancel(ctx), owner)); err != nil {
		return 0, err
	}
	at := time.Now()
	left, err := st.seen.AwaitOwner(ctx, patience, at, st.v4, st.v6)
	if err != nil {
		return 0, err
	}
	for _, s := range append(st.seen.Of(st.v4), st.seen.Of(st.v6)...) {
		if s.Host != left.Host && s.At.After(at) {
			two = max(two, s.At.Sub(at))
		}
	}
	return two, nil
}

// twoWhileHeld returns the time from the first answer of a second owner to the last answer of the
// node that gave way, or 0 if there never was a second one.
func (b *bench) twoWhileHeld(ctx context.Context, st *steady) (time.Duration, error) {
	owner, err := b.settle(ctx, st)
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	if err := b.block(ctx, owner); err != nil {
		return 0, err
	}
	err = pause(ctx, heldFor)
	seen := st.seen.Of(st.v4).Since(begun)
	if err = errors.Join(err, b.unblock(context.WithoutCancel(ctx), owner)); err != nil {
		return 0, err
	}
	second := slices.IndexFunc(seen, func(s stage.Sighting) bool { return s.Host != owner })
	if second < 0 {
		return 0, nil
	}
	last := seen[len(seen)-1].Host
	for _, s := range slices.Backward(seen[second:]) {
		if s.Host != last {
			return s.At.Sub(seen[second].At), nil
		}
	}
	return 0, nil
}

// block blocks all frames between a node and the others on the segment.
func (b *bench) block(ctx context.Context, node string) error {
	return b.others(node, func(other string) error { return b.Block(ctx, node, other) })
}

func (b *bench) unblock(ctx context.Context, node string) error {
	return b.others(node, func(other string) error { return b.Unblock(ctx, node, other) })
}

func (b *bench) others(node string, do func(other string) error) error {
	var err error
	for _, other := range b.Nodes() {
		if other != node {
			err = errors.Join(err, do(other))
		}
	}
	return err
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
