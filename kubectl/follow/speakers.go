package follow

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/kubectl/cluster"
)

// Reports are what speakers report at a moment.
type Reports struct {
	Speakers []*v1alpha1.Speaker
	Owners   []*v1alpha1.L2Owner
}

// Speaker returns that of a node, nil if there is none.
func (r Reports) Speaker(node string) *v1alpha1.Speaker {
	for _, s := range r.Speakers {
		if s.Name == node {
			return s
		}
	}
	return nil
}

// Speakers watches what speakers report until nothing is missing. If the context ends before,
// the error has what missing said last.
func Speakers(ctx context.Context, to *cluster.Clients, missing func(Reports) string) error {
	if _, err := to.Berth.Speakers.List(ctx, metav1.ListOptions{Limit: 1}); err != nil {
		return cluster.Right(err, "list", v1alpha1.GroupVersion.Group, "speakers")
	}
	if _, err := to.Berth.L2Owners.List(ctx, metav1.ListOptions{Limit: 1}); err != nil {
		return cluster.Right(err, "list", v1alpha1.GroupVersion.Group, "l2owners")
	}
	speakers := client.NewInformer(to.Berth.Speakers, &v1alpha1.Speaker{})
	owners := client.NewInformer(to.Berth.L2Owners, &v1alpha1.L2Owner{})
	changed := make(chan struct{}, 1)
	tell := func(any) {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	running, stop := context.WithCancel(ctx)
	var work errgroup.Group
	defer func() { stop(); _ = work.Wait() }() // they return no error
	for _, i := range []cache.SharedIndexInformer{speakers, owners} {
		if _, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: tell, UpdateFunc: func(_, o any) { tell(o) }, DeleteFunc: tell,
		}); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
		work.Go(func() error { i.RunWithContext(running); return nil })
	}
	if !cache.WaitForCacheSync(ctx.Done(), speakers.HasSynced, owners.HasSynced) {
		return fmt.Errorf("what speakers report was not read in time: %w", ctx.Err())
	}
	for {
		left := missing(Reports{client.Stored[*v1alpha1.Speaker](speakers), client.Stored[*v1alpha1.L2Owner](owners)})
		if left == "" {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("gave up waiting: %s", left)
		}
	}
}
