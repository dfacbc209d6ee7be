package speaker

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/speaker/rival"
)

// lookEvery is how often it is looked for other BGP speakers of this node. The kernel does not tell of connections, so they
// are looked for while it matters.
const lookEvery = 2 * time.Second

// rivals holds peers back that another BGP speaker of this node has a session with.
type rivals struct {
	log         *slog.Logger
	look        func([]rival.Router) ([]rival.Connection, error)
	established func() map[string]bool   // peers by name
	changed     func()                   // free says another thing now
	tell        func(peer, event string) // of a peer that is held back now
	now         func() time.Time

	wake chan struct{}

	mu     sync.Mutex
	peers  []bgp.Peer      // guarded by mu; those that this node is to dial
	held   map[string]held // guarded by mu
	failed bool            // guarded by mu; the last look
}

// held is a peer that is held back.
type held struct {
	peer  bgp.Peer
	since time.Time
}

func newRivals(log *slog.Logger, established func() map[string]bool, changed func(), tell func(peer, event string)) *rivals {
	return &rivals{
		log: log, look: rival.Look, established: established, changed: changed, tell: tell, now: time.Now,
		wake: make(chan struct{}, 1), held: map[string]held{},
	}
}

// poke has it looked whether a session is missing.
func (v *rivals) poke() {
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// dials reports whether this node dials the peer: one with a prefix, or a passive one, dials this node if it has no
// session with it.
func dials(p bgp.Peer) bool { return !p.Passive && !p.Prefix.IsValid() }

func routerOf(p bgp.Peer) rival.Router {
	return rival.Router{Address: p.Address, Interface: p.Interface, Port: p.Port, Source: p.SourceAddress, VRF: p.VRF}
}

// free returns the peers that no other BGP speaker of this node has a session with, and those that cannot lose theirs.
func (v *rivals) free(peers []bgp.Peer) []bgp.Peer {
	dialed := slices.DeleteFunc(slices.Clone(peers), func(p bgp.Peer) bool { return !dials(p) })
	taken := v.taken(dialed)
	v.mu.Lock()
	before := v.held
	v.peers, v.held = dialed, map[string]held{}
	for _, p := range dialed {
		if !taken[p.Name] {
			continue
		}
		h, known := before[p.Name]
		if !known {
			h.since = v.now()
		}
		h.peer = p
		v.held[p.Name] = h
	}
	now := maps.Clone(v.held)
	v.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if _, known := before[name]; !known {
			reason := now[name].reason()
			v.log.Warn("peer is not dialed", "peer", name, "reason", reason)
			v.tell(name, reason)
		}
	}
	for name := range before {
		if _, still := now[name]; !still {
			v.log.Info("peer is not held back any more", "peer", name)
		}
	}
	v.poke()
	return slices.DeleteFunc(slices.Clone(peers), func(p bgp.Peer) bool { return taken[p.Name] })
}

// taken says which peers another BGP speaker has a session with. While that cannot be seen, nothing changes.
func (v *rivals) taken(dialed []bgp.Peer) map[string]bool {
	waiting := v.waiting(dialed)
	if len(waiting) == 0 {
		return nil
	}
	var routers []rival.Router
	for _, p := range waiting {
		routers = append(routers, routerOf(p))
	}
	found, err := v.look(routers)
	v.mu.Lock()
	news := (err != nil) != v.failed
	v.failed = err != nil
	before := v.held
	v.mu.Unlock()
	if news && err != nil {
		v.log.Warn("it cannot be seen which routers other BGP speakers on this node have sessions with", "error", err)
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
func (v *rivals) waiting(dialed []bgp.Peer) []bgp.Peer {
	up := v.established()
	return slices.DeleteFunc(slices.Clone(dialed), func(p bgp.Peer) bool { return up[p.Name] })
}

// run looks every two seconds, while a session is missing, until ctx ends.
func (v *rivals) run(ctx context.Context) error {
	tick := time.NewTimer(0)
	tick.Stop()
	defer tick.Stop()
	armed := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-v.wake:
		case <-tick.C:
			armed = false
			if v.differs() {
				v.changed()
			}
		}
		v.mu.Lock()
		dialed := v.peers
		v.mu.Unlock()
		if !armed && len(v.waiting(dialed)) > 0 {
			armed = true
			tick.Reset(lookEvery)
		}
	}
}

// differs reports whether free would say another thing.
func (v *rivals) differs() bool {
	v.mu.Lock()
	dialed, before := v.peers, v.held
	v.mu.Unlock()
	taken := v.taken(dialed)
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

// reason says why the peer is held back, and what to do.
func (h held) reason() string {
	router := h.peer.Address.String()
	if !h.peer.Address.IsValid() {
		router = "the router on " + h.peer.Interface
	}
	return fmt.Sprintf("another BGP speaker on this node (MetalLB's, for one) has a session with %s, and a router takes one per node; end that one, or leave this BGPNeighbor to other nodes with nodeSelector", router)
}

// reports are those of the peers that are held back, by name. A nil rivals holds none.
func (v *rivals) reports() []v1alpha1.SessionReport {
	if v == nil {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	var reports []v1alpha1.SessionReport
	for name, h := range v.held {
		report := v1alpha1.SessionReport{
			NeighborName: name, Address: new(""), State: v1alpha1.SessionDown,
			LastTransitionTime: new(metav1.NewTime(h.since.Truncate(time.Second))), LastError: h.reason(),
		}
		if h.peer.Address.IsValid() {
			report.Address = new(h.peer.Address.String())
		}
		reports = append(reports, report)
	}
	slices.SortFunc(reports, func(a, b v1alpha1.SessionReport) int { return cmp.Compare(a.NeighborName, b.NeighborName) })
	return reports
}
