package fence

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/internal/tcpprobe"
)

const (
	// askAllEvery is how often each node is asked that nobody reports.
	askAllEvery = 15 * time.Second
	askTick     = time.Second
	// askAtOnce bounds how many nodes are asked at the same time.
	askAtOnce = 64
	// again is after how long a node is asked a second time, in the same question: a segment may be
	// lost.
	again = 150 * time.Millisecond
)

// ports are those at which speakers ask, too. Nodes whose kubelet listens elsewhere refuse, or have
// a speaker on the other.
var ports = []uint16{tcpprobe.KubeletPort, 7470}

// prober asks nodes whether their kernels answer. Its methods may be called from any goroutine.
type prober struct {
	answers   func(ctx context.Context, addresses []netip.Addr) bool
	addresses func() map[string][]netip.Addr // of all nodes
	urgent    async.Signal
	decided   async.Signal // an urgent question was

	mu     sync.Mutex
	probes map[string]Probe // guarded by mu
	wanted []string         // guarded by mu; to be asked at once
}

func newProber(addresses func() map[string][]netip.Addr) *prober {
	return &prober{
		answers: func(ctx context.Context, addresses []netip.Addr) bool {
			return tcpprobe.Answers(ctx, addresses, ports)
		},
		addresses: addresses, urgent: async.NewSignal(), decided: async.NewSignal(), probes: map[string]Probe{},
	}
}

// probe returns what became of the questions to a node.
func (p *prober) probe(node string) Probe {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.probes[node]
}

// want has nodes asked at once, in place of those that were wanted before.
func (p *prober) want(nodes []string) {
	p.mu.Lock()
	p.wanted = nodes
	p.mu.Unlock()
	p.urgent.Notify()
}

// run asks until the context ends. Urgent questions do not wait for the others, of which some may
// be to nodes that are off for days.
func (p *prober) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { p.askAll(ctx); return nil })
	group.Go(func() error { p.askUrgent(ctx); return nil })
	return group.Wait()
}

func (p *prober) askAll(ctx context.Context) {
	tick := time.NewTicker(askTick)
	defer tick.Stop()
	for {
		all := p.addresses()
		p.keep(all)
		p.ask(ctx, all, p.due(all, time.Now()))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (p *prober) askUrgent(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.urgent:
			p.mu.Lock()
			wanted := p.wanted
			p.wanted = nil
			p.mu.Unlock()
			p.ask(ctx, p.addresses(), wanted)
			p.decided.Notify()
		}
	}
}

// due returns the nodes that are to be asked now: those that were not for long, the longest first,
// and not all at once.
func (p *prober) due(all map[string][]netip.Addr, now time.Time) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []string
	never := 0
	for node := range all {
		asked := p.probes[node].Asked
		if now.Sub(asked) >= askAllEvery {
			found = append(found, node)
		}
		if asked.IsZero() {
			never++
		}
	}
	slices.SortFunc(found, func(a, b string) int {
		return cmp.Or(p.probes[a].Asked.Compare(p.probes[b].Asked), cmp.Compare(a, b))
	})
	each := len(all)/int(askAllEvery/askTick) + 1
	return found[:min(len(found), max(each, never))]
}

// keep forgets all nodes but these.
func (p *prober) keep(all map[string][]netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.probes, func(node string, _ Probe) bool { _, has := all[node]; return !has })
}

// ask asks nodes, and returns when that is decided for each.
func (p *prober) ask(ctx context.Context, addresses map[string][]netip.Addr, nodes []string) {
	var group errgroup.Group
	group.SetLimit(askAtOnce)
	for _, node := range nodes {
		group.Go(func() error {
			answered := p.asked(ctx, addresses[node])
			if ctx.Err() == nil {
				p.note(node, answered, time.Now())
			}
			return nil
		})
	}
	_ = group.Wait() // none fails
}

// asked reports whether a node answers one of two questions that overlap.
func (p *prober) asked(ctx context.Context, addresses []netip.Addr) bool {
	if len(addresses) == 0 {
		return false
	}
	ctx, enough := context.WithCancel(ctx)
	var second bool
	var done sync.WaitGroup
	done.Go(func() {
		if async.Sleep(ctx, again) == nil {
			second = p.answers(ctx, addresses)
		}
	})
	first := p.answers(ctx, addresses)
	if first {
		enough()
	}
	done.Wait()
	enough()
	return first || second
}

func (p *prober) note(node string, answered bool, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	probe := p.probes[node]
	probe.Asked = now
	switch {
	case answered:
		probe.Answered, probe.SilentSince = now, time.Time{}
	case probe.SilentSince.IsZero():
		probe.SilentSince = now
	}
	p.probes[node] = probe
}
