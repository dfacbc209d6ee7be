package steps

import (
	"cmp"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"go4.org/netipx"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/migrate"
)

// What the migration writes besides Berth's objects.
const (
	// ServiceNodeLabel on a Service is the node from which MetalLB announces it by layer 2, and from
	// which Berth is to.
	ServiceNodeLabel = "berth.dev/metallb-node"
	// SpeaksLabel on a Node says who speaks BGP there: SpeaksBerth, or SpeaksNobody in between.
	// Without it, MetalLB does.
	SpeaksLabel  = "berth.dev/bgp-by"
	SpeaksBerth  = "berth"
	SpeaksNobody = "nobody"
	// WasAnnotation on an object of MetalLB's has, as JSON, what the migration has changed.
	WasAnnotation = "berth.dev/migration-was"
)

const (
	// nowhere is a label that no node has.
	nowhere = "berth.dev/metallb-announces"
	// noClass is a class that no Service has.
	noClass = "--lb-class=berth.dev/none"
)

// Snapshot is what the cluster had at one moment.
type Snapshot struct {
	*cluster.State
	// MetalLB are the objects of metallb.io.
	MetalLB []*unstructured.Unstructured
	// MetalLBPods are the Pods in MetalLB's namespace.
	MetalLBPods []*corev1.Pod
	// Revision is the controller-revision-hash of the speakers' DaemonSet as it is now.
	Revision string
	// Sessions has, by node and then by router, whether MetalLB's speaker last logged that the session
	// came up or that it went down.
	Sessions map[string]map[string]bool
	// Secrets are those in Berth's namespace that the migration made, and those with the name of a
	// converted one, by name, and whether the migration made them.
	Secrets map[string]bool
	// Converted are Berth's objects for MetalLB's, and Report what became of those.
	Converted []*unstructured.Unstructured
	Report    []migrate.Line
}

// is reports whether an object is this component of MetalLB.
func is(o metav1.Object, component string) bool {
	l := o.GetLabels()
	return (l["app"] == "metallb" || l["app.kubernetes.io/name"] == "metallb") &&
		cmp.Or(l["component"], l["app.kubernetes.io/component"]) == component
}

func (s *Snapshot) daemonSet() *appsv1.DaemonSet {
	for _, d := range s.DaemonSets {
		if is(d, "speaker") {
			return d
		}
	}
	return nil
}

func (s *Snapshot) controller() *appsv1.Deployment {
	for _, d := range s.Deployments {
		if is(d, "controller") {
			return d
		}
	}
	return nil
}

// mode is how MetalLB speaks BGP.
func (s *Snapshot) mode() string {
	for _, c := range s.daemonSet().Spec.Template.Spec.Containers {
		for _, e := range c.Env {
			if e.Name == "METALLB_BGP_TYPE" && e.Value != "" {
				return e.Value
			}
		}
	}
	return "native"
}

func (s *Snapshot) of(kind string) (found []*unstructured.Unstructured) {
	for _, o := range s.MetalLB {
		if o.GetKind() == kind {
			found = append(found, o)
		}
	}
	return found
}

func (s *Snapshot) peers() []*unstructured.Unstructured { return s.of("BGPPeer") }

// advertisements are the user's L2Advertisements.
func (s *Snapshot) advertisements() []*unstructured.Unstructured {
	return slices.DeleteFunc(s.of("L2Advertisement"), made)
}

// pinned are the L2Advertisements that the migration has made.
func (s *Snapshot) pinned() []*unstructured.Unstructured {
	return slices.DeleteFunc(s.of("L2Advertisement"), func(o *unstructured.Unstructured) bool { return !made(o) })
}

func made(o *unstructured.Unstructured) bool { return o.GetLabels()[MadeLabel] == madeFrom }

// Originals returns MetalLB's objects as they were before the migration.
func Originals(all []*unstructured.Unstructured) (originals []*unstructured.Unstructured) {
	for _, o := range all {
		if made(o) || strings.HasPrefix(o.GetKind(), "Service") || o.GetKind() == "ConfigurationState" {
			continue
		}
		o = o.DeepCopy()
		if was, is := o.GetAnnotations()[WasAnnotation]; is {
			var selectors []any
			_ = json.Unmarshal([]byte(was), &selectors) // as pin wrote it
			unstructured.RemoveNestedField(o.Object, "spec", "nodeSelectors")
			if len(selectors) > 0 {
				_ = unstructured.SetNestedSlice(o.Object, selectors, "spec", "nodeSelectors")
			}
		}
		originals = append(originals, o)
	}
	return originals
}

// converted returns Berth's objects of a kind for MetalLB's.
func (s *Snapshot) converted(kind string) (found []*unstructured.Unstructured) {
	for _, o := range s.Converted {
		if o.GetKind() == kind {
			o = o.DeepCopy()
			set := o.GetLabels()
			if set == nil {
				set = map[string]string{}
			}
			set[MadeLabel] = madeFrom
			o.SetLabels(set)
			found = append(found, o)
		}
	}
	return found
}

// nodeNames are the nodes on which MetalLB's or Berth's speakers run, in ascending order.
func (s *Snapshot) nodeNames() (names []string) {
	for _, n := range s.Nodes {
		if s.speaker(n.Name) != nil || len(s.speakerPods(n.Name)) > 0 {
			names = append(names, n.Name)
		}
	}
	slices.Sort(names)
	return names
}

// metalLBNodes are the nodes on which MetalLB's speaker runs, would run, or ran until the migration
// labeled them, in ascending order.
func (s *Snapshot) metalLBNodes() []string {
	return slices.DeleteFunc(s.nodeNames(), not(s.isMetalLBs))
}

func (s *Snapshot) isMetalLBs(node string) bool {
	return len(s.speakerPods(node)) > 0 || s.node(node).Labels[SpeaksLabel] != "" ||
		placed(s.daemonSet(), s.node(node))
}

// placed reports whether a DaemonSet has a Pod on a node, by its selectors and tolerations. Its
// controller lets Pods tolerate what Kubernetes itself says about nodes.
func placed(d *appsv1.DaemonSet, node *corev1.Node) bool {
	spec := d.Spec.Template.Spec
	wanted, err := nodeaffinity.GetRequiredNodeAffinity(&corev1.Pod{Spec: spec}).Match(node)
	if err != nil || !wanted {
		return false
	}
	return !slices.ContainsFunc(node.Spec.Taints, func(taint corev1.Taint) bool {
		return taint.Effect != corev1.TaintEffectPreferNoSchedule &&
			!strings.HasPrefix(taint.Key, "node.kubernetes.io/") &&
			!slices.ContainsFunc(spec.Tolerations, func(t corev1.Toleration) bool {
				return t.ToleratesTaint(logr.Discard(), &taint, false)
			})
	})
}

func (s *Snapshot) node(name string) *corev1.Node {
	for _, n := range s.Nodes {
		if n.Name == name {
			return n
		}
	}
	return &corev1.Node{}
}

// hostname is the value by which selectors find a node.
func (s *Snapshot) hostname(node string) string {
	return cmp.Or(s.node(node).Labels[corev1.LabelHostname], node)
}

func (s *Snapshot) speaker(node string) *v1alpha1.Speaker {
	for _, k := range s.Speakers {
		if k.Name == node {
			return k
		}
	}
	return nil
}

// speakerPods are MetalLB's Pods on a node, those that end among them.
func (s *Snapshot) speakerPods(node string) (found []*corev1.Pod) {
	for _, p := range s.MetalLBPods {
		if is(p, "speaker") && p.Spec.NodeName == node {
			found = append(found, p)
		}
	}
	return found
}

// l2Nodes returns from which node MetalLB announces each Service by layer 2, by namespace/name.
func (s *Snapshot) l2Nodes() map[string]string {
	found := map[string]string{}
	for service, nodes := range s.l2Statuses() {
		found[service] = nodes[0]
	}
	return found
}

// l2Statuses returns from which nodes MetalLB says that it announces each Service by layer 2. It is
// several for a moment, when the Service moves.
func (s *Snapshot) l2Statuses() map[string][]string {
	found := map[string][]string{}
	for _, o := range s.of("ServiceL2Status") {
		status, _, _ := unstructured.NestedStringMap(withoutField(o.Object, "status", "interfaces"), "status")
		if status["node"] != "" {
			service := status["serviceNamespace"] + "/" + status["serviceName"]
			found[service] = append(found[service], status["node"])
		}
	}
	return found
}

// withoutField returns an object without a field that a function for maps of strings cannot read.
func withoutField(o map[string]any, fields ...string) map[string]any {
	copied := (&unstructured.Unstructured{Object: o}).DeepCopy().Object
	unstructured.RemoveNestedField(copied, fields...)
	return copied
}

func key(svc *corev1.Service) string { return svc.Namespace + "/" + svc.Name }

func addresses(svc *corev1.Service) (found []string) {
	for _, i := range svc.Status.LoadBalancer.Ingress {
		if i.IP != "" {
			found = append(found, i.IP)
		}
	}
	return found
}

// owners returns the nodes that answer for each address as Berth's owner.
func (s *Snapshot) owners() map[string][]string {
	found := map[string][]string{}
	for _, o := range s.Owners {
		if o.Status.NodeName != "" && o.Status.Address != "" {
			found[o.Status.Address] = append(found[o.Status.Address], o.Status.NodeName)
		}
	}
	return found
}

// served are the Services of the pools that move: those of type LoadBalancer with an address in
// one of them.
func (s *Snapshot) served() (found []*corev1.Service) {
	set := addressesOf(s.converted("LoadBalancerPool"))
	for _, svc := range s.Services {
		if svc.Spec.Type == corev1.ServiceTypeLoadBalancer && hasAny(set, svc) {
			found = append(found, svc)
		}
	}
	slices.SortFunc(found, func(a, b *corev1.Service) int { return cmp.Compare(key(a), key(b)) })
	return found
}

// onNode are those that carry the label of a node; "": of any.
func (s *Snapshot) onNode(node string) (found []*corev1.Service) {
	for _, svc := range s.Services {
		if l := svc.Labels[ServiceNodeLabel]; l != "" && (node == "" || l == node) {
			found = append(found, svc)
		}
	}
	slices.SortFunc(found, func(a, b *corev1.Service) int { return cmp.Compare(key(a), key(b)) })
	return found
}

func condition(svc *corev1.Service, kind string) metav1.Condition {
	if c := meta.FindStatusCondition(svc.Status.Conditions, kind); c != nil {
		return *c
	}
	return metav1.Condition{Status: metav1.ConditionUnknown, Message: "the controller has not looked at it"}
}

func (s *Snapshot) segmentAnnouncement(name string) *v1alpha1.SegmentAnnouncement {
	for _, a := range s.SegmentAnnouncements {
		if a.Name == name {
			return a
		}
	}
	return nil
}

func (s *Snapshot) neighbor(name string) *v1alpha1.BGPNeighbor {
	for _, b := range s.BGPNeighbors {
		if b.Name == name {
			return b
		}
	}
	return nil
}

// logged is how long a Pod must run for a log that does not mention a session to mean that it came
// up long ago.
const logged = 10 * time.Minute

// sessionsUp returns a router that MetalLB has no session with on a node, and should have.
func (s *Snapshot) sessionsUp(node string) (missing string) {
	if s.down(node) {
		return ""
	}
	running := s.speakerPods(node)
	if len(running) != 1 || running[0].DeletionTimestamp != nil {
		return "MetalLB's speaker does not run on " + node
	}
	if !slices.ContainsFunc(running[0].Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	}) {
		return "MetalLB's speaker on " + node + " is not ready"
	}
	for _, p := range s.peers() {
		router, _, _ := unstructured.NestedString(p.Object, "spec", "peerAddress")
		if router == "" || !s.selects(p, node) {
			continue
		}
		up, known := s.Sessions[node][router]
		if old := s.Taken.Sub(running[0].CreationTimestamp.Time) > logged; !up && (known || !old) {
			return "MetalLB's speaker on " + node + " has not logged that its session with " + router + " is up"
		}
	}
	return ""
}

// selects reports whether one of an object's nodeSelectors, if it has any, matches a node.
func (s *Snapshot) selects(o *unstructured.Unstructured, node string) bool {
	return anyMatches(o, "nodeSelectors", s.node(node).Labels)
}

// anyMatches reports whether one of the selectors in a field of an object's spec, if there are any,
// matches labels.
func anyMatches(o *unstructured.Unstructured, field string, set map[string]string) bool {
	all, _, _ := unstructured.NestedSlice(o.Object, "spec", field)
	if len(all) == 0 {
		return true
	}
	return slices.ContainsFunc(all, func(x any) bool {
		text, err := json.Marshal(x)
		var selector metav1.LabelSelector
		if err != nil || json.Unmarshal(text, &selector) != nil {
			return false
		}
		compiled, err := metav1.LabelSelectorAsSelector(&selector)
		return err == nil && compiled.Matches(labels.Set(set))
	})
}

// poolsOf returns the IPAddressPools whose addresses an advertisement announces.
func (s *Snapshot) poolsOf(advertisement *unstructured.Unstructured) []*unstructured.Unstructured {
	names, _, _ := unstructured.NestedStringSlice(advertisement.Object, "spec", "ipAddressPools")
	selectors, _, _ := unstructured.NestedSlice(advertisement.Object, "spec", "ipAddressPoolSelectors")
	return slices.DeleteFunc(s.of("IPAddressPool"), func(p *unstructured.Unstructured) bool {
		switch {
		case slices.Contains(names, p.GetName()):
			return false
		case len(selectors) == 0:
			return len(names) > 0
		}
		return !anyMatches(advertisement, "ipAddressPoolSelectors", p.GetLabels())
	})
}

// announcing returns what tells those of MetalLB's advertisements, as they were before the
// migration, that announce a Service from some node.
func (s *Snapshot) announcing(kind string) func(*corev1.Service) []*unstructured.Unstructured {
	all := Originals(s.of(kind))
	sets := map[*unstructured.Unstructured]*netipx.IPSet{}
	for _, o := range all {
		sets[o] = addressesOf(s.poolsOf(o))
	}
	return func(svc *corev1.Service) (found []*unstructured.Unstructured) {
		for _, o := range all {
			if anyMatches(o, "serviceSelectors", svc.Labels) && hasAny(sets[o], svc) {
				found = append(found, o)
			}
		}
		return found
	}
}

// hasAny reports whether a set has an address of a Service.
func hasAny(set *netipx.IPSet, svc *corev1.Service) bool {
	return slices.ContainsFunc(addresses(svc), func(text string) bool {
		a, err := netip.ParseAddr(text)
		return err == nil && set.Contains(a)
	})
}

// serves reports whether a node has what it takes to announce a Service: an endpoint that is ready,
// on that node if externalTrafficPolicy is Local.
func (s *Snapshot) serves(svc *corev1.Service, node string) bool {
	endpoints, _ := s.Endpoints(svc)
	if svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		return endpoints.Ready[node]
	}
	return len(endpoints.Ready) > 0
}

// mayAnnounce reports whether MetalLB may announce a Service from a node by one of advertisements.
func (s *Snapshot) mayAnnounce(svc *corev1.Service, by []*unstructured.Unstructured, node string) bool {
	return !s.down(node) && candidate.Exclusion(s.node(node)) == "" && s.isMetalLBs(node) && s.serves(svc, node) &&
		slices.ContainsFunc(by, func(o *unstructured.Unstructured) bool { return s.selects(o, node) })
}
