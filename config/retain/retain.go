// Package retain tells configuration that was deleted from configuration whose kind was deleted.
// The API server deletes all objects of a kind with its CustomResourceDefinition, and a watch shows
// no difference. The one is an order. The other is an accident, such as `kubectl replace --force`
// of the definitions or a wrong pruning, and what was configured stays in effect.
package retain

import (
	"fmt"
	"maps"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
)

const (
	// BelievedAfter is how long an object must be gone while the API server serves its kind. The
	// definition of a kind is being deleted for longer than that, or at least is seen so once.
	BelievedAfter = time.Second
	// AskEvery and AskHeldEvery are the pauses between two looks, before it is believed and while what
	// is gone is kept. While others of the kind are stored, AskEvery is the first one, see review.
	AskEvery     = 100 * time.Millisecond
	AskHeldEvery = 5 * time.Second
	// HeldFor is how long objects whose kind was gone are kept once it is back without them, for
	// those who configure to bring them back.
	HeldFor = 10 * time.Minute
)

// Served reports whether the API server serves a resource of group berth.dev, and is not deleting
// it.
type Served func(resource string) (bool, error)

// Configuration remembers the configuration that is in effect. The zero value remembers none. It is
// not for several goroutines.
type Configuration struct {
	pools    kind[*v1alpha1.LoadBalancerPool]
	segments kind[*v1alpha1.SegmentAnnouncement]
	routes   kind[*v1alpha1.RouteAnnouncement]
	peers    kind[*v1alpha1.BGPNeighbor]
}

// Apply returns the configuration with the objects that are kept, and when to call it again
// (0: need not be).
func (c *Configuration) Apply(now time.Time, o config.Objects, served Served) (config.Objects, time.Duration) {
	var again [4]time.Duration
	o.Pools, again[0] = c.pools.apply(now, "loadbalancerpools", o.Pools, served)
	o.SegmentAnnouncements, again[1] = c.segments.apply(now, "segmentannouncements", o.SegmentAnnouncements, served)
	o.RouteAnnouncements, again[2] = c.routes.apply(now, "routeannouncements", o.RouteAnnouncements, served)
	o.BGPNeighbors, again[3] = c.peers.apply(now, "bgpneighbors", o.BGPNeighbors, served)
	soonest := time.Duration(0)
	for _, a := range again {
		if a > 0 && (soonest == 0 || a < soonest) {
			soonest = a
		}
	}
	return o, soonest
}

// Gone returns the resources whose objects are kept although their kind is, or was, gone.
func (c *Configuration) Gone() []string {
	var gone []string
	for resource, since := range map[string]time.Time{
		"loadbalancerpools": c.pools.gone, "segmentannouncements": c.segments.gone,
		"routeannouncements": c.routes.gone, "bgpneighbors": c.peers.gone,
	} {
		if !since.IsZero() {
			gone = append(gone, resource)
		}
	}
	slices.Sort(gone)
	return gone
}

// Doubtful reports whether the pool is in effect although it is gone, and it is not known yet
// whether it was deleted or its kind was. What it says stays in effect, but nobody is to be given
// more.
func (c *Configuration) Doubtful(pool string) bool {
	_, missing := c.pools.missing[pool]
	return missing && c.pools.gone.IsZero()
}

// Vanished returns the pools in effect that are not stored any more and that Apply has not seen to
// be gone: nobody is to be given anything of them while Apply asks why.
func (c *Configuration) Vanished(stored []*v1alpha1.LoadBalancerPool) (names []string) {
	for name := range c.pools.inEffect {
		is := func(p *v1alpha1.LoadBalancerPool) bool { return p.Name == name }
		if _, known := c.pools.missing[name]; !known && !slices.ContainsFunc(stored, is) {
			names = append(names, name)
		}
	}
	return names
}

// Kept returns what is in effect although it is gone, and which of that is in doubt.
func (c *Configuration) Kept() []string {
	return slices.Sorted(slices.Values(slices.Concat(
		c.pools.kept("pool"), c.segments.kept("segment"), c.routes.kept("route"), c.peers.kept("peer"),
	)))
}

// kind remembers the objects of a kind.
type kind[T metav1.Object] struct {
	inEffect map[string]T
	missing  map[string]time.Time // since when objects in effect are not stored
	gone     time.Time            // when the kind was last seen to be gone; zero: nothing is kept for that
}

func (k *kind[T]) apply(now time.Time, resource string, stored []T, served Served) ([]T, time.Duration) {
	present := map[string]T{}
	for _, o := range stored {
		present[o.GetName()] = o
	}
	for name := range k.inEffect {
		if _, ok := present[name]; !ok && k.missing[name].IsZero() {
			if k.missing == nil {
				k.missing = map[string]time.Time{}
			}
			k.missing[name] = now
		}
	}
	maps.DeleteFunc(k.missing, func(name string, _ time.Time) bool { _, ok := present[name]; return ok })
	again := time.Duration(0)
	if len(k.missing) > 0 {
		created := slices.ContainsFunc(stored, func(o T) bool { _, known := k.inEffect[o.GetName()]; return !known })
		again = k.review(now, resource, created, len(stored) > 0, served)
	}
	if len(k.missing) == 0 {
		k.gone = time.Time{}
	}
	effective := slices.Clone(stored)
	for name := range k.missing {
		present[name] = k.inEffect[name]
		effective = append(effective, k.inEffect[name])
	}
	k.inEffect = present
	return effective, again
}

func (k *kind[T]) kept(what string) (kept []string) {
	for name := range k.missing {
		kept = append(kept, fmt.Sprintf("%s %s %t", what, name, k.gone.IsZero()))
	}
	return kept
}

// review gives up those of the missing objects that were deleted, and returns when to look again.
// While a definition is being deleted nothing can be created. So after an object was, perhaps in
// the place of a missing one, the others were deleted by themselves.
//
// While others are left, most likely one object was deleted: then each pause is twice the one
// before, since all speakers ask at the same time. One look at the end is not enough: by then a
// definition may have been made again, and what is left is what a cache shows, which may lag, or be
// cut off as the kind goes, and never show that the last one went.
func (k *kind[T]) review(now time.Time, resource string, created, left bool, served Served) time.Duration {
	switch is, err := served(resource); {
	case err != nil: // nobody knows
		return AskHeldEvery
	case !is:
		k.gone = now
		return AskHeldEvery
	case !k.gone.IsZero() && now.Sub(k.gone) < HeldFor:
		return AskHeldEvery
	}
	maps.DeleteFunc(k.missing, func(_ string, since time.Time) bool {
		return created || now.Sub(since) >= BelievedAfter
	})
	again := time.Duration(0)
	for _, since := range k.missing {
		pause := AskEvery
		if age := now.Sub(since); left {
			pause = min(age+AskEvery, BelievedAfter-age)
		}
		if again == 0 || pause < again {
			again = pause
		}
	}
	return again
}

// Missing remembers objects of one kind that are no longer there, for who handles them one by one.
// It is not for several goroutines.
type Missing struct {
	Resource string

	since map[string]time.Time // by key
	gone  time.Time            // when the kind was last seen to be gone
}

// Keep returns when to look again after an object that is not there; 0: it was deleted.
func (m *Missing) Keep(key string, now time.Time, served Served) time.Duration {
	since, known := m.since[key]
	if !known {
		if since = now; m.since == nil {
			m.since = map[string]time.Time{}
		}
		m.since[key] = since
	}
	is, err := served(m.Resource)
	if err == nil && !is {
		m.gone = now
	}
	switch {
	case err != nil, now.Sub(m.gone) < HeldFor:
		return AskHeldEvery
	case now.Sub(since) < BelievedAfter:
		return AskEvery
	}
	delete(m.since, key)
	return 0
}

// Found forgets that an object was not there.
func (m *Missing) Found(key string) { delete(m.since, key) }
