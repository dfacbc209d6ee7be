// Package liveness notices loops that are stuck. A loop says when a pass of it begins and when it
// ends. A pass that lasts much longer than any wait in it has a bound for is stuck, and a restart
// of the process is all that helps. An idle loop says nothing and costs nothing.
//
// The context of a process carries its Loops, so that packages need not be told of them. Without,
// nothing is noted.
package liveness

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berth-lb/berth/internal/async"
)

// Limit is how long a pass may last: much longer than what a pass waits for has a bound for.
const Limit = time.Minute

// Loops are the loops of a process. Make them with New. All methods may be called from any
// goroutine.
type Loops struct {
	began time.Time // what passes are measured from

	mu  sync.Mutex
	all map[string]*Loop // guarded by mu; by name
}

// New returns Loops without any.
func New() *Loops { return &Loops{began: time.Now(), all: map[string]*Loop{}} }

// Stuck is a loop whose pass does not end.
type Stuck struct {
	Loop  string
	Since time.Time
}

// Stuck returns the loops that are stuck, the longest first.
func (l *Loops) Stuck() []Stuck {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	var stuck []Stuck
	for _, loop := range l.all {
		begun := loop.begun.Load()
		if begun == idle {
			continue
		}
		if since := l.began.Add(time.Duration(begun)); now.Sub(since) > loop.limit {
			stuck = append(stuck, Stuck{loop.name, since})
		}
	}
	slices.SortFunc(
		stuck,
		func(a, b Stuck) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Loop, b.Loop)) },
	)
	return stuck
}

// watchEvery is how often Watch looks.
const watchEvery = 10 * time.Second

// Watch ends the process, without what it otherwise does at its end, when one of its loops is
// stuck. It is for a process without a port where it could be asked. It returns when ctx ends.
func (l *Loops) Watch(ctx context.Context, logger *slog.Logger) {
	for async.Sleep(ctx, watchEvery) == nil {
		if stuck := l.Stuck(); len(stuck) > 0 {
			logger.Error("a loop is stuck; this process ends, and is started again", "loop", stuck[0].Loop, "since", stuck[0].Since)
			os.Exit(1)
		}
	}
}

type loopsKey struct{}

// Context returns a context with these Loops.
func (l *Loops) Context(ctx context.Context) context.Context {
	return context.WithValue(ctx, loopsKey{}, l)
}

// idle is begun of a Loop that has no pass.
const idle = -1

// Loop is a loop. The methods of a nil Loop do nothing. One goroutine at a time may have it.
type Loop struct {
	name  string
	limit time.Duration
	loops *Loops
	begun atomic.Int64 // when its pass began or went on, in nanoseconds since that of loops; or idle
}

// Of returns the loop of that name in the Loops of the context; nil if it has none. Its passes may
// last for limit.
func Of(ctx context.Context, name string, limit time.Duration) *Loop {
	loops, ok := ctx.Value(loopsKey{}).(*Loops)
	if !ok {
		return nil
	}
	loop := &Loop{name: name, limit: limit, loops: loops}
	loop.begun.Store(idle)
	loops.mu.Lock()
	defer loops.mu.Unlock()
	loops.all[name] = loop
	return loop
}

// Begin notes that a pass begins.
func (l *Loop) Begin() {
	if l != nil {
		l.begun.Store(int64(time.Since(l.loops.began)))
	}
}

// End notes that the pass has ended, if there is one.
func (l *Loop) End() {
	if l != nil {
		l.begun.Store(idle)
	}
}

type loopKey struct{}

// Context returns a context for what a pass does, so that Progress can be noted.
func (l *Loop) Context(ctx context.Context) context.Context {
	return context.WithValue(ctx, loopKey{}, l)
}

// Progress notes that the pass of the context's loop goes on: it is measured from now. Without a
// loop it does nothing.
func Progress(ctx context.Context) {
	l, _ := ctx.Value(loopKey{}).(*Loop)
	if l == nil {
		return
	}
	if before := l.begun.Load(); before != idle {
		l.begun.CompareAndSwap(before, int64(time.Since(l.loops.began)))
	}
}
