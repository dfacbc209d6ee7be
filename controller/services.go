package controller

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/config/record"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/announcement"
	"github.com/berth-lb/berth/controller/condition"
	"github.com/berth-lb/berth/controller/service"
	"github.com/berth-lb/berth/ipam"
)

func conflict(err error) bool { return apierrors.IsConflict(err) }

// rebuild makes the allocator hold what the statuses of the Services say, older
// Services first, and those of others last. It reads them from the API server, not from the cache, which may
// lag behind what a former leader wrote last.
func (c *Controller) rebuild(ctx context.Context) error {
	list, err := c.Kubernetes.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("rebuild the allocator: list Services: %w", err)
	}
	slices.SortFunc(list.Items, func(a, b corev1.Service) int { return older(&a, &b) })
	var rest []*corev1.Service
	for i := range list.Items {
		svc := &list.Items[i]
		key := svc.Namespace + "/" + svc.Name
		whose, given := c.judge(key, svc)
		if whose != service.Own {
			rest = append(rest, svc)
			continue
		}
		c.mu.Lock()
		c.adopt(key, svc, given)
		c.mu.Unlock()
		c.notePins(key, svc, whose)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, svc := range rest {
		c.occupy(svc.Namespace+"/"+svc.Name, svc)
	}
	return nil
}

// judge says whose the Service is, and returns the record of what Berth gave it, without addresses if there is none.
func (c *Controller) judge(key string, svc *corev1.Service) (service.Ownership, record.Record) {
	if !c.classes().Selects(svc) {
		return service.NotServed, record.Record{}
	}
	namespace, snapshot := c.namespaceLabels(svc.Namespace), c.snapshot.Load()
	given, recorded := service.RecordOf(svc, *c.recordKey.Load(), namespace, snapshot)
	c.mu.Lock()
	defer c.mu.Unlock()
	held := c.gave(key, svc)
	return service.OwnershipOf(svc, recorded, held, namespace, snapshot), given
}

// gave reports whether this controller remembers that it gave the Service something. The mutex is held.
func (c *Controller) gave(key string, svc *corev1.Service) bool {
	return c.given[key].UID == svc.UID && len(c.allocator.Holdings(key)) > 0
}

func (c *Controller) classes() service.Classes {
	return service.Classes{Names: c.Classes, Classless: c.Classless}
}

// adopt makes the allocator hold what the Service was given, as its record says; a Service of a class of Berth's that has
// none keeps the addresses in its status that are of a pool. The mutex is held.
func (c *Controller) adopt(key string, svc *corev1.Service, given record.Record) {
	addresses := given.Addresses
	if len(addresses) == 0 && svc.Spec.LoadBalancerClass != nil {
		addresses = slices.DeleteFunc(service.AddressesIn(svc), func(a netip.Addr) bool { return c.allocator.PoolOf(a) == "" })
	}
	if len(addresses) == 0 {
		return
	}
	if given.Request == "" {
		given.Request = record.RequestOf(service.AnnotationList(svc.Annotations, v1alpha1.AnnotationPools))
	}
	given.UID = svc.UID
	c.given[key] = given
	for _, address := range addresses {
		if err := c.allocator.Hold(key, address, service.TermsOf(svc)); err != nil {
			c.Logger.Warn("an address that was given is lost", "service", key, "address", address, "error", err)
		}
	}
}

// reconcile makes one Service have what it asks for, and its status say so.
func (c *Controller) reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // no key of ours
	}
	svc, err := c.informers.services.Services(namespace).Get(name)
	switch {
	case apierrors.IsNotFound(err):
		c.release(key)
		c.forget(key)
		return nil
	case err != nil:
		return fmt.Errorf("get Service %s: %w", key, err)
	case c.outdated(key, svc):
		return nil // what we wrote is on its way into the cache, and brings the key back
	}
	whose, given := c.judge(key, svc)
	c.notePins(key, svc, whose)
	switch whose {
	case service.NotServed:
		return c.disown(ctx, key, svc)
	case service.Others:
		return c.leave(ctx, key, svc)
	case service.TakenOver:
		if err := c.takeOver(key, svc); err != nil {
			return c.explainWait(ctx, key, svc, err)
		}
	case service.Own:
	}
	c.vacate(key)
	if wait := c.contested.Review(key, svc, time.Now()); wait > 0 {
		c.services.AddAfter(key, wait)
		c.tellContest(key, svc)
		return nil
	}
	return c.serve(ctx, key, svc, given)
}

// serve writes what the Service has, and tells of it.
func (c *Controller) serve(ctx context.Context, key string, svc *corev1.Service, given record.Record) error {
	asked, assignment, outside, failure := c.assign(key, svc, given)
	o := c.outlook(svc, assignment.Addresses)
	first := service.ContestedBy(c.contested.Writer(key), service.Allocated(asked, assignment, failure, outside))
	conditions := c.withAnnounced([]condition.Condition{first}, svc, o)
	shown := service.IngressOf(o.Addresses, o.Forwarder.Mode())
	if len(assignment.Addresses)+len(assignment.Surplus)+len(c.snapshot.Load().Pools) == 0 {
		shown = svc.Status.LoadBalancer.Ingress // without any pool every status stays as it is
	}
	desired, news := service.WithStatus(svc, shown, conditions, c.recorded(key, svc, assignment.Addresses), metav1.Now())
	if desired != svc {
		if err := c.write(ctx, key, desired); err != nil {
			return err
		}
	}
	c.tellTaken(svc, assignment.Surplus)
	// Only now that no status shows them may others have them.
	c.free(key, assignment.Surplus)
	for _, n := range news {
		c.tell(svc, n)
	}
	if len(o.Addresses) > 0 && o.Forwarder.Mode() != service.ModeOf(svc) {
		c.tellForwarder(svc, o.Forwarder)
	}
	return nil
}

// tellTaken makes events of addresses that were taken out of service, since somebody else has them.
func (c *Controller) tellTaken(svc *corev1.Service, lost []netip.Addr) {
	for _, address := range lost {
		if use, found := c.used.Load().Of(address); found {
			c.Events.Eventf(svc, nil, corev1.EventTypeWarning, service.ReasonExcluded, "Release", "%s is %s: it was taken out of service", address, use.By)
			c.Logger.Warn("taken out of service", "service", svc.Namespace+"/"+svc.Name, "address", address, "use", use.By)
		}
	}
}

// recorded returns what is to be recorded of the Service, which has these addresses, as a condition; nil: nothing.
func (c *Controller) recorded(key string, svc *corev1.Service, addresses []netip.Addr) *metav1.Condition {
	if len(addresses) == 0 {
		return nil
	}
	c.mu.Lock()
	given := c.given[key]
	c.mu.Unlock()
	given.UID, given.Addresses = svc.UID, addresses
	signed := given.Condition(*c.recordKey.Load(), metav1.Now())
	return &signed
}

// assign has the allocator give the Service what it asks for. It returns what that
// is, what it got, and which of its addresses are in no pool any more.
func (c *Controller) assign(key string, svc *corev1.Service, given record.Record) (service.Request, ipam.Assignment, []netip.Addr, error) {
	asked, invalid := c.requestOf(svc)
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.allocator.Holdings(key)
	if len(before) == 0 {
		c.adopt(key, svc, given)
		before = c.allocator.Holdings(key)
	}
	if invalid == nil && asked.Unusable != nil && len(before) == 0 {
		invalid = asked.Unusable
	}
	if invalid != nil {
		c.waiting[key] = true
		delete(c.given, key)
		return asked, ipam.Assignment{Surplus: c.allocator.Surrender(key)}, nil, invalid
	}
	if slices.ContainsFunc(before, c.isLocal) {
		c.giveNoneOf(c.used.Load()) // it may be bound since the Service has it, which its annotations tell by now
	}
	asked.Release(svc, c.outsidePools(before), c.ReleaseOutside)
	// An edit of the annotation may take an address away, one of a pool may not.
	asked.Strict = asked.Named && asked.Unusable == nil && len(before) > 0 && c.given[key].Request != asked.Digest
	assignment, err := c.allocator.Assign(key, asked.Request)
	c.note(key, svc, asked, assignment.Addresses)
	outside := c.outsidePools(assignment.Addresses)
	if err == nil && len(assignment.Missing) == 0 {
		delete(c.waiting, key)
	} else {
		c.waiting[key] = true
	}
	if len(outside) > 0 {
		c.outside[key] = true
	} else {
		delete(c.outside, key)
	}
	if assignment.Renewed {
		c.retryWaiting(key)
	}
	if !slices.Equal(before, c.allocator.Holdings(key)) {
		c.metrics.allocations.Inc()
		c.settings.AddAfter(publishUsage, usageInterval)
	}
	return asked, assignment, outside, err
}

// note keeps what the Service was given, and for which request. A request for a pool that cannot be used is not the one
// that was met: it is once the pool is there. The mutex is held.
func (c *Controller) note(key string, svc *corev1.Service, asked service.Request, addresses []netip.Addr) {
	if len(addresses) == 0 {
		delete(c.given, key)
		return
	}
	given := record.Record{UID: svc.UID, Request: asked.Digest, Addresses: addresses}
	if before, known := c.given[key]; known && asked.Unusable != nil {
		given.Request = before.Request
	}
	c.given[key] = given
}

// outsidePools returns those of the addresses that are in no pool. The mutex is held.
func (c *Controller) outsidePools(addresses []netip.Addr) []netip.Addr {
	var outside []netip.Addr
	for _, address := range addresses {
		if c.allocator.PoolOf(address) == "" {
			outside = append(outside, address)
		}
	}
	return outside
}

// namespaceLabels returns the labels of a namespace, as the cache has them.
func (c *Controller) namespaceLabels(name string) labels.Set {
	o, exists, err := c.informers.namespace.GetStore().GetByKey(name)
	if ns, ok := o.(metav1.Object); ok && exists && err == nil {
		return ns.GetLabels()
	}
	return nil
}

// retryWaiting has the Services and reservations tried again that do not have all
// they ask for. The
// mutex is held.
func (c *Controller) retryWaiting(but string) {
	c.chances++
	for key := range c.waiting {
		if key != but {
			c.services.Add(key)
		}
	}
	for key := range c.unkept {
		c.reserving.Add(key)
	}
}

// free gives addresses of a Service back. They rest first; those who wait are tried again all the same, since who shared
// one with it may do so on other terms now.
func (c *Controller) free(key string, addresses []netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var until time.Time
	if c.Rest > 0 {
		until = time.Now().Add(c.Rest)
	}
	if !c.allocator.Free(key, addresses, until) {
		return
	}
	c.Logger.Info("freed", "service", key, "addresses", addresses)
	c.retryWaiting(key)
	c.settings.AddAfter(publishUsage, usageInterval)
	if c.Rest > 0 {
		c.settings.AddAfter(wakeResting, c.Rest)
	}
}

// release forgets a Service that is not served any more.
func (c *Controller) release(key string) {
	c.mu.Lock()
	delete(c.waiting, key)
	delete(c.outside, key)
	delete(c.given, key)
	unpinned := c.allocator.SetPins(key, nil)
	held := c.allocator.Holdings(key)
	if unpinned && len(held) == 0 {
		c.retryWaiting(key)
	}
	c.mu.Unlock()
	c.free(key, held)
}

// disown takes Berth's marks off a Service that it does not serve.
func (c *Controller) disown(ctx context.Context, key string, svc *corev1.Service) error {
	if service.Marked(svc) {
		given, _ := record.Of(svc, *c.recordKey.Load())
		gave := append(c.holdings(key), given.Addresses...)
		if err := c.write(ctx, key, service.WithoutStatus(svc, gave)); err != nil {
			return err
		}
		c.Events.Eventf(svc, nil, corev1.EventTypeNormal, "AddressReleased", "Release", "not a Service of Berth's any more (spec.type, spec.loadBalancerClass)")
	}
	c.contested.Forget(key)
	c.release(key)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.left, key)
	c.occupy(key, svc)
	return nil
}

// notePins keeps the addresses that a Service asks for by name from whoever takes any.
func (c *Controller) notePins(key string, svc *corev1.Service, whose service.Ownership) {
	var pins []netip.Addr
	if whose == service.Own {
		if asked, err := c.requestOf(svc); err == nil {
			snapshot := c.snapshot.Load()
			for _, a := range asked.Pinned {
				// A pool that does not serve the Service does not wait for it either.
				if p := snapshot.PoolOf(a); p != nil && slices.Contains(asked.Pools, p.Name) {
					pins = append(pins, a)
				}
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.allocator.SetPins(key, pins) {
		c.retryWaiting(key)
	}
}

// write writes the status on the resourceVersion that it was decided on.
func (c *Controller) write(ctx context.Context, key string, svc *corev1.Service) error {
	c.metrics.writes.Inc()
	written, err := c.Kubernetes.CoreV1().Services(svc.Namespace).UpdateStatus(ctx, svc, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil // deleted meanwhile: its deletion is on its way to us
	}
	if err != nil {
		return fmt.Errorf("write status of Service %s: %w", key, err)
	}
	c.contested.Wrote(key, written)
	if written.ResourceVersion != svc.ResourceVersion {
		c.mu.Lock()
		c.superseded[key] = svc.ResourceVersion
		c.mu.Unlock()
	}
	return nil
}

// forget forgets what was written of a Service that is gone.
func (c *Controller) forget(key string) {
	c.contested.Forget(key)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.superseded, key)
	c.vacated(key)
}

// outdated tells whether the Service, as the cache has it, is what we last wrote
// over: to decide on it again would only bring a conflict.
func (c *Controller) outdated(key string, svc *corev1.Service) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.superseded[key] == svc.ResourceVersion {
		return true
	}
	delete(c.superseded, key)
	return false
}

// tell makes an event and a log line of a condition that changed.
func (c *Controller) tell(svc *corev1.Service, news condition.Condition) {
	kind, action := corev1.EventTypeNormal, "Allocate"
	if news.Kind == v1alpha1.ServiceAnnounced {
		action = "Announce"
	}
	if !news.OK || news.Warns {
		kind = corev1.EventTypeWarning
	}
	if news.Reason == announcement.ReasonNoAddress {
		return // the other condition says why
	}
	c.Events.Eventf(svc, nil, kind, news.Reason, action, "%s", news.Message)
	c.Logger.Info("service", "service", svc.Namespace+"/"+svc.Name, "condition", news.Kind, "reason", news.Reason, "message", news.Message)
}

// tellForwarder makes an event and a log line of a change of who forwards.
func (c *Controller) tellForwarder(svc *corev1.Service, f announcement.Forwarder) {
	kind := corev1.EventTypeNormal
	if f.Fallback != "" {
		kind = corev1.EventTypeWarning
	}
	c.Events.Eventf(svc, nil, kind, "Forwarder", "Forward", "%s (ipMode %s)", f, f.Mode())
	c.Logger.Info("service", "service", svc.Namespace+"/"+svc.Name, "ipMode", f.Mode(), "message", f.String())
}
