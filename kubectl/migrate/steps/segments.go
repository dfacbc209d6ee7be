package steps

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// at is the name of what is made of an object for one node.
func at(name, node string) string { return name + "-at-" + node }

// annotated reports whether an L2Advertisement of the user's has the record of what it was.
func annotated(o *unstructured.Unstructured) bool {
	_, is := o.GetAnnotations()[WasAnnotation]
	return is
}

// neutral reports whether an L2Advertisement of the user's announces from no node. Somebody may
// have changed its spec back, and left the record.
func neutral(o *unstructured.Unstructured) bool { return annotated(o) && nowhereOnly(o) }

// nowhereOnly reports whether an L2Advertisement selects nodes as neutralized writes it.
func nowhereOnly(o *unstructured.Unstructured) bool {
	selectors, _, _ := unstructured.NestedSlice(o.Object, "spec", "nodeSelectors")
	if len(selectors) != 1 {
		return false
	}
	fields, _ := selectors[0].(map[string]any)
	_, is, _ := unstructured.NestedString(fields, "matchLabels", nowhere)
	return is
}

// isPinned reports whether all of MetalLB's layer 2 is what the migration has made of it.
func (s *Snapshot) isPinned() bool { return !slices.ContainsFunc(s.advertisements(), not(neutral)) }

func not[T any](f func(T) bool) func(T) bool { return func(x T) bool { return !f(x) } }

// pin keeps MetalLB's layer 2 where it is: each Service is labeled with the node that announces it,
// and that node alone may.
func (s *Snapshot) pin() Step {
	namespace := s.daemonSet().Namespace
	check := fmt.Sprintf("kubectl -n %s get servicel2statuses.metallb.io", namespace)
	var mark, narrow, hold, free, widen, unmark []Action
	l2 := s.l2Nodes()
	for _, svc := range s.Services {
		if node := l2[key(svc)]; node != "" && svc.Labels[ServiceNodeLabel] != node {
			mark = append(mark, label(services, svc.Namespace, svc.Name, ServiceNodeLabel, node))
		}
	}
	for _, node := range s.nodeNames() {
		narrow = append(narrow, s.pinnedAt(node)...)
	}
	for _, o := range s.advertisements() {
		if annotated(o) {
			free = append(free, widened(o))
		}
		if !neutral(o) {
			hold = append(hold, neutralized(o))
		}
	}
	for _, o := range s.pinned() {
		widen = append(widen, remove(l2Advertisements, o.GetNamespace(), o.GetName()))
	}
	for _, svc := range s.onNode("") {
		unmark = append(unmark, label(services, svc.Namespace, svc.Name, ServiceNodeLabel, nil))
	}
	narrow = s.without(narrow)
	step := Step{
		Name: "pin",
		Text: "each address that MetalLB announces by layer 2 stays on its node",
		Do: []Phase{
			phase(mark, "kubectl get services -A -L "+ServiceNodeLabel+"; "+check,
				first(someOf(mark, "lacks the label of its node"), s.unclear())),
			phase(
				narrow,
				fmt.Sprintf("kubectl -n %s get l2advertisements.metallb.io", namespace),
				someOf(narrow, "is not there"),
			),
			phase(hold, check, someOf(hold, "announces from any node")),
		},
		Undo: []Phase{
			phase(free, check, someOf(free, "announces from no node")),
			phase(widen, check, someOf(widen, "is there")),
			phase(unmark, "kubectl get services -A -L "+ServiceNodeLabel, someOf(unmark, "has the label of a node")),
		},
	}
	if s.isPinned() { // what comes later takes the pins away
		for i := range step.Do {
			step.Do[i].Pending = ""
		}
	}
	return step
}

// unclear names a Service if it is not known from where MetalLB announces it: it would be announced
// by nobody, or move, once all are pinned.
func (s *Snapshot) unclear() string {
	statuses, announcing := s.l2Statuses(), s.announcing("L2Advertisement")
	may := func(svc *corev1.Service) bool {
		by := announcing(svc)
		return slices.ContainsFunc(s.nodeNames(), func(node string) bool { return s.mayAnnounce(svc, by, node) })
	}
	for _, svc := range s.served() {
		switch on := statuses[key(svc)]; {
		case len(on) == 0 && may(svc):
			return fmt.Sprintf("no ServiceL2Status says from which node MetalLB announces Service %s", key(svc))
		case len(on) > 1:
			return fmt.Sprintf("Service %s moves: MetalLB announces it from %s", key(svc), strings.Join(on, " and "))
		case len(on) == 1 && s.down(on[0]) && may(svc):
			return fmt.Sprintf("Service %s is announced from Node %s, which is not ready", key(svc), on[0])
		}
	}
	return ""
}

// without returns those of the L2Advertisements that are to be applied and are not there.
func (s *Snapshot) without(applied []Action) (missing []Action) {
	for _, a := range applied {
		if !slices.ContainsFunc(
			s.pinned(),
			func(o *unstructured.Unstructured) bool { return o.GetName() == a.Name },
		) {
			missing = append(missing, a)
		}
	}
	return missing
}

// pinnedAt are L2Advertisements that announce from a node the Services that carry its label.
func (s *Snapshot) pinnedAt(node string) (all []Action) {
	for _, o := range Originals(s.advertisements()) {
		if !s.selects(o, node) {
			continue
		}
		spec, _, _ := unstructured.NestedMap(o.Object, "spec")
		selectors, _, _ := unstructured.NestedSlice(o.Object, "spec", "serviceSelectors")
		if len(selectors) == 0 {
			selectors = []any{map[string]any{}}
		}
		for i := range selectors {
			fields, _ := selectors[i].(map[string]any)
			_ = unstructured.SetNestedField(fields, node, "matchLabels", ServiceNodeLabel)
		}
		spec["serviceSelectors"] = selectors
		spec["nodeSelectors"] = []any{
			map[string]any{"matchLabels": map[string]any{corev1.LabelHostname: s.hostname(node)}},
		}
		pinned := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
		pinned.SetGroupVersionKind(o.GroupVersionKind())
		pinned.SetNamespace(o.GetNamespace())
		pinned.SetName(at(o.GetName(), node))
		pinned.SetLabels(map[string]string{MadeLabel: madeFrom, ServiceNodeLabel: node})
		all = append(all, apply(pinned))
	}
	return all
}

// neutralized has an L2Advertisement announce from no node.
func neutralized(o *unstructured.Unstructured) Action {
	selectors, _, _ := unstructured.NestedSlice(o.Object, "spec", "nodeSelectors")
	text, _ := json.Marshal(selectors) // it was JSON
	return merge(l2Advertisements, o.GetNamespace(), o.GetName(), map[string]any{
		"metadata": map[string]any{"annotations": map[string]any{WasAnnotation: string(text)}},
		"spec": map[string]any{"nodeSelectors": []any{
			map[string]any{"matchLabels": map[string]any{nowhere: "true"}},
		}},
	})
}

// widened has an L2Advertisement announce from where it did.
func widened(o *unstructured.Unstructured) Action {
	var selectors any
	_ = json.Unmarshal([]byte(o.GetAnnotations()[WasAnnotation]), &selectors) // as neutralized wrote it
	return merge(l2Advertisements, o.GetNamespace(), o.GetName(), map[string]any{
		"metadata": map[string]any{"annotations": map[string]any{WasAnnotation: nil}},
		"spec":     map[string]any{"nodeSelectors": selectors},
	})
}

// isSettled reports whether Berth's SegmentAnnouncements are for all Services.
func (s *Snapshot) isSettled() bool {
	all := s.converted("SegmentAnnouncement")
	return len(all) > 0 && !slices.ContainsFunc(all, func(o *unstructured.Unstructured) bool {
		a := s.segmentAnnouncement(o.GetName())
		return a == nil || requires(a.Spec.ServiceSelector, ServiceNodeLabel)
	})
}

// segmentsAt are SegmentAnnouncements by which a node announces the Services that carry its label.
func (s *Snapshot) segmentsAt(node string) (all []Action) {
	for _, o := range s.converted("SegmentAnnouncement") {
		o.SetName(at(o.GetName(), node))
		_ = unstructured.SetNestedField(o.Object, node, "spec", "serviceSelector", "matchLabels", ServiceNodeLabel)
		_ = unstructured.SetNestedField(
			o.Object, s.hostname(node), "spec", "nodeSelector", "matchLabels", corev1.LabelHostname,
		)
		all = append(all, apply(o))
	}
	return all
}

// split tells those of the SegmentAnnouncements that are to be applied and are not there from the
// deletions of those that are.
func (s *Snapshot) split(applied []Action) (missing, deletions []Action) {
	for _, a := range applied {
		if s.segmentAnnouncement(a.Name) != nil {
			deletions = append(deletions, remove(segmentAnnouncements, "", a.Name))
		} else {
			missing = append(missing, a)
		}
	}
	return missing, deletions
}

// segment moves a node's addresses from MetalLB to Berth: Berth's speaker answers for them beside
// MetalLB's, with the same hardware address, before that ends.
func (s *Snapshot) segment(node string) Step {
	begin, end := s.split(s.segmentsAt(node))
	narrow := s.without(s.pinnedAt(node))
	var stop []Action
	for _, o := range s.pinned() {
		if o.GetLabels()[ServiceNodeLabel] == node {
			stop = append(stop, remove(l2Advertisements, o.GetNamespace(), o.GetName()))
		}
	}
	metallb := fmt.Sprintf("kubectl -n %s get servicel2statuses.metallb.io", s.daemonSet().Namespace)
	step := Step{
		Name: "segment/" + node,
		Text: fmt.Sprintf(
			"on %s Berth answers for the addresses that MetalLB answers for there, and MetalLB ends",
			node,
		),
		Do: []Phase{
			phase(begin, "kubectl get l2owners.berth.dev", first(someOf(begin, "is not there"), s.unanswered(node))),
			phase(stop, metallb, first(someOf(stop, "is there"), s.answered(node))),
		},
		Undo: []Phase{
			phase(narrow, metallb, first(someOf(narrow, "is not there"), s.unreturned(node))),
			phase(end, "kubectl get l2owners.berth.dev", first(someOf(end, "is there"), s.owned(node))),
		},
	}
	step.Do[0].Stay, step.Undo[0].Stay = stay, stay
	late := s.late(node)
	if s.isSettled() {
		step.Do[0].Pending = ""
	}
	if len(end) == 0 || !s.isPinned() { // Berth does not answer there
		step.Undo[0].Pending = ""
	}
	if s.isSettled() && len(end) == 0 {
		step.Undo[1].Pending = ""
	}
	if len(late) > 0 { // then they are like the others
		check := "kubectl get services -A -L " + ServiceNodeLabel
		step.Undo = []Phase{
			phase(begin, "kubectl get segmentannouncements.berth.dev", someOf(begin, "is not there")),
			phase(late, check, someOf(late, "lacks the label of its node")),
			phase(narrow, metallb, "MetalLB does not announce them yet"),
			step.Undo[1],
		}
		step.Undo[2].Stay = stay
	} else {
		step.Undo = []Phase{{Check: step.Undo[1].Check}, {Check: step.Undo[1].Check}, step.Undo[0], step.Undo[1]}
	}
	return step
}

// late labels Services that Berth alone announces, and would announce from a node if they had the
// label of one: they were created after the others were labeled, or had no endpoint then.
func (s *Snapshot) late(node string) (mark []Action) {
	if s.isSettled() || !s.isPinned() {
		return nil // settleSegments labels all, or MetalLB announces them anyway
	}
	owners, announcing := s.owners(), s.announcing("L2Advertisement")
	for _, svc := range s.served() {
		if svc.Labels[ServiceNodeLabel] == "" && len(announcing(svc)) > 0 && s.home(svc, owners) == node {
			mark = append(mark, label(services, svc.Namespace, svc.Name, ServiceNodeLabel, node))
		}
	}
	return mark
}

// home returns the node from which MetalLB is to announce a Service that Berth announces: Berth's
// owner, unless MetalLB's speaker does not run there. Empty: Berth does not announce it by layer 2.
func (s *Snapshot) home(svc *corev1.Service, owners map[string][]string) string {
	on := owners[addresses(svc)[0]]
	if len(on) == 0 {
		return ""
	}
	fits := func(node string) bool { return s.isMetalLBs(node) && !s.down(node) }
	if fits(on[0]) {
		return on[0]
	}
	if is := svc.Labels[ServiceNodeLabel]; is != "" && fits(is) {
		return is
	}
	by := s.announcing("L2Advertisement")(svc)
	for _, node := range s.nodeNames() {
		if s.mayAnnounce(svc, by, node) {
			return node
		}
	}
	return on[0]
}

// first returns the first text that is not empty.
func first(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}

// unanswered says for which address Berth does not answer on a node where MetalLB does.
func (s *Snapshot) unanswered(node string) string {
	if s.down(node) {
		return "" // nobody answers there
	}
	l2, announcing := s.l2Nodes(), s.announcing("L2Advertisement")
	for _, svc := range s.onNode(node) {
		if l2[key(svc)] != node {
			continue
		}
		named := len(s.onAnyInterface(announcing(svc), node)) == 0
		for _, a := range addresses(svc) {
			if !s.answersFor(a, node, true) {
				return fmt.Sprintf("Berth does not answer for %s of Service %s on %s yet", a, key(svc), node)
			}
			if !s.answersFor(a, node, named) {
				return fmt.Sprintf(
					"Berth answers for %s of Service %s on %s, but on no interface with a subnet that has it: "+
						"go back (--back), and name the interfaces in spec.interfaces of the L2Advertisement",
					a,
					key(svc),
					node,
				)
			}
		}
		if c := condition(svc, "berth.dev/Announced"); c.Status != "True" {
			return fmt.Sprintf("Service %s is not announced by Berth yet: %s", key(svc), c.Message)
		}
	}
	return ""
}

// answered says what MetalLB still announces on a node.
func (s *Snapshot) answered(node string) string {
	if s.down(node) {
		return ""
	}
	l2 := s.l2Nodes()
	for _, svc := range s.onNode(node) {
		if l2[key(svc)] == node {
			return fmt.Sprintf("MetalLB announces Service %s on %s", key(svc), node)
		}
	}
	return ""
}

// unreturned says which Service MetalLB does not announce on a node where Berth does.
func (s *Snapshot) unreturned(node string) string {
	if s.down(node) {
		return ""
	}
	owners, l2 := s.owners(), s.l2Nodes()
	for _, svc := range s.onNode(node) {
		for _, a := range addresses(svc) {
			if slices.Contains(owners[a], node) && l2[key(svc)] != node && s.serves(svc, node) {
				return fmt.Sprintf("MetalLB does not announce Service %s on %s yet", key(svc), node)
			}
		}
	}
	return ""
}

// owned says for which address of a labeled Service Berth still answers on a node.
func (s *Snapshot) owned(node string) string {
	if s.down(node) {
		return ""
	}
	owners := s.owners()
	for _, svc := range s.onNode(node) {
		for _, a := range addresses(svc) {
			if slices.Contains(owners[a], node) {
				return fmt.Sprintf("Berth answers for %s on %s", a, node)
			}
		}
	}
	return ""
}

// settleSegments lets any node answer for any address, as the converted configuration says: owners
// stay, and others take over when they fail.
func (s *Snapshot) settleSegments() Step {
	var widen, single, unmark, mark, restrict, begin []Action
	names := map[string]bool{}
	for _, o := range s.converted("SegmentAnnouncement") {
		names[o.GetName()] = true
		switch a := s.segmentAnnouncement(o.GetName()); {
		case a == nil:
			widen = append(widen, apply(o))
		case requires(a.Spec.ServiceSelector, ServiceNodeLabel):
			widen = append(widen, selecting(o, "serviceSelector"))
		default:
			restrict = append(restrict, selecting(s.restricted(o), "serviceSelector"))
		}
	}
	for _, a := range s.SegmentAnnouncements {
		if a.Labels[MadeLabel] == madeFrom && !names[a.Name] {
			single = append(single, remove(segmentAnnouncements, "", a.Name))
		}
	}
	owners := s.owners()
	for _, svc := range s.onNode("") {
		unmark = append(unmark, label(services, svc.Namespace, svc.Name, ServiceNodeLabel, nil))
	}
	for _, svc := range s.served() {
		if node := s.home(svc, owners); node != "" && svc.Labels[ServiceNodeLabel] != node {
			mark = append(mark, label(services, svc.Namespace, svc.Name, ServiceNodeLabel, node))
		}
	}
	for _, node := range s.nodeNames() {
		begin = append(begin, s.segmentsAt(node)...)
	}
	begin, _ = s.split(begin)
	step := Step{
		Name: "segments",
		Text: "any node may answer for any address, so that others take over from one that fails",
		Do: []Phase{
			phase(
				widen,
				"kubectl get segmentannouncements.berth.dev -o yaml",
				someOf(widen, "is for Services without the label only"),
			),
			phase(single, "kubectl get segmentannouncements.berth.dev", someOf(single, "is there")),
			phase(unmark, "kubectl get services -A -L "+ServiceNodeLabel, someOf(unmark, "has the label of a node")),
		},
		Undo: []Phase{
			phase(mark, "kubectl get services -A -L "+ServiceNodeLabel, someOf(mark, "lacks the label of its node")),
			phase(begin, "kubectl get segmentannouncements.berth.dev", someOf(begin, "is not there")),
			phase(restrict, "kubectl get segmentannouncements.berth.dev -o yaml", someOf(restrict, "is for all Services")),
		},
	}
	if !s.isSettled() {
		step.Undo[0].Pending, step.Undo[1].Pending = "", ""
	}
	return step
}
