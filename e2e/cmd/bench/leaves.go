//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// leaves makes the owner of an address leave on purpose at least so many times in each way, and
// counts what happens to connections. It shows what ten planned leaves are too few to meet.
func (b *bench) leaves(times int) []step {
	ways := []struct {
		name string
		once func(context.Context, *steady) error
	}{
		{"by_label", b.leaveAndReturn},
		{"by_pod_deletion", b.deleteSpeaker},
		{"by_rollout", b.rollOut},
	}
	steps := make([]step, 0, len(ways))
	for _, way := range ways {
		steps = append(steps, step{"leaves " + way.name, b.steadily(func(ctx context.Context, st *steady) error {
			t, moved := toll{name: "leaves_" + way.name}, 0
			if _, err := b.settle(ctx, st); err != nil {
				return err
			}
			for moved < times {
				if err := b.AwaitSpeakers(ctx, false); err != nil {
					return err
				}
				begun := time.Now()
				err := t.during(ctx, b, lab.Client, st.v4, func() error {
					if err := way.once(ctx, st); err != nil {
						return err
					}
					return pause(ctx, rest) // connections of just after the last move count, too
				})
				if err != nil {
					return err
				}
				moved += st.moves(begun)
				fmt.Fprintf(os.Stderr, "# %d moves, %d connections, %d failed, %d reset\n", moved, t.asked, t.failed, t.broken)
			}
			b.report.add(t.name, float64(moved), "moves")
			t.tell(b.report)
			return nil
		})})
	}
	return steps
}

// moves returns how many times the address was announced from another host than before.
func (st *steady) moves(since time.Time) int {
	moves, owner := 0, ""
	for _, seen := range st.seen.Of(st.v4) {
		if !seen.Gratuitous && owner != "" {
			continue // for a moment, answers come from the host before, too
		}
		if owner != "" && seen.Host != owner && seen.At.After(since) {
			moves++
		}
		owner = seen.Host
	}
	return moves
}

// deleteSpeaker deletes the pod of the owner's speaker, and waits until there is another.
func (b *bench) deleteSpeaker(ctx context.Context, st *steady) error {
	owner, err := st.seen.AwaitOwner(ctx, patience, time.Now(), st.v4, st.v6)
	if err != nil {
		return err
	}
	_, err = b.Kubectl(
		ctx, "", "-n", stage.Namespace, "delete", "pod",
		"--selector", "app.kubernetes.io/component=speaker", "--field-selector", "spec.nodeName="+owner.Host,
	)
	if err != nil {
		return err
	}
	return b.AwaitBerth(ctx)
}

// rollOut replaces all speakers, one after the other.
func (b *bench) rollOut(ctx context.Context, _ *steady) error {
	if _, err := b.Kubectl(ctx, "", "-n", stage.Namespace, "rollout", "restart", "daemonset/berth-speaker"); err != nil {
		return err
	}
	return b.AwaitBerth(ctx)
}
