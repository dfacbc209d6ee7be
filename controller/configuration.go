package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/retain"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/allocation"
	"github.com/berth-lb/berth/controller/condition"
	"github.com/berth-lb/berth/controller/verdict"
	"github.com/berth-lb/berth/ipam"
)

// configure does one configuration task. It writes nothing, so that no decision waits until the API
// server took what was decided before.
func (c *Controller) configure(_ context.Context, what task) error {
	switch what {
	case compileAll, lookAgain:
		kept := c.retained.Kept()
		c.compile()
		if what == lookAgain && slices.Equal(kept, c.retained.Kept()) {
			return nil // what else changed is a task of its own
		}
		c.reviewUsed() // the addresses of BGPNeighbors are in use
		reservations := client.Stored[*v1alpha1.AddressReservation](c.informers.reservation)
		c.reserveKnown(reservations) // before any Service gets an address
		c.repin()
		c.enqueueAll()
		c.publishing.Add(publishAll)
	case reviewNodes:
		if c.reviewNodes() {
			c.enqueueAll()
		}
		c.publishing.AddAfter(publishSessions, sessionsInterval)
	case reviewUsed:
		if c.reviewUsed() {
			queues{c}.UsageChanged()
		}
	case wakeResting:
		c.allocations.Wake(time.Now())
	}
	return nil
}

// publish does one publication.
func (c *Controller) publish(ctx context.Context, what publication) error {
	switch what {
	case publishAll:
		return c.publishObjects(ctx, c.compiled.Load())
	case publishUsage:
		return c.publishObjects(ctx, nil)
	case publishSessions:
		return c.publishNeighbors(ctx, nil)
	case ensureKey:
		return c.ensureHelloKey(ctx)
	}
	return nil
}

// repin updates what every Service asks for by name, after pools or their scopes changed.
func (c *Controller) repin() {
	for _, svc := range client.Stored[*corev1.Service](c.informers.service) {
		key := svc.Namespace + "/" + svc.Name
		whose, _ := c.judge(svc)
		c.notePins(key, whose, c.requestOf(svc, whose))
	}
}

// noteGenerations notes those of the objects of a kind.
func noteGenerations[T metav1.Object](c *compiled, kind string, objects []T) {
	for _, o := range objects {
		c.generations[config.Key{Kind: kind, Name: o.GetName()}] = o.GetGeneration()
	}
}

// compile compiles the configuration in the caches to a Snapshot, and gives the allocator its
// pools.
func (c *Controller) compile() {
	pools := client.Stored[*v1alpha1.LoadBalancerPool](c.informers.pool)
	c.allocations.Disable(c.retained.Vanished(pools)) // before the API server is asked
	objects, again := c.retained.Apply(time.Now(), config.Objects{
		Pools:                pools,
		SegmentAnnouncements: client.Stored[*v1alpha1.SegmentAnnouncement](c.informers.segments),
		RouteAnnouncements:   client.Stored[*v1alpha1.RouteAnnouncement](c.informers.routes),
		BGPNeighbors:         client.Stored[*v1alpha1.BGPNeighbor](c.informers.peer),
		Passwords:            client.Passwords(c.informers.password),
		Before:               c.snapshot.Load(),
	}, c.served)
	if again > 0 {
		c.tasks.AddAfter(lookAgain, again)
	}
	if gone := c.retained.Gone(); !slices.Equal(gone, c.gone) {
		c.gone = gone
		if len(gone) > 0 {
			c.Logger.Warn("CustomResourceDefinitions were deleted with their objects; what they said stays in effect until they are there again",
				"resources", gone, "atMost", retain.HeldFor.String()+" after the definitions are")
		} else {
			c.Logger.Info("no configuration is kept whose kind is gone")
		}
	}
	for i, pool := range objects.Pools {
		if c.retained.Doubtful(pool.Name) || pool.DeletionTimestamp != nil {
			objects.Pools[i] = pool.DeepCopy()
			objects.Pools[i].Spec.Allocation = v1alpha1.AllocationDisabled
			objects.Pools[i].Spec.TakeOver = v1alpha1.TakeOverNever
		}
	}
	snapshot, problems := config.Compile(objects)
	c.allocations.SetPools(allocation.Pools(snapshot))
	c.snapshot.Store(snapshot)
	now := &compiled{snapshot, problems, map[config.Key]int64{}}
	noteGenerations(now, "LoadBalancerPool", objects.Pools)
	noteGenerations(now, "SegmentAnnouncement", objects.SegmentAnnouncements)
	noteGenerations(now, "RouteAnnouncement", objects.RouteAnnouncements)
	noteGenerations(now, "BGPNeighbor", objects.BGPNeighbors)
	c.compiled.Store(now)
}

// publishObjects writes the usage of the pools and, if what was compiled is given, the conditions
// of all objects, where they changed.
func (c *Controller) publishObjects(ctx context.Context, of *compiled) error {
	var failures []error
	c.usageDue.Store(false)
	c.usagePause.Wrote(time.Now(), len(c.view.Load().Nodes))
	maps.DeleteFunc(c.usage, func(pool string, _ allocation.Usage) bool {
		_, is, _ := c.informers.pool.GetStore().GetByKey(pool)
		return !is
	})
	for _, o := range client.Stored[*v1alpha1.LoadBalancerPool](c.informers.pool) {
		describe := func(desired *v1alpha1.LoadBalancerPool) { c.describePool(desired, of) }
		err := publishOne(ctx, c, c.Berth.LoadBalancerPools, "LoadBalancerPool", o, of, describe)
		failures = append(failures, err)
	}
	if errors.Join(failures...) != nil {
		c.usageDue.Store(true)
	}
	if of == nil {
		return errors.Join(failures...)
	}
	for _, o := range client.Stored[*v1alpha1.SegmentAnnouncement](c.informers.segments) {
		describe := func(desired *v1alpha1.SegmentAnnouncement) {
			pools, _ := of.snapshot.Counts(config.Key{Kind: "SegmentAnnouncement", Name: o.Name})
			desired.Status.PoolCount = new(int32(pools))
		}
		err := publishOne(ctx, c, c.Berth.SegmentAnnouncements, "SegmentAnnouncement", o, of, describe)
		failures = append(failures, err)
	}
	for _, o := range client.Stored[*v1alpha1.RouteAnnouncement](c.informers.routes) {
		describe := func(desired *v1alpha1.RouteAnnouncement) {
			pools, neighbors := of.snapshot.Counts(config.Key{Kind: "RouteAnnouncement", Name: o.Name})
			desired.Status.PoolCount, desired.Status.NeighborCount = new(int32(pools)), new(int32(neighbors))
		}
		err := publishOne(ctx, c, c.Berth.RouteAnnouncements, "RouteAnnouncement", o, of, describe)
		failures = append(failures, err)
	}
	return errors.Join(append(failures, c.publishNeighbors(ctx, of))...)
}

// publishNeighbors writes the sessions of the BGPNeighbors and, if what was compiled is given,
// their conditions, where they changed.
func (c *Controller) publishNeighbors(ctx context.Context, of *compiled) error {
	var failures []error
	sessions := verdict.Gather(c.snapshot.Load(), c.view.Load().Nodes, c.reports())
	for _, o := range client.Stored[*v1alpha1.BGPNeighbor](c.informers.peer) {
		describe := func(desired *v1alpha1.BGPNeighbor) {
			sessions[o.Name].Describe(desired)
			if wait := c.lag.Wait(o, desired, time.Now()); wait > 0 {
				o.Status.DeepCopyInto(&desired.Status)
				c.publishing.AddAfter(publishSessions, wait)
			}
		}
		failures = append(failures, publishOne(ctx, c, c.Berth.BGPNeighbors, "BGPNeighbor", o, of, describe))
	}
	return errors.Join(failures...)
}

type statusWriter[T v1alpha1.Object] interface {
	UpdateStatus(context.Context, T, metav1.UpdateOptions) (T, error)
}

// publishOne writes the status of one object if it changed: the verdict, if the object was compiled
// as it is, and what describe sets.
func publishOne[T v1alpha1.Object](
	ctx context.Context,
	c *Controller,
	writer statusWriter[T],
	kind string,
	o T,
	of *compiled,
	describe func(T),
) error {
	desired, ok := o.DeepCopyObject().(T)
	if !ok {
		return nil
	}
	describe(desired)
	var v verdict.Verdict
	news := false
	if found, known := of.problemsOf(kind, o); known {
		v = verdict.Of(of.snapshot.Accepted(config.Key{Kind: kind, Name: o.GetName()}), found)
		_, news = v.Apply(desired)
	}
	if apiequality.Semantic.DeepEqual(o, desired) {
		return nil
	}
	if _, err := writer.UpdateStatus(ctx, desired, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write status of %s %s: %w", kind, o.GetName(), err)
	}
	if news && v.Wrong {
		c.Events.Eventf(o, nil, corev1.EventTypeWarning, v.Reason, "Compile", "%s", v.Message)
		c.Logger.Warn("object is not in full effect", "kind", kind, "name", o.GetName(),
			"reason", v.Reason, "message", v.Message)
	}
	return nil
}

// describePool sets the usage of the pool's addresses and, if it was compiled as it is, which of
// them other pools claim.
func (c *Controller) describePool(pool *v1alpha1.LoadBalancerPool, of *compiled) {
	usage := c.allocations.Usage(pool.Name, mostResting, c.usage[pool.Name])
	c.usage[pool.Name] = usage
	status := &pool.Status
	status.Summary = summaryOf(pool.Spec.Addresses)
	status.Resting, status.Recent = nil, nil
	for _, r := range usage.Resting {
		until := metav1.NewTime(r.Until.Truncate(time.Second).Add(time.Second))
		status.Resting = append(
			status.Resting,
			v1alpha1.RestingAddress{Address: r.Address.String(), Service: r.Owner, UntilTime: &until},
		)
	}
	for _, r := range usage.Recent {
		status.Recent = append(status.Recent, r.From().String()+"-"+r.To().String())
	}
	status.IPv4, status.IPv6 = counts(usage.Counts, ipam.IPv4), counts(usage.Counts, ipam.IPv6)
	set := func(d condition.Condition) { d.Apply(pool.ConditionList(), pool.Generation, metav1.Now()) }
	set(exhausted(usage.Full))
	set(c.excluded(pool.Name))
	if found, known := of.problemsOf("LoadBalancerPool", pool); known {
		set(verdict.Conflicts(found))
	}
}

// summaryOf returns the first of a pool's ranges, and counts the others.
func summaryOf(addresses []v1alpha1.AddressRange) string {
	switch len(addresses) {
	case 0:
		return ""
	case 1:
		return string(addresses[0])
	}
	return fmt.Sprintf("%s and %d more", addresses[0], len(addresses)-1)
}

// exhausted returns the condition of a pool that says whether it is full.
func exhausted(families []ipam.Family) condition.Condition {
	if len(families) == 0 {
		return condition.Condition{
			Kind:    v1alpha1.ConditionExhausted,
			Reason:  "AddressesFree",
			Message: "an address of each family is free for a Service that names none",
		}
	}
	var names []string
	for _, f := range families {
		names = append(names, f.String())
	}
	return condition.Condition{
		Kind: v1alpha1.ConditionExhausted, OK: true, Reason: "NoFreeAddress",
		Message: fmt.Sprintf("no %s address is free for a Service that names none; widen spec.addresses, or add another pool", strings.Join(names, " and no ")),
	}
}

// mostResting limits the lists in a pool's status.
const mostResting = 64

// excluded returns the condition of a pool that says which of its addresses are in use elsewhere.
func (c *Controller) excluded(pool string) condition.Condition {
	free := condition.Condition{
		Kind:    v1alpha1.ConditionExcluded,
		Reason:  "NoneExcluded",
		Message: "no address of the pool is known to be in use elsewhere",
	}
	p := c.snapshot.Load().Pool(pool)
	if p == nil {
		return free
	}
	var found []string
	for _, u := range c.allocations.Used().All() {
		if slices.ContainsFunc(p.Ranges, func(r netipx.IPRange) bool { return r.Overlaps(u.IPRange) }) {
			found = append(found, rangeText(u.IPRange)+" is "+u.By)
		}
	}
	if len(found) == 0 {
		return free
	}
	return condition.Condition{
		Kind:    v1alpha1.ConditionExcluded,
		OK:      true,
		Reason:  "InUseElsewhere",
		Message: "not given: " + condition.Few(found),
	}
}

// rangeText returns a range as an address, a prefix, or "first-last".
func rangeText(r netipx.IPRange) string {
	if p, ok := r.Prefix(); ok {
		if p.IsSingleIP() {
			return p.Addr().String()
		}
		return p.String()
	}
	return r.String()
}

func counts(of map[ipam.Family]ipam.Usage, family ipam.Family) v1alpha1.AddressUsage {
	u, ok := of[family]
	if !ok {
		return v1alpha1.AddressUsage{}
	}
	excluded := u.Excluded
	if excluded == nil {
		excluded = new(big.Int)
	}
	free := new(big.Int).Sub(u.Total, big.NewInt(u.Assigned+u.Reserved+u.Resting))
	free.Sub(free, excluded)
	next := ""
	if u.Next.IsValid() {
		next = u.Next.String()
	}
	return v1alpha1.AddressUsage{
		Total: decimal(u.Total), Assigned: decimal(big.NewInt(u.Assigned)), Reserved: decimal(big.NewInt(u.Reserved)),
		Excluded: decimal(excluded), Resting: decimal(big.NewInt(u.Resting)), Free: decimal(free),
		Next: next,
	}
}

func decimal(n *big.Int) v1alpha1.Count { return v1alpha1.Count(n.String()) }
