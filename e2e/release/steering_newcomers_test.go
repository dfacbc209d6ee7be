//go:build release

package release

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/berth-lb/berth/e2e/stage"
)

const (
	arriveEvery   = 5 * time.Millisecond
	arrivePatient = 300 * time.Millisecond // a SYN that is lost is sent again after a second only
	// together is how far apart failures may be that count as one time of failing. A node that dies
	// has a part of all new connections only.
	together = 200 * time.Millisecond
)

// newcomers are clients that open a connection, ask once and close it, each 5 ms one: by turns to
// each front, over TCP and UDP.
type newcomers struct {
	mu    sync.Mutex
	tries []try  // guarded by mu; in the order in which they ended
	only  string // guarded by mu; the front that counts; empty: all do
}

type try struct {
	begun   time.Time
	front   string
	network string
	err     error
}

func arrive(t *testing.T, s *stage.Stage, fronts ...front) *newcomers {
	t.Helper()
	n := &newcomers{}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var all sync.WaitGroup
	t.Cleanup(func() { cancel(); all.Wait() })
	all.Go(func() {
		tick := time.NewTicker(arriveEvery)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				f, network := fronts[i/2%len(fronts)], []string{"tcp", "udp"}[i%2]
				all.Go(func() { n.try(ctx, s, f, network) }) // ends in arrivePatient
			}
		}
	})
	return n
}

func (n *newcomers) try(ctx context.Context, s *stage.Stage, f front, network string) {
	begun := time.Now()
	within, cancel := context.WithTimeout(ctx, arrivePatient)
	defer cancel()
	conn, err := s.Dial(within, f.host, network, f.port())
	if err == nil {
		defer conn.Close()
		_, err = stage.Say(conn, begun.Add(arrivePatient))
	}
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		err = fmt.Errorf("%s by %s: %w", network, f.name, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tries = append(n.tries, try{begun, f.name, network, err})
}

// count has only those to this front count; empty: to all.
func (n *newcomers) count(only string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.only = only
}

// arrivals are what newcomers saw in some time.
type arrivals struct {
	tried, failed int
	// longest is by network the longest time in which new connections failed: from the beginning of
	// the first to that of the last one.
	longest map[string]time.Duration
	// failedBy counts those that failed by front.
	failedBy map[string]int
	first    error
}

func (a arrivals) add(b arrivals) arrivals {
	sum := arrivals{
		tried: a.tried + b.tried, failed: a.failed + b.failed, longest: map[string]time.Duration{},
		failedBy: maps.Clone(a.failedBy), first: cmp.Or(a.first, b.first),
	}
	for name, n := range b.failedBy {
		if sum.failedBy == nil {
			sum.failedBy = map[string]int{}
		}
		sum.failedBy[name] += n
	}
	for _, network := range []string{"tcp", "udp"} {
		sum.longest[network] = max(a.longest[network], b.longest[network])
	}
	return sum
}

func (a arrivals) String() string {
	return fmt.Sprintf("tcp %.2f s, udp %.2f s; %d of %d",
		a.longest["tcp"].Seconds(), a.longest["udp"].Seconds(), a.failed, a.tried)
}

// since returns what those saw that came since then and have ended by now, and forgets them.
func (n *newcomers) since(begun time.Time) arrivals {
	n.mu.Lock()
	tries := slices.DeleteFunc(n.tries, func(one try) bool {
		return one.begun.Before(begun) || n.only != "" && one.front != n.only
	})
	n.tries = nil
	n.mu.Unlock()
	slices.SortFunc(tries, func(a, b try) int { return a.begun.Compare(b.begun) })
	saw := arrivals{tried: len(tries), longest: map[string]time.Duration{}, failedBy: map[string]int{}}
	from, last := map[string]time.Time{}, map[string]time.Time{}
	for _, one := range tries {
		if one.err == nil {
			continue
		}
		saw.failed++
		saw.failedBy[one.front]++
		saw.first = cmp.Or(saw.first, one.err)
		if one.begun.Sub(last[one.network]) > together {
			from[one.network] = one.begun
		}
		last[one.network] = one.begun
		saw.longest[one.network] = max(saw.longest[one.network], one.begun.Sub(from[one.network]))
	}
	return saw
}
