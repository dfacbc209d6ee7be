package doctor

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/kubectl/cluster"
)

// Minor versions of Kubernetes 1 that Berth runs on, and was tested with:
// docs/reference/versions.md.
const (
	oldestMinor   = 32
	testedMinor   = 37
	berthGroup    = "berth.dev"
	podSecurity   = "pod-security.kubernetes.io/enforce"
	excludeLabel  = v1alpha1.ExcludeLabel
	speakerPort   = 7470
	proxyPort     = 10256 // of kube-proxy's health checks, which the speaker asks
	bgpPort       = 179
	componentName = "app.kubernetes.io/component"
)

// platform looks at the cluster, whether Berth is installed or not.
func (e *examination) platform() {
	e.version()
	if !e.extras.PolicyAPI && !e.extras.lack(policies) {
		e.find(
			"admission-policy-api",
			"",
			"the API server has no ValidatingAdmissionPolicies: nothing keeps one node's speaker from writing what is another's",
		)
	}
	e.podSecurity()
	if !e.extras.lack(priorityClasses) {
		for _, name := range []string{"system-node-critical", "system-cluster-critical"} {
			if !slices.ContainsFunc(
				e.extras.PriorityClasses,
				func(p schedulingv1.PriorityClass) bool { return p.Name == name },
			) {
				e.find(
					"priority-class",
					"PriorityClass "+name,
					"there is no PriorityClass %s, which Berth's Pods name",
					name,
				)
			}
		}
	}
	e.webhooks()
	e.excluded()
	e.ports()
}

func (e *examination) version() {
	minor, known := minorOf(e.ServerVersion)
	switch {
	case !known:
		e.fact("the version of Kubernetes is not known: %q", e.ServerVersion)
	case minor < oldestMinor:
		e.find(
			"kubernetes-version",
			"",
			"Kubernetes is %s, and Berth runs on 1.%d and later",
			e.ServerVersion,
			oldestMinor,
		)
	case minor > testedMinor:
		e.fact(
			"Kubernetes is %s, newer than what this version of Berth was tested with (1.%d)",
			e.ServerVersion,
			testedMinor,
		)
	default:
		e.fact("Kubernetes is %s", e.ServerVersion)
	}
}

// minorOf returns the minor version of a version 1 of Kubernetes.
func minorOf(version string) (minor int, known bool) {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) < 2 || parts[0] != "1" {
		return 0, false
	}
	minor, err := strconv.Atoi(strings.TrimRight(parts[1], "+"))
	return minor, err == nil
}

func (e *examination) podSecurity() {
	for _, n := range e.Namespaces {
		if level := n.Labels[podSecurity]; n.Name == e.Namespace && level != "" && level != "privileged" {
			e.find(
				"pod-security",
				"Namespace "+n.Name,
				"the namespace has the label %s=%s, which refuses speakers",
				podSecurity,
				level,
			)
		}
	}
}

// webhook is what validating and mutating ones have in common.
type webhook struct {
	object    string
	fail      bool
	rules     []admissionv1.RuleWithOperations
	namespace *metav1.LabelSelector
	objects   *metav1.LabelSelector
}

// webhooks looks for those that refuse Berth's Pods and objects while they do not answer.
func (e *examination) webhooks() {
	var all []webhook
	fails := func(p *admissionv1.FailurePolicyType) bool { return p == nil || *p == admissionv1.Fail }
	for _, c := range e.extras.Validating {
		for _, w := range c.Webhooks {
			all = append(
				all,
				webhook{
					"ValidatingWebhookConfiguration " + c.Name,
					fails(w.FailurePolicy),
					w.Rules,
					w.NamespaceSelector,
					w.ObjectSelector,
				},
			)
		}
	}
	for _, c := range e.extras.Mutating {
		for _, w := range c.Webhooks {
			all = append(
				all,
				webhook{
					"MutatingWebhookConfiguration " + c.Name,
					fails(w.FailurePolicy),
					w.Rules,
					w.NamespaceSelector,
					w.ObjectSelector,
				},
			)
		}
	}
	namespace := labels.Set{corev1.LabelMetadataName: e.Namespace}
	for _, n := range e.Namespaces {
		if n.Name == e.Namespace {
			namespace = n.Labels
		}
	}
	seen := map[string]bool{}
	for _, w := range all {
		if what := w.intercepts(namespace); w.fail && what != "" && !seen[w.object+what] {
			seen[w.object+what] = true
			e.find(
				"webhook",
				w.object,
				"it is asked about %s, and they are refused while it does not answer (failurePolicy: Fail)",
				what,
			)
		}
	}
}

// intercepts returns what of Berth a webhook is asked about, "" for nothing.
func (w webhook) intercepts(namespace labels.Set) string {
	for _, r := range w.rules {
		group := func(name string) bool { return slices.Contains(r.APIGroups, "*") || slices.Contains(r.APIGroups, name) }
		resource := func(names ...string) bool {
			return slices.ContainsFunc(names, func(n string) bool { return slices.Contains(r.Resources, n) })
		}
		pods := labels.Set{
			"app.kubernetes.io/name":    "berth",
			"app.kubernetes.io/part-of": "berth",
			componentName:               "speaker",
		}
		switch {
		case group("") && resource("*", "*/*", "pods") && selects(w.namespace, namespace) && selects(w.objects, pods):
			return "Pods in Berth's namespace"
		case group(berthGroup) && selects(w.objects, nil):
			return "objects of " + berthGroup
		case group("") && resource("*/*", "services/*", "services/status", "*/status") && selects(w.objects, nil):
			return "the status of Services"
		}
	}
	return ""
}

// selects reports whether the selector, which may be nil, matches.
func selects(selector *metav1.LabelSelector, set labels.Set) bool {
	if selector == nil {
		return true
	}
	s, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && s.Matches(set)
}

// excluded looks for nodes that announce nothing.
func (e *examination) excluded() {
	var names, labeled []string
	for _, n := range e.Nodes {
		if why := candidate.Exclusion(n); why != "" {
			names = append(names, n.Name+" "+why)
		}
		if _, is := n.Labels[excludeLabel]; is {
			labeled = append(labeled, n.Name)
		}
	}
	switch {
	case len(names) == 0:
	case len(names) == len(e.Nodes) && len(labeled) > 0:
		e.find("nodes-excluded", "Node "+labeled[0], "no node may announce: %s", few(names))
	default:
		e.fact("%s: it announces nothing", few(names))
	}
}

// ports looks for other programs' Pods that have a port that Berth needs on nodes.
func (e *examination) ports() {
	type want struct {
		port int32
		why  string
	}
	wants := []want{
		{speakerPort, "the speaker's metrics and health"},
		{proxyPort, "kube-proxy's health, which the speaker asks for"},
	}
	if e.listens() {
		wants = append(wants, want{bgpPort, "BGP sessions that routers begin (--bgp-listen)"})
	}
	for _, p := range e.extras.Pods {
		if p.Namespace == e.Namespace && p.Labels["app.kubernetes.io/name"] == "berth" || isKubeProxy(p) {
			continue
		}
		for _, c := range p.Spec.Containers {
			for _, port := range c.Ports {
				for _, w := range wants {
					if port.Protocol != corev1.ProtocolUDP &&
						(port.HostPort == w.port || p.Spec.HostNetwork && port.ContainerPort == w.port) {
						has := fmt.Sprintf("has TCP port %d of node %s", w.port, p.Spec.NodeName)
						if p.Spec.NodeName == "" {
							has = fmt.Sprintf("wants TCP port %d of a node", w.port)
						}
						e.find(
							"port-in-use",
							"Pod "+p.Namespace+"/"+p.Name,
							"its container %s %s, which is for %s",
							c.Name,
							has,
							w.why,
						)
					}
				}
			}
		}
	}
	if e.listens() {
		for _, w := range e.workloads() {
			for _, c := range w.spec.Containers {
				if strings.Contains(c.Image, "calico/node") &&
					!strings.Contains(environment(c, "CALICO_NETWORKING_BACKEND"), "vxlan") {
					e.find(
						"port-in-use",
						w.object,
						"Calico speaks BGP on TCP port %d of its nodes, which is for BGP sessions that routers begin (--bgp-listen)",
						bgpPort,
					)
				}
			}
		}
	}
}

func isKubeProxy(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Spec.Containers, func(c corev1.Container) bool {
		return strings.Contains(c.Image, "kube-proxy") || c.Name == "kube-proxy"
	})
}

// listens reports whether speakers listen for BGP sessions.
func (e *examination) listens() bool {
	return slices.ContainsFunc(
		e.speakerSet(),
		func(c corev1.Container) bool { return argument(c, "--bgp-listen") != "" },
	)
}

// speakerSet returns the containers of the DaemonSet of speakers.
func (e *examination) speakerSet() []corev1.Container {
	for _, d := range e.DaemonSets {
		if d.Namespace == e.Namespace && d.Labels[componentName] == "speaker" &&
			d.Labels["app.kubernetes.io/name"] == "berth" {
			return d.Spec.Template.Spec.Containers
		}
	}
	return nil
}

func (e *examination) installed() bool { return !e.Uninstalled }

// knows reports whether all of these could be read.
func (e *examination) knows(resources ...cluster.Resource) bool {
	return len(e.Lack(resources...)) == 0
}

func few(names []string) string {
	if len(names) > 4 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), len(names)-3)
	}
	return strings.Join(names, ", ")
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
