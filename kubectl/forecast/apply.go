package forecast

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/jsonmergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/lint"
)

// Object is what becomes of one object.
type Object struct {
	// Kind and Name of the object, the latter with its namespace, if it has one.
	Kind string `json:"kind"`
	Name string `json:"name"`
	// Change is created, changed, unchanged, deleted, absent (to be deleted, and not there), passed
	// over (Berth does not look at its kind) or refused.
	Change Change `json:"change"`
	// Fields of spec and metadata that change, at the top.
	Fields []string `json:"fields,omitempty"`
	// Messages say why it is refused, or what the compiler says of it.
	Messages []string `json:"messages,omitempty"`
}

// Change is what becomes of something.
type Change string

// The changes.
const (
	Created    Change = "created"
	Changed    Change = "changed"
	Unchanged  Change = "unchanged"
	Deleted    Change = "deleted"
	Absent     Change = "absent"
	PassedOver Change = "passed over"
	Refused    Change = "refused"
)

// edit is a State that is being changed.
type edit struct {
	*cluster.State
	schemas *lint.Schemas
	deletes bool
}

// In returns the objects with a namespace, this one, where they have none and their kind needs one.
// Kinds of Berth's that have none lose theirs, as the API server does with what kustomize writes.
func In(namespace string, objects []lint.Object) []lint.Object {
	for _, o := range objects {
		switch kind := o.GroupVersionKind().GroupKind(); {
		case kind.String() == "Service", kind.String() == "Secret", kind.String() == berth("AddressReservation"):
			o.SetNamespace(cmp.Or(o.GetNamespace(), namespace))
		case kind.Group == v1alpha1.GroupVersion.Group:
			o.SetNamespace("")
		}
	}
	return objects
}

// WithNode returns the State with a Node changed.
func WithNode(s *cluster.State, node *corev1.Node) *cluster.State {
	after := *s
	after.Nodes = slices.Clone(s.Nodes)
	for i, n := range after.Nodes {
		if n.Name == node.Name {
			after.Nodes[i] = node
		}
	}
	return &after
}

// Apply returns the State after kubectl apply of these objects, or with deletes after kubectl
// delete. What the API server would refuse, by the schemas, stays as it is.
func Apply(
	ctx context.Context,
	s *cluster.State,
	schemas *lint.Schemas,
	objects []lint.Object,
	deletes bool,
) (*cluster.State, []Object) {
	after := *s
	after.Before, _ = config.Compile(s.Objects())
	after.Passwords = maps.Clone(s.Passwords)
	e := edit{State: &after, schemas: schemas, deletes: deletes}
	done := make([]Object, len(objects))
	for _, secrets := range []bool{false, true} { // whether one matters, BGPNeighbors say
		for i, o := range objects {
			if (o.GroupVersionKind().GroupKind().String() == "Secret") == secrets {
				done[i] = e.object(ctx, o.Unstructured)
			}
		}
	}
	return &after, done
}

// object changes one object.
func (e *edit) object(ctx context.Context, o *unstructured.Unstructured) Object {
	var is Object
	check := func(_, merged *unstructured.Unstructured) []string { return e.schemas.Check(ctx, merged) }
	switch o.GroupVersionKind().GroupKind().String() {
	case berth("LoadBalancerPool"):
		is = change(e, &e.Pools, o, check)
	case berth("SegmentAnnouncement"):
		is = change(e, &e.SegmentAnnouncements, o, check)
	case berth("RouteAnnouncement"):
		is = change(e, &e.RouteAnnouncements, o, check)
	case berth("BGPNeighbor"):
		is = change(e, &e.BGPNeighbors, o, check)
	case berth("AddressReservation"):
		is = change(e, &e.Reservations, o, check)
	case "Service":
		is = change(e, &e.Services, o, e.complete)
	case "Node":
		is = change(e, &e.Nodes, o, nil)
	case "Namespace":
		if is = change(e, &e.Namespaces, o, nil); is.Change == Deleted {
			e.empty(o.GetName())
		}
	case "Secret":
		is = e.secret(o)
	case "Deployment.apps", "DaemonSet.apps", berth("Speaker"):
		is.Change = PassedOver
		is.Messages = []string{"what it does to Berth is not foreseen: flags, router IDs"}
	default:
		is.Change = PassedOver
	}
	is.Kind, is.Name = o.GetKind(), strings.TrimPrefix(o.GetNamespace()+"/"+o.GetName(), "/")
	return is
}

// empty deletes what is in a namespace that is deleted.
func (e *edit) empty(namespace string) {
	e.Services = slices.DeleteFunc(slices.Clone(e.Services), func(svc *corev1.Service) bool {
		return svc.Namespace == namespace
	})
	e.Reservations = slices.DeleteFunc(slices.Clone(e.Reservations), func(r *v1alpha1.AddressReservation) bool {
		return r.Namespace == namespace
	})
}

func berth(kind string) string { return kind + "." + v1alpha1.GroupVersion.Group }

// pointer is one to an object of the API.
type pointer[T any] interface {
	*T
	metav1.Object
}

// change changes one object of a list. finish does to the merged object what the API server would,
// and returns why that refuses it.
func change[T any, P pointer[T]](
	e *edit,
	list *[]P,
	o *unstructured.Unstructured,
	finish func(before, merged *unstructured.Unstructured) []string,
) Object {
	i := slices.IndexFunc(
		*list,
		func(p P) bool { return p.GetNamespace() == o.GetNamespace() && p.GetName() == o.GetName() },
	)
	switch {
	case e.deletes && i < 0:
		return Object{Change: Absent}
	case e.deletes:
		*list = slices.Delete(slices.Clone(*list), i, i+1)
		return Object{Change: Deleted}
	}
	before, merged := &unstructured.Unstructured{Object: map[string]any{}}, o.DeepCopy()
	if i >= 0 {
		fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured((*list)[i])
		if err == nil {
			before.Object = fields
			merged, err = merge[T](before, o)
		}
		if err != nil {
			return Object{Change: Refused, Messages: []string{err.Error()}}
		}
	} else {
		merged.SetUID(types.UID("new:" + o.GetNamespace() + "/" + o.GetName()))
		merged.SetCreationTimestamp(metav1.NewTime(e.Taken))
	}
	if finish != nil {
		if refused := finish(before, merged); len(refused) > 0 {
			return Object{Change: Refused, Messages: refused}
		}
	}
	if status, has := before.Object["status"]; has {
		merged.Object["status"] = status // it is the controllers'
	} else {
		delete(merged.Object, "status")
	}
	x := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(merged.Object, x); err != nil {
		return Object{Change: Refused, Messages: []string{"it cannot be read: " + err.Error()}}
	}
	if i < 0 {
		*list = append(slices.Clone(*list), P(x))
		return Object{Change: Created}
	}
	is := Object{Change: Unchanged, Fields: differing(before, merged)}
	if len(is.Fields) > 0 {
		is.Change = Changed
		*list = slices.Clone(*list)
		(*list)[i] = x
	}
	return is
}

// merge returns the object as kubectl apply makes it: what the file says, what it no longer says
// since the last time, and what it never did.
func merge[T any](live, file *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	current, err := json.Marshal(live.Object)
	if err != nil {
		return nil, err
	}
	wanted, err := json.Marshal(applied(file).Object)
	if err != nil {
		return nil, err
	}
	last := []byte(live.GetAnnotations()[corev1.LastAppliedConfigAnnotation])
	var patched []byte
	if file.GroupVersionKind().Group == "" {
		schema, failed := strategicpatch.NewPatchMetaFromStruct(new(T))
		if failed != nil {
			return nil, failed
		}
		var patch []byte
		if patch, err = strategicpatch.CreateThreeWayMergePatch(last, wanted, current, schema, true); err == nil {
			patched, err = strategicpatch.StrategicMergePatchUsingLookupPatchMeta(current, patch, schema)
		}
	} else {
		var patch []byte
		if patch, err = jsonmergepatch.CreateThreeWayJSONMergePatch(last, wanted, current); err == nil {
			patched, err = jsonpatch.MergePatch(current, patch)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("it cannot be merged with the object in the cluster: %w", err)
	}
	merged := &unstructured.Unstructured{}
	return merged, merged.UnmarshalJSON(patched)
}

// applied returns the object as kubectl sends it: with the annotation that remembers it.
func applied(file *unstructured.Unstructured) *unstructured.Unstructured {
	sent := file.DeepCopy()
	annotations := sent.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[corev1.LastAppliedConfigAnnotation] = "" // its content has no effect here
	sent.SetAnnotations(annotations)
	return sent
}

// differing returns the fields in which two objects differ, by their names at the top.
func differing(before, after *unstructured.Unstructured) []string {
	var names []string
	for _, part := range []string{"metadata", "spec"} {
		a, _, _ := unstructured.NestedMap(before.Object, part)
		b, _, _ := unstructured.NestedMap(after.Object, part)
		for name := range union(a, b) {
			if part == "spec" || name == "labels" || name == "annotations" {
				if !equality.Semantic.DeepEqual(noted(a[name]), noted(b[name])) {
					names = append(names, part+"."+name)
				}
			}
		}
	}
	slices.Sort(names)
	return names
}

// noted returns annotations without the one in which kubectl apply remembers the object, and
// anything else as it is.
func noted(value any) any {
	if fields, is := value.(map[string]any); is {
		fields = maps.Clone(fields)
		delete(fields, corev1.LastAppliedConfigAnnotation)
		if len(fields) > 0 {
			return fields
		}
		return nil
	}
	return value
}

// union returns the keys of both.
func union[K comparable, V any](a, b map[K]V) map[K]bool {
	all := map[K]bool{}
	for _, m := range []map[K]V{a, b} {
		for k := range m {
			all[k] = true
		}
	}
	return all
}

// complete gives a Service what the API server does, as far as Berth reads it.
func (e *edit) complete(before, o *unstructured.Unstructured) []string {
	var was, svc corev1.Service
	err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &svc)
	if err == nil {
		err = runtime.DefaultUnstructuredConverter.FromUnstructured(before.Object, &was)
	}
	if err != nil {
		return []string{"it cannot be read: " + err.Error()}
	}
	spec := &svc.Spec
	if texts := e.refusals(o, &svc); len(texts) > 0 {
		return texts
	}
	if was.Spec.Type == corev1.ServiceTypeLoadBalancer && spec.Type == was.Spec.Type &&
		!equality.Semantic.DeepEqual(was.Spec.LoadBalancerClass, spec.LoadBalancerClass) {
		return []string{"spec.loadBalancerClass: may not change once set; delete the Service and create it again"}
	}
	spec.Type = cmp.Or(spec.Type, corev1.ServiceTypeClusterIP)
	spec.SessionAffinity = cmp.Or(spec.SessionAffinity, corev1.ServiceAffinityNone)
	if spec.Type != corev1.ServiceTypeClusterIP {
		spec.ExternalTrafficPolicy = cmp.Or(spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	if spec.Type != corev1.ServiceTypeLoadBalancer {
		spec.LoadBalancerClass = nil
	}
	for i := range spec.Ports {
		spec.Ports[i].Protocol = cmp.Or(spec.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	if spec.IPFamilyPolicy == nil {
		spec.IPFamilyPolicy = new(corev1.IPFamilyPolicySingleStack)
		if len(spec.IPFamilies) > 1 {
			spec.IPFamilyPolicy = new(corev1.IPFamilyPolicyRequireDualStack)
		}
	}
	has := e.families()
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = has[:1:1]
	}
	if *spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack {
		spec.IPFamilies = spec.IPFamilies[:1]
	} else {
		for _, f := range has {
			if !slices.Contains(spec.IPFamilies, f) {
				spec.IPFamilies = append(spec.IPFamilies, f)
			}
		}
	}
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&svc)
	if err != nil {
		return []string{err.Error()}
	}
	o.Object = fields
	o.SetAPIVersion("v1")
	o.SetKind("Service")
	return nil
}

// refusals are what the API server, or kubectl before it, says against a Service, as far as people
// make such mistakes.
func (e *edit) refusals(o *unstructured.Unstructured, svc *corev1.Service) (texts []string) {
	var strict corev1.Service
	err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, &strict, true)
	if err != nil {
		texts = append(texts, err.Error())
	}
	for _, text := range validation.IsDNS1035Label(svc.Name) {
		texts = append(texts, "metadata.name: "+text)
	}
	spec := svc.Spec
	balances := spec.Type == corev1.ServiceTypeLoadBalancer
	if balances && spec.ClusterIP == corev1.ClusterIPNone {
		texts = append(texts, "spec.clusterIP: None is for Services without addresses; take it out")
	}
	if balances && len(spec.Ports) == 0 {
		texts = append(texts, "spec.ports: a Service of type LoadBalancer needs one")
	}
	if spec.IPFamilyPolicy != nil && *spec.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack &&
		len(e.families()) == 1 {
		texts = append(texts, "spec.ipFamilyPolicy: RequireDualStack needs a cluster with two families")
	}
	there := func(n *corev1.Namespace) bool { return n.Name == svc.Namespace }
	if len(e.Lack(cluster.Namespaces)) == 0 && !slices.ContainsFunc(e.Namespaces, there) {
		texts = append(texts, "metadata.namespace: there is no namespace "+svc.Namespace)
	}
	return texts
}

// families returns those that the cluster's Services may have, the one that is the default first.
func (e *edit) families() []corev1.IPFamily {
	var has []corev1.IPFamily
	add := func(families ...corev1.IPFamily) {
		for _, f := range families {
			if !slices.Contains(has, f) {
				has = append(has, f)
			}
		}
	}
	if svc := e.Service(metav1.NamespaceDefault, "kubernetes"); svc != nil {
		add(svc.Spec.IPFamilies...)
	}
	for _, c := range e.ServiceCIDRs {
		for _, cidr := range c.Spec.CIDRs {
			if strings.Contains(cidr, ":") {
				add(corev1.IPv6Protocol)
			} else {
				add(corev1.IPv4Protocol)
			}
		}
	}
	for _, svc := range e.Services {
		add(svc.Spec.IPFamilies...)
	}
	if len(has) == 0 {
		add(corev1.IPv4Protocol)
	}
	return has
}
