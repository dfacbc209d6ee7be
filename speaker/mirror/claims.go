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
	claims map[string]entry               // of this node, by name of the L2Owner
	names  map[netip.Addr]map[string]bool // of claims, by address
	shown  map[netip.Addr]readers
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
		claims: map[string]entry{}, names: map[netip.Addr]map[string]bool{}, shown: map[netip.Addr]readers{},
	}
}

// Claimed takes a claim of this node's, or with an empty Node its withdrawal. Only the latest of an
// address and a segment counts.
func (c *Claims) Claimed(claim l2.Claim) {
	name := nameOf(claim.Address, claim.Segment)
	c.mu.Lock()
	c.claims[name] = entry{claim: claim, since: time.Now()}
	if c.names[claim.Address] == nil {
		c.names[claim.Address] = map[string]bool{}
	}
	c.names[claim.Address][name] = true
	c.mu.Unlock()
	c.queue.Add(name)
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

// latest returns this node's latest claim for an L2Owner.
func (c *Claims) latest(name string) (entry, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.claims[name]
	return e, ok
}

// concerns reports whether this node has a claim for an L2Owner, or is withdrawing one.
func (c *Claims) concerns(name string) bool {
	_, ok := c.latest(name)
	return ok
}

// acted notes that a claim was written, unless there is a later one by now.
func (c *Claims) acted(name string, have entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, ok := c.claims[name]
	if !ok || !now.since.Equal(have.since) {
		return
	}
	if now.claim.Node != "" {
		return
	}
	delete(c.claims, name)
	delete(c.names[now.claim.Address], name)
	if len(c.names[now.claim.Address]) == 0 {
		delete(c.names, now.claim.Address)
	}
}
