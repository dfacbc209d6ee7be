package heart

import (
	"context"
	"slices"
	"sync"

	"github.com/berth-lb/berth/bgp/bfd"
	"github.com/berth-lb/berth/internal/async"
)

// Paths are the heart's BFD sessions; it has the methods of a bfd.Engine.
type Paths struct {
	remote *Remote
	events chan bfd.Event
	news   async.Signal

	mu     sync.Mutex
	up     map[string]bool // guarded by mu; by peer
	queued []bfd.Event     // guarded by mu
}

// Paths returns BFD.
func (r *Remote) Paths() *Paths { return r.paths }

// Sync is that of bfd.Engine.
func (p *Paths) Sync(peers []bfd.Peer) {
	peers = slices.Clone(peers)
	p.remote.change(func() { p.remote.want.Paths, p.remote.unsaid.paths = peers, true })
}

// Events is that of bfd.Engine.
func (p *Paths) Events() <-chan bfd.Event { return p.events }

// Status is that of bfd.Engine, as of the last Remote.Status: one answer of the heart has both.
// Empty while the heart is away, which layer 2 says.
func (p *Paths) Status() []bfd.Status {
	p.remote.mu.Lock()
	defer p.remote.mu.Unlock()
	if !p.remote.connected {
		return nil
	}
	return p.remote.last.BFD
}

// Run passes events on until ctx ends. The connection is Remote's.
func (p *Paths) Run(ctx context.Context) error {
	for {
		p.mu.Lock()
		queued := p.queued
		p.queued = nil
		p.mu.Unlock()
		for _, e := range queued {
			select {
			case p.events <- e:
			case <-ctx.Done():
				return nil
			}
		}
		if len(queued) > 0 {
			continue
		}
		select {
		case <-p.news:
		case <-ctx.Done():
			return nil
		}
	}
}

// hear takes events; whole: those are all paths that are up.
func (p *Paths) hear(whole bool, events []bfd.Event) {
	if whole {
		p.lost()
	}
	p.mu.Lock()
	for _, e := range events {
		p.up[e.Peer] = e.State == bfd.Up
		p.queued = append(p.queued, e)
	}
	p.mu.Unlock()
	p.news.Notify()
}

// lost says that no path is watched: routers are not dead because the heart is.
func (p *Paths) lost() {
	p.mu.Lock()
	for peer, up := range p.up {
		if up {
			p.queued = append(p.queued, bfd.Event{Peer: peer, State: bfd.Down, Remote: bfd.AdminDown})
		}
	}
	clear(p.up)
	p.mu.Unlock()
	p.news.Notify()
}
