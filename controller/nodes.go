package controller

import (
	"maps"
	"net/netip"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/announcement"
	"github.com/berth-lb/berth/controller/condition"
	"github.com/berth-lb/berth/controller/service"
)

// Indexes of informers.
const (
	byService = "service" // EndpointSlices, by namespace/name
)

// withAnnounced adds the condition Announced, if it is known. It is not in the first moments of a
// Service of policy Local, before the control plane has made an EndpointSlice for it.
func (c *Controller) withAnnounced(
	conditions []condition.Condition,
	svc *corev1.Service,
	o announcement.Service,
) []condition.Condition {
	if o.Local && o.Unknown && len(o.Addresses) > 0 && len(svc.Spec.Selector) > 0 && announcedOf(svc) == nil {
		return conditions
	}
	return append(conditions, o.Condition())
}

// announcedOf returns the condition Announced of the Service, nil if it has none.
func announcedOf(svc *corev1.Service) *metav1.Condition {
	return meta.FindStatusCondition(svc.Status.Conditions, v1alpha1.ServiceAnnounced)
}

// outlook returns everything that decides whether the addresses of a Service are announced.
func (c *Controller) outlook(svc *corev1.Service, addresses []netip.Addr) announcement.Service {
	view := c.view.Load()
	endpoints, known := c.endpoints(svc.Namespace + "/" + svc.Name)
	o := announcement.Service{
		Addresses: addresses,
		Labels:    map[netip.Addr][]labels.Set{},
		Local:     service.Local(svc),
		Endpoints: endpoints,
		Unknown:   !known,
		Conflicts: *c.conflicts.Load(),
		Snapshot:  c.snapshot.Load(),
		Nodes:     view.Nodes,
		Errors:    view.Errors,
		Findings:  &view.Findings,
	}
	for _, address := range addresses {
		o.Labels[address] = append(c.labelsOfSharers(svc, address), svc.Labels)
	}
	o.Forwarder = o.Forwarding(svc.Annotations[v1alpha1.AnnotationIPVSScheduler])
	return o
}

// labelsOfSharers returns the labels of the other Services that have the address.
func (c *Controller) labelsOfSharers(svc *corev1.Service, address netip.Addr) []labels.Set {
	var found []labels.Set
	for _, key := range c.allocations.Holders(address) {
		namespace, name, err := cache.SplitMetaNamespaceKey(key)
		if err != nil || namespace == svc.Namespace && name == svc.Name {
			continue
		}
		if other, err := c.informers.services.Services(namespace).Get(name); err == nil {
			found = append(found, other.Labels)
		}
	}
	return found
}

// enqueueHolders requeues the Services that have the address.
func (c *Controller) enqueueHolders(address netip.Addr) {
	for _, key := range c.allocations.Holders(address) {
		c.services.Add(key)
	}
}

// endpoints returns where the Service has endpoints, and whether it has an EndpointSlice.
func (c *Controller) endpoints(key string) (candidate.Endpoints, bool) {
	found, err := c.informers.slice.GetIndexer().ByIndex(byService, key)
	return candidate.Of(found), err == nil && len(found) > 0
}

// serviceOf returns the index values of an EndpointSlice: its Service.
func serviceOf(o any) ([]string, error) {
	if slice, ok := o.(*discoveryv1.EndpointSlice); ok {
		if key := candidate.ServiceOf(slice); key != "" {
			return []string{key}, nil
		}
	}
	return nil, nil
}

// endpointsMoved requeues the Service of an EndpointSlice, if Berth may serve it.
func (c *Controller) endpointsMoved(o any) {
	keys, _ := serviceOf(o)
	for _, key := range keys {
		namespace, name, err := cache.SplitMetaNamespaceKey(key)
		if err != nil {
			continue
		}
		if svc, err := c.informers.services.Services(namespace).Get(name); err == nil && c.classes().Selects(svc) {
			c.services.Add(key)
		}
	}
}

// watchAnnouncing makes changes of endpoints and labels requeue only the Services that they
// concern.
func (c *Controller) watchAnnouncing() error {
	moved := c.ifLeading(c.endpointsMoved)
	_, err := c.informers.slice.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: moved,
		UpdateFunc: func(before, after any) {
			b, okB := before.(*discoveryv1.EndpointSlice)
			a, okA := after.(*discoveryv1.EndpointSlice)
			if okA && okB && !reflect.DeepEqual(b.Endpoints, a.Endpoints) {
				moved(a)
			}
		},
		DeleteFunc: func(o any) { moved(last(o)) },
	})
	if err != nil {
		return err
	}
	// An announcement that now selects the Service also holds for the Services that share its address.
	_, err = c.informers.service.AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(before, after any) {
			b, okB := before.(*corev1.Service)
			a, okA := after.(*corev1.Service)
			if okA && okB && relabeled(b, a) {
				for _, address := range service.AddressesIn(a) {
					c.enqueueHolders(address)
				}
			}
		},
	})
	return err
}

func relabeled(before, after metav1.Object) bool {
	return !maps.Equal(before.GetLabels(), after.GetLabels())
}

// last returns the last known state of a deleted object.
func last(o any) any {
	if tombstone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		return tombstone.Obj
	}
	return o
}

// reviewNodes evaluates what the nodes and their speakers report. It reports whether anything
// changed that matters to every Service.
func (c *Controller) reviewNodes() bool {
	now := time.Now()
	seen := announcement.Observe(
		client.Stored[*corev1.Node](c.informers.node), client.Stored[*v1alpha1.Speaker](c.informers.speaker),
		func(s *v1alpha1.Speaker) bool {
			left := c.successors.expected(s.Name, s.Status, now)
			if left > 0 {
				c.tasks.AddAfter(reviewNodes, left)
			}
			return left > 0
		},
	)
	nodes := seen.Nodes
	maps.DeleteFunc(c.successors, func(name string, _ time.Time) bool { _, known := nodes[name]; return !known })
	c.reviewConflicts(seen.Conflicts)
	before := c.view.Load()
	newNodes, newErrors := !reflect.DeepEqual(before.Nodes, nodes), !reflect.DeepEqual(before.Errors, seen.Errors)
	if newNodes || newErrors {
		c.view.Store(&announcement.View{Nodes: nodes, Errors: seen.Errors})
	}
	if newErrors {
		c.requeueSessionless()
	}
	return newNodes
}

const (
	// reviewsApart is how long a change of a node waits for others: each has all Services looked at.
	reviewsApart = 300 * time.Millisecond
	// errorsSettle is how long a new error of a session may be missing in the conditions of Services,
	// since errors may alternate; and errorsSettleEach so much longer for each Service that has one.
	errorsSettle     = 2 * time.Second
	errorsSettleEach = 10 * time.Millisecond
)

// requeueSessionless requeues, in a while, the Services whose conditions say why sessions are not
// established.
func (c *Controller) requeueSessionless() {
	var keys []string
	for _, svc := range client.Stored[*corev1.Service](c.informers.service) {
		if a := announcedOf(svc); a != nil && a.Reason == announcement.ReasonNoSession {
			keys = append(keys, svc.Namespace+"/"+svc.Name)
		}
	}
	for _, key := range keys {
		c.services.AddAfter(key, errorsSettle+time.Duration(len(keys))*errorsSettleEach)
	}
}

// reviewConflicts updates the conflicts, and requeues the Services that have an address whose
// conflict began, changed or ended.
func (c *Controller) reviewConflicts(now map[netip.Addr]announcement.Holder) {
	before := *c.conflicts.Swap(&now)
	for address, f := range now {
		if before[address] != f {
			c.enqueueHolders(address)
		}
	}
	for address := range before {
		if _, still := now[address]; !still {
			c.enqueueHolders(address)
		}
	}
}

// reports returns what the speakers report, by node.
func (c *Controller) reports() map[string]*v1alpha1.SpeakerStatus {
	reports := map[string]*v1alpha1.SpeakerStatus{}
	for _, s := range client.Stored[*v1alpha1.Speaker](c.informers.speaker) {
		reports[s.Name] = &s.Status
	}
	return reports
}
