package heart

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"sync"

	"github.com/berth-lb/berth/bgp/bfd"
	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/internal/lines"
)

// Paths are the heart's BFD sessions for who speaks BGP; it has Sync, Events and Run of a
// bfd.Engine. What is wanted is said on a connection of its own, so that it stays wanted when the
// speaker ends.
type Paths struct {
	dial   func(context.Context) (net.Conn, error)
	log    *slog.Logger
	wake   async.Signal
	news   async.Signal
	events chan bfd.Event

	mu       sync.Mutex
	want     *[]bfd.Peer     // guarded by mu; nil: nothing was said yet
	unsaid   bool            // guarded by mu; want is to be said
	greeting bool            // guarded by mu; it is not said who this is
	up       map[string]bool // guarded by mu; by peer
	queued   []bfd.Event     // guarded by mu
}

// NewPaths returns Paths of the heart to which dial connects.
func NewPaths(dial func(context.Context) (net.Conn, error), log *slog.Logger) *Paths {
	return &Paths{
		dial: dial, log: log, wake: async.NewSignal(), news: async.NewSignal(), events: make(chan bfd.Event),
		up: map[string]bool{},
	}
}

// Sync is that of bfd.Engine.
func (p *Paths) Sync(peers []bfd.Peer) {
	peers = append([]bfd.Peer{}, peers...)
	p.mu.Lock()
	p.want, p.unsaid = &peers, true
	p.mu.Unlock()
	p.wake.Notify()
}

// Events is that of bfd.Engine.
func (p *Paths) Events() <-chan bfd.Event { return p.events }

// Run keeps the connection, and passes events on, until ctx ends.
func (p *Paths) Run(ctx context.Context) error {
	var passing sync.WaitGroup
	defer passing.Wait()
	ctx, end := context.WithCancel(ctx)
	defer end()
	passing.Go(func() { p.pass(ctx) })
	talk := lines.Talk[order, news]{
		Wake: p.wake, Next: p.next, Hear: func(n news) error { p.hear(n.Whole, n.Paths); return nil },
	}
	told := ""
	for ctx.Err() == nil {
		conn, err := p.dial(ctx)
		if err == nil {
			p.connect()
			err = talk.Over(ctx, conn)
			p.lost()
		}
		if text := errorText(err); text != told && ctx.Err() == nil {
			told = text
			p.log.Warn("the heart is away; BFD goes on as it was, and nobody hears of it", "error", err)
		}
		_ = async.Sleep(ctx, dialAgain)
	}
	return nil
}

// connect has what is wanted said on a new connection.
func (p *Paths) connect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.greeting, p.unsaid = true, p.want != nil
}

func (p *Paths) next() (order, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.unsaid && !p.greeting {
		return order{}, false
	}
	o := order{Watches: p.greeting, Paths: p.want}
	p.greeting, p.unsaid = false, false
	return o, true
}

// pass passes events on, until ctx ends.
func (p *Paths) pass(ctx context.Context) {
	for {
		p.mu.Lock()
		queued := p.queued
		p.queued = nil
		p.mu.Unlock()
		for _, e := range queued {
			select {
			case p.events <- e:
			case <-ctx.Done():
				return
			}
		}
		if len(queued) > 0 {
			continue
		}
		select {
		case <-p.news:
		case <-ctx.Done():
			return
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

// watchers are the connections that want to hear of paths.
type watchers struct {
	mu  sync.Mutex
	all map[*watcher]bool // guarded by mu
}

// watcher is the heart's end of such a connection.
type watcher struct {
	wake   async.Signal
	mu     sync.Mutex
	untold news // guarded by mu
}

// watchFor serves who wants paths watched. All that it wants is in the last word that it said.
func (h *Heart) watchFor(ctx context.Context, conn net.Conn, first order) {
	w := &watcher{wake: async.NewSignal()}
	h.watchers.mu.Lock()
	w.untold = news{Whole: true, Paths: h.pathsUp()}
	h.watchers.all[w] = true
	h.watchers.mu.Unlock()
	w.wake.Notify()
	h.watchPaths(first.Paths)
	err := lines.Talk[news, order]{
		Wake: w.wake, Next: w.next, Hear: func(o order) error { h.watchPaths(o.Paths); return nil },
	}.Over(ctx, conn)
	h.watchers.mu.Lock()
	delete(h.watchers.all, w)
	h.watchers.mu.Unlock()
	h.Logger.Debug("nobody hears of paths", "error", err)
}

func (h *Heart) watchPaths(peers *[]bfd.Peer) {
	if peers == nil {
		return
	}
	h.mu.Lock()
	h.orders.Paths = *peers
	h.mu.Unlock()
	h.engine.Sync(*peers)
	h.keep.Notify()
}

// saw takes an event of BFD.
func (w *watchers) saw(e bfd.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for d := range w.all {
		d.mu.Lock()
		d.untold.Paths = append(d.untold.Paths, e)
		if over := len(d.untold.Paths) - mostUnread; over > 0 {
			d.untold.Paths = slices.Delete(d.untold.Paths, 0, over)
		}
		d.mu.Unlock()
		d.wake.Notify()
	}
}

func (w *watcher) next() (news, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.untold
	w.untold = news{}
	return n, !n.empty()
}
