package controller

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/ipam"
)

func conflict(err error) bool { return apierrors.IsConflict(err) }

// rebuild makes the allocator hold what the statuses of the Services say, older
// Services first. It reads them from the API server, not from the cache, which may
// lag behind what a former leader wrote last.
func (c *Controller) rebuild(ctx context.Context) error {
	list, err := c.Kubernetes.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("rebuild the allocator: list Services: %w", err)
	}
	slices.SortFunc(list.Items, func(a, b corev1.Service) int {
		if d := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); d != 0 {
			return d
		}
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range list.Items {
		if svc := &list.Items[i]; serves(svc, c.Classless) {
			c.adopt(svc)
		}
	}
	return nil
}

// adopt makes the allocator hold the addresses in the Service's status: those in a
// pool, and those that Berth gave when they were in one. The mutex is held.
func (c *Controller) adopt(svc *corev1.Service) {
	key := svc.Namespace + "/" + svc.Name
	for _, address := range addressesIn(svc) {
		if c.allocator.PoolOf(address) == "" && !given(svc) {
			continue
		}
		if err := c.allocator.Hold(key, address, termsOf(svc)); err != nil {
			c.Logger.Warn("address in two statuses; the other Service keeps it", "service", key, "address", address, "error", err)
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
	case !serves(svc, c.Classless):
		return c.disown(ctx, key, svc)
	}
	asked, assignment, outside, failure := c.assign(key, svc)
	o := c.outlook(svc, assignment.Addresses)
	conditions := c.withAnnounced([]condition{allocated(asked, assignment, failure, outside)}, svc, o)
	desired, news := withStatus(svc, o.ingress(), conditions, metav1.Now())
	if desired != svc {
		if err := c.write(ctx, key, desired); err != nil {
			return err
		}
	}
	// Only now that no status shows them may others have them.
	c.free(key, assignment.Surplus)
	for _, n := range news {
		c.tell(svc, n)
	}
	if len(o.addresses) > 0 && o.forwarder.mode() != modeOf(svc) {
		c.tellForwarder(svc, o.forwarder)
	}
	return nil
}

// assign has the allocator give the Service what it asks for. It returns what that
// is, what it got, and which of its addresses are in no pool any more.
func (c *Controller) assign(key string, svc *corev1.Service) (request, ipam.Assignment, []netip.Addr, error) {
	asked, invalid := requestOf(svc, c.namespaceLabels(svc.Namespace), c.snapshot.Load(), c.reservedFor(svc.Namespace, svc.Name))
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.allocator.Holdings(key)
	if len(before) == 0 {
		c.adopt(svc)
		before = c.allocator.Holdings(key)
	}
	if invalid != nil {
		c.waiting[key] = true
		return asked, ipam.Assignment{Surplus: c.allocator.Surrender(key)}, nil, invalid
	}
	asked.drop(svc, c.outsidePools(before), c.ReleaseOutside)
	assignment, err := c.allocator.Assign(key, asked.Request)
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

// free gives addresses of a Service back, and has the Services that wait for one
// tried again.
func (c *Controller) free(key string, addresses []netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.allocator.Free(key, addresses, time.Time{}) {
		return
	}
	c.Logger.Info("freed", "service", key, "addresses", addresses)
	c.retryWaiting(key)
	c.settings.AddAfter(publishUsage, usageInterval)
}

// release forgets a Service that is not served any more.
func (c *Controller) release(key string) {
	c.mu.Lock()
	delete(c.waiting, key)
	delete(c.outside, key)
	held := c.allocator.Holdings(key)
	c.mu.Unlock()
	c.free(key, held)
}

// disown takes Berth's marks off a Service that it does not serve.
func (c *Controller) disown(ctx context.Context, key string, svc *corev1.Service) error {
	if marked(svc) {
		if err := c.write(ctx, key, withoutStatus(svc, c.gave(key))); err != nil {
			return err
		}
		c.Events.Eventf(svc, nil, corev1.EventTypeNormal, "AddressReleased", "Release", "not a Service of Berth's any more (spec.type, spec.loadBalancerClass)")
	}
	c.release(key)
	return nil
}

// gave returns a test for addresses that the Service can only have from Berth.
func (c *Controller) gave(key string) func(netip.Addr) bool {
	c.mu.Lock()
	held := c.allocator.Holdings(key)
	c.mu.Unlock()
	return func(a netip.Addr) bool { return slices.Contains(held, a) || c.snapshot.Load().PoolOf(a) != nil }
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
	if written.ResourceVersion != svc.ResourceVersion {
		c.mu.Lock()
		c.superseded[key] = svc.ResourceVersion
		c.mu.Unlock()
	}
	return nil
}

// forget forgets what was written of a Service that is gone.
func (c *Controller) forget(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.superseded, key)
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
func (c *Controller) tell(svc *corev1.Service, news condition) {
	kind, action := corev1.EventTypeNormal, "Allocate"
	if news.kind == v1alpha1.ServiceAnnounced {
		action = "Announce"
	}
	if !news.ok || news.complaint != "" {
		kind = corev1.EventTypeWarning
	}
	if news.reason == ReasonNoAddress {
		return // the other condition says why
	}
	c.Events.Eventf(svc, nil, kind, news.reason, action, "%s", news.message)
	c.Logger.Info("service", "service", svc.Namespace+"/"+svc.Name, "condition", news.kind, "reason", news.reason, "message", news.message)
}
