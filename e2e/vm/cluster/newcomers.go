//go:build qemu

package cluster

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
)

// comeEvery is the time between two new connections.
const comeEvery = 50 * time.Millisecond

// Newcomers make one connection after the other from the client to an address, and say a line on
// each.
type Newcomers struct {
	address     string
	port        int
	ended, done chan struct{}

	mu       sync.Mutex
	answered int           // guarded by mu
	failed   []error       // guarded by mu
	longest  time.Duration // guarded by mu; from one answer to the next
}

// StartNewcomers starts with one that has to be answered. The rest come until End is called, or the
// test ends.
func StartNewcomers(t testing.TB, address string, port int) *Newcomers {
	t.Helper()
	n := &Newcomers{address: address, port: port, ended: make(chan struct{}), done: make(chan struct{})}
	if err := n.ask(); err != nil {
		t.Fatal(err)
	}
	go n.run()
	t.Cleanup(func() { n.End() })
	return n
}

func (n *Newcomers) ask() error {
	conn, err := Dial(Client, "tcp", n.address, n.port)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = Say(conn)
	return err
}

func (n *Newcomers) run() {
	defer close(n.done)
	tick := time.NewTicker(comeEvery)
	defer tick.Stop()
	begun := time.Now()
	last := begun
	for {
		select {
		case <-n.ended:
			return
		case <-tick.C:
		}
		tried := time.Since(begun)
		err := n.ask()
		n.mu.Lock()
		if err != nil {
			n.failed = append(
				n.failed,
				fmt.Errorf(
					"tried after %s, failed after %s: %w", tried.Round(time.Millisecond),
					time.Since(begun).Round(time.Millisecond), err,
				),
			)
		} else {
			n.answered++
			n.longest = max(n.longest, time.Since(last))
			last = time.Now()
		}
		n.mu.Unlock()
	}
}

// AwaitMore waits until this number of further connections were answered.
func (n *Newcomers) AwaitMore(t testing.TB, more int) {
	t.Helper()
	count := func() int {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.answered
	}
	want := count() + more
	Eventually(t, func(context.Context) error {
		if have := count(); have < want {
			return fmt.Errorf("%d new connections to %s were answered, want %d", have, n.address, want)
		}
		return nil
	})
}

// End stops them, and returns how many were answered, the failures, and the longest time.
func (n *Newcomers) End() (answered int, failed []error, longest time.Duration) {
	select {
	case <-n.ended:
	default:
		close(n.ended)
	}
	<-n.done
	return n.answered, n.failed, n.longest
}
