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
	"github.com/berth-lb/berth/controller/allocation"
	"github.com/berth-lb/berth/controller/announcement"
	"github.com/berth-lb/berth/controller/condition"
	"github.com/berth-lb/berth/controller/service"
)

func conflict(err error) bool { return apierrors.IsConflict(err) }

// rebuild fills the allocator from the statuses of the Services: older Services first, those of
// other implementations last. It reads them from the API server, since the cache may lag behind the
// last writes of a former leader.
func (c *Controller) rebuild(ctx context.Context) error {
	list, err := c.Kubernetes.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("rebuild the allocator: list Services: %w", err)
	}
	slices.SortFunc(list.Items, func(a, b corev1.Service) int { return service.Older(&a, &b) })
	var rest []*corev1.Service
	for i := range list.Items {
		svc := &list.Items[i]
		key := svc.Namespace + "/" + svc.Name
		whose, given := c.judge(svc)
		if whose != service.Own {
			rest = append(rest, svc)
			continue
		}
		c.allocations.Adopt(key, svc, given)
		c.notePins(key, whose, c.requestOf(svc, whose))
	}
	for _, svc := range rest {
		c.allocations.Occupy(svc.Namespace+"/"+svc.Name, svc, false)
	}
	return nil
}

// newcomer reports whether the key is of a Service that Berth may serve and has said nothing about
// yet: somebody waits for its address.
func (c *Controller) newcomer(key string) bool {
	o, exists, err := c.informers.service.GetStore().GetByKey(key)
	svc, ok := o.(*corev1.Service)
	return ok && exists && err == nil && len(svc.Status.LoadBalancer.Ingress) == 0 &&
		c.classes().Selects(svc) && !service.Marked(svc)
}

// judge returns to whom the Service belongs, and the record of what Berth gave it, without
// addresses if there is none.
func (c *Controller) judge(svc *corev1.Service) (service.Ownership, record.Record) {
	if !c.classes().Selects(svc) {
		return service.NotServed, record.Record{}
	}
	namespace, snapshot := c.namespaceLabels(svc.Namespace), c.snapshot.Load()
	given, recorded := service.RecordOf(svc, *c.recordKey.Load(), namespace, snapshot)
	return service.OwnershipOf(svc, recorded, c.allocations.Gave(svc), namespace, snapshot), given
}

// reconcile gives one Service what it asks for, and writes its status.
func (c *Controller) reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // not a valid key
	}
	svc, err := c.informers.services.Services(namespace).Get(name)
	switch {
	case apierrors.IsNotFound(err):
		c.allocations.Release(key)
		c.writes.Gone(key)
		c.pace.Forget(key)
		c.allocations.Vacate(key)
		c.awaited.Review(key, false)
		return nil
	case err != nil:
		return fmt.Errorf("get Service %s: %w", key, err)
	case c.writes.Outdated(key, svc):
		return nil // the last write requeues the key when it reaches the cache
	}
	whose, given := c.judge(svc)
	asked := c.requestOf(svc, whose)
	c.notePins(key, whose, asked)
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
	c.allocations.Vacate(key)
	c.writes.Take(key)
	if wait := c.writes.Review(key, svc, time.Now()); wait > 0 {
		c.services.AddAfter(key, wait)
		c.tellContest(key, svc)
		return nil
	}
	return c.serve(ctx, key, svc, asked, given)
}

// serve gives the Service what it asks for, writes its status and reports what changed.
func (c *Controller) serve(
	ctx context.Context,
	key string,
	svc *corev1.Service,
	asked request,
	given record.Record,
) error {
	outcome := c.assign(key, svc, &asked, given)
	idle := len(outcome.Addresses)+len(outcome.Surplus)+len(c.snapshot.Load().Pools) == 0
	if idle && service.IsOthersWithoutPool(svc, c.snapshot.Load()) {
		return c.unmark(ctx, key, svc)
	}
	o := c.outlook(svc, outcome.Addresses)
	first := service.ContestedBy(
		c.writes.Writer(key),
		service.Allocated(asked.Request, outcome.Assignment, outcome.Err, outcome.Outside),
	)
	conditions := c.withAnnounced([]condition.Condition{first}, svc, o)
	shown := service.IngressOf(o.Addresses, o.Forwarder.Mode())
	if idle {
		shown = svc.Status.LoadBalancer.Ingress // without pools every status stays as it is
	}
	desired, news := service.WithStatus(svc, shown, conditions, c.recorded(key, svc, outcome.Addresses), metav1.Now())
	if waits := len(outcome.Surplus) == 0 && c.waits(key, svc, desired); waits {
		return nil
	}
	if desired != svc {
		if err := c.write(ctx, key, desired); err != nil {
			return err
		}
	}
	c.tellTaken(svc, outcome.Surplus)
	// Only now that no status shows them, others may get them.
	c.allocations.Free(key, outcome.Surplus)
	c.tellNews(key, svc, conditions, news)
	if len(o.Addresses) > 0 && o.Forwarder.Mode() != service.ModeOf(svc) {
		c.tellForwarder(svc, o.Forwarder)
	}
	return nil
}

// waits reports whether the desired status of a Service is not written yet, since it only changes
// conditions and many do. The key is requeued when its turn has come, and may have nothing to tell
// by then.
func (c *Controller) waits(key string, svc, desired *corev1.Service) bool {
	if desired == svc {
		c.pace.Forget(key)
		return false
	}
	well := announcedOf(desired)
	return service.OnlyTells(svc, desired) && !c.pace.Ask(key, well != nil && well.Status == metav1.ConditionTrue)
}

// unmark takes Berth's conditions from a Service that another implementation serves as long as
// there are no pools.
func (c *Controller) unmark(ctx context.Context, key string, svc *corev1.Service) error {
	if !service.Marked(svc) {
		return nil
	}
	return c.write(ctx, key, service.WithoutStatus(svc, nil))
}

// tellTaken emits an event for each address that the Service lost since it is in use elsewhere.
func (c *Controller) tellTaken(svc *corev1.Service, lost []netip.Addr) {
	key := svc.Namespace + "/" + svc.Name
	for _, address := range lost {
		if use, found := c.allocations.UseOf(address); found {
			c.Events.Eventf(
				svc, nil, corev1.EventTypeWarning, service.ReasonExcluded, "Release",
				"%s is %s: it was taken out of service", address, use.By,
			)
			c.Logger.Warn("took an address out of service", "service", key, "address", address, "use", use.By)
		}
	}
}

// recorded returns the condition that records what the Service was given; nil without addresses.
func (c *Controller) recorded(key string, svc *corev1.Service, addresses []netip.Addr) *metav1.Condition {
	if len(addresses) == 0 {
		return nil
	}
	given := c.allocations.Given(key)
	given.UID, given.Addresses = svc.UID, addresses
	signed := given.Condition(*c.recordKey.Load(), metav1.Now())
	return &signed
}

// request is what a Service asks for, or why that is invalid.
type request struct {
	service.Request
	invalid error
}

// requestOf returns what the Service asks for now; nothing if Berth does not serve it.
func (c *Controller) requestOf(svc *corev1.Service, whose service.Ownership) request {
	if whose != service.Own && whose != service.TakenOver {
		return request{}
	}
	asked, err := service.RequestOf(
		svc, c.namespaceLabels(svc.Namespace), c.snapshot.Load(), c.reservedFor(svc.Namespace, svc.Name), c.Honored,
	)
	return request{asked, err}
}

// assign gives the Service what it asks for, and returns what it got. It completes the request with
// what only the allocations know.
func (c *Controller) assign(key string, svc *corev1.Service, asked *request, given record.Record) allocation.Outcome {
	outcome := c.allocations.Assign(key, svc, &asked.Request, asked.invalid, given)
	if outcome.Changed {
		c.metrics.allocations.Inc()
	}
	return outcome
}

// namespaceLabels returns the labels of a namespace, as the cache has them.
func (c *Controller) namespaceLabels(name string) labels.Set {
	o, exists, err := c.informers.namespace.GetStore().GetByKey(name)
	if ns, ok := o.(metav1.Object); ok && exists && err == nil {
		return ns.GetLabels()
	}
	return nil
}

// disown removes Berth's conditions and addresses from a Service that it does not serve.
func (c *Controller) disown(ctx context.Context, key string, svc *corev1.Service) error {
	if service.Marked(svc) {
		given, _ := record.Of(svc, *c.recordKey.Load())
		gave := append(c.allocations.Holdings(key), given.Addresses...)
		if err := c.write(ctx, key, service.WithoutStatus(svc, gave)); err != nil {
			return err
		}
		c.Events.Eventf(
			svc, nil, corev1.EventTypeNormal, "AddressReleased", "Release",
			"Berth no longer serves this Service, by its spec.type or spec.loadBalancerClass",
		)
	}
	c.writes.Forget(key)
	c.allocations.Release(key)
	c.writes.Take(key)
	c.allocations.Occupy(key, svc, false)
	return nil
}

// notePins keeps the addresses that a Service asks for by name from being given automatically to
// others.
func (c *Controller) notePins(key string, whose service.Ownership, asked request) {
	var pins []netip.Addr
	if whose == service.Own && asked.invalid == nil {
		pins = asked.Pins(c.snapshot.Load())
	}
	c.allocations.SetPins(key, pins)
}

// noteOthers keeps what another implementation gave a Service from everybody else. What Berth gave
// is left to the reconciliation, which first takes it out of the status.
func (c *Controller) noteOthers(key string, whose service.Ownership, svc *corev1.Service) {
	if (whose == service.NotServed || whose == service.Others) && !service.Marked(svc) {
		c.allocations.Occupy(key, svc, false)
	}
}

// write writes the status, based on the resourceVersion that it was computed from.
func (c *Controller) write(ctx context.Context, key string, svc *corev1.Service) error {
	c.metrics.writes.Inc()
	written, err := c.Kubernetes.CoreV1().Services(svc.Namespace).UpdateStatus(ctx, svc, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil // deleted; that event will requeue the key
	}
	if err != nil {
		return fmt.Errorf("write status of Service %s: %w", key, err)
	}
	c.writes.Wrote(key, written)
	if written.ResourceVersion != svc.ResourceVersion {
		c.writes.Supersede(key, svc.ResourceVersion)
	}
	return nil
}

// tellNews tells of the conditions that changed. It warns of what a new Service misses only when it
// does not come by itself, and of nothing in a Service that is being deleted.
func (c *Controller) tellNews(key string, svc *corev1.Service, conditions, news []condition.Condition) {
	if c.deleted(svc) {
		return
	}
	var expected time.Duration
	var announced condition.Condition
	for _, is := range conditions {
		if is.Kind == v1alpha1.ServiceAnnounced && !is.OK {
			announced = is
			o := announcement.Service{Local: service.Local(svc), Nodes: c.view.Load().Nodes}
			expected = o.Expected(is.Reason, svc.CreationTimestamp.Time, c.leads, time.Now())
		}
	}
	if expected > 0 {
		c.services.AddAfter(key, expected)
	}
	late := c.awaited.Review(key, expected > 0) && announced.Kind != ""
	for _, n := range news {
		isAnnounced := n.Kind == v1alpha1.ServiceAnnounced
		late = late && !isAnnounced
		c.tell(svc, n, isAnnounced && expected > 0)
	}
	if late {
		c.tell(svc, announced, false)
	}
}

// deleted reports whether the object or its namespace is being deleted.
func (c *Controller) deleted(object metav1.Object) bool {
	o, exists, err := c.informers.namespace.GetStore().GetByKey(object.GetNamespace())
	ns, ok := o.(metav1.Object)
	return object.GetDeletionTimestamp() != nil || err == nil && exists && ok && ns.GetDeletionTimestamp() != nil
}

// tell emits an event and a log line for a condition that changed. What is expected is no Warning.
func (c *Controller) tell(svc *corev1.Service, news condition.Condition, expected bool) {
	kind, action := corev1.EventTypeNormal, "Allocate"
	if news.Kind == v1alpha1.ServiceAnnounced {
		action = "Announce"
	}
	if (!news.OK || news.Warns) && !expected {
		kind = corev1.EventTypeWarning
	}
	if news.Reason == announcement.ReasonNoAddress {
		return // the other condition says why
	}
	c.Events.Eventf(svc, nil, kind, news.Reason, action, "%s", news.Message)
	c.Logger.Info("condition of a Service changed", "service", svc.Namespace+"/"+svc.Name,
		"condition", news.Kind, "reason", news.Reason, "message", news.Message)
}

// tellForwarder emits an event and a log line for a change of what forwards.
func (c *Controller) tellForwarder(svc *corev1.Service, f announcement.Forwarder) {
	kind := corev1.EventTypeNormal
	if f.Fallback != "" {
		kind = corev1.EventTypeWarning
	}
	c.Events.Eventf(svc, nil, kind, "Forwarder", "Forward", "%s (ipMode %s)", f, f.Mode())
	c.Logger.Info("forwarder of a Service changed", "service", svc.Namespace+"/"+svc.Name,
		"ipMode", f.Mode(), "message", f.String())
}
