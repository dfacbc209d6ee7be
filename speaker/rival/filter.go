package rival

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/internal/async"
)

// lookEvery is how often a Filter looks for other BGP speakers of this node, while a session is
// missing. The kernel does not notify of connections.
const lookEvery = 2 * time.Second

// Filter holds peers back that another BGP speaker of this node has a session with. Make one with
// NewFilter. Free is for one goroutine; the other methods may be called from any.
type Filter struct {
	log         *slog.Logger
	look        func([]Router) ([]Connection, error)
	established func() map[string]bool // peers by name
	now         func() time.Time

	check   async.Signal
	changed async.Signal
	begun   *async.Stream[HeldPeer]

	mu     sync.Mutex
	dialed []bgp.Peer          // guarded by mu; peers that this node is to dial
	held   map[string]HeldPeer // guarded by mu
	failed bool                // guarded by mu; the last look
}

// HeldPeer is a peer that is held back.
type HeldPeer struct {
	bgp.Peer
	Since time.Time
}

// begunKept is how many peers wait for the reader of Begun.
const begunKept = 64

// NewFilter returns a Filter that holds nothing back yet. Look is the function of that name, in the
// process that has Berth's own sessions. Established returns the peers, by name, that it has a
// session with.
func NewFilter(
	log *slog.Logger, look func([]Router) ([]Connection, error), established func() map[string]bool,
) *Filter {
	return &Filter{
		log: log, look: look, established: established, now: time.Now,
		check: async.NewSignal(), changed: async.NewSignal(), begun: async.NewStream[HeldPeer](begunKept),
		held: map[string]HeldPeer{},
	}
}

// Check has the Filter look whether a session is missing.
func (f *Filter) Check() { f.check.Notify() }

// Changed tells one reader that Free would return something else.
func (f *Filter) Changed() <-chan struct{} { return f.changed }

// Begun is the stream of peers that Free began to hold back.
func (f *Filter) Begun() <-chan HeldPeer { return f.begun.C() }

// Free returns the peers that no other BGP speaker of this node has a session with, and those that
// cannot lose theirs.
func (f *Filter) Free(peers []bgp.Peer) []bgp.Peer {
	dialed := slices.DeleteFunc(slices.Clone(peers), func(p bgp.Peer) bool { return !dials(p) })
	taken := f.taken(dialed)
	before, now := f.hold(dialed, taken)
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if _, known := before[name]; !known {
			f.log.Warn("peer is not dialed", "peer", name, "reason", now[name].Reason())
			f.begun.Send(now[name])
		}
	}
	for name := range before {
		if _, still := now[name]; !still {
			f.log.Info("peer is not held back any more", "peer", name)
		}
	}
	f.Check()
	return slices.DeleteFunc(slices.Clone(peers), func(p bgp.Peer) bool { return taken[p.Name] })
}

// hold replaces the peers that are held back, and returns those before and now.
func (f *Filter) hold(dialed []bgp.Peer, taken map[string]bool) (before, now map[string]HeldPeer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before = f.held
	f.dialed, f.held = dialed, map[string]HeldPeer{}
	for _, p := range dialed {
		if !taken[p.Name] {
			continue
		}
		h, known := before[p.Name]
		if !known {
			h.Since = f.now()
		}
		h.Peer = p
		f.held[p.Name] = h
	}
	return before, maps.Clone(f.held)
}

// Held returns the peers that are held back, by name.
func (f *Filter) Held() []HeldPeer {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.SortedFunc(maps.Values(f.held), func(a, b HeldPeer) int { return cmp.Compare(a.Name, b.Name) })
}

// Run looks every two seconds, while a session is missing, until ctx ends.
func (f *Filter) Run(ctx context.Context) error {
	tick := time.NewTimer(0)
	tick.Stop()
	defer tick.Stop()
	armed := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.check:
		case <-tick.C:
			armed = false
			if f.differs() {
				f.changed.Notify()
			}
		}
		dialed, _ := f.current()
		if !armed && len(f.waiting(dialed)) > 0 {
			armed = true
			tick.Reset(lookEvery)
		}
	}
}

// Reason says why the peer is held back, and what to do.
func (h HeldPeer) Reason() string {
	router := h.Address.String()
	if !h.Address.IsValid() {
		router = "the router on " + h.Interface
	}
	return fmt.Sprintf(
		"another BGP speaker on this node (MetalLB's, for one) has a session with %s, and a router takes one per node; end that one, or leave this BGPNeighbor to other nodes with nodeSelector",
		router,
	)
}

// dials reports whether this node dials the peer: one with a prefix, or a passive one, dials this
// node if it has no session with it.
func dials(p bgp.Peer) bool { return !p.Passive && !p.Prefix.IsValid() }

func routerOf(p bgp.Peer) Router {
	return Router{Address: p.Address, Interface: p.Interface, Port: p.Port, Source: p.SourceAddress, VRF: p.VRF}
}

// current returns the peers that this node is to dial, and those that are held back.
func (f *Filter) current() (dialed []bgp.Peer, held map[string]HeldPeer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dialed, f.held
}

// taken returns the peers that another BGP speaker has a session with. While that cannot be seen,
// nothing changes.
func (f *Filter) taken(dialed []bgp.Peer) map[string]bool {
	waiting := f.waiting(dialed)
	if len(waiting) == 0 {
		return nil
	}
	var routers []Router
	for _, p := range waiting {
		routers = append(routers, routerOf(p))
	}
	found, err := f.look(routers)
	f.mu.Lock()
	news := (err != nil) != f.failed
	f.failed = err != nil
	before := f.held
	f.mu.Unlock()
	if news && err != nil {
		f.log.Warn("sessions of other BGP speakers on this node cannot be seen", "error", err)
	}
	taken := map[string]bool{}
	for _, p := range waiting {
		_, was := before[p.Name]
		if err != nil && was || slices.ContainsFunc(found, routerOf(p).Has) {
			taken[p.Name] = true
		}
	}
	return taken
}

// waiting returns the peers without a session of ours.
func (f *Filter) waiting(dialed []bgp.Peer) []bgp.Peer {
	up := f.established()
	return slices.DeleteFunc(slices.Clone(dialed), func(p bgp.Peer) bool { return up[p.Name] })
}

// differs reports whether Free would return something else.
func (f *Filter) differs() bool {
	dialed, before := f.current()
	taken := f.taken(dialed)
	if len(taken) != len(before) {
		return true
	}
	for name := range taken {
		if _, known := before[name]; !known {
			return true
		}
	}
	return false
}
