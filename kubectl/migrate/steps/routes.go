package steps

import (
	"encoding/json"
	"fmt"
	"slices"

	"go4.org/netipx"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
)

// former is what loosenSpeakers changes of MetalLB's DaemonSet.
type former struct {
	Strategy appsv1.DaemonSetUpdateStrategy `json:"strategy"`
	Affinity *corev1.Affinity               `json:"affinity"`
}

// loosenSpeakers keeps MetalLB's speakers off the nodes with SpeaksLabel, without a restart of any.
// (A changed BGPPeer would reset its sessions with all nodes.)
func (s *Snapshot) loosenSpeakers() Step {
	d := s.daemonSet()
	text, loosened := d.Annotations[WasAnnotation]
	var was former
	_ = json.Unmarshal([]byte(text), &was) // as written below
	status := fmt.Sprintf("kubectl -n %s get daemonset/%s", d.Namespace, d.Name)
	step := Step{
		Name: "speakers",
		Text: "MetalLB's speakers keep off nodes with the label " + SpeaksLabel + ", which no node has yet; none restarts",
		Do: []Phase{{
			Actions: s.loosened(),
			Check:   status,
			Pending: s.unobserved(loosened && keepsOff(d), "runs on all nodes"),
		}},
		Undo: []Phase{{
			Actions: []Action{merge(daemonSets, d.Namespace, d.Name, affinityPatch(was.Affinity))},
			Check:   status,
			Pending: s.unobserved(!keepsOff(d), "keeps off nodes"),
		}},
	}
	if keepsOff(d) && !loosened {
		step.Undo[0].Actions = nil
		step.Undo[0].Pending = fmt.Sprintf(
			"DaemonSet %s has lost the annotation %s, which says what its affinity and "+
				"updateStrategy were: write them as they were before the migration",
			d.Name,
			WasAnnotation,
		)
	}
	for _, node := range s.metalLBNodes() {
		step.Undo = append(step.Undo, s.renew(node, loosened))
	}
	strategy := map[string]any{"type": string(was.Strategy.Type), "rollingUpdate": was.Strategy.RollingUpdate}
	last := Phase{
		Actions: []Action{merge(daemonSets, d.Namespace, d.Name, map[string]any{
			"metadata": map[string]any{"annotations": map[string]any{WasAnnotation: nil}},
			"spec":     map[string]any{"updateStrategy": strategy},
		})},
		Check: status,
	}
	if loosened {
		last.Pending = "DaemonSet " + d.Name + " does not update its Pods"
	}
	step.Undo = append(step.Undo, last)
	return step
}

// keepsOff reports whether the DaemonSet keeps off nodes with SpeaksLabel.
func keepsOff(d *appsv1.DaemonSet) bool {
	a := d.Spec.Template.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return false
	}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		if slices.ContainsFunc(
			term.MatchExpressions,
			func(r corev1.NodeSelectorRequirement) bool { return r.Key == SpeaksLabel },
		) {
			return true
		}
	}
	return false
}

// unobserved says what is missing until the DaemonSet is as it should be, and its controller knows.
func (s *Snapshot) unobserved(ok bool, otherwise string) string {
	d := s.daemonSet()
	switch {
	case !ok:
		return "DaemonSet " + d.Name + " " + otherwise
	case d.Status.ObservedGeneration < d.Generation:
		return "DaemonSet " + d.Name + " has not been looked at since it was changed"
	}
	return ""
}

// loosened has the DaemonSet keep off nodes with SpeaksLabel, and update no Pod, unless it does.
func (s *Snapshot) loosened() []Action {
	d := s.daemonSet()
	before, begun := d.Annotations[WasAnnotation]
	if begun && keepsOff(d) {
		return nil
	}
	was := former{d.Spec.UpdateStrategy, d.Spec.Template.Spec.Affinity}
	text, _ := json.Marshal(was) // of the API
	if begun {                   // and turned round in the midst
		text = []byte(before)
	}
	affinity := &corev1.Affinity{}
	if was.Affinity != nil {
		affinity = was.Affinity.DeepCopy()
	}
	if affinity.NodeAffinity == nil {
		affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	required := affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if required == nil {
		required = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{}}}
	}
	for i := range required.NodeSelectorTerms {
		term := &required.NodeSelectorTerms[i]
		term.MatchExpressions = append(term.MatchExpressions, corev1.NodeSelectorRequirement{
			Key: SpeaksLabel, Operator: corev1.NodeSelectorOpDoesNotExist,
		})
	}
	affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = required
	patch := affinityPatch(affinity)
	patch["metadata"] = map[string]any{"annotations": map[string]any{WasAnnotation: string(text)}}
	patch["spec"].(map[string]any)["updateStrategy"] = map[string]any{"type": "OnDelete", "rollingUpdate": nil}
	return []Action{merge(daemonSets, d.Namespace, d.Name, patch)}
}

// affinityPatch sets the required affinity to nodes. What is missing is taken away.
func affinityPatch(a *corev1.Affinity) map[string]any {
	var affinity any
	if a != nil {
		var toNodes any
		if a.NodeAffinity != nil {
			toNodes = map[string]any{
				"requiredDuringSchedulingIgnoredDuringExecution": a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution,
			}
		}
		affinity = map[string]any{"nodeAffinity": toNodes}
	}
	return map[string]any{"spec": map[string]any{
		"template": map[string]any{"spec": map[string]any{"affinity": affinity}},
	}}
}

// renew replaces MetalLB's Pod on a node if the DaemonSet would, once it updates Pods again.
func (s *Snapshot) renew(node string, loosened bool) Phase {
	phase := Phase{Check: fmt.Sprintf("kubectl -n %s get pods -o wide", s.daemonSet().Namespace), Stay: stay}
	if !loosened || s.down(node) {
		return phase
	}
	for _, p := range s.speakerPods(node) {
		if hash := p.Labels[appsv1.ControllerRevisionHashLabelKey]; hash != s.Revision {
			phase.Pending = "MetalLB's speaker on " + node + " is of another revision of its DaemonSet"
			if p.DeletionTimestamp == nil {
				phase.Actions = append(phase.Actions, remove(pods, p.Namespace, p.Name))
			}
		}
	}
	phase.Pending = first(phase.Pending, s.sessionsUp(node))
	return phase
}

// routes moves a node's BGP sessions. The label ends MetalLB's speaker there; Berth's sees in the
// kernel when the session has ended, and dials.
func (s *Snapshot) routes(node string) Step {
	speaks := s.node(node).Labels[SpeaksLabel]
	check := fmt.Sprintf("kubectl berth bgp sessions; kubectl -n %s get pods -o wide", s.daemonSet().Namespace)
	step := Step{
		Name: "bgp/" + node,
		Text: fmt.Sprintf("on %s MetalLB's BGP sessions end, and then Berth's begin", node),
		Do: []Phase{{
			Actions: []Action{label(nodes, "", node, SpeaksLabel, SpeaksBerth)},
			Check:   check,
			Pending: s.silent(node, speaks),
			Stay:    stay,
		}},
		Undo: []Phase{{
			Actions: []Action{label(nodes, "", node, SpeaksLabel, SpeaksNobody)},
			Check:   "kubectl berth bgp sessions",
		}, {
			Actions: []Action{label(nodes, "", node, SpeaksLabel, nil)},
			Check: fmt.Sprintf(
				"kubectl -n %s logs -l component=speaker --prefix | grep session",
				s.daemonSet().Namespace,
			),
			Stay: stay,
		}},
	}
	switch speaks {
	case SpeaksBerth:
		step.Undo[0].Pending = "Berth speaks BGP on " + node
		step.Undo[1].Pending = "MetalLB does not speak BGP on " + node
	case SpeaksNobody:
		if sessions := s.sessions(node); len(sessions) > 0 && !s.down(node) {
			step.Undo[0].Pending = fmt.Sprintf("Berth has a session with %s on %s", sessions[0].NeighborName, node)
			step.Undo[0].Actions = nil
		}
		step.Undo[1].Pending = "MetalLB does not speak BGP on " + node
	default:
		if _, loosened := s.daemonSet().Annotations[WasAnnotation]; loosened {
			step.Undo[1].Pending = s.sessionsUp(node)
		}
	}
	return step
}

// sessions are those of Berth's on a node with routers of MetalLB's.
func (s *Snapshot) sessions(node string) (found []v1alpha1.SessionReport) {
	k := s.speaker(node)
	if k == nil {
		return nil
	}
	for _, r := range k.Status.Sessions {
		if b := s.neighbor(r.NeighborName); b != nil && b.Labels[MadeLabel] == madeFrom {
			found = append(found, r)
		}
	}
	return found
}

// silent says what is missing until Berth alone speaks BGP on a node.
func (s *Snapshot) silent(node, speaks string) string {
	if speaks != SpeaksBerth {
		return fmt.Sprintf("%s lacks the label %s=%s", node, SpeaksLabel, SpeaksBerth)
	}
	if s.down(node) {
		return "" // its Pods do not end, and its sessions are gone
	}
	if len(s.speakerPods(node)) > 0 {
		return "MetalLB's speaker on " + node + " has not ended"
	}
	for _, o := range s.converted("BGPNeighbor") {
		b := s.neighbor(o.GetName())
		if b == nil {
			return "BGPNeighbor " + o.GetName() + " is not there"
		}
		if !selectsNode(b.Spec.NodeSelector, s.node(node)) {
			continue
		}
		i := slices.IndexFunc(
			s.sessions(node),
			func(r v1alpha1.SessionReport) bool { return r.NeighborName == b.Name },
		)
		switch {
		case i < 0:
			return fmt.Sprintf("Berth's speaker on %s does not know BGPNeighbor %s yet", node, b.Name)
		case s.sessions(node)[i].State != v1alpha1.SessionEstablished:
			return fmt.Sprintf(
				"Berth's session with %s on %s is down: %s",
				b.Name,
				node,
				s.sessions(node)[i].LastError,
			)
		}
	}
	return s.unrouted(node)
}

// unrouted says which Service that MetalLB announced by BGP from a node Berth does not.
func (s *Snapshot) unrouted(node string) string {
	if candidate.Exclusion(s.node(node)) != "" {
		return "" // neither announces from there
	}
	sessions := s.sessions(node)
	none := len(sessions) > 0 && !slices.ContainsFunc(sessions, func(r v1alpha1.SessionReport) bool {
		return r.Prefixes == nil || *r.Prefixes > 0
	})
	announcing, routed := s.announcing("BGPAdvertisement"), s.routedFrom(node)
	for _, svc := range s.served() {
		c := condition(svc, v1alpha1.ServiceAnnounced)
		fine := !none && c.Status == "True" && routed(svc)
		if fine || !slices.ContainsFunc(
			announcing(svc), func(o *unstructured.Unstructured) bool { return s.selects(o, node) },
		) || !s.serves(svc, node) {
			continue
		}
		switch {
		case !routed(svc):
			return fmt.Sprintf("no RouteAnnouncement announces Service %s from %s", key(svc), node)
		case c.Status != "True":
			return fmt.Sprintf("Service %s is not announced by Berth yet: %s", key(svc), c.Message)
		}
		return fmt.Sprintf("Berth announces no prefix to %s from %s yet", sessions[0].NeighborName, node)
	}
	return ""
}

// routedFrom returns what reports whether a RouteAnnouncement selects a Service, one of the pools
// of its addresses, and a node.
func (s *Snapshot) routedFrom(node string) func(*corev1.Service) bool {
	sets := map[*v1alpha1.LoadBalancerPool]*netipx.IPSet{}
	for _, p := range s.Pools {
		var texts []string
		for _, text := range p.Spec.Addresses {
			texts = append(texts, string(text))
		}
		sets[p] = rangesOf(texts)
	}
	return func(svc *corev1.Service) bool {
		return slices.ContainsFunc(s.RouteAnnouncements, func(a *v1alpha1.RouteAnnouncement) bool {
			return matchesLabels(a.Spec.ServiceSelector, svc.Labels) &&
				selectsNode(a.Spec.NodeSelector, s.node(node)) &&
				slices.ContainsFunc(s.Pools, func(p *v1alpha1.LoadBalancerPool) bool {
					selected := slices.Contains(a.Spec.PoolNames, p.Name) ||
						matchesLabels(a.Spec.PoolSelector, p.Labels)
					return selected && hasAny(sets[p], svc)
				})
		})
	}
}

// selectsNode reports whether a selector matches a node.
func selectsNode(selector *v1alpha1.Selector, node *corev1.Node) bool {
	return matchesLabels(selector, node.Labels)
}

func matchesLabels(selector *v1alpha1.Selector, set map[string]string) bool {
	if selector == nil {
		return false
	}
	compiled, err := selector.Compile()
	return err == nil && compiled.Matches(labels.Set(set))
}

// settleNeighbors makes the BGPNeighbors those of the converted configuration, for new nodes too.
func (s *Snapshot) settleNeighbors() Step {
	var widen, restrict []Action
	for _, o := range s.converted("BGPNeighbor") {
		switch b := s.neighbor(o.GetName()); {
		case b == nil:
			widen = append(widen, apply(o))
		case requires(b.Spec.NodeSelector, SpeaksLabel):
			widen = append(widen, selecting(o, "nodeSelector"))
		default:
			restrict = append(restrict, selecting(s.restricted(o), "nodeSelector"))
		}
	}
	check := "kubectl berth bgp sessions"
	return Step{
		Name: "neighbors",
		Text: "the BGPNeighbors are for all nodes that MetalLB's BGPPeers were for; MetalLB can be uninstalled",
		Do:   []Phase{phase(widen, check, someOf(widen, "is for nodes with the label only"))},
		Undo: []Phase{phase(restrict, check, someOf(restrict, "is for nodes without the label, too"))},
	}
}
