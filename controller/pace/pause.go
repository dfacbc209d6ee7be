package pace

import (
	"sync"
	"time"
)

// Pauses between writes of what every node gets. The longest ones are of large clusters.
const (
	shortestPause = 500 * time.Millisecond
	longestPause  = 5 * time.Second
	pausePerNode  = 10 * time.Millisecond
)

// Pause is how long a change waits until it is written, together with those that come until then.
// It doubles while changes go on. The zero value is that of nothing written yet. Its methods may be
// called from any goroutine.
type Pause struct {
	mu    sync.Mutex
	pause time.Duration // after the last write
	last  time.Time
}

// Wait returns how long a change waits that comes now.
func (p *Pause) Wait(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(shortestPause, p.pause-now.Sub(p.last))
}

// Wrote notes that changes are written now, in a cluster of so many nodes.
func (p *Pause) Wrote(now time.Time, nodes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Sub(p.last) > 2*max(p.pause, shortestPause) { // it was quiet for as long as the pause
		p.pause = 0
	}
	longest := min(max(time.Duration(nodes)*pausePerNode, shortestPause), longestPause)
	p.pause, p.last = min(max(2*p.pause, shortestPause), longest), now
}
