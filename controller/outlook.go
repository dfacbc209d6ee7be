package controller

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/v1alpha1"
)

// Indexes of informers.
const (
	byService = "service" // EndpointSlices, by namespace/name
	byAddress = "address" // L2Owners
)

// withAnnounced adds the condition for what becomes of the addresses of a Service,
// if that is known. It is not in the first moments of a Service of policy Local,
// before the control plane has made an EndpointSlice for it.
func (c *Controller) withAnnounced(conditions []condition, svc *corev1.Service, addresses []netip.Addr) []condition {
	o := c.outlook(svc, addresses)
	if o.local && o.unknown && len(addresses) > 0 && len(svc.Spec.Selector) > 0 && !judged(svc) {
		return conditions
	}
	return append(conditions, o.condition())
}

// judged tells whether the Service has the condition Announced.
func judged(svc *corev1.Service) bool {
	return slices.ContainsFunc(svc.Status.Conditions, func(c metav1.Condition) bool { return c.Type == v1alpha1.ServiceAnnounced })
}

// outlook returns what is known that bears on the addresses of a Service.
func (c *Controller) outlook(svc *corev1.Service, addresses []netip.Addr) outlook {
	endpoints, known := c.endpoints(svc.Namespace + "/" + svc.Name)
	o := outlook{
		addresses: addresses,
		labels:    map[netip.Addr][]labels.Set{},
		local:     svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
		endpoints: endpoints,
		unknown:   !known,
		owners:    map[netip.Addr][]owner{},
		conflicts: *c.conflicts.Load(),
		snapshot:  c.snapshot.Load(),
		nodes:     *c.nodes.Load(),
	}
	for _, address := range addresses {
		o.labels[address] = append(c.labelsOfSharers(svc, address), svc.Labels)
		o.owners[address] = c.ownersOf(address)
	}
	return o
}

// labelsOfSharers returns the labels of the other Services that have the address.
func (c *Controller) labelsOfSharers(svc *corev1.Service, address netip.Addr) []labels.Set {
	var found []labels.Set
	for _, key := range c.holders(address) {
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

// holders returns the Services that have the address.
func (c *Controller) holders(address netip.Addr) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.allocator.Holders(address)
}

// enqueueHolders has the Services looked at again that have the address.
func (c *Controller) enqueueHolders(address netip.Addr) {
	for _, key := range c.holders(address) {
		c.services.Add(key)
	}
}

// endpoints returns where the Service has endpoints, and whether there is an
// EndpointSlice that says so.
func (c *Controller) endpoints(key string) (candidate.Endpoints, bool) {
	found, err := c.informers.slice.GetIndexer().ByIndex(byService, key)
	return candidate.Of(found), err == nil && len(found) > 0
}

// ownersOf returns who answers for the address, by segment.
func (c *Controller) ownersOf(address netip.Addr) []owner {
	found, err := c.informers.owner.GetIndexer().ByIndex(byAddress, address.String())
	if err != nil {
		return nil
	}
	var owners []owner
	for _, o := range found {
		if l, ok := o.(*v1alpha1.L2Owner); ok {
			owners = append(owners, owner{l.Spec.Node, l.Spec.Segment, l.Spec.Interface})
		}
	}
	slices.SortFunc(owners, func(a, b owner) int {
		return cmp.Or(cmp.Compare(a.segment, b.segment), cmp.Compare(a.node, b.node))
	})
	return owners
}

// addressesOf indexes L2Owners.
func addressesOf(o any) ([]string, error) {
	if l, ok := o.(*v1alpha1.L2Owner); ok {
		return l.Spec.Addresses, nil
	}
	return nil, nil
}

// serviceOf indexes EndpointSlices.
func serviceOf(o any) ([]string, error) {
	if slice, ok := o.(*discoveryv1.EndpointSlice); ok {
		if key := candidate.ServiceOf(slice); key != "" {
			return []string{key}, nil
		}
	}
	return nil, nil
}

// ownerMoved has the Services looked at again of which an L2Owner tells; those of its
// former addresses, too.
func (c *Controller) ownerMoved(versions ...any) {
	seen := map[string]bool{}
	for _, o := range versions {
		texts, _ := addressesOf(o)
		for _, text := range texts {
			if address, err := netip.ParseAddr(text); err == nil && !seen[text] {
				seen[text] = true
				c.enqueueHolders(address)
			}
		}
	}
}

// sameOwner tells whether two versions of an L2Owner tell Services the same.
func sameOwner(a, b *v1alpha1.L2Owner) bool {
	return a.Spec.Node == b.Spec.Node && a.Spec.Segment == b.Spec.Segment && a.Spec.Interface == b.Spec.Interface &&
		slices.Equal(a.Spec.Addresses, b.Spec.Addresses)
}

// endpointsMoved has the Service of an EndpointSlice looked at again, if it is served.
func (c *Controller) endpointsMoved(o any) {
	keys, _ := serviceOf(o)
	for _, key := range keys {
		namespace, name, err := cache.SplitMetaNamespaceKey(key)
		if err != nil {
			continue
		}
		if svc, err := c.informers.services.Services(namespace).Get(name); err == nil && serves(svc, c.Classless) {
			c.services.Add(key)
		}
	}
}

// watchAnnouncing turns what the informers see of owners and endpoints into keys of
// Services: each event costs those alone that it is about.
func (c *Controller) watchAnnouncing() error {
	_, err := c.informers.owner.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { c.ownerMoved(o) },
		UpdateFunc: func(before, after any) {
			b, okB := before.(*v1alpha1.L2Owner)
			a, okA := after.(*v1alpha1.L2Owner)
			if okA && okB && !sameOwner(b, a) {
				c.ownerMoved(b, a)
			}
		},
		DeleteFunc: func(o any) { c.ownerMoved(last(o)) },
	})
	if err != nil {
		return err
	}
	_, err = c.informers.slice.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: c.endpointsMoved,
		UpdateFunc: func(before, after any) {
			b, okB := before.(*discoveryv1.EndpointSlice)
			a, okA := after.(*discoveryv1.EndpointSlice)
			if okA && okB && !reflect.DeepEqual(b.Endpoints, a.Endpoints) {
				c.endpointsMoved(a)
			}
		},
		DeleteFunc: func(o any) { c.endpointsMoved(last(o)) },
	})
	if err != nil {
		return err
	}
	// An advertisement that the labels of a Service match now holds for who shares its
	// address, too.
	_, err = c.informers.service.AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(before, after any) {
			b, okB := before.(*corev1.Service)
			a, okA := after.(*corev1.Service)
			if okA && okB && relabelled(b, a) {
				for _, address := range addressesIn(a) {
					c.enqueueHolders(address)
				}
			}
		},
	})
	return err
}

// last returns a deleted object as it was last seen.
func last(o any) any {
	if tombstone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		return tombstone.Obj
	}
	return o
}

// reviewNodes takes in what the nodes and their speakers say, and tells whether
// anything changed that matters to every Service.
func (c *Controller) reviewNodes() bool {
	nodes := map[string]nodeView{}
	conflicts := map[netip.Addr]foreign{}
	for _, n := range client.Stored[*corev1.Node](c.informers.node) {
		nodes[n.Name] = nodeView{
			labels: n.Labels, excluded: candidate.Exclusion(n), alive: readyStatus(n) == corev1.ConditionTrue,
		}
	}
	statuses := client.Stored[*v1alpha1.SpeakerStatus](c.informers.speaker)
	slices.SortFunc(statuses, func(a, b *v1alpha1.SpeakerStatus) int { return cmp.Compare(a.Name, b.Name) })
	for _, s := range statuses {
		view, ok := nodes[s.Name]
		if !ok {
			continue
		}
		view.report(s.Status)
		nodes[s.Name] = view
		if !view.alive || s.Status.State == v1alpha1.SpeakerStopped {
			continue // the report of a speaker that is gone is the last one it wrote
		}
		for _, x := range s.Status.Conflicts {
			if address, err := netip.ParseAddr(x.Address); err == nil {
				if _, known := conflicts[address]; !known {
					conflicts[address] = foreign{x.MAC, s.Name, x.Interface}
				}
			}
		}
	}
	c.reviewConflicts(conflicts)
	if reflect.DeepEqual(nodes, *c.nodes.Load()) {
		return false
	}
	c.nodes.Store(&nodes)
	return true
}

// report takes in what the speaker of the node says.
func (n *nodeView) report(r v1alpha1.SpeakerReport) {
	n.speaker = r.State
	if r.State == v1alpha1.SpeakerLeaving {
		n.leaves = r.Reason
	}
	for _, segment := range r.Segments {
		if segment.Announcing {
			n.segments = append(n.segments, segment.Interface)
		}
		if segment.ReturnPath != nil && !*segment.ReturnPath {
			n.oneWay = append(n.oneWay, segment.Interface)
		}
	}
	for _, session := range r.Sessions {
		if session.State == "Established" {
			n.sessions = append(n.sessions, session.Peer)
		}
	}
	slices.Sort(n.segments)
	slices.Sort(n.oneWay)
	slices.Sort(n.sessions)
}

// reviewConflicts takes in the conflicts, and has the Services looked at again that
// one more or less is about.
func (c *Controller) reviewConflicts(now map[netip.Addr]foreign) {
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
