package nodes

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/config/digest"
)

const (
	// hesitates is how long what is published may take to arrive at first.
	hesitates = 10 * time.Second
	// An answer without a new heartbeat, and one with a heartbeat that did not arrive here, count so
	// much. With enough of them in a row, nobody keeps what is published up to date.
	countsMissing, countsBehind, enough = 2, 1, 6
)

// decide chooses where Nodes are from, until the context ends.
func (n *Nodes) decide(ctx context.Context, running *sync.WaitGroup) error {
	stop := func() {} // ends the watch of all
	n.decideOnce(ctx, running, n.own.HasSynced)
	n.decideOnce(ctx, running, n.digestsRead)
	waited, missing, beat := false, 0, ""
	look := time.NewTimer(hesitates)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.decides:
		case <-look.C:
			if waited = true; beat == "" {
				break
			}
			if missing = n.ask(ctx, missing); missing >= enough {
				n.mu.Lock()
				n.heard.late = true
				n.mu.Unlock()
			}
			look.Reset(digest.Every)
		}
		if now := n.beats(); now != beat {
			beat, missing = now, 0
			look.Reset(patience())
		}
		trusted, known := n.trusts(waited)
		switch {
		case !n.own.HasSynced() || !known:
		case trusted:
			n.turn(false)
			stop()
			stop = func() {}
		case !n.watchesAll():
			var err error
			if stop, err = n.watchAll(ctx, running); err != nil {
				return err
			}
		case n.allKnown():
			n.turn(true)
		}
	}
}

// beats returns the heartbeat that was heard last.
func (n *Nodes) beats() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.heard.Renewed
}

// trusts reports whether what is published can be relied on, and whether that is known yet.
func (n *Nodes) trusts(waited bool) (trusted, known bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.refused || !n.digestsRead() {
		return false, n.refused || waited
	}
	return !n.heard.late && n.heard.Format >= digest.Format && n.published.complete(n.heard.Shares), true
}

func (n *Nodes) watchesAll() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.all != nil
}

func (n *Nodes) allKnown() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.all.HasSynced()
}

// turn has the view be of all Nodes, or of what is published.
func (n *Nodes) turn(inFull bool) {
	n.mu.Lock()
	if n.filled && n.inFull == inFull {
		n.mu.Unlock()
		return
	}
	n.inFull = inFull
	names := slices.Collect(maps.Keys(n.view))
	if inFull {
		names = append(names, n.all.GetStore().ListKeys()...)
	} else {
		names = append(names, slices.Collect(maps.Keys(n.published.nodes))...)
	}
	n.mu.Unlock()
	n.refresh(append(names, n.Node)...)
	n.mu.Lock()
	n.filled = true
	n.mu.Unlock()
	n.Logger.Info("has Nodes from another source", "all", inFull)
}

// watchAll begins to watch all Nodes, and returns what ends that.
func (n *Nodes) watchAll(ctx context.Context, running *sync.WaitGroup) (stop func(), err error) {
	all, err := n.newAll()
	if err != nil {
		return nil, err
	}
	if err := n.notify(all); err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.all = all
	n.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	running.Go(func() { all.RunWithContext(ctx) })
	n.decideOnce(ctx, running, all.HasSynced)
	return func() {
		cancel()
		n.mu.Lock()
		n.all = nil
		n.mu.Unlock()
	}, nil
}

// decideOnce has it decided where Nodes are from once something is known.
func (n *Nodes) decideOnce(ctx context.Context, running *sync.WaitGroup, known cache.InformerSynced) {
	running.Go(func() {
		if cache.WaitForCacheSync(ctx.Done(), known) {
			n.decides.Notify()
		}
	})
}

// ask asks the API server for a heartbeat that did not arrive, and returns what that adds up to.
// Nothing follows from one that does not answer, nor at once when it answers again: the controller
// needs some time, too.
func (n *Nodes) ask(ctx context.Context, missing int) int {
	ctx, cancel := context.WithTimeout(ctx, digest.Every)
	defer cancel()
	found, err := n.Kubernetes.CoreV1().ConfigMaps(n.Namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, digest.Name).String(),
	})
	switch {
	case apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err):
		return missing + countsMissing
	case err != nil:
		return 0
	}
	for _, m := range found.Items {
		if h, err := digest.HeartbeatIn(m.Data); err == nil && h.Renewed != n.beats() {
			return missing + countsBehind
		}
	}
	return missing + countsMissing
}
