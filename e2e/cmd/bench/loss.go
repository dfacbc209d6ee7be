//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

const (
	losses = 5
	leaves = 3
)

// steady is a Service whose pods are not on the node that owns its address, so
// that what clients miss is the announcement.
type steady struct {
	address netip.Addr
	owner   string
}

// losses measures what a client on the segment misses when the owner of an address
// is lost, in three ways.
func (b *bench) losses(ctx context.Context) error {
	st, err := b.setSteady(ctx)
	if err != nil {
		return err
	}
	for _, loss := range []struct {
		name            string
		lose, bringBack func(context.Context, string) error
		fresh           bool
	}{
		{"gap_owner_node_cut", b.cut, b.heal, false},
		// The node of a killed speaker goes on forwarding for those who know it;
		// who asks for the address anew gets no answer for a while.
		{"gap_owner_speaker_killed", b.kill, b.renew, false},
		{"gap_owner_speaker_killed_new_clients", b.kill, b.renew, true},
	} {
		var gaps []time.Duration
		for range losses {
			gap, err := b.lose(ctx, st, loss.lose, loss.fresh)
			if err != nil {
				return fmt.Errorf("%s: %w", loss.name, err)
			}
			gaps = append(gaps, gap)
			if err := loss.bringBack(ctx, st.owner); err != nil {
				return fmt.Errorf("%s: %w", loss.name, err)
			}
			if err := b.settle(ctx, st); err != nil {
				return fmt.Errorf("%s: %w", loss.name, err)
			}
		}
		b.report.times(loss.name, gaps)
	}
	return b.leave(ctx, st)
}

func (b *bench) setSteady(ctx context.Context) (*steady, error) {
	app := stage.App{Namespace: namespace, Name: "steady"}
	svc, err := b.Create(ctx, b.Expose(app, app.Name))
	if err != nil {
		return nil, err
	}
	st := &steady{address: stage.Addresses(svc)[0]}
	err = stage.Eventually(ctx, patience, func(ctx context.Context) error {
		var err error
		st.owner, err = b.Owner(ctx, st.address)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, n := range b.Nodes() {
		if n != st.owner {
			app.Nodes = append(app.Nodes, n)
		}
	}
	if err := b.Deploy(ctx, app); err != nil {
		return nil, err
	}
	return st, b.settle(ctx, st)
}

// lose takes the owner away and returns how long the client had no answer.
func (b *bench) lose(ctx context.Context, st *steady, lose func(context.Context, string) error, fresh bool) (time.Duration, error) {
	watch := b.StartWatch(ctx, lab.Client, st.address, every, timeout, fresh)
	defer watch.Stop()
	if err := answered(ctx, watch, time.Time{}); err != nil {
		return 0, err
	}
	if err := lose(ctx, st.owner); err != nil {
		return 0, err
	}
	err := stage.Eventually(ctx, patience, func(context.Context) error {
		// The cache is only looked at: it shall be what announcements make of it.
		mac, err := b.Neighbor(lab.Client, st.address)
		if now := b.HostOf(mac); err == nil && (now == "" || now == st.owner) {
			err = fmt.Errorf("the client has %q for %s, want another than %s", mac, st.address, st.owner)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	err = answered(ctx, watch, time.Now())
	return watch.Stop().Gap(), err
}

// answered waits until 50 requests that were sent after a moment were answered.
func answered(ctx context.Context, w *stage.Watch, after time.Time) error {
	return stage.Eventually(ctx, patience, func(context.Context) error {
		if n := len(w.Record().SentAfter(after).Good()); n < 50 {
			return fmt.Errorf("%d requests were answered", n)
		}
		return nil
	})
}

// settle waits until all speakers are ready, and the address is back at its owner.
func (b *bench) settle(ctx context.Context, st *steady) error {
	if err := b.AwaitSpeakers(ctx, true); err != nil {
		return err
	}
	err := b.awaitAnswerers(ctx, st, func(hosts []string) bool { return slices.Equal(hosts, []string{st.owner}) })
	if err != nil {
		return err
	}
	return stage.Eventually(ctx, patience, func(ctx context.Context) error {
		_, err := b.AskHTTP(ctx, lab.Client, st.address)
		return err
	})
}

// awaitAnswerers waits until the right ones answer for the address. It leaves the
// client's cache alone, so that it disturbs no request.
func (b *bench) awaitAnswerers(ctx context.Context, st *steady, right func(hosts []string) bool) error {
	return stage.Eventually(ctx, patience, func(ctx context.Context) error {
		hosts, err := b.Answerers(ctx, st.address)
		if err == nil && !right(hosts) {
			err = fmt.Errorf("%s is answered for by %v; its owner is %s", st.address, hosts, st.owner)
		}
		return err
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

func (b *bench) kill(ctx context.Context, node string) error { return b.Kill(ctx, "speaker@"+node) }

// renew replaces the pod of a killed speaker, which the kubelet would restart later
// each time.
func (b *bench) renew(ctx context.Context, node string) error {
	_, err := b.Kubectl(ctx, "", "-n", stage.Namespace, "delete", "pod", "--timeout=60s",
		"-l", "app.kubernetes.io/component=speaker", "--field-selector", "spec.nodeName="+node)
	if err != nil {
		return err
	}
	return b.AwaitBerth(ctx)
}

// leave counts the new connections that fail, and the open ones that break, while the
// owner leaves on purpose and returns. The client asks anew who has the address before each.
func (b *bench) leave(ctx context.Context, st *steady) error {
	var asked, failed, broken int
	var longest time.Duration
	for range leaves {
		probe := b.StartProbe(ctx, lab.Client, st.address, every, timeout, true)
		err := b.leaveAndReturn(ctx, st)
		gap := probe.Stop()
		if err != nil {
			return fmt.Errorf("planned leave: %w", err)
		}
		for _, e := range gap.Errors {
			fmt.Fprintln(os.Stderr, "# planned leave:", e)
		}
		asked, failed, broken = asked+gap.Asked, failed+gap.Failed-gap.Broken, broken+gap.Broken
		longest = max(longest, gap.Longest)
	}
	b.report.add("planned_leave_connections", float64(asked), "connections")
	b.report.add("planned_leave_failed_connections", float64(failed), "connections")
	// These were open when the address moved.
	b.report.add("planned_leave_broken_connections", float64(broken), "connections")
	b.report.add("planned_leave_longest_without_answer", float64(longest.Milliseconds()), "ms")
	return nil
}

// leaveAndReturn has the owner leave and come back, with a rest between and after.
func (b *bench) leaveAndReturn(ctx context.Context, st *steady) error {
	const exclude = corev1.LabelNodeExcludeBalancers
	if _, err := b.Kubectl(ctx, "", "label", "node", st.owner, exclude+"="); err != nil {
		return err
	}
	if err := b.awaitState(ctx, st.owner, v1alpha1.SpeakerLeaving); err != nil {
		return err
	}
	err := b.awaitAnswerers(ctx, st, func(hosts []string) bool { return len(hosts) > 0 && !slices.Contains(hosts, st.owner) })
	if err != nil {
		return err
	}
	if err := pause(ctx, rest); err != nil {
		return err
	}
	if _, err := b.Kubectl(ctx, "", "label", "node", st.owner, exclude+"-"); err != nil {
		return err
	}
	if err := b.awaitState(ctx, st.owner, v1alpha1.SpeakerReady); err != nil {
		return err
	}
	if err := b.settle(ctx, st); err != nil {
		return err
	}
	return pause(ctx, rest)
}

func (b *bench) awaitState(ctx context.Context, node string, want v1alpha1.SpeakerState) error {
	return stage.Eventually(ctx, patience, func(ctx context.Context) error {
		status, err := b.Berth.SpeakerStatuses.Get(ctx, node, metav1.GetOptions{})
		if err == nil && status.Status.State != want {
			err = fmt.Errorf("speaker of %s is %s, want %s", node, status.Status.State, want)
		}
		return err
	})
}
