package migrate

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// externalIPs are Services with spec.externalIPs, by address.
type externalIPs struct {
	*converter
	nodes      map[string]string // their names, by address
	users      map[string][]string
	pinned     sets.Set[string]
	namespaces sets.Set[string]
}

// fromExternalIPs gives Services their external addresses by a pool. (Kubernetes 1.36 has
// deprecated spec.externalIPs.)
func fromExternalIPs(c *converter) {
	e := &externalIPs{c, map[string]string{}, map[string][]string{}, sets.New[string](), sets.New[string]()}
	var services []*unstructured.Unstructured
	for _, o := range c.input {
		switch {
		case o.GetKind() == "Node":
			e.node(o)
		case o.GetKind() == "Service" && o.GroupVersionKind().Group == "":
			addresses, _, _ := unstructured.NestedStringSlice(o.Object, "spec", "externalIPs")
			if len(addresses) == 0 {
				continue
			}
			services = append(services, o)
			for _, text := range addresses {
				text = canonical(text)
				e.users[text] = append(e.users[text], o.GetNamespace())
			}
		}
	}
	pool := &v1alpha1.LoadBalancerPool{}
	i := item{from: "Services", name: "external-ips"}
	pool.Name = c.nameFor("LoadBalancerPool", i, i.name)
	for _, o := range services {
		e.service(o)
	}
	if e.pinned.Len() == 0 {
		return
	}
	entries := slices.SortedFunc(maps.Keys(e.pinned), func(a, b string) int {
		return netip.MustParseAddr(a).Compare(netip.MustParseAddr(b))
	})
	pool.Spec.Addresses = c.addressesOf(i.from, "spec.externalIPs", entries, true)
	pool.Spec.Allocation = v1alpha1.AllocationOnRequest
	pool.Spec.Scopes = []v1alpha1.PoolScope{{NamespaceNames: sets.List(e.namespaces), ServiceSelector: everything()}}
	if len(pool.Spec.Addresses) == 0 {
		return
	}
	c.add(i.from, "LoadBalancerPool", pool)
	c.share()
	c.note(
		i.from,
		"spec.externalIPs",
		"",
		"nothing of Berth's announces the pool yet: what brings the addresses to the nodes "+
			"today goes on; in place of that, write a SegmentAnnouncement or a RouteAnnouncement of LoadBalancerPool "+pool.Name,
	)
}

// sharingKey is the key of Services that have an external address in common.
const sharingKey = "external-ips"

// canonical returns an address as netip writes it; what is not one stays as it is.
func canonical(text string) string {
	if address, err := netip.ParseAddr(text); err == nil {
		return address.Unmap().String()
	}
	return text
}

// node keeps the addresses of a node, which Berth does not give.
func (e *externalIPs) node(o *unstructured.Unstructured) {
	addresses, _, _ := unstructured.NestedSlice(o.Object, "status", "addresses")
	for _, each := range addresses {
		if fields, is := each.(map[string]any); is {
			if text, _ := fields["address"].(string); text != "" {
				e.nodes[canonical(text)] = o.GetName()
			}
		}
	}
}

// service pins the external addresses of a Service, one of each family.
func (e *externalIPs) service(o *unstructured.Unstructured) {
	const field = "spec.externalIPs"
	from := nameIn(o)
	external, _, _ := unstructured.NestedStringSlice(o.Object, "spec", "externalIPs")
	kind, _, _ := unstructured.NestedString(o.Object, "spec", "type")
	clusterIP, _, _ := unstructured.NestedString(o.Object, "spec", "clusterIP")
	class, _, _ := unstructured.NestedString(o.Object, "spec", "loadBalancerClass")
	asked, _, _ := unstructured.NestedString(o.Object, "spec", "loadBalancerIP")
	written := strings.Join(external, ",")
	switch {
	case clusterIP == corev1.ClusterIPNone || kind == string(corev1.ServiceTypeExternalName):
		e.lacks(
			from,
			field,
			written,
			"no load balancer serves such a Service; make another one with a cluster address for them",
		)
		return
	case kind == string(corev1.ServiceTypeLoadBalancer) &&
		(statusAddresses(o) != "" || asked != "" || class != "" || o.GetAnnotations()[v1alpha1.AnnotationAddresses] != ""):
		e.lacks(from, field, written, "its load balancer gives it other addresses; make another Service for them")
		return
	}
	families, _, _ := unstructured.NestedStringSlice(o.Object, "spec", "ipFamilies")
	var usable []string
	for _, text := range external {
		text = canonical(text)
		family := string(corev1.IPv4Protocol)
		if strings.Contains(text, ":") {
			family = string(corev1.IPv6Protocol)
		}
		switch {
		case e.nodes[text] != "":
			e.lacks(
				from,
				field,
				text,
				"it is the address of node "+e.nodes[text]+", which Berth gives to nobody; use a NodePort, or another address",
			)
		case len(families) > 0 && !slices.Contains(families, family):
			e.lacks(from, field, text, "the Service has no "+family+"; add it to spec.ipFamilies first")
		default:
			usable = append(usable, text)
		}
	}
	pinned := e.converter.pinned(from, field, usable)
	if pinned == "" {
		return
	}
	given := strings.Split(pinned, ",")
	svc := bare(o)
	annotations := svc.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[v1alpha1.AnnotationAddresses] = pinned
	e.namespaces.Insert(cmp.Or(o.GetNamespace(), "default"))
	for _, text := range given {
		e.pinned.Insert(text)
		if users := e.users[text]; len(users) > 1 {
			// One key for all: who shares what is decided by the addresses.
			annotations[v1alpha1.AnnotationSharingKey] = sharingKey
			if namespaces := sets.New(users...); namespaces.Len() > 1 {
				e.sharing[sharingKey] = e.sharing[sharingKey].Union(namespaces)
			}
		}
	}
	e.note(
		from,
		field,
		pinned,
		"an address that is on an interface of a node, as keepalived's are, is given to nobody: "+
			"announce the pool, and take the address off the nodes right before you apply the Service",
	)
	kept := slices.DeleteFunc(external, func(text string) bool { return slices.Contains(given, canonical(text)) })
	e.become(svc, kind, kept)
	e.addService(from, svc, annotations, svc.GetLabels())
}

// become makes a Service one of type LoadBalancer, of Berth's class if it is not one already: a
// class cannot be added later. It keeps the external addresses that have no counterpart.
func (e *externalIPs) become(svc *unstructured.Unstructured, kind string, kept []string) {
	spec, _ := svc.Object["spec"].(map[string]any)
	delete(spec, "externalIPs")
	if len(kept) > 0 {
		_ = unstructured.SetNestedStringSlice(spec, kept, "externalIPs")
	}
	if kind == string(corev1.ServiceTypeLoadBalancer) {
		return
	}
	spec["type"] = string(corev1.ServiceTypeLoadBalancer)
	spec["loadBalancerClass"] = v1alpha1.LoadBalancerClass
	if kind != string(corev1.ServiceTypeNodePort) {
		spec["allocateLoadBalancerNodePorts"] = false
	}
}
