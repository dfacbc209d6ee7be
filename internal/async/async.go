// Package async holds the few ways in which Berth's goroutines talk to each other: a Stream of
// what happened, a Signal that something is to be looked at, and a Sleep that ends with a context.
//
// None of them ever blocks who sends.
package async

import (
	"context"
	"sync"
	"time"
)

// Stream is a bounded stream that never blocks its writers: when its reader is too slow, the
// oldest values are lost. Make one with NewStream. Its methods may be called from any goroutine.
type Stream[T any] struct {
	c       chan T
	mu      sync.Mutex // serializes writers, so that dropping the oldest makes room for exactly one
	dropped uint64     // guarded by mu
}

// NewStream returns a stream that keeps up to size values, at least 1, for its reader.
func NewStream[T any](size int) *Stream[T] {
	return &Stream[T]{c: make(chan T, max(size, 1))}
}

// Send adds a value.
func (s *Stream[T]) Send(value T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		select {
		case s.c <- value:
			return
		default:
		}
		select {
		case <-s.c:
			s.dropped++
		default: // the reader was faster
		}
	}
}

// C returns the channel to read from. It is never closed.
func (s *Stream[T]) C() <-chan T { return s.c }

// Dropped returns how many values were lost so far.
func (s *Stream[T]) Dropped() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

// Signal tells one goroutine that there is something to do. However often it is notified before it
// looks, it looks once. Make one with NewSignal.
type Signal chan struct{}

// NewSignal returns a signal that was not notified yet.
func NewSignal() Signal { return make(Signal, 1) }

// Notify wakes the goroutine that receives from s, now or when it next does.
func (s Signal) Notify() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// Sleep waits for d and returns nil, or the context's error if that ends first.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
