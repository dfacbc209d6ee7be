package pace

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/time/rate"

	"github.com/berth-lb/berth/internal/async"
)

// Pacer gives keys their turns: at once while few ask, and then one after the other at a rate. Its
// methods may be called from any goroutine.
type Pacer struct {
	limiter *rate.Limiter
	waits   async.Signal

	mu      sync.Mutex        // guards what follows
	asked   uint64            // so far
	waiting map[string]uint64 // keys that wait, with the number of their asking
	order   []place           // in which they asked, with some that do not wait any longer
	granted map[string]bool   // keys that may go and have not gone yet
}

type place struct {
	key    string
	number uint64
}

// New returns a Pacer for so many turns a second, and so many at once before that.
func New(perSecond float64, atOnce int) *Pacer {
	return &Pacer{
		limiter: rate.NewLimiter(rate.Limit(perSecond), atOnce), waits: async.NewSignal(),
		waiting: map[string]uint64{}, granted: map[string]bool{},
	}
}

// Ask reports whether the key may go now, which uses up its turn. If not, Run releases it when its
// turn has come, and it has to ask again.
func (p *Pacer) Ask(key string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.granted[key]:
		delete(p.granted, key)
		return true
	case p.waiting[key] > 0:
		return false
	case len(p.waiting) == 0 && p.limiter.Allow():
		return true
	}
	p.asked++
	p.waiting[key] = p.asked
	p.order = append(p.order, place{key, p.asked})
	p.waits.Notify()
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
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.waits:
		}
		for p.anyWaits() {
			if err := p.limiter.Wait(ctx); err != nil {
				if ctx.Err() != nil {
					return nil //nolint:nilerr // it was told to end
				}
				return fmt.Errorf("pace: %w", err)
			}
			if key, ok := p.next(); ok {
				release(key)
			}
		}
	}
}

func (p *Pacer) anyWaits() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.waiting) > 0
}

// next grants the first key that waits its turn.
func (p *Pacer) next() (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.order) > 0 {
		first := p.order[0]
		p.order = p.order[1:]
		if p.waiting[first.key] == first.number {
			delete(p.waiting, first.key)
			p.granted[first.key] = true
			return first.key, true
		}
	}
	p.order = nil // for the garbage collector
	return "", false
}
