package dataplane

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// rackOf is what a nodeLiveness sees of nodes.
type rackOf struct {
	mu      sync.Mutex
	answers map[string]bool
}

func (r *rackOf) set(node string, answers bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers[node] = answers
}

func TestNodeLiveness(t *testing.T) {
	rack := &rackOf{answers: map[string]bool{}}
	changes := make(chan struct{}, 10)
	v := newNodeLiveness(func(_ context.Context, node string) bool {
		rack.mu.Lock()
		defer rack.mu.Unlock()
		return rack.answers[node]
	}, func() { changes <- struct{}{} })
	v.every = time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- v.run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	becomes := func(node string, dead bool) {
		t.Helper()
		for v.dead()[node] != dead {
			select {
			case <-changes:
			case <-time.After(10 * time.Second):
				t.Fatalf("%s is dead: %v, want %v", node, !dead, dead)
			}
		}
	}

	for _, node := range []string{"stopped", "n2"} {
		v.listen(node, "eth0", true)
		v.listen(node, "eth1", true)
		v.listen(node, "eth0", false)
	}
	if len(v.dead()) > 0 {
		t.Errorf("%v are dead, which are heard on another segment", v.dead())
	}
	rack.set("stopped", true) // its speaker has
	v.listen("stopped", "eth1", false)
	v.listen("n2", "eth1", false)
	becomes("n2", true)
	if v.dead()["stopped"] {
		t.Error("a node whose kernel answers is called dead")
	}
	rack.set("n2", true) // it boots
	becomes("n2", false)
	rack.set("n2", false)
	becomes("n2", true)
	v.listen("n2", "eth0", true) // heard is enough
	becomes("n2", false)
	rack.set("stopped", false)
	becomes("stopped", true) // later, without another word from the segment
	v.listen("n2", "eth0", false)
	becomes("n2", true)
}

func TestReachable(t *testing.T) {
	ports := []uint16{10250, 7470}
	loopback := netip.MustParseAddr("127.0.0.1")
	// Nothing on this machine listens on these ports of that address, or something does: both are
	// answers.
	if !reachable(t.Context(), []netip.Addr{loopback}, ports) {
		t.Error("this machine does not answer")
	}
	if reachable(t.Context(), nil, ports) {
		t.Error("no address answers")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if reachable(ctx, []netip.Addr{loopback}, ports) {
		t.Error("an answer without time for one")
	}
}
