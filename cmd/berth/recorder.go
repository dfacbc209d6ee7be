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

// Events wait so that statuses need not: the API server takes about as long for
// either, and a large change brings two events for each status.
const (
	eventsPerSecond = 10
	eventsAtOnce    = 50
	eventsWaiting   = 20_000 // of a kind; more are dropped
	eventsOfOne     = 1_000  // of a kind and a namespace; more are dropped
)

// unhurried records events at a bounded rate: warnings first, and the namespaces in
// turn, so that one namespace's troubles do not hide another's. What is too much for its queues is lost, as events
// may be.
type unhurried struct {
	to     events.EventRecorder
	scheme *runtime.Scheme
	wake   chan struct{} // something waits

	mu               sync.Mutex // guards what follows
	warnings, normal *fair.Queue[event]
}

// event is one that waits. It keeps a reference, not the object.
type event struct {
	regarding                  *corev1.ObjectReference
	kind, reason, action, note string
	args                       []any
}

func newUnhurried(to events.EventRecorder, scheme *runtime.Scheme) *unhurried {
	namespace := func(e event) string { return e.regarding.Namespace }
	return &unhurried{to: to, scheme: scheme, wake: make(chan struct{}, 1), warnings: fair.New(namespace), normal: fair.New(namespace)}
}

// Eventf never blocks.
func (u *unhurried) Eventf(regarding, _ runtime.Object, kind, reason, action, note string, args ...any) {
	about, err := reference.GetReference(u.scheme, regarding)
	if err != nil {
		return // an object of no kind: there is nothing to record it on
	}
	u.mu.Lock()
	queue := u.normal
	if kind == corev1.EventTypeWarning {
		queue = u.warnings
	}
	e := event{about, kind, reason, action, note, args}
	if queue.Len() < eventsWaiting && queue.Waiting(e) < eventsOfOne {
		queue.Push(e)
	}
	u.mu.Unlock()
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// run hands the events on until the context ends.
func (u *unhurried) run(ctx context.Context) {
	pace := flowcontrol.NewTokenBucketRateLimiter(eventsPerSecond, eventsAtOnce)
	for {
		e, ok := u.next(ctx)
		if !ok || pace.Wait(ctx) != nil {
			return
		}
		u.to.Eventf(e.regarding, nil, e.kind, e.reason, e.action, e.note, e.args...)
	}
}

// next waits for an event. It returns false when the context has ended.
func (u *unhurried) next(ctx context.Context) (event, bool) {
	for {
		if e, ok := u.take(); ok {
			return e, true
		}
		select {
		case <-ctx.Done():
			return event{}, false
		case <-u.wake:
		}
	}
}

func (u *unhurried) take() (event, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, queue := range []*fair.Queue[event]{u.warnings, u.normal} {
		if queue.Len() > 0 {
			return queue.Pop(), true
		}
	}
	return event{}, false
}
