package heart

import (
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/l2"
)

// mostUnread bounds the observations that wait for the speaker. The oldest are lost.
const mostUnread = 1024

// claimKey is what one claim of this node is about.
type claimKey struct {
	address         netip.Addr
	segment, ifname string
}

// ledger is what the heart has for its speaker to read: how things are, and what of that the
// speaker has not been told yet. It never waits for the speaker.
type ledger struct {
	wake async.Signal // there is something to tell

	mu      sync.Mutex
	answers map[netip.Addr]int      // guarded by mu
	holds   map[netip.Addr][]string // guarded by mu
	claims  map[claimKey]l2.Claim   // guarded by mu; without withdrawn ones
	untold  *untold                 // guarded by mu; nil while there is no speaker
}

// untold is what a speaker has not been told yet.
type untold struct {
	news
	claims map[claimKey]l2.Claim
}

func newLedger() *ledger {
	return &ledger{
		wake: async.NewSignal(), answers: map[netip.Addr]int{}, holds: map[netip.Addr][]string{},
		claims: map[claimKey]l2.Claim{},
	}
}

// open begins a connection: all is to be told.
func (l *ledger) open() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.untold = &untold{
		news:   news{Whole: true, Answers: maps.Clone(l.answers), Holds: maps.Clone(l.holds)},
		claims: maps.Clone(l.claims),
	}
	l.wake.Notify()
}

// next returns what is to be told now; false: nothing.
func (l *ledger) next() (news, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.untold == nil {
		return news{}, false
	}
	n := l.untold.news
	n.Claims = slices.Collect(maps.Values(l.untold.claims))
	l.untold = newUntold()
	return n, !n.empty()
}

func newUntold() *untold {
	return &untold{
		news:   news{Answers: map[netip.Addr]int{}, Holds: map[netip.Addr][]string{}},
		claims: map[claimKey]l2.Claim{},
	}
}

// tell adds to what is to be told.
func (l *ledger) tell(add func(*untold)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.note(add)
}

// note is tell while mu is held.
func (l *ledger) note(add func(*untold)) {
	if l.untold != nil {
		add(l.untold)
		l.wake.Notify()
	}
}

// answering is for l2.Config.Answers.
func (l *ledger) answering(a netip.Addr, on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if on {
		l.answers[a]++
	} else if l.answers[a]--; l.answers[a] <= 0 {
		delete(l.answers, a)
	}
	n := l.answers[a]
	l.note(func(u *untold) { u.Answers[a] = n })
}

// claimed is for l2.Config.OnClaim.
func (l *ledger) claimed(c l2.Claim) {
	key := claimKey{c.Address, c.Segment, c.Interface}
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.Node == "" {
		delete(l.claims, key)
	} else {
		l.claims[key] = c
	}
	l.note(func(u *untold) { u.claims[key] = c })
}

// seen takes an observation of layer 2, and where its address is answered for since.
func (l *ledger) seen(o l2.Observation, holds []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o.Address.IsValid() {
		if len(holds) == 0 {
			delete(l.holds, o.Address)
		} else {
			l.holds[o.Address] = holds
		}
	}
	l.note(func(u *untold) {
		if o.Address.IsValid() {
			u.Holds[o.Address] = holds
		}
		said := observation{Observation: o}
		if o.Err != nil {
			said.Failure, said.Err = o.Err.Error(), nil
		}
		u.Seen = append(u.Seen, said)
		if over := len(u.Seen) - mostUnread; over > 0 {
			u.Seen = slices.Delete(u.Seen, 0, over)
		}
	})
}

// close ends a connection.
func (l *ledger) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.untold = nil
}
