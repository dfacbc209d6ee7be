//go:build root

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// probe is what a client saw that kept sending requests to an address, one after the other, each on
// a new connection.
type probe struct {
	asked int
	// failed connections were never established or never answered.
	failed []error
	// broken connections were established and then reset, as happens when their packets begin to take
	// another path.
	broken  []error
	longest time.Duration // between two answers
}

func (p probe) String() string {
	return fmt.Sprintf("%d requests, longest time without an answer %s, %d failed %v, %d broken %v",
		p.asked, p.longest.Round(time.Millisecond), len(p.failed), some(p.failed), len(p.broken), some(p.broken))
}

// some returns the first few errors.
func some(all []error) []error { return all[:min(len(all), 3)] }

const probeEvery = 20 * time.Millisecond

// probe sends requests until the returned function is called, which returns what was seen. A
// request fails after the timeout. With fresh, the host's neighbor caches are flushed before each
// request, as if it came from a new client.
func (r *rack) probe(
	t *testing.T,
	host string,
	address netip.Addr,
	timeout time.Duration,
	fresh bool,
) (stop func() probe) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan probe, 1)
	go func() { done <- r.ask1by1(ctx, host, address, timeout, fresh) }() // ends with ctx
	return func() probe {
		cancel()
		return <-done
	}
}

func (r *rack) ask1by1(ctx context.Context, host string, address netip.Addr, timeout time.Duration, fresh bool) probe {
	var seen probe
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return seen
		case <-tick.C:
		}
		err := error(nil)
		if fresh {
			err = r.FlushNeighbors(host)
		}
		if err == nil {
			one, cancel := context.WithTimeout(ctx, timeout)
			_, err = r.AskHTTP(one, host, address)
			cancel()
		}
		if ctx.Err() != nil {
			return seen // the last one was ended by us
		}
		seen.asked++
		now := time.Now()
		seen.longest = max(seen.longest, now.Sub(last))
		switch {
		case err == nil:
			last = now
		case reset(err):
			seen.broken = append(seen.broken, err)
		default:
			seen.failed = append(seen.failed, err)
		}
	}
}

// reset reports whether a connection was established and reset later. A connection that is not
// established is refused or times out. connect itself reports a reset if that came before the
// program could check.
func reset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
