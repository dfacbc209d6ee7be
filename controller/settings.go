package controller

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"go4.org/netipx"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/ipam"
)

// configure does one piece of configuration work.
func (c *Controller) configure(ctx context.Context, what setting) error {
	switch what {
	case compileAll:
		problems := c.compile()
		c.reviewUsed()   // BGPPeers are among it
		c.reserveKnown() // before those who take any
		c.repin()
		c.enqueueAll()
		return c.publish(ctx, problems)
	case publishUsage:
		return c.publish(ctx, nil)
	case ensureKey:
		return c.ensureHelloKey(ctx)
	case reviewNodes:
		if c.reviewNodes() {
			c.enqueueAll()
		}
	case reviewUsed:
		return c.publishUsed(ctx)
	case wakeResting:
		c.wake(time.Now())
	}
	return nil
}

// publishUsed takes in which addresses are in use, and says it on the pools if that changed.
func (c *Controller) publishUsed(ctx context.Context) error {
	if !c.reviewUsed() {
		return nil
	}
	return c.publish(ctx, nil)
}

// repin notes anew what every Service asks for by name: pools, or whom they serve, have changed.
func (c *Controller) repin() {
	for _, svc := range client.Stored[*corev1.Service](c.informers.service) {
		key := svc.Namespace + "/" + svc.Name
		whose, _ := c.judge(key, svc)
		c.notePins(key, svc, whose)
	}
}

// allocations translates from the API.
var allocations = map[v1alpha1.Allocation]ipam.Allocation{
	v1alpha1.AllocationAutomatic: ipam.Automatic,
	v1alpha1.AllocationOnRequest: ipam.OnRequest,
	v1alpha1.AllocationDisabled:  ipam.Disabled,
}

// compile makes the Snapshot of what the caches hold, and gives the allocator its
// pools.
func (c *Controller) compile() map[config.Key][]config.Problem {
	snapshot, problems := config.Compile(config.Objects{
		Pools:             client.Stored[*v1alpha1.IPPool](c.informers.pool),
		L2Advertisements:  client.Stored[*v1alpha1.L2Advertisement](c.informers.l2),
		BGPAdvertisements: client.Stored[*v1alpha1.BGPAdvertisement](c.informers.bgp),
		BGPPeers:          client.Stored[*v1alpha1.BGPPeer](c.informers.peer),
		Passwords:         client.Passwords(c.informers.password),
	})
	pools := make([]ipam.Pool, 0, len(snapshot.Pools))
	for _, p := range snapshot.Pools {
		pools = append(pools, ipam.Pool{
			Name: p.Name, Ranges: p.Ranges, Reserved: p.Reserved, Allocation: allocations[p.Allocation],
			SkipEdges: p.ExcludeEdges, ShareAcross: p.ShareAcross,
		})
	}
	c.mu.Lock()
	c.allocator.SetPools(pools)
	c.mu.Unlock()
	c.snapshot.Store(snapshot)
	return problems
}

// publish writes what changed of the objects' conditions, if problems are given,
// and of the pools' usage.
func (c *Controller) publish(ctx context.Context, problems map[config.Key][]config.Problem) error {
	var failures []error
	if problems != nil {
		c.metrics.assigned.Reset() // a pool may be gone
	}
	for _, o := range client.Stored[*v1alpha1.IPPool](c.informers.pool) {
		failures = append(failures, publishOne(ctx, c, c.Berth.IPPools, "IPPool", o, problems, func(desired *v1alpha1.IPPool) bool {
			used := c.setUsage(desired)
			if excluded, _ := c.excluded(o.Name).apply(desired.ConditionList(), o.Generation, metav1.Now()); excluded {
				used = true
			}
			found, known := problems[config.Key{Kind: "IPPool", Name: o.Name}]
			if !known {
				return used
			}
			changed, _ := conflicts(found).apply(desired.ConditionList(), o.Generation, metav1.Now())
			return used || changed
		}))
	}
	if problems != nil {
		for _, o := range client.Stored[*v1alpha1.L2Advertisement](c.informers.l2) {
			failures = append(failures, publishOne(ctx, c, c.Berth.L2Advertisements, "L2Advertisement", o, problems, nil))
		}
		for _, o := range client.Stored[*v1alpha1.BGPAdvertisement](c.informers.bgp) {
			failures = append(failures, publishOne(ctx, c, c.Berth.BGPAdvertisements, "BGPAdvertisement", o, problems, nil))
		}
		for _, o := range client.Stored[*v1alpha1.BGPPeer](c.informers.peer) {
			failures = append(failures, publishOne(ctx, c, c.Berth.BGPPeers, "BGPPeer", o, problems, nil))
		}
	}
	return errors.Join(failures...)
}

// object is a configuration object.
type object interface {
	runtime.Object
	metav1.Object
	ConditionList() *[]metav1.Condition
}

type statusWriter[T object] interface {
	UpdateStatus(context.Context, T, metav1.UpdateOptions) (T, error)
}

// publishOne writes the status of one object if it differs.
func publishOne[T object](ctx context.Context, c *Controller, writer statusWriter[T], kind string, o T, problems map[config.Key][]config.Problem, amend func(T) bool) error {
	desired, ok := o.DeepCopyObject().(T)
	if !ok {
		return nil
	}
	changed := amend != nil && amend(desired)
	var news bool
	ready := condition{}
	if found, known := problems[config.Key{Kind: kind, Name: o.GetName()}]; known {
		ready = readiness(found)
		var differs bool
		differs, news = ready.apply(desired.ConditionList(), o.GetGeneration(), metav1.Now())
		changed = changed || differs
	}
	if !changed {
		return nil
	}
	if _, err := writer.UpdateStatus(ctx, desired, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write status of %s %s: %w", kind, o.GetName(), err)
	}
	if news && !ready.ok {
		c.Events.Eventf(o, nil, corev1.EventTypeWarning, ready.reason, "Compile", "%s", ready.message)
		c.Logger.Warn("configuration", "kind", kind, "name", o.GetName(), "reason", ready.reason, "message", ready.message)
	}
	return nil
}

// readiness is the condition Ready for what is wrong with an object.
func readiness(problems []config.Problem) condition {
	c := condition{kind: v1alpha1.ConditionReady, ok: true, reason: "InEffect", message: "all of the object is in effect"}
	harmful := slices.DeleteFunc(slices.Clone(problems), func(p config.Problem) bool { return p.Harmless })
	if len(harmful) > 0 {
		c.ok, c.reason, c.message = false, harmful[0].Reason, summary(harmful)
	}
	return c
}

// conflicts is the condition Conflict of a pool.
func conflicts(problems []config.Problem) condition {
	found := slices.DeleteFunc(slices.Clone(problems), func(p config.Problem) bool { return p.Reason != config.ReasonConflict })
	if len(found) == 0 {
		return condition{kind: v1alpha1.ConditionConflict, reason: "NoConflict", message: "no other IPPool claims these addresses"}
	}
	return condition{kind: v1alpha1.ConditionConflict, ok: true, reason: config.ReasonConflict, message: summary(found)}
}

// summary joins the messages of problems, the first few of very many.
func summary(problems []config.Problem) string {
	const most = 8
	var messages []string
	for _, p := range problems[:min(most, len(problems))] {
		messages = append(messages, p.Message)
	}
	if more := len(problems) - most; more > 0 {
		messages = append(messages, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(messages, "; ")
}

// setUsage puts the counts of the pool's addresses into its status.
func (c *Controller) setUsage(pool *v1alpha1.IPPool) bool {
	c.mu.Lock()
	usage := c.allocator.Usage(pool.Name)
	c.mu.Unlock()
	c.mu.Lock()
	resting, recent := c.allocator.Resting(pool.Name, mostResting), c.allocator.Recent(pool.Name, mostResting)
	c.mu.Unlock()
	old := pool.Status
	pool.Status.Resting, pool.Status.Recent = nil, nil
	for _, r := range resting {
		pool.Status.Resting = append(pool.Status.Resting, v1alpha1.RestingAddress{Address: r.Address.String(), Service: r.Owner, Until: metav1.NewTime(r.Until.Truncate(time.Second).Add(time.Second))})
	}
	for _, r := range recent {
		pool.Status.Recent = append(pool.Status.Recent, r.From().String()+"-"+r.To().String())
	}
	pool.Status.IPv4, pool.Status.IPv6 = counts(usage, ipam.IPv4), counts(usage, ipam.IPv6)
	for family, u := range usage {
		c.metrics.assigned.WithLabelValues(pool.Name, family.String()).Set(float64(u.Assigned))
	}
	return !apiequality.Semantic.DeepEqual(old, pool.Status)
}

// mostResting bounds the lists of a pool's status.
const mostResting = 64

// excluded is the condition of a pool that tells which of its addresses are in use elsewhere.
func (c *Controller) excluded(pool string) condition {
	free := condition{kind: v1alpha1.ConditionExcluded, reason: "NoneExcluded", message: "no address of the pool is known to be in use elsewhere"}
	p := c.snapshot.Load().Pool(pool)
	if p == nil {
		return free
	}
	var found []string
	for _, u := range c.used.Load().All() {
		if slices.ContainsFunc(p.Ranges, func(r netipx.IPRange) bool { return r.Overlaps(u.IPRange) }) {
			found = append(found, rangeText(u.IPRange)+" is "+u.By)
		}
	}
	if len(found) == 0 {
		return free
	}
	return condition{kind: v1alpha1.ConditionExcluded, ok: true, reason: "InUseElsewhere", message: "not given: " + few(found)}
}

// rangeText is a range as people write it.
func rangeText(r netipx.IPRange) string {
	if p, ok := r.Prefix(); ok {
		if p.IsSingleIP() {
			return p.Addr().String()
		}
		return p.String()
	}
	return r.String()
}

func counts(of map[ipam.Family]ipam.Usage, family ipam.Family) *v1alpha1.AddressUsage {
	u, ok := of[family]
	if !ok {
		return nil
	}
	free := new(big.Int).Sub(u.Total, big.NewInt(u.Assigned+u.Kept+u.Resting))
	usage := &v1alpha1.AddressUsage{Total: u.Total.String(), Assigned: u.Assigned, Kept: u.Kept, Resting: u.Resting}
	if u.Excluded != nil && u.Excluded.Sign() > 0 {
		usage.Excluded = u.Excluded.String()
		free.Sub(free, u.Excluded)
	}
	usage.Free = free.String()
	return usage
}
