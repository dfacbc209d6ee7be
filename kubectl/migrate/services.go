package migrate

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/berth-lb/berth/config/dialect"
	"github.com/berth-lb/berth/config/v1alpha1"
)

// manner is how Services speak to a load balancer, in full.
type manner struct {
	dialect.Dialect          // the annotations that Berth knows as well
	prefixes        []string // of its annotations, and of classes
	written         []string // by the load balancer, and not by users; a * at the end is for any
	remedies        map[string]string
	labels          map[string]string // labels that the load balancer sets
	classes         []string          // more classes that it serves
	// across are annotations by which Services of several namespaces share; nil: they do without.
	across []string
}

// has reports whether a name is the load balancer's.
func (d manner) has(name string) bool {
	return slices.ContainsFunc(d.prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// services converts the Services among the input.
func (c *converter) services(d manner) {
	for _, o := range c.input {
		if o.GetKind() == "Service" && o.GroupVersionKind().Group == "" {
			c.service(d, o)
		}
	}
	c.share()
}

// share lets Services of several namespaces share addresses, if some have a key in common.
func (c *converter) share() {
	for _, key := range slices.Sorted(maps.Keys(c.sharing)) {
		if c.sharing[key].Len() > 1 {
			c.shareAcross(key)
		}
	}
}

func (c *converter) service(d manner, o *unstructured.Unstructured) {
	from := nameIn(o)
	kind, _, _ := unstructured.NestedString(o.Object, "spec", "type")
	class, hasClass, _ := unstructured.NestedString(o.Object, "spec", "loadBalancerClass")
	switch {
	case kind != string(corev1.ServiceTypeLoadBalancer):
		return
	case hasClass && !slices.Contains(d.classes, class) && !d.has(class):
		c.note(
			from,
			"spec.loadBalancerClass",
			class,
			"it is another load balancer's, so the Service stays as it is; "+
				"if it is not, name the class in the controller's --classes",
		)
		return
	}
	svc := bare(o)
	annotations := svc.GetAnnotations()
	before := maps.Clone(annotations)
	c.translate(d, o, annotations)
	dropped := c.dropDHCP(from, svc)
	labels := svc.GetLabels()
	for key, value := range d.labels {
		if got, is := labels[key]; is && (got == value || value == "") {
			delete(labels, key)
			dropped = true
		}
	}
	if hasClass {
		_ = unstructured.SetNestedField(svc.Object, v1alpha1.LoadBalancerClass, "spec", "loadBalancerClass")
		c.note(from, "spec.loadBalancerClass", class, "it cannot change: delete the Service and create it again, "+
			"or leave it as it was and name this class in the controller's --classes")
		if annotations[v1alpha1.AnnotationAddresses] == "" {
			setOrDelete(annotations, v1alpha1.AnnotationAddresses, statusAddresses(o))
		}
	}
	if !hasClass && !dropped && maps.Equal(before, annotations) {
		c.say(from, Converted, "", "", "it can stay as it is")
		return
	}
	if annotations[v1alpha1.AnnotationAddresses] != "" {
		unstructured.RemoveNestedField(svc.Object, "spec", "loadBalancerIP")
	}
	c.addService(from, svc, annotations, labels)
}

// dropDHCP takes the address out that asks for one by DHCP, and reports whether there was one.
func (c *converter) dropDHCP(from string, svc *unstructured.Unstructured) bool {
	text, _, _ := unstructured.NestedString(svc.Object, "spec", "loadBalancerIP")
	if address, err := netip.ParseAddr(text); err != nil || !address.IsUnspecified() {
		return false
	}
	unstructured.RemoveNestedField(svc.Object, "spec", "loadBalancerIP")
	c.lacks(from, "spec.loadBalancerIP", text, fixedOnly)
	return true
}

// fixedOnly is what to do about an address that is given by DHCP or name.
const fixedOnly = "Berth gives fixed addresses only, not by DHCP or name; write one, or leave it to a pool"

// translate replaces the annotations of a load balancer by Berth's.
func (c *converter) translate(d manner, o *unstructured.Unstructured, annotations map[string]string) {
	from := nameIn(o)
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		if !d.has(key) {
			continue
		}
		value := annotations[key]
		delete(annotations, key)
		switch field := "annotation " + key; {
		case slices.Contains(d.Addresses, key):
			setOrDelete(annotations, v1alpha1.AnnotationAddresses, c.pinned(from, field, strings.Split(value, ",")))
		case slices.Contains(d.Pools, key):
			var names []string
			for name := range strings.SplitSeq(value, ",") {
				names = append(names, c.namesOf("LoadBalancerPool", "", strings.TrimSpace(name))...)
			}
			annotations[v1alpha1.AnnotationPools] = strings.Join(names, ",")
		case slices.Contains(d.SharingKey, key):
			annotations[v1alpha1.AnnotationSharingKey] = value
			if c.sharing[value] == nil {
				c.sharing[value] = sets.New[string]()
			}
			shares := func(name string) bool { return o.GetAnnotations()[name] != "" }
			if d.across == nil || slices.ContainsFunc(d.across, shares) {
				c.sharing[value].Insert(o.GetNamespace())
			}
		case slices.ContainsFunc(d.written, func(w string) bool {
			prefix, any := strings.CutSuffix(w, "*")
			return key == w || any && strings.HasPrefix(key, prefix)
		}):
		case d.remedies[key] != "":
			c.lacks(from, field, value, d.remedies[key])
		default:
			c.lacks(from, field, value, "Berth has no such annotation; it is left out")
		}
	}
}

// pinned returns the addresses as Berth's annotation has them: one of each family.
func (c *converter) pinned(from, field string, texts []string) string {
	var all []string
	seen := map[bool]string{}
	for _, text := range texts {
		text = strings.TrimSpace(text)
		address, err := netip.ParseAddr(text)
		switch {
		case text == "":
		case err != nil || address.IsUnspecified() || address.Zone() != "":
			c.lacks(from, field, text, fixedOnly)
		case seen[address.Unmap().Is4()] != "":
			c.lacks(from, field, text, fmt.Sprintf(
				"a Service has one address of each family, and keeps %s; make another Service for this one",
				seen[address.Unmap().Is4()],
			))
		default:
			address = address.Unmap()
			seen[address.Is4()] = address.String()
			all = append(all, address.String())
		}
	}
	return strings.Join(all, ",")
}

// statusAddresses returns the addresses that the Service has.
func statusAddresses(o *unstructured.Unstructured) string {
	ingress, _, _ := unstructured.NestedSlice(o.Object, "status", "loadBalancer", "ingress")
	var all []string
	for _, each := range ingress {
		if fields, is := each.(map[string]any); is {
			if ip, _ := fields["ip"].(string); ip != "" {
				all = append(all, ip)
			}
		}
	}
	return strings.Join(all, ",")
}

func setOrDelete(annotations map[string]string, key, value string) {
	if value == "" {
		delete(annotations, key)
		return
	}
	annotations[key] = value
}

// bare returns a Service as somebody would write it: without what only the API server knows.
func bare(o *unstructured.Unstructured) *unstructured.Unstructured {
	spec, _, _ := unstructured.NestedMap(o.Object, "spec")
	svc := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	svc.SetAPIVersion(o.GetAPIVersion())
	svc.SetKind(o.GetKind())
	svc.SetName(o.GetName())
	svc.SetNamespace(o.GetNamespace())
	svc.SetLabels(o.GetLabels())
	annotations := maps.Clone(o.GetAnnotations())
	if annotations == nil {
		annotations = map[string]string{}
	}
	delete(annotations, corev1.LastAppliedConfigAnnotation)
	svc.SetAnnotations(annotations)
	return svc
}

// addService puts out a Service, and reports which of Berth's annotations it has.
func (c *converter) addService(from string, svc *unstructured.Unstructured, annotations, labels map[string]string) {
	var has []string
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		if strings.HasPrefix(key, v1alpha1.GroupVersion.Group+"/") {
			has = append(has, key+": "+annotations[key])
		}
	}
	if len(annotations) == 0 {
		annotations = nil
	}
	if len(labels) == 0 {
		labels = nil
	}
	svc.SetAnnotations(annotations)
	svc.SetLabels(labels)
	c.output = append(c.output, output{from, svc})
	what := "without annotations of Berth's"
	if len(has) > 0 {
		what = "with " + strings.Join(has, ", ")
	}
	c.say(from, Converted, "", "", "Service "+what)
}

// shareAcross lets Services of several namespaces share the addresses of pools.
func (c *converter) shareAcross(key string) {
	for _, o := range c.output {
		if o.GetKind() != "LoadBalancerPool" {
			continue
		}
		_ = unstructured.SetNestedField(o.Object, string(v1alpha1.SharingAcrossNamespaces), "spec", "sharing")
	}
	c.note("Services", "sharing key", key, fmt.Sprintf(
		"namespaces %s share by it, so that all pools have sharing: %s",
		strings.Join(sets.List(c.sharing[key]), ", "), v1alpha1.SharingAcrossNamespaces,
	))
}
