package mirror

import (
	"net/netip"
	"sync"
	"time"

	"k8s.io/client-go/util/workqueue"

	"github.com/berth-lb/berth/l2"
)

// Claims are the claims of this node's layer 2 that are to be mirrored. Layer 2 writes them, and a
// Mirror reads them. Make them with NewClaims. The methods may be called from any goroutine, and do
// not wait for the API server.
type Claims struct {
	queue workqueue.TypedRateLimitingInterface[string] // names of L2Owners that may have to be written

	mu     sync.Mutex                     // guards what follows
	claims map[string]map[string]entry    // of this node, by name of the L2Owner and interface
	names  map[netip.Addr]map[string]bool // of claims, by address
	shown  map[netip.Addr]readers
	whole  time.Time // when layer 2 had said all that it claims; zero: not yet
}

// entry is the latest claim of this node's layer 2 for one L2Owner.
type entry struct {
	claim l2.Claim // Node empty: withdrawn
	since time.Time
}

// NewClaims returns no claims.
func NewClaims() *Claims {
	return &Claims{
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](100*time.Millisecond, 10*time.Second)),
		claims: map[string]map[string]entry{}, names: map[netip.Addr]map[string]bool{}, shown: map[netip.Addr]readers{},
	}
}

// Claimed takes a claim of this node's, or with an empty Node its withdrawal. Only the latest of an
// interface counts. Two interfaces may be on one segment.
func (c *Claims) Claimed(claim l2.Claim) {
	name := nameOf(claim.Address, claim.Segment)
	c.mu.Lock()
	if c.claims[name] == nil {
		c.claims[name] = map[string]entry{}
	}
	c.claims[name][claim.Interface] = entry{claim: claim, since: time.Now()}
	if c.names[claim.Address] == nil {
		c.names[claim.Address] = map[string]bool{}
	}
	c.names[claim.Address][name] = true
	c.mu.Unlock()
	c.queue.Add(name)
}

// Whole says that layer 2 has said all that it claims: Claimed was called for each. Until then
// nothing is known of what it does not claim. Only the first call counts.
func (c *Claims) Whole() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.whole.IsZero() {
		c.whole = time.Now()
	}
}

// wholeFor returns for how long the claims have been whole; 0: they are not.
func (c *Claims) wholeFor() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.whole.IsZero() {
		return 0
	}
	return time.Since(c.whole)
}

// readers are what an L2Owner tells its readers besides the claim.
type readers struct {
	services      []string // namespace/name
	announcements []string
}

// Show says which Services have an address, and which announcements select it, ascending. Without
// announcements it is not announced any longer.
func (c *Claims) Show(address netip.Addr, services, announcements []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(announcements) == 0 {
		delete(c.shown, address)
		return // its claims are about to be withdrawn
	}
	c.shown[address] = readers{services, announcements}
	for name := range c.names[address] {
		c.queue.Add(name)
	}
}

// latest returns what this node claims for an L2Owner: the claim of the highest term, or else the
// last withdrawal.
func (c *Claims) latest(name string) (latest entry, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.claims[name] {
		if !ok || e.supersedes(latest) {
			latest, ok = e, true
		}
	}
	return latest, ok
}

// supersedes reports whether e, rather than o, is what an L2Owner is to say.
func (e entry) supersedes(o entry) bool {
	claims, did := e.claim.Node != "", o.claim.Node != ""
	switch {
	case claims != did:
		return claims
	case claims && e.claim.Term != o.claim.Term:
		return e.claim.Term > o.claim.Term
	}
	return e.since.After(o.since)
}

// concerns reports whether this node has a claim for an L2Owner, or is withdrawing one.
func (c *Claims) concerns(name string) bool {
	_, ok := c.latest(name)
	return ok
}

// acted notes that an L2Owner says so, unless there is a later claim by now. Withdrawals are
// forgotten then.
func (c *Claims) acted(name string, have entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for ifname, e := range c.claims[name] {
		if e.claim.Node == "" && !e.since.After(have.since) {
			delete(c.claims[name], ifname)
		}
	}
	if address := have.claim.Address; len(c.claims[name]) == 0 {
		delete(c.claims, name)
		delete(c.names[address], name)
		if len(c.names[address]) == 0 {
			delete(c.names, address)
		}
	}
}
