//go:build root

package e2e

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/berth-lb/berth/e2e/stage"
)

// fault is something that happens to one node.
type fault struct {
	name string
	// lost: the node cannot answer while the fault lasts and until it takes part again. Otherwise it
	// may.
	lost bool
	// deaf and unheard: it hears no other node, and no other node hears it.
	deaf, unheard bool
	// unmoved: it is not noticed on the segment.
	unmoved bool
	// renewed: hosts that know the node's hardware address must learn the new one.
	renewed bool
	// stopped: what answers is stopped, between any two of its instructions, and goes on.
	stopped bool
	// strike causes the fault. The returned function ends it; it is nil if the fault does not last.
	strike func(context.Context, *rack, string) (heal func(context.Context) error, err error)
}

// faults returns the faults that do not affect Kubernetes itself.
func faults() []fault {
	return []fault{
		{
			name: "its cable is cut",
			lost: true,
			strike: func(_ context.Context, r *rack, node string) (func(context.Context) error, error) {
				return func(context.Context) error { return r.Heal(node) }, r.Cut(node)
			},
		},
		{
			name: "its heart is killed",
			lost: true,
			strike: func(ctx context.Context, r *rack, node string) (func(context.Context) error, error) {
				return nil, r.Kill(ctx, "heart@"+node)
			},
		},
		{
			name:    "its heart freezes and wakes",
			lost:    true,
			stopped: true,
			strike: func(ctx context.Context, r *rack, node string) (func(context.Context) error, error) {
				return func(ctx context.Context) error { return r.Resume(ctx, "heart@"+node) }, r.Pause(ctx, "heart@"+node)
			},
		},
		{
			name:    "its speaker is killed",
			unmoved: true,
			strike: func(ctx context.Context, r *rack, node string) (func(context.Context) error, error) {
				return nil, r.Kill(ctx, "speaker@"+node)
			},
		},
		{
			name:    "its speaker freezes and wakes",
			unmoved: true,
			strike: func(ctx context.Context, r *rack, node string) (func(context.Context) error, error) {
				return func(ctx context.Context) error { return r.Resume(ctx, "speaker@"+node) }, r.Pause(ctx, "speaker@"+node)
			},
		},
		{
			name:    "it and the others do not hear each other",
			deaf:    true,
			unheard: true,
			strike: func(ctx context.Context, r *rack, node string) (func(context.Context) error, error) {
				return r.apart(ctx, node, r.Block)
			},
		},
		{
			name:    "the others do not hear it",
			unheard: true,
			strike: func(ctx context.Context, r *rack, node string) (func(context.Context) error, error) {
				return r.apart(ctx, node, r.BlockOneWay)
			},
		},
		{
			name: "it does not hear the others",
			deaf: true,
			strike: func(ctx context.Context, r *rack, node string) (func(context.Context) error, error) {
				return r.apart(
					ctx,
					node,
					func(ctx context.Context, node, other string) error { return r.BlockOneWay(ctx, other, node) },
				)
			},
		},
		{
			name: "its interface flaps",
			strike: func(_ context.Context, r *rack, node string) (func(context.Context) error, error) {
				return nil, r.Flap(node)
			},
		},
		{
			name:    "its hardware address changes",
			renewed: true,
			strike: func(_ context.Context, r *rack, node string) (func(context.Context) error, error) {
				_, err := r.ChangeMAC(node)
				return nil, err
			},
		},
	}
}

// apart separates a node from the other nodes on the segment. The API server and clients still
// reach all of them.
func (r *rack) apart(
	ctx context.Context,
	node string,
	block func(ctx context.Context, node, other string) error,
) (heal func(context.Context) error, err error) {
	for _, other := range r.others(node) {
		err = errors.Join(err, block(ctx, node, other))
	}
	return func(ctx context.Context) error {
		var err error
		for _, other := range r.others(node) {
			err = errors.Join(err, r.Unblock(ctx, node, other))
		}
		return err
	}, err
}

// testFaults strikes the owner of a Service with each fault.
func testFaults(t *testing.T, r *rack) {
	c := r.capture(t, r.serve(t, local))
	for _, f := range faults() {
		t.Run(f.name, func(t *testing.T) {
			r.suffer(t, c, f, "")
			r.whole(t)
		})
	}
}

// testFaultsAlone does the same while the API server is down.
func testFaultsAlone(t *testing.T, r *rack) {
	c := r.capture(t, r.serve(t, local))
	for _, f := range faults() {
		t.Run(f.name, func(t *testing.T) {
			resume := r.withoutAPI(t)
			r.suffer(t, c, f, "")
			resume()
			r.settle(t)
			r.whole(t)
		})
	}
}

// withoutAPI pauses the API server until resume, or the end of the test.
func (r *rack) withoutAPI(t *testing.T) (resume func()) {
	t.Helper()
	resume = func() {
		t.Helper()
		// A second call is harmless.
		if err := r.Resume(context.WithoutCancel(t.Context()), "kube-apiserver"); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(resume)
	if err := r.Pause(t.Context(), "kube-apiserver"); err != nil {
		t.Fatal(err)
	}
	return resume
}

// suffer strikes a node (by default the owner of the first addresses), checks which node answers
// then, heals it, and checks again: in the end one node answers, it has announced itself if
// anything is new about it, and no node has lost its addresses.
func (r *rack) suffer(t *testing.T, all []captured, f fault, node string) {
	t.Helper()
	before := make([]stage.Owner, len(all))
	for i, c := range all {
		before[i] = c.sole(t, time.Now())
	}
	if node == "" {
		node = before[0].Host
	}
	heal, err := f.strike(t.Context(), r, node)
	end := func() {
		if heal == nil {
			return
		}
		if err := heal(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		heal = nil
	}
	t.Cleanup(end)
	if err != nil {
		t.Fatal(err)
	}
	down := time.Now()
	if f.deaf || f.unheard {
		r.noticed(t, f, node)
	}
	for _, c := range all {
		if f.lost {
			if owner := c.sole(t, down); owner.Host == node {
				t.Errorf("%s answers for %s", node, c.addresses)
			}
		}
		c.answered(t, time.Now())
		c.serves(t, "")
	}
	end()
	healed := time.Now()
	for i, c := range all {
		owner := c.sole(t, healed)
		if c.rivaled(owner.Host, before[i].Until) || owner.Host == node && (f.lost || f.renewed) {
			c.told(t, owner.Host, before[i].Until)
		}
		c.serves(t, owner.Host)
		if f.unmoved && (owner.Host != before[i].Host || c.rivaled(owner.Host, before[i].Until)) {
			t.Errorf("%s answered for %s before, and %s does now", before[i].Host, c.addresses, owner.Host)
		}
		switch {
		case !f.lost || owner.Host == node:
		case f.stopped:
			c.corrected(t, node, owner.Host, down, owner.Until)
		default:
			c.silent(t, node, down, owner.Until)
		}
		for _, address := range c.addresses {
			t.Logf("%s (%s before): %s", address, before[i].Host, c.Of(address).Since(before[i].Until))
		}
	}
}

// rivaled reports whether a node other than the owner was seen since; some hosts may still use it.
func (c captured) rivaled(owner string, since time.Time) bool {
	return slices.ContainsFunc(c.addresses, func(address netip.Addr) bool {
		return slices.ContainsFunc(c.Of(address).Since(since).Hosts(), func(host string) bool { return host != owner })
	})
}

// noticed waits until the speakers have noticed the hosts that they no longer hear.
func (r *rack) noticed(t *testing.T, f fault, node string) {
	t.Helper()
	for _, n := range r.Nodes() {
		peers := len(r.Nodes()) - 1
		switch {
		case n == node && f.deaf:
			peers = 0
		case n != node && f.unheard:
			peers--
		}
		r.hears(t, n, peers)
	}
}

// faultsInARow is the number of random faults.
const faultsInARow = 20

// testRandomFaults strikes random nodes with random faults, half of the time without an API server.
// BERTH_FAULTS_SEED=N repeats a sequence.
func testRandomFaults(t *testing.T, r *rack) {
	seed := rand.Uint64()
	if text := os.Getenv("BERTH_FAULTS_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("BERTH_FAULTS_SEED: %v", err)
		}
	}
	t.Logf("to repeat this row of faults: BERTH_FAULTS_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	all := r.capture(t, r.serve(t, local), r.serve(t, local), r.serve(t, local))
	kinds := faults()
	for i := range faultsInARow {
		f := kinds[random.IntN(len(kinds))]
		node := r.Nodes()[random.IntN(len(r.Nodes()))]
		away := random.IntN(2) == 0
		t.Logf("fault %d: of %s, %s; API server away: %v", i+1, node, f.name, away)
		resume := func() {}
		if away {
			resume = r.withoutAPI(t)
		}
		r.suffer(t, all, f, node)
		resume()
		r.settle(t) // kube-proxies shall know all Pods when the API server goes
		r.whole(t)
	}
}
