package dataplane

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berth-lb/berth/internal/async"
)

const (
	askSilentEvery = time.Second
	answerAtMost   = 300 * time.Millisecond
)

// nodeLiveness knows which nodes are dead, long before Kubernetes calls their endpoints unready:
// those that were heard on a segment, are heard on none now, and whose kernel does not answer
// either. Where only the speaker has stopped, the kernel answers.
type nodeLiveness struct {
	answers func(ctx context.Context, node string) bool // its kernel
	every   time.Duration                               // between questions to a silent node
	changed func()                                      // dead returns something else
	begun   async.Signal                                // there are silent nodes that are not asked yet

	mu     sync.Mutex
	heard  map[string]map[string]bool // guarded by mu; interfaces by the node that is heard there
	silent map[string]*silentNode     // guarded by mu
	lost   map[string]bool            // guarded by mu
}

// silentNode is a node that is heard on no interface any more.
type silentNode struct {
	asked bool         // by a goroutine
	look  async.Signal // has that goroutine look now
}

func newNodeLiveness(answers func(context.Context, string) bool, changed func()) *nodeLiveness {
	return &nodeLiveness{
		answers: answers, every: askSilentEvery, changed: changed, begun: async.NewSignal(),
		heard: map[string]map[string]bool{}, silent: map[string]*silentNode{}, lost: map[string]bool{},
	}
}

// dead returns the nodes that are dead.
func (l *nodeLiveness) dead() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.lost)
}

// listen notes that a node is heard on an interface, or no longer.
func (l *nodeLiveness) listen(node, on string, heard bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !heard:
		delete(l.heard[node], on)
	case l.heard[node] == nil:
		l.heard[node] = map[string]bool{on: true}
	default:
		l.heard[node][on] = true
	}
	switch s, silent := l.silent[node]; {
	case silent:
		s.look.Notify()
	case len(l.heard[node]) == 0:
		l.silent[node] = &silentNode{look: async.NewSignal()}
		l.begun.Notify()
	}
}

// run asks silent nodes, each in a goroutine of its own, until the context ends.
func (l *nodeLiveness) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for {
		for node, look := range l.unasked() {
			group.Go(func() error { l.ask(ctx, node, look); return nil }) // ends when the node is heard, or with ctx
		}
		select {
		case <-ctx.Done():
			return group.Wait()
		case <-l.begun:
		}
	}
}

// unasked returns the silent nodes that are not asked yet. The caller asks them.
func (l *nodeLiveness) unasked() map[string]async.Signal {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := map[string]async.Signal{}
	for node, s := range l.silent {
		if !s.asked {
			s.asked = true
			found[node] = s.look
		}
	}
	return found
}

// ask asks a silent node until it is heard again.
func (l *nodeLiveness) ask(ctx context.Context, node string, look async.Signal) {
	tick := time.NewTicker(l.every)
	defer tick.Stop()
	for {
		if l.done(node) {
			l.note(node, false)
			return
		}
		l.note(node, !l.answers(ctx, node) && ctx.Err() == nil)
		select {
		case <-ctx.Done():
			return
		case <-look:
		case <-tick.C:
		}
	}
}

// done forgets a node that is heard again.
func (l *nodeLiveness) done(node string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.heard[node]) == 0 {
		return false
	}
	delete(l.silent, node)
	return true
}

func (l *nodeLiveness) note(node string, dead bool) {
	l.mu.Lock()
	was := l.lost[node]
	if dead {
		l.lost[node] = true
	} else {
		delete(l.lost, node)
	}
	l.mu.Unlock()
	if was != dead {
		l.changed()
	}
}

// reachable reports whether the kernel at one of the addresses answers on one of the ports: whether
// it accepts a connection or refuses it.
func reachable(ctx context.Context, addresses []netip.Addr, ports []uint16) bool {
	ctx, cancel := context.WithTimeout(ctx, answerAtMost)
	var dials sync.WaitGroup
	defer dials.Wait()
	defer cancel()
	answers := make(chan bool, len(addresses)*len(ports))
	for _, address := range addresses {
		for _, port := range ports {
			dials.Go(func() {
				var dialer net.Dialer
				conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(address.String(), strconv.Itoa(int(port))))
				if err == nil {
					_ = conn.Close()
				}
				answers <- err == nil || errors.Is(err, syscall.ECONNREFUSED)
			})
		}
	}
	for range cap(answers) {
		if <-answers {
			return true
		}
	}
	return false
}
