package follow

import (
	"context"
	"errors"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/kubectl/cluster"
)

// ErrAgain is what a look returns that is to be repeated in a moment, without a change: it could
// not read everything.
var ErrAgain = errors.New("look again")

// pause is the time before that.
const pause = 3 * time.Second

// Changes calls show at first, and after changes of what it may show, until the context ends.
// Changes are gathered for a while; where a look takes long, there is time without one in between.
func Changes(ctx context.Context, to *cluster.Clients, gather time.Duration, show func() error) error {
	changes := make(chan struct{}, 1)
	watching, stop := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer func() { stop(); work.Wait() }()
	for _, open := range watches(to) {
		work.Go(func() { follow(watching, open, changes) })
	}
	var earliest time.Time
	for rest(ctx, max(gather, time.Until(earliest))) {
		select {
		case <-changes: // what came until now is seen by the next look
		default:
		}
		begun := time.Now()
		err := show()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !errors.Is(err, ErrAgain):
			return err
		}
		earliest = time.Now().Add(time.Since(begun))
		var again <-chan time.Time
		if err != nil {
			again = time.After(pause)
		}
		select {
		case <-changes:
		case <-again:
		case <-ctx.Done():
		}
	}
	return nil
}

// opener opens a watch.
type opener func(context.Context, metav1.ListOptions) (watch.Interface, error)

// watches returns what there is to watch: all that changes while Berth works.
func watches(to *cluster.Clients) []opener {
	core, berth := to.Kubernetes.CoreV1(), to.Berth
	events := func(field, value string) opener {
		return func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = fields.OneTermEqualSelector(field, value).String()
			return core.Events("").Watch(ctx, options)
		}
	}
	return []opener{
		core.Services("").Watch, core.Nodes().Watch, berth.Speakers.Watch, berth.L2Owners.Watch,
		berth.LoadBalancerPools.Watch, berth.BGPNeighbors.Watch, berth.SegmentAnnouncements.Watch,
		berth.RouteAnnouncements.Watch, berth.AddressReservations("").Watch,
		events("involvedObject.kind", "Service"),
		events("involvedObject.apiVersion", v1alpha1.GroupVersion.String()),
	}
}

// follow tells of each change that a watch sees, until the context ends. The API server ends each
// watch now and then: it is opened again.
func follow(ctx context.Context, open opener, changes chan<- struct{}) {
	tell := func() {
		select {
		case changes <- struct{}{}:
		default:
		}
	}
	for {
		w, err := open(ctx, metav1.ListOptions{})
		again := time.Second
		switch {
		case err == nil:
			for range w.ResultChan() {
				tell()
			}
			w.Stop()
			tell()
		case apierrors.IsForbidden(err), apierrors.IsNotFound(err):
			again = 30 * time.Second // what may not be watched is not read either
		default:
			tell() // a look finds what is wrong
		}
		if !rest(ctx, again) {
			return
		}
	}
}

// rest waits, and reports whether the context is still there.
func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
