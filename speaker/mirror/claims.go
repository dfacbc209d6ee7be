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
	queue workqueue.TypedRateLimitingInterface[string] // namespace/name of L2Owners that may have to be written

	mu     sync.Mutex                 // guards what follows
	claims map[string]entry           // of this node, by namespace/name of the L2Owner
	groups map[string]map[string]bool // keys of claims, by group
	shown  map[string]members         // by group
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
		claims: map[string]entry{}, groups: map[string]map[string]bool{}, shown: map[string]members{},
	}
}

// Claimed takes a claim of this node's, or with an empty Node its withdrawal. Only
// the latest of a group and segment counts.
func (c *Claims) Claimed(claim l2.Claim) {
	key := keyOf(claim.Group, claim.Segment)
	c.mu.Lock()
	c.claims[key] = entry{claim: claim, since: time.Now()}
	if c.groups[claim.Group] == nil {
		c.groups[claim.Group] = map[string]bool{}
	}
	c.groups[claim.Group][key] = true
	c.mu.Unlock()
	c.queue.Add(key)
}

// members are what a group has.
type members struct {
	services  []string // namespace/name
	addresses []netip.Addr
}

// Show says which Services and addresses a group has, ascending. Without addresses it no longer
// exists.
func (c *Claims) Show(group string, services []string, addresses []netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(addresses) == 0 {
		delete(c.shown, group)
		return // its claims are about to be withdrawn
	}
	c.shown[group] = members{services, addresses}
	for key := range c.groups[group] {
		c.queue.Add(key)
	}
}

// latest returns this node's latest claim for an L2Owner.
func (c *Claims) latest(key string) (entry, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.claims[key]
	return e, ok
}

// concerns reports whether this node has a claim for an L2Owner, or is withdrawing one.
func (c *Claims) concerns(key string) bool {
	_, ok := c.latest(key)
	return ok
}

// acted notes that a claim was written, unless there is a later one by now.
func (c *Claims) acted(key string, have entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, ok := c.claims[key]
	if !ok || !now.since.Equal(have.since) {
		return
	}
	if now.claim.Node != "" {
		return
	}
	delete(c.claims, key)
	delete(c.groups[now.claim.Group], key)
	if len(c.groups[now.claim.Group]) == 0 {
		delete(c.groups, now.claim.Group)
	}
}
