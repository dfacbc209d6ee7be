package pace

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/berth-lb/berth/internal/async"
)

// Pacer gives keys their turns: at once while few ask, and then one after the other at a rate. Keys
// that are not urgent wait for a while before that, so that they may come to need no turn. Its
// methods may be called from any goroutine.
type Pacer struct {
	limiter *rate.Limiter
	hold    time.Duration
	waits   async.Signal

	mu      sync.Mutex        // guards what follows
	asked   uint64            // so far
	waiting map[string]uint64 // keys that wait, with the number of their asking
	urgent  []place           // in the order in which they asked, with some that do not wait any longer
	held    []place           // as well
	granted map[string]bool   // keys that may go and have not gone yet
}

type place struct {
	key    string
	number uint64
	due    time.Time // of those that are held
}

// New returns a Pacer for so many turns a second, and so many at once before that. Keys that are
// not urgent are held for a while, if they cannot go at once.
func New(perSecond float64, atOnce int, hold time.Duration) *Pacer {
	return &Pacer{
		limiter: rate.NewLimiter(rate.Limit(perSecond), atOnce), hold: hold, waits: async.NewSignal(),
		waiting: map[string]uint64{}, granted: map[string]bool{},
	}
}

// Ask reports whether the key may go now, which uses up its turn. If not, Run releases it when its
// turn has come, and it has to ask again.
func (p *Pacer) Ask(key string, urgent bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	ahead := p.waiting[key] > 0 || first(&p.urgent, p.waiting) || !urgent && first(&p.held, p.waiting)
	switch {
	case p.granted[key]:
		delete(p.granted, key)
		return true
	case !ahead && p.limiter.Allow():
		return true
	case p.waiting[key] > 0 && !(urgent && p.isHeld(key)):
		return false
	}
	p.asked++
	p.waiting[key] = p.asked
	if urgent {
		p.urgent = append(p.urgent, place{key: key, number: p.asked})
	} else {
		p.held = append(p.held, place{key, p.asked, time.Now().Add(p.hold)})
	}
	p.waits.Notify()
	return false
}

// isHeld reports whether a key that waits is not urgent. The numbers of places ascend.
func (p *Pacer) isHeld(key string) bool {
	_, found := slices.BinarySearchFunc(
		p.held, p.waiting[key], func(at place, number uint64) int { return cmp.Compare(at.number, number) },
	)
	return found
}

// first reports whether a key of the list waits, which is then the first one.
func first(list *[]place, waiting map[string]uint64) bool {
	for len(*list) > 0 {
		if at := (*list)[0]; waiting[at.key] == at.number {
			return true
		}
		*list = (*list)[1:]
	}
	*list = nil // for the garbage collector
	return false
}

// Forget takes back what the key asked for: it needs no turn any longer.
func (p *Pacer) Forget(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting, key)
	delete(p.granted, key)
}

// Run releases the keys that wait, until the context ends.
func (p *Pacer) Run(ctx context.Context, release func(key string)) error {
	due := time.NewTimer(0)
	defer due.Stop()
	for {
		wait, some := p.until(time.Now())
		if some && wait <= 0 {
			if err := p.limiter.Wait(ctx); err != nil {
				if ctx.Err() != nil {
					return nil //nolint:nilerr // it was told to end
				}
				return fmt.Errorf("pace: %w", err)
			}
			if key, ok := p.next(time.Now()); ok {
				release(key)
			}
			continue
		}
		if due.Stop(); some {
			due.Reset(wait)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.waits:
		case <-due.C:
		}
	}
}

// until returns how long it takes until a key may be released, if any waits.
func (p *Pacer) until(now time.Time) (time.Duration, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case first(&p.urgent, p.waiting):
		return 0, true
	case first(&p.held, p.waiting):
		return p.held[0].due.Sub(now), true
	}
	return 0, false
}

// next grants the first key that waits its turn.
func (p *Pacer) next(now time.Time) (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	from := &p.urgent
	if !first(from, p.waiting) {
		if from = &p.held; !first(from, p.waiting) || (*from)[0].due.After(now) {
			return "", false
		}
	}
	key := (*from)[0].key
	*from = (*from)[1:]
	delete(p.waiting, key)
	p.granted[key] = true
	return key, true
}
