package doctor

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/internal/version"
	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/manifests/crds"
)

// parts looks at what an installation consists of.
func (e *examination) parts() {
	e.definitions()
	e.rights()
	e.fencing()
	e.controllers()
	e.speakers()
	e.versions()
}

// definitions compares the CRDs with those of this version.
func (e *examination) definitions() {
	if e.extras.lack(definitions) {
		return
	}
	all, err := crds.All()
	if err != nil {
		e.report.Unknown = append(e.report.Unknown, err.Error())
		return
	}
	for _, want := range all {
		object := "CustomResourceDefinition " + want.GetName()
		have := e.extras.Definitions[want.GetName()]
		switch {
		case have == nil:
			e.find("crd-missing", object, "there is no CustomResourceDefinition %s", want.GetName())
		case schemas(have) != schemas(want):
			e.find(
				"crd-differs",
				object,
				"its fields and rules are not those of version %s, which this plugin is of",
				version.Number(),
			)
		}
	}
}

// schemas returns the schema of each version as comparable text.
func schemas(crd *unstructured.Unstructured) string {
	versions, _, err := unstructured.NestedSlice(crd.Object, "spec", "versions")
	if err != nil {
		return err.Error()
	}
	all := map[string]any{}
	for _, v := range versions {
		if m, is := v.(map[string]any); is {
			name, _, _ := unstructured.NestedString(m, "name")
			all[name] = m["schema"]
		}
	}
	text, err := json.Marshal(all)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// rights looks for the roles, their bindings and the admission policies by name.
func (e *examination) rights() {
	missing := func(what cluster.Resource, kind string, have []string, want ...string) {
		policy := strings.HasPrefix(kind, "Validating")
		if e.extras.lack(what) || policy && !e.extras.PolicyAPI { // which is a finding of its own
			return
		}
		for _, name := range want {
			if slices.Contains(have, name) {
				continue
			}
			id, without := "rights-missing", "without it Berth may not do its work"
			if policy {
				id, without = "policy-missing", "without it a node's speaker may write what is another's"
			}
			e.find(id, kind+" "+name, "there is no %s %s: %s", kind, name, without)
		}
	}
	parts := []string{"berth-controller", "berth-speaker"}
	missing(clusterRoles, "ClusterRole", names(e.extras.ClusterRoles), parts...)
	missing(clusterBindings, "ClusterRoleBinding", names(e.extras.ClusterBindings), parts...)
	missing(roles, "Role", names(e.extras.Roles), parts...)
	missing(roleBindings, "RoleBinding", names(e.extras.RoleBindings), parts...)
	missing(policies, "ValidatingAdmissionPolicy", names(e.extras.Policies), "berth-speaker", "berth-l2owner")
	missing(
		policyBindings,
		"ValidatingAdmissionPolicyBinding",
		names(e.extras.PolicyBindings),
		"berth-speaker",
		"berth-l2owner",
	)
}

// fencing looks whether a controller that may write statuses of Pods is confined to what it needs,
// and whether one that fences dead nodes hears of them.
func (e *examination) fencing() {
	const fence = "berth-fence"
	confined := slices.Contains(names(e.extras.Policies), fence) &&
		slices.Contains(names(e.extras.PolicyBindings), fence)
	known := e.extras.PolicyAPI && !e.extras.lack(policies) && !e.extras.lack(policyBindings)
	if known && !confined && slices.Contains(names(e.extras.ClusterRoles), fence) {
		e.find("fence-unconfined", "ClusterRole "+fence,
			"it lets the controller write the status of every Pod, and there is no ValidatingAdmissionPolicy %s with a binding, which confines that to condition Ready of Pods of dead nodes", fence)
	}
	if !e.knows(cluster.Deployments, cluster.DaemonSets) {
		return
	}
	has := func(containers []corev1.Container, flag string) bool {
		return slices.ContainsFunc(containers, func(c corev1.Container) bool { return argument(c, flag) == "true" })
	}
	for _, d := range e.Deployments {
		if d.Namespace == e.Namespace && has(d.Spec.Template.Spec.Containers, "--fence-dead-nodes") &&
			!has(e.speakerSet(), "--report-silent-nodes") {
			e.find("fence-blind", "Deployment "+d.Namespace+"/"+d.Name,
				"the controller has --fence-dead-nodes, and the speakers lack --report-silent-nodes: it hears of no dead node, and fences none")
		}
	}
}

func names[T any, P interface {
	*T
	metav1.Object
}](all []T) []string {
	var found []string
	for i := range all {
		found = append(found, P(&all[i]).GetName())
	}
	return found
}

// controllers looks whether one is at work.
func (e *examination) controllers() {
	const object = "Deployment "
	c := e.Leadership()
	name := object + e.Namespace + "/berth-controller"
	switch {
	case c.Unknown:
		return
	case !c.Installed && !c.Leads(e.Taken): // the Lease of one that was killed stays
		e.find(
			"controller-missing",
			name,
			"there is no controller of Berth in namespace %s: no Service gets an address",
			e.Namespace,
		)
		return
	case c.Installed && c.Wanted == 0:
		e.find("controller-not-ready", name, "no controller runs: its Deployment is scaled to 0")
		return
	case c.Installed && c.Ready < c.Wanted:
		e.find("controller-not-ready", name, "%d of %s ready", c.Ready, counted(int(c.Wanted), "controller"))
	}
	if !c.Leads(e.Taken) {
		why := "nobody holds the Lease"
		if c.Holder != "" {
			why = fmt.Sprintf(
				"the Lease is held by %s, which renewed it last at %s",
				c.Holder,
				c.Renewed.UTC().Format(time.RFC3339),
			)
		}
		e.find(
			"no-leader",
			"Lease "+e.Namespace+"/berth-controller",
			"no controller leads, so nothing that changes is decided: %s",
			why,
		)
	}
}

// speakers looks for nodes that may announce and have none that does.
func (e *examination) speakers() {
	if !e.knows(cluster.Speakers, cluster.Nodes) {
		return
	}
	for _, n := range e.Nodes {
		if candidate.Exclusion(n) != "" {
			continue
		}
		object := "Node " + n.Name
		speaker := e.speaker(n.Name)
		state, message := v1alpha1.SpeakerPending, ""
		if speaker != nil {
			state, message = speaker.Status.State()
		}
		switch {
		case candidate.ReadyStatus(n) != corev1.ConditionTrue:
			e.find("speaker-missing", object, "the node is not ready, so it announces nothing")
		case !e.hasPod(n.Name):
			e.find("speaker-missing", object, "no Pod of a speaker runs on it, so it announces nothing")
		case speaker == nil:
			e.find("speaker-missing", object, "its speaker has not reported")
		case state != v1alpha1.SpeakerAnnouncing:
			e.find("speaker-missing", object, "its speaker is %s: %s", state, message)
		}
	}
	for _, s := range e.Speakers {
		if e.Node(s.Name) == nil {
			continue
		}
		for _, p := range s.Status.Problems {
			e.find("speaker-problem", "Speaker "+s.Name, "%s: %s", p.Reason, p.Message)
		}
	}
}

// hasPod reports whether a Pod of a speaker runs on a node, and also if that is not known.
func (e *examination) hasPod(node string) bool {
	return !e.knows(cluster.Pods) || slices.ContainsFunc(e.Pods, func(p *corev1.Pod) bool {
		return p.Spec.NodeName == node && p.Labels[componentName] == "speaker" &&
			p.Labels["app.kubernetes.io/name"] == "berth" &&
			p.DeletionTimestamp == nil
	})
}

func (e *examination) speaker(node string) *v1alpha1.Speaker {
	if i := slices.IndexFunc(e.Speakers, func(s *v1alpha1.Speaker) bool { return s.Name == node }); i >= 0 {
		return e.Speakers[i]
	}
	return nil
}

// versions looks for parts of different versions. A controller's is known by its image alone.
func (e *examination) versions() {
	found := map[string][]string{version.Number(): {"this plugin"}}
	for _, s := range e.Speakers {
		if e.Node(s.Name) != nil && s.Status.Version != "" {
			found[s.Status.Version] = append(found[s.Status.Version], "the speaker of "+s.Name)
		}
	}
	images := map[string]bool{}
	for _, p := range e.Pods {
		if p.Labels["app.kubernetes.io/name"] != "berth" || p.DeletionTimestamp != nil {
			continue
		}
		for _, c := range p.Spec.Containers {
			images[c.Image] = true
		}
	}
	if len(found) > 1 {
		var texts []string
		for _, v := range slices.Sorted(maps.Keys(found)) {
			texts = append(texts, v+": "+few(found[v]))
		}
		e.find("version-skew", "", "parts are of different versions: %s", strings.Join(texts, "; "))
		return
	}
	if len(images) > 1 {
		e.find(
			"version-skew",
			"",
			"Pods of Berth run %d images: %s",
			len(images),
			few(slices.Sorted(maps.Keys(images))),
		)
	}
}

// conditions looks at what Berth says of each object of its configuration. What has a finding of
// its own, as sessions and Services, is not repeated.
func (e *examination) conditions() {
	look := func(object string, all []metav1.Condition, healthy ...string) {
		for _, c := range all {
			good := metav1.ConditionFalse
			if slices.Contains(healthy, c.Type) {
				good = metav1.ConditionTrue
			}
			bad := c.Status != good && c.Status != metav1.ConditionUnknown
			if bad && c.Type != v1alpha1.ConditionExcluded && c.Type != v1alpha1.ConditionEstablished {
				e.find("condition", object, "%s is %s (%s): %s", c.Type, c.Status, c.Reason, c.Message)
			}
		}
	}
	positive := []string{v1alpha1.ConditionReady, v1alpha1.ConditionAccepted, v1alpha1.ConditionEstablished}
	for _, o := range e.Pools {
		look("LoadBalancerPool "+o.Name, o.Status.Conditions, positive...)
	}
	for _, o := range e.SegmentAnnouncements {
		look("SegmentAnnouncement "+o.Name, o.Status.Conditions, positive...)
	}
	for _, o := range e.RouteAnnouncements {
		look("RouteAnnouncement "+o.Name, o.Status.Conditions, positive...)
	}
	for _, o := range e.BGPNeighbors {
		look("BGPNeighbor "+o.Name, o.Status.Conditions, positive...)
	}
	for _, o := range e.Reservations {
		look("AddressReservation "+o.Namespace+"/"+o.Name, o.Status.Conditions, positive...)
	}
	for _, o := range e.Speakers {
		for _, c := range o.Status.Conditions {
			if c.Type == v1alpha1.ConditionIPVSReady && c.Status == metav1.ConditionFalse {
				e.find("condition", "Speaker "+o.Name, "%s is %s (%s): %s", c.Type, c.Status, c.Reason, c.Message)
			}
		}
	}
}
