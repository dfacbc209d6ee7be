package main

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/flowcontrol"
)

// Events wait so that statuses need not: the API server takes about as long for
// either, and a large change brings two events for each status.
const (
	eventsPerSecond = 10
	eventsAtOnce    = 50
	eventsWaiting   = 20_000 // of a kind; more are dropped
)

// unhurried records events at a bounded rate, warnings first. What is too much for
// its queues is lost, as events may be.
type unhurried struct {
	to               events.EventRecorder
	warnings, normal chan func()
}

func newUnhurried(to events.EventRecorder) *unhurried {
	return &unhurried{to, make(chan func(), eventsWaiting), make(chan func(), eventsWaiting)}
}

// Eventf never blocks.
func (u *unhurried) Eventf(regarding, related runtime.Object, kind, reason, action, note string, args ...any) {
	queue := u.normal
	if kind == corev1.EventTypeWarning {
		queue = u.warnings
	}
	select {
	case queue <- func() { u.to.Eventf(regarding, related, kind, reason, action, note, args...) }:
	default:
	}
}

// run hands the events on until the context ends.
func (u *unhurried) run(ctx context.Context) {
	pace := flowcontrol.NewTokenBucketRateLimiter(eventsPerSecond, eventsAtOnce)
	for {
		record := u.next(ctx)
		if record == nil || pace.Wait(ctx) != nil {
			return
		}
		record()
	}
}

// next waits for an event. It returns nil when the context has ended.
func (u *unhurried) next(ctx context.Context) func() {
	select {
	case record := <-u.warnings:
		return record
	default:
	}
	select {
	case <-ctx.Done():
		return nil
	case record := <-u.warnings:
		return record
	case record := <-u.normal:
		return record
	}
}
