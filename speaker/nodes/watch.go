package nodes

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/digest"
	"github.com/berth-lb/berth/internal/async"
)

// What a Source watches.
const (
	ofNodes   = "nodes"
	ofDigests = "digests"
)

// watcher implements watch.Interface.
type watcher struct {
	events chan watch.Event
	cancel context.CancelFunc
	ended  sync.WaitGroup
}

// Stop ends the watch, and returns once it has ended.
func (w *watcher) Stop() {
	w.cancel()
	w.ended.Wait()
}

// ResultChan returns the events.
func (w *watcher) ResultChan() <-chan watch.Event { return w.events }

// Watch implements cache.Watcher.
func (s *Source) Watch(o metav1.ListOptions) (watch.Interface, error) {
	return s.WatchWithContext(context.Background(), o)
}

// WatchWithContext implements cache.WatcherWithContext. It goes on from the last List.
func (s *Source) WatchWithContext(ctx context.Context, _ metav1.ListOptions) (watch.Interface, error) {
	ctx, cancel := context.WithCancel(s.turn.With(ctx))
	w := &watcher{events: make(chan watch.Event), cancel: cancel}
	s.running = w
	from := s.own
	if s.inFull {
		from = s.all
	}
	nodes := follow(ctx, from, s.versions[ofNodes], &w.ended)
	var digests <-chan watch.Event
	if s.published != nil {
		digests = follow(ctx, s.digests, s.versions[ofDigests], &w.ended)
	}
	w.ended.Go(func() {
		defer close(w.events)
		defer cancel()
		s.merge(ctx, nodes, digests, w.events)
	})
	return w, nil
}

// merge passes events on until the context ends, or Nodes are to be listed again.
func (s *Source) merge(ctx context.Context, nodes, digests <-chan watch.Event, to chan<- watch.Event) {
	send := func(e watch.Event) bool {
		select {
		case to <- e:
			return true
		case <-ctx.Done():
			return false
		}
	}
	again := func(why string) {
		send(watch.Event{Type: watch.Error, Object: &apierrors.NewResourceExpired(why).ErrStatus})
	}
	look := time.NewTimer(s.lookAfter())
	defer look.Stop()
	late := 0 // how often in a row the API had no new heartbeat
	for {
		var events []watch.Event
		select {
		case <-ctx.Done():
			return
		case e := <-nodes:
			if e.Type == watch.Error {
				again("Nodes are to be listed again")
				return
			}
			if node, ok := e.Object.(*corev1.Node); ok && e.Type != watch.Bookmark {
				events = []watch.Event{{Type: e.Type, Object: candidate.SlimNode(node)}}
			}
		case e := <-digests:
			m, ok := e.Object.(*corev1.ConfigMap)
			switch {
			case !ok:
				again("what is published of Nodes is to be listed again")
				return
			case e.Type == watch.Bookmark:
				continue
			case e.Type == watch.Deleted && !s.inFull:
				// The controller deletes none that it needs, so somebody else did, and no Node is gone.
				s.refuse("ConfigMap " + m.Name + " was deleted")
				again("what is published of Nodes was deleted")
				return
			case e.Type == watch.Deleted:
				continue
			}
			before := s.heard.Renewed
			events = s.others(s.read(m))
			if s.heard.Renewed != before {
				late = 0
				look.Reset(s.lookAfter())
				if s.upToDate(time.Now()) == s.inFull {
					again("Nodes are to be had from another source")
					return
				}
			}
			if s.inFull {
				continue
			}
		case <-look.C:
			if s.published == nil {
				again("it is to be asked again whether Nodes are published")
				return
			}
			if late = s.ask(ctx, late); late >= 3 {
				again("what is published of Nodes is not kept up to date")
				return
			}
			look.Reset(digest.Every)
		}
		for _, e := range events {
			if !send(e) {
				return
			}
		}
	}
}

// lookAfter returns when to ask whether the heartbeat is late.
func (s *Source) lookAfter() time.Duration {
	if s.published == nil {
		return unpublished
	}
	return s.patience
}

// ask asks the API whether there is a heartbeat that did not arrive, and returns how often in a row
// there was none. Nothing is concluded from an API server that does not answer, nor at once when it
// answers again: the controller needs some time, too.
func (s *Source) ask(ctx context.Context, late int) int {
	if s.inFull {
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, digest.Every)
	defer cancel()
	m, err := s.Kubernetes.CoreV1().ConfigMaps(s.Namespace).Get(ctx, digest.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return late + 1
	case err != nil:
		return 0
	}
	if h, err := digest.HeartbeatIn(m.Data); err == nil && h.Renewed != s.heard.Renewed {
		return 0
	}
	return late + 1
}

// others returns the events that are not of this node, whose Node comes from the API.
func (s *Source) others(events []watch.Event) []watch.Event {
	var of []watch.Event
	for _, e := range events {
		if node, ok := e.Object.(*corev1.Node); ok && node.Name != s.Node {
			of = append(of, e)
		}
	}
	return of
}

const (
	// A watch is asked for so long at least, and at most twice that, as informers do.
	watchFor = 5 * time.Minute
	// shortest is how long a watch lasts that is no failure.
	shortest = time.Second
)

// follow watches from a version on until the context ends, across what interrupts a watch. Its last
// event is an error if that version is not to be had any more.
func follow(
	ctx context.Context, from cache.WatcherWithContext, version string, ends *sync.WaitGroup,
) <-chan watch.Event {
	to := make(chan watch.Event)
	delay := wait.Backoff{Duration: 800 * time.Millisecond, Cap: 10 * time.Second, Steps: 5, Factor: 2, Jitter: 1}.
		DelayWithReset(clock.RealClock{}, 2*time.Minute)
	ends.Go(func() {
		for ctx.Err() == nil {
			began := time.Now()
			seconds := int64((watchFor + rand.N(watchFor)).Seconds())
			w, err := from.WatchWithContext(ctx, metav1.ListOptions{
				ResourceVersion: version, AllowWatchBookmarks: true, TimeoutSeconds: &seconds,
			})
			if err == nil {
				version, err = pass(ctx, w, version, to)
				w.Stop()
			}
			if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
				select {
				case to <- watch.Event{Type: watch.Error}:
				case <-ctx.Done():
				}
				return
			}
			if (err != nil || time.Since(began) < shortest) && async.Sleep(ctx, delay()) != nil {
				return
			}
		}
	})
	return to
}

// pass passes the events of a watch on until it ends, and returns the version of the last one and
// the error that ended it.
func pass(ctx context.Context, w watch.Interface, version string, to chan<- watch.Event) (string, error) {
	for {
		select {
		case <-ctx.Done():
			return version, nil
		case e, open := <-w.ResultChan():
			if !open {
				return version, nil
			}
			if e.Type == watch.Error {
				return version, apierrors.FromObject(e.Object)
			}
			if its, err := meta.Accessor(e.Object); err == nil {
				version = its.GetResourceVersion()
			}
			select {
			case to <- e:
			case <-ctx.Done():
				return version, nil
			}
		}
	}
}
