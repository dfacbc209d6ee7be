package steps

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/kubectl/cluster"
)

// stopController has MetalLB's controller serve no Service. It goes on running, since the API
// server asks it about each change of MetalLB's objects.
func (s *Snapshot) stopController() Step {
	d := s.controller()
	check := fmt.Sprintf("kubectl -n %s rollout status deployment/%s", d.Namespace, d.Name)
	return Step{
		Name: "controller",
		Text: "MetalLB's controller gives no more addresses; those that Services have stay",
		Do: []Phase{{
			Actions: s.withArgs(true),
			Check:   check,
			Pending: s.controllerServes(false),
		}},
		Undo: []Phase{{
			Actions: s.withArgs(false),
			Check:   check,
			Pending: s.controllerServes(true),
		}, {
			Actions: s.berthController(true),
			Check:   fmt.Sprintf("kubectl -n %s rollout status deployment/berth-controller", s.Namespace),
			Pending: s.berthControls(),
		}},
	}
}

// program is the container of the Deployment that is MetalLB's controller.
func program(spec corev1.PodSpec) corev1.Container {
	for _, c := range spec.Containers {
		if strings.Contains(c.Name, "controller") {
			return c
		}
	}
	return spec.Containers[0]
}

func servesNone(spec corev1.PodSpec) bool { return slices.Contains(program(spec).Args, noClass) }

// withArgs has MetalLB's controller serve no class, or what it served before, unless it is told so
// already.
func (s *Snapshot) withArgs(none bool) []Action {
	d := s.controller()
	if servesNone(d.Spec.Template.Spec) == none {
		return nil
	}
	args := program(d.Spec.Template.Spec).Args
	before, known := d.Annotations[WasAnnotation]
	if !none && !known {
		return nil // controllerServes says so
	}
	var was any
	if none {
		text, _ := json.Marshal(args) // strings
		was = string(text)
		args = slices.DeleteFunc(
			slices.Clone(args),
			func(a string) bool { return strings.HasPrefix(a, "--lb-class") },
		)
		args = append(args, noClass)
	} else {
		_ = json.Unmarshal([]byte(before), &args) // as above
	}
	return []Action{{
		Resource: deployments, Namespace: d.Namespace, Name: d.Name, Type: types.StrategicMergePatchType,
		Patch: map[string]any{
			"metadata": map[string]any{"annotations": map[string]any{WasAnnotation: was}},
			"spec": map[string]any{"template": map[string]any{"spec": map[string]any{
				"containers": []any{map[string]any{"name": program(d.Spec.Template.Spec).Name, "args": args}},
			}}},
		},
	}}
}

// controllerServes says what is missing until all Pods of MetalLB's controller serve, or none does.
func (s *Snapshot) controllerServes(want bool) string {
	d := s.controller()
	if servesNone(d.Spec.Template.Spec) == want {
		if _, known := d.Annotations[WasAnnotation]; want && !known {
			return fmt.Sprintf("Deployment %s has lost the annotation %s, which says what the args were: "+
				"write them as they were before the migration", d.Name, WasAnnotation)
		}
		if want {
			return "MetalLB's controller is told to serve no Service"
		}
		return "MetalLB's controller serves Services"
	}
	for _, p := range s.MetalLBPods {
		if is(p, "controller") && servesNone(p.Spec) == want && !s.endsNever(p) {
			return "Pod " + p.Name + " of MetalLB's controller has not ended"
		}
	}
	if want && !rolledOut(d) {
		return "MetalLB's controller is not available yet"
	}
	return ""
}

func rolledOut(d *appsv1.Deployment) bool {
	return d.Status.ObservedGeneration >= d.Generation && d.Spec.Replicas != nil &&
		d.Status.UpdatedReplicas >= *d.Spec.Replicas && d.Status.AvailableReplicas >= *d.Spec.Replicas
}

// berthDeployment is Berth's controller: the one in Berth's namespace, or else one elsewhere, so
// that Plan can say so.
func (s *Snapshot) berthDeployment() (found *appsv1.Deployment) {
	for _, d := range s.Deployments {
		if cluster.Component(d.Labels) == "controller" && (found == nil || d.Namespace == s.Namespace) {
			found = d
		}
	}
	return found
}

// berthController scales Berth's controller to none, or to what it was before.
func (s *Snapshot) berthController(up bool) []Action {
	d := s.berthDeployment()
	if d == nil || up == (*d.Spec.Replicas > 0) {
		return nil
	}
	replicas, was := int64(0), any(strconv.Itoa(int(*d.Spec.Replicas)))
	if up {
		replicas, _ = strconv.ParseInt(d.Annotations[WasAnnotation], 10, 32)
		replicas, was = max(1, replicas), nil
	}
	return []Action{merge(deployments, d.Namespace, d.Name, map[string]any{
		"metadata": map[string]any{"annotations": map[string]any{WasAnnotation: was}},
		"spec":     map[string]any{"replicas": replicas},
	})}
}

// berthControls says what is missing until Berth's controller runs.
func (s *Snapshot) berthControls() string {
	switch d := s.berthDeployment(); {
	case d == nil:
		return "Berth's controller is not installed in namespace " + s.Namespace
	case *d.Spec.Replicas == 0:
		return "Berth's controller is scaled to none"
	case d.Status.AvailableReplicas == 0:
		return "Berth's controller is not available yet"
	}
	return ""
}

// configure has Berth take the Services over, with their addresses. It announces none of them:
// those that MetalLB announces by layer 2 carry ServiceNodeLabel, and no node speaks BGP yet.
func (s *Snapshot) configure() Step {
	var objects, deletions []Action
	there := s.there()
	for _, kind := range []string{
		"Secret", "LoadBalancerPool", "BGPNeighbor", "SegmentAnnouncement", "RouteAnnouncement",
	} {
		for _, o := range s.converted(kind) {
			if !there[kind+" "+o.GetName()] {
				objects = append(objects, apply(s.restricted(o)))
			}
		}
	}
	for _, a := range s.made() {
		deletions = append(deletions, remove(a.resource, a.namespace, a.name))
	}
	annotate, strip := s.annotations()
	runs := ""
	if slices.ContainsFunc(objects, func(a Action) bool { return a.Resource == pools }) {
		runs = s.berthRuns()
	}
	return Step{
		Name: "configuration",
		Text: "Berth takes the Services over with the addresses that they have, and announces none of them yet",
		Do: []Phase{{
			// With some of the pools only, the controller would give a Service of its class an address
			// of those.
			Actions: s.berthController(false),
			Check:   fmt.Sprintf("kubectl -n %s get pods", s.Namespace),
			Pending: runs,
		}, {
			Actions: slices.Concat(objects, annotate),
			Check:   "kubectl get loadbalancerpools.berth.dev,bgpneighbors.berth.dev,segmentannouncements.berth.dev,routeannouncements.berth.dev",
			Pending: first(someOf(objects, "is not there"), someOf(annotate, "lacks Berth's annotations")),
		}, {
			Actions: s.berthController(true),
			Check:   "kubectl get speakers.berth.dev",
			Pending: s.berthReady(),
		}, {
			Check:   "kubectl berth services",
			Pending: s.untaken(),
		}},
		Undo: []Phase{{
			Actions: s.berthController(false),
			Check:   fmt.Sprintf("kubectl -n %s get pods", s.Namespace),
			Pending: s.berthInControl(),
		}, {
			Actions: deletions,
			Check:   "kubectl get -l " + MadeLabel + " loadbalancerpools.berth.dev,bgpneighbors.berth.dev,segmentannouncements.berth.dev,routeannouncements.berth.dev",
			Pending: someOf(deletions, "is there"),
		}, {
			Actions: strip,
			Check:   "kubectl get services -A -o yaml | grep berth.dev",
			Pending: someOf(strip, "has Berth's record"),
		}},
	}
}

// someOf says of the first action's object, if there is one, what is the matter with it.
func someOf(actions []Action, matter string) string {
	if len(actions) == 0 {
		return ""
	}
	name := actions[0].object()
	if actions[0].Namespace != "" {
		name = actions[0].Namespace + ": " + name
	}
	return name + " " + matter
}

// place is where an object is.
type place struct {
	resource        schema.GroupVersionResource
	namespace, name string
}

// made are the objects of Berth's that the migration has made. What names others comes first.
func (s *Snapshot) made() (found []place) {
	for _, a := range s.RouteAnnouncements {
		if a.Labels[MadeLabel] == madeFrom {
			found = append(found, place{routeAnnouncements, "", a.Name})
		}
	}
	for _, a := range s.SegmentAnnouncements {
		if a.Labels[MadeLabel] == madeFrom {
			found = append(found, place{segmentAnnouncements, "", a.Name})
		}
	}
	for _, b := range s.BGPNeighbors {
		if b.Labels[MadeLabel] == madeFrom {
			found = append(found, place{neighbors, "", b.Name})
		}
	}
	for _, p := range s.Pools {
		if p.Labels[MadeLabel] == madeFrom {
			found = append(found, place{pools, "", p.Name})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Secrets)) {
		if s.Secrets[name] {
			found = append(found, place{secrets, s.Namespace, name})
		}
	}
	return found
}

// berthReady says what is missing until Berth is ready wherever MetalLB is.
func (s *Snapshot) berthReady() string {
	if text := s.berthControls(); text != "" {
		return text
	}
	for _, node := range s.nodeNames() {
		if s.down(node) || candidate.Exclusion(s.node(node)) != "" {
			continue // it announces nothing
		}
		k := s.speaker(node)
		if k == nil {
			return "Berth has no speaker on " + node + ", where MetalLB has one"
		}
		if state, why := k.Status.State(); state != v1alpha1.SpeakerAnnouncing {
			return fmt.Sprintf("Berth's speaker on %s is %s: %s", node, state, why)
		}
	}
	return ""
}

// there are the kinds and names of Berth's objects, and of Secrets for them.
func (s *Snapshot) there() map[string]bool {
	found := map[string]bool{}
	for name := range s.Secrets {
		found["Secret "+name] = true
	}
	for _, p := range s.Pools {
		found["LoadBalancerPool "+p.Name] = true
	}
	for _, b := range s.BGPNeighbors {
		found["BGPNeighbor "+b.Name] = true
	}
	for _, a := range s.SegmentAnnouncements {
		found["SegmentAnnouncement "+a.Name] = true
	}
	for _, a := range s.RouteAnnouncements {
		found["RouteAnnouncement "+a.Name] = true
	}
	return found
}

// untaken says which Service Berth has not taken over.
func (s *Snapshot) untaken() string {
	for _, svc := range s.served() {
		if c := condition(svc, v1alpha1.ServiceAllocated); c.Status != "True" {
			text := fmt.Sprintf("Service %s is not Berth's: %s", key(svc), c.Message)
			if class := svc.Spec.LoadBalancerClass; class != nil && *class != v1alpha1.LoadBalancerClass {
				text += fmt.Sprintf(" (its class is %s: name it in the controller's --classes)", *class)
			}
			return text
		}
	}
	return ""
}

// berthInControl says whether Berth's controller serves what it took over.
func (s *Snapshot) berthInControl() string {
	_, strip := s.annotations()
	if len(s.made()) == 0 && len(strip) == 0 {
		return ""
	}
	return s.berthRuns()
}

// berthRuns says what runs of Berth's controller.
func (s *Snapshot) berthRuns() string {
	if d := s.berthDeployment(); d != nil && *d.Spec.Replicas > 0 {
		return "Berth's controller serves the Services"
	}
	for _, p := range s.Pods {
		if cluster.Component(p.Labels) == "controller" && !s.endsNever(p) {
			return "Pod " + p.Name + " of Berth's controller has not ended"
		}
	}
	return ""
}

// annotations are what gives Services Berth's annotations in place of MetalLB's, which they keep,
// and what takes those and Berth's conditions away.
func (s *Snapshot) annotations() (annotate, strip []Action) {
	wanted := map[string]map[string]string{}
	for _, o := range s.converted("Service") {
		for k, v := range o.GetAnnotations() {
			if !strings.HasPrefix(k, v1alpha1.GroupVersion.Group+"/") {
				continue
			}
			name := o.GetNamespace() + "/" + o.GetName()
			if wanted[name] == nil {
				wanted[name] = map[string]string{}
			}
			wanted[name][k] = v
		}
	}
	for _, svc := range s.served() {
		if svc.Spec.LoadBalancerClass != nil {
			// Without a pool, Berth's controller takes its other conditions away by itself.
			if a, has := withoutConditions(svc); has && condition(svc, v1alpha1.ServiceRecord).Status == "True" {
				strip = append(strip, a)
			}
			continue
		}
		give, take := map[string]any{}, map[string]any{}
		for _, k := range slices.Sorted(maps.Keys(wanted[key(svc)])) {
			if v, is := svc.Annotations[k]; is {
				take[k] = nil
			} else if give[k] = wanted[key(svc)][k]; v != "" {
				continue
			}
		}
		if len(give) > 0 {
			annotate = append(annotate, annotation(svc, give))
		}
		if len(take) > 0 {
			strip = append(strip, annotation(svc, take))
		}
		if a, has := withoutConditions(svc); has {
			strip = append(strip, a)
		}
	}
	return annotate, strip
}

func annotation(svc *corev1.Service, change map[string]any) Action {
	return merge(services, svc.Namespace, svc.Name, map[string]any{
		"metadata": map[string]any{"annotations": change},
	})
}

// withoutConditions takes Berth's conditions from a Service, if it has some.
func withoutConditions(svc *corev1.Service) (Action, bool) {
	rest := []any{}
	for _, c := range svc.Status.Conditions {
		if strings.HasPrefix(c.Type, v1alpha1.GroupVersion.Group+"/") {
			continue
		}
		text, _ := json.Marshal(c) // strings
		var fields map[string]any
		_ = json.Unmarshal(text, &fields)
		rest = append(rest, fields)
	}
	a := merge(services, svc.Namespace, svc.Name, map[string]any{
		"metadata": map[string]any{"resourceVersion": svc.ResourceVersion},
		"status":   map[string]any{"conditions": rest},
	})
	a.Status = true
	return a, len(rest) < len(svc.Status.Conditions)
}

// restricted returns an object as it is while MetalLB announces, too: a SegmentAnnouncement leaves
// the Services with ServiceNodeLabel out, and a BGPNeighbor is for nodes where Berth speaks.
func (s *Snapshot) restricted(o *unstructured.Unstructured) *unstructured.Unstructured {
	switch o.GetKind() {
	case "SegmentAnnouncement":
		require(o, "serviceSelector", map[string]any{"key": ServiceNodeLabel, "operator": "DoesNotExist"})
	case "BGPNeighbor":
		require(o, "nodeSelector", map[string]any{"key": SpeaksLabel, "operator": "In", "values": []any{SpeaksBerth}})
	}
	return o
}

// require adds a requirement to a selector of an object's spec.
func require(o *unstructured.Unstructured, selector string, requirement map[string]any) {
	all, _, _ := unstructured.NestedSlice(o.Object, "spec", selector, "matchExpressions")
	_ = unstructured.SetNestedSlice(o.Object, append(all, requirement), "spec", selector, "matchExpressions")
}

// selecting sets the expressions of a selector of an object that is there. (An object that is
// applied without them is left with the selector null.)
func selecting(o *unstructured.Unstructured, selector string) Action {
	var expressions any
	if all, found, _ := unstructured.NestedSlice(o.Object, "spec", selector, "matchExpressions"); found {
		expressions = all
	}
	return merge(resources[o.GetKind()], "", o.GetName(), map[string]any{
		"spec": map[string]any{selector: map[string]any{"matchExpressions": expressions}},
	})
}

// requires reports whether a selector has a requirement for a label.
func requires(selector *v1alpha1.Selector, label string) bool {
	return selector != nil &&
		slices.ContainsFunc(selector.MatchExpressions, func(r v1alpha1.SelectorRequirement) bool {
			return r.Key == label
		})
}
