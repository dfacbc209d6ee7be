package speaker

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
)

// vitals tells which nodes are dead, long before Kubernetes calls their endpoints unready: those that were heard on a
// segment, are heard on none now, and whose kernel does not answer either. Where a speaker has stopped, the kernel answers.
type vitals struct {
	answers func(ctx context.Context, node string) (answers bool) // its kernel
	every   time.Duration                                         // between questions to a node that is silent
	changed func()

	mu     sync.Mutex
	heard  map[string]map[string]bool // guarded by mu; interfaces by the node that is heard there
	silent map[string]chan struct{}   // guarded by mu; nodes that are asked, and what has them looked at now
	lost   map[string]bool            // guarded by mu
}

const (
	askSilentEvery = time.Second
	answerAtMost   = 300 * time.Millisecond
)

func newVitals(answers func(context.Context, string) bool, changed func()) *vitals {
	return &vitals{
		answers: answers, every: askSilentEvery, changed: changed,
		heard: map[string]map[string]bool{}, silent: map[string]chan struct{}{}, lost: map[string]bool{},
	}
}

// dead returns the nodes that are.
func (v *vitals) dead() map[string]bool {
	if v == nil {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return maps.Clone(v.lost)
}

// listen takes in that a node is heard on an interface, or is not any more.
func (v *vitals) listen(ctx context.Context, node, on string, heard bool) {
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case !heard:
		delete(v.heard[node], on)
	case v.heard[node] == nil:
		v.heard[node] = map[string]bool{on: true}
	default:
		v.heard[node][on] = true
	}
	look, asked := v.silent[node]
	switch {
	case asked:
		select {
		case look <- struct{}{}:
		default:
		}
	case len(v.heard[node]) == 0:
		look = make(chan struct{}, 1)
		v.silent[node] = look
		go v.ask(ctx, node, look) // ends when the node is heard, or with ctx
	}
}

// ask asks a silent node until it is heard again.
func (v *vitals) ask(ctx context.Context, node string, look <-chan struct{}) {
	tick := time.NewTicker(v.every)
	defer tick.Stop()
	for {
		if v.done(node) {
			v.note(node, false)
			return
		}
		v.note(node, !v.answers(ctx, node) && ctx.Err() == nil)
		select {
		case <-ctx.Done():
			return
		case <-look:
		case <-tick.C:
		}
	}
}

// done forgets a node that is heard again.
func (v *vitals) done(node string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.heard[node]) == 0 {
		return false
	}
	delete(v.silent, node)
	return true
}

func (v *vitals) note(node string, dead bool) {
	v.mu.Lock()
	was := v.lost[node]
	if dead {
		v.lost[node] = true
	} else {
		delete(v.lost, node)
	}
	v.mu.Unlock()
	if was != dead {
		v.changed()
	}
}

// reachable tells whether the kernel at one of the addresses answers: whether it takes a connection or refuses it.
func reachable(ctx context.Context, addresses []netip.Addr) bool {
	ctx, cancel := context.WithTimeout(ctx, answerAtMost)
	defer cancel()
	ports := []uint16{10250, 7470} // of the kubelet, and of the speaker: one is enough, and so is a refusal
	answers := make(chan bool, len(addresses)*len(ports))
	for _, address := range addresses {
		for _, port := range ports {
			go func() { // ends with ctx
				var dialer net.Dialer
				conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(address.String(), strconv.Itoa(int(port))))
				if err == nil {
					_ = conn.Close()
				}
				answers <- err == nil || errors.Is(err, syscall.ECONNREFUSED)
			}()
		}
	}
	for range cap(answers) {
		if <-answers {
			return true
		}
	}
	return false
}
