package fence

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// kernels answer questions; those of some nodes do not.
type kernels struct {
	mu    sync.Mutex
	mute  map[netip.Addr]bool
	asked map[netip.Addr]int
}

func (k *kernels) answers(ctx context.Context, addresses []netip.Addr) bool {
	k.mu.Lock()
	k.asked[addresses[0]]++
	mute := k.mute[addresses[0]]
	k.mu.Unlock()
	if mute {
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
	return !mute
}

func (k *kernels) count(a netip.Addr) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.asked[a]
}

func (k *kernels) silence(a netip.Addr, mute bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mute[a] = mute
}

func addressOf(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}) }

func TestProber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := map[string][]netip.Addr{"none": nil}
		for i := range 40 {
			nodes[fmt.Sprintf("n%d", i)] = []netip.Addr{addressOf(i)}
		}
		k := &kernels{mute: map[netip.Addr]bool{addressOf(7): true}, asked: map[netip.Addr]int{}}
		p := newProber(func() map[string][]netip.Addr { return nodes })
		p.answers = k.answers
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		begun := time.Now()
		go func() { done <- p.run(ctx) }()

		<-time.After(14 * time.Second)
		if probe := p.probe("n1"); !probe.SilentSince.IsZero() || !probe.Answered.Equal(begun) {
			t.Errorf("a node that answers: %+v", probe)
		}
		if probe := p.probe("n7"); !probe.Answered.IsZero() || probe.SilentSince.Sub(begun) != 350*time.Millisecond {
			t.Errorf("a node that never answered: %+v, want silent since two questions, 150 ms apart", probe)
		}
		if probe := p.probe("none"); probe.Asked.IsZero() || !probe.Answered.IsZero() {
			t.Errorf("a node without addresses: %+v", probe)
		}
		<-time.After(time.Minute)
		if n := k.count(addressOf(1)); n < 3 || n > 6 {
			t.Errorf("a node was asked %d times in 74 s, want once in 15 s or so", n)
		}

		k.silence(addressOf(1), true)
		asked := time.Now()
		p.want([]string{"n1", "n2"})
		<-p.decided
		if took := time.Since(asked); took != 350*time.Millisecond {
			t.Errorf("an urgent question took %v", took)
		}
		if probe := p.probe("n1"); !probe.SilentSince.After(probe.Answered) || probe.Answered.IsZero() {
			t.Errorf("a node that fell silent: %+v", probe)
		}
		if probe := p.probe("n2"); !probe.Answered.Equal(asked) {
			t.Errorf("a node that answers: %+v", probe)
		}
		k.silence(addressOf(1), false)
		p.want([]string{"n1"})
		<-p.decided
		if probe := p.probe("n1"); !probe.SilentSince.IsZero() {
			t.Errorf("a node that answers again: %+v", probe)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
