package main

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/internal/async"
)

// Limits of a backlog. What does not fit pushes out the oldest event of the namespace that has the
// most.
const (
	eventsWaiting = 20_000
	eventsOfOne   = 1_000 // of a namespace
)

// statement is what an event says.
type statement struct {
	regarding                  corev1.ObjectReference
	namespace                  string // of the event
	kind, reason, action, note string
}

// event is an event that waits to be written.
type event struct {
	statement
	first, last time.Time
	count       int32
}

// backlog holds the events of one type that wait to be written. Namespaces take turns. Only one
// event of a namespace is written at a time: so they are written in order, and a namespace whose
// events cannot be written does not hold up the others.
type backlog struct {
	wake async.Signal       // an event can be taken
	lost prometheus.Counter // of events that are pushed out

	mu      sync.Mutex // guards what follows
	waiting map[string][]*event
	turns   []string // namespaces with waiting events, of which none is being written, the next first
	writing map[string]bool
	length  int
}

func newBacklog(lost prometheus.Counter) *backlog {
	return &backlog{wake: async.NewSignal(), lost: lost, waiting: map[string][]*event{}, writing: map[string]bool{}}
}

// push adds an event. One that says the same as a waiting one is counted with that.
func (b *backlog) push(e *event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, other := range b.waiting[e.namespace] {
		if other.statement == e.statement {
			other.last, other.count = e.last, other.count+e.count
			return
		}
	}
	if len(b.waiting[e.namespace]) == 0 && !b.writing[e.namespace] {
		b.turns = append(b.turns, e.namespace)
	}
	b.waiting[e.namespace] = append(b.waiting[e.namespace], e)
	b.length++
	switch {
	case len(b.waiting[e.namespace]) > eventsOfOne:
		b.lost.Add(float64(b.first(e.namespace).count))
	case b.length > eventsWaiting:
		b.lost.Add(float64(b.first(b.busiest()).count))
		b.turns = slices.DeleteFunc(b.turns, func(namespace string) bool { return len(b.waiting[namespace]) == 0 })
	}
	b.wake.Notify()
}

// busiest returns the namespace with the most waiting events.
func (b *backlog) busiest() string {
	most := ""
	for namespace, events := range b.waiting {
		if len(events) > len(b.waiting[most]) {
			most = namespace
		}
	}
	return most
}

// first removes the first waiting event of the namespace.
func (b *backlog) first(namespace string) *event {
	e := b.waiting[namespace][0]
	b.waiting[namespace] = slices.Delete(b.waiting[namespace], 0, 1)
	if len(b.waiting[namespace]) == 0 {
		delete(b.waiting, namespace)
	}
	b.length--
	return e
}

// next waits for an event to write. It returns nil when the context has ended.
func (b *backlog) next(ctx context.Context) *event {
	for {
		if e := b.pop(); e != nil {
			return e
		}
		select {
		case <-ctx.Done():
			return nil
		case <-b.wake:
		}
	}
}

// pop takes an event to write, nil if there is none. Its namespace gets no turn until done.
func (b *backlog) pop() *event {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.turns) == 0 {
		return nil
	}
	namespace := b.turns[0]
	b.turns = b.turns[1:]
	b.writing[namespace] = true
	return b.first(namespace)
}

// done gives the namespace its turns again: its event was written.
func (b *backlog) done(namespace string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.writing, namespace)
	if len(b.waiting[namespace]) > 0 {
		b.turns = append(b.turns, namespace)
		b.wake.Notify()
	}
}
