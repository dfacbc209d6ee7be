package main

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/reference"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/berth-lb/berth/controller/fair"
)

// Events are slowed down so that statuses are not: a write of either takes the API server about as
// long, and a large change causes two events for each status.
const (
	eventsPerSecond = 10
	eventsAtOnce    = 50
	eventsWaiting   = 20_000 // per type of event; more are dropped
	eventsOfOne     = 1_000  // per type of event and namespace; more are dropped
)

// pacedRecorder records events at a bounded rate: warnings first, and the namespaces in turn, so
// that one namespace's problems do not hide another's. Events that do not fit into its queues are
// dropped.
type pacedRecorder struct {
	to     events.EventRecorder
	scheme *runtime.Scheme
	wake   chan struct{} // an event was queued

	mu               sync.Mutex // guards what follows
	warnings, normal *fair.Queue[event]
}

// event is a queued event. It holds a reference, not the object.
type event struct {
	regarding                  *corev1.ObjectReference
	kind, reason, action, note string
	args                       []any
}

func newPacedRecorder(to events.EventRecorder, scheme *runtime.Scheme) *pacedRecorder {
	namespace := func(e event) string { return e.regarding.Namespace }
	return &pacedRecorder{
		to:       to,
		scheme:   scheme,
		wake:     make(chan struct{}, 1),
		warnings: fair.New(namespace),
		normal:   fair.New(namespace),
	}
}

// Eventf queues an event. It never blocks.
func (r *pacedRecorder) Eventf(regarding, _ runtime.Object, kind, reason, action, note string, args ...any) {
	about, err := reference.GetReference(r.scheme, regarding)
	if err != nil {
		return // the object's kind is unknown, so the event cannot refer to it
	}
	r.mu.Lock()
	queue := r.normal
	if kind == corev1.EventTypeWarning {
		queue = r.warnings
	}
	e := event{about, kind, reason, action, note, args}
	if queue.Len() < eventsWaiting && queue.Waiting(e) < eventsOfOne {
		queue.Push(e)
	}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run records the queued events until the context ends.
func (r *pacedRecorder) run(ctx context.Context) {
	pace := flowcontrol.NewTokenBucketRateLimiter(eventsPerSecond, eventsAtOnce)
	for {
		e, ok := r.next(ctx)
		if !ok || pace.Wait(ctx) != nil {
			return
		}
		r.to.Eventf(e.regarding, nil, e.kind, e.reason, e.action, e.note, e.args...)
	}
}

// next waits for an event. It returns false when the context has ended.
func (r *pacedRecorder) next(ctx context.Context) (event, bool) {
	for {
		if e, ok := r.take(); ok {
			return e, true
		}
		select {
		case <-ctx.Done():
			return event{}, false
		case <-r.wake:
		}
	}
}

func (r *pacedRecorder) take() (event, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, queue := range []*fair.Queue[event]{r.warnings, r.normal} {
		if queue.Len() > 0 {
			return queue.Pop(), true
		}
	}
	return event{}, false
}
