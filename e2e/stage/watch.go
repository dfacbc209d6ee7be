//go:build linux

package stage

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Request is one request of a Watch.
type Request struct {
	Sent, Done time.Time
	Answer     Answer
	Err        error
}

// Broken reports whether the connection was established, and reset before the answer came, as
// happens to those that are open while an address moves.
func (r Request) Broken() bool { return broken(r.Err) }

// Record is what a Watch saw, in the order in which the requests ended.
type Record []Request

// Watch asks http://address/ from a host at a steady pace, each time on a new connection, whether
// earlier requests were answered or not: a request that hangs hides nothing of those after it.
type Watch struct {
	stop func()
	done chan struct{}

	mu     sync.Mutex
	record Record
}

// StartWatch starts a Watch, which lasts until Stop or the end of ctx. A request fails when it is
// not answered within the timeout. With fresh, the host's neighbor caches are flushed before each,
// as if it came from a new client; without, they are left as they are.
func (s *Stage) StartWatch(
	ctx context.Context,
	host string,
	address netip.Addr,
	every, timeout time.Duration,
	fresh bool,
) *Watch {
	ctx, cancel := context.WithCancel(ctx)
	w := &Watch{stop: cancel, done: make(chan struct{})}
	go func() { // ends with ctx
		defer close(w.done)
		s.pace(ctx, w, host, address, every, timeout, fresh)
	}()
	return w
}

func (s *Stage) pace(
	ctx context.Context,
	w *Watch,
	host string,
	address netip.Addr,
	every, timeout time.Duration,
	fresh bool,
) {
	client := s.HTTPClient(host)
	before := func() error { return nil }
	if fresh {
		before = func() error { return s.FlushNeighbors(host) }
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var asking sync.WaitGroup
	defer asking.Wait()
	for {
		flushed := before()
		asking.Go(func() {
			one, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			r := Request{Sent: time.Now(), Err: flushed}
			if r.Err == nil {
				r.Answer, r.Err = ask(one, client, address)
			}
			r.Done = time.Now()
			if r.Err == nil || ctx.Err() == nil { // ended by Stop is not failed
				w.mu.Lock()
				w.record = append(w.record, r)
				w.mu.Unlock()
			}
		})
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Stop ends the watch and returns all it saw. It may be called again.
func (w *Watch) Stop() Record {
	w.stop()
	<-w.done
	return w.Record()
}

// Record returns what was seen until now.
func (w *Watch) Record() Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	record := slices.Clone(w.record)
	slices.SortStableFunc(record, func(a, b Request) int { return cmp.Compare(a.Done.UnixNano(), b.Done.UnixNano()) })
	return record
}

// SentAfter returns the requests that were sent after a moment.
func (r Record) SentAfter(t time.Time) Record {
	return r.where(func(q Request) bool { return q.Sent.After(t) })
}

// Good returns the requests that were answered.
func (r Record) Good() Record { return r.where(func(q Request) bool { return q.Err == nil }) }

// Failed returns the requests that were not answered.
func (r Record) Failed() Record { return r.where(func(q Request) bool { return q.Err != nil }) }

func (r Record) where(keep func(Request) bool) Record {
	var kept Record
	for _, q := range r {
		if keep(q) {
			kept = append(kept, q)
		}
	}
	return kept
}

// Gap returns the longest time between two answers, 0 if there are fewer than two.
func (r Record) Gap() time.Duration {
	good := r.Good()
	var longest time.Duration
	for i := 1; i < len(good); i++ {
		longest = max(longest, good[i].Done.Sub(good[i-1].Done))
	}
	return longest
}

// LastSent returns when the last of the requests was sent, the zero time if there is none.
func (r Record) LastSent() time.Time {
	var last time.Time
	for _, q := range r {
		if q.Sent.After(last) {
			last = q.Sent
		}
	}
	return last
}
