package why

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/berth-lb/berth/config/candidate"
)

// endpoints says what is behind the Service.
func (l *look) endpoints() Step {
	step := Step{
		Name:  "Endpoints",
		Grade: OK,
		next:  "kubectl get endpointslices -n " + l.svc.Namespace + " -l kubernetes.io/service-name=" + l.svc.Name,
	}
	ready, others := l.count()
	its := l.selected()
	selector := labels.SelectorFromSet(l.svc.Spec.Selector).String()
	switch {
	case len(ready) > 0:
		step.Text = fmt.Sprintf("%d ready, on %s", total(ready), few(sorted(ready)))
		if n := total(others); n > 0 {
			step.Text += fmt.Sprintf("; %d not ready", n)
		}
		if left := l.leftOut(); len(left) > 0 {
			step.Grade = Note
			step.Text += "; " + left[0] + " (spec.trafficDistribution)"
			step.Details = left[1:]
		}
		if without := l.portsWithout(); len(without) > 0 {
			step.Grade = Failure
			step.Text = without[0]
			step.Details = without[1:]
			step.next = l.podsCommand("-o jsonpath='{.items[*].spec.containers[*].ports}'")
		}
		return step
	case len(l.svc.Spec.Selector) == 0:
		step.Text = "it has no spec.selector, and no EndpointSlice with a ready endpoint: somebody has to write one, with the label kubernetes.io/service-name: " + l.svc.Name
	case l.pods.Err != nil:
		step.Text = fmt.Sprintf(
			"none is ready; Pods in namespace %s could not be read: %v",
			l.svc.Namespace,
			l.pods.Err,
		)
	case len(its) == 0:
		step.Text = fmt.Sprintf(
			"no Pod in namespace %s has the labels of spec.selector (%s)",
			l.svc.Namespace,
			selector,
		)
		step.next = "kubectl get pods -n " + l.svc.Namespace + " --show-labels"
		step.Details = l.near()
		if len(step.Details) > 0 {
			step.Text += ": " + step.Details[0] + "; correct spec.selector, or the labels of the Pods"
		}
	case l.missingPort() != "":
		step.Text = l.missingPort()
		step.next = l.podsCommand("-o jsonpath='{.items[*].spec.containers[*].ports}'")
	default:
		verb := "Pods match"
		if len(its) == 1 {
			verb = "Pod matches"
		}
		step.Text = fmt.Sprintf("%d %s spec.selector (%s), and none is ready", len(its), verb, selector)
		for _, p := range its {
			step.Details = append(step.Details, p.Name+": "+unreadiness(p))
		}
		slices.Sort(step.Details)
		step.Text += ": " + step.Details[0]
		step.next = "kubectl describe pod " + its[0].Name + " -n " + l.svc.Namespace
	}
	step.Grade = Failure
	return step
}

func (l *look) podsCommand(args string) string {
	return "kubectl get pods -n " + l.svc.Namespace + " -l " + labels.SelectorFromSet(l.svc.Spec.Selector).
		String() +
		" " + args
}

// count returns the endpoints that get connections by node, and those that do not.
func (l *look) count() (ready, others map[string]int) {
	ready, others = map[string]int{}, map[string]int{}
	seen := map[string]bool{}
	for _, slice := range l.slices() {
		for _, e := range slice.Endpoints {
			for _, a := range e.Addresses {
				node := "an unknown node"
				if e.NodeName != nil {
					node = *e.NodeName
				}
				if seen[a] {
					continue
				}
				seen[a] = true
				if candidate.StateOf(e.Conditions) == candidate.Ready {
					ready[node]++
				} else {
					others[node]++
				}
			}
		}
	}
	return ready, others
}

func (l *look) slices() []*discoveryv1.EndpointSlice {
	var found []*discoveryv1.EndpointSlice
	for _, s := range l.EndpointSlices {
		if candidate.ServiceOf(s) == l.svc.Namespace+"/"+l.svc.Name {
			found = append(found, s)
		}
	}
	return found
}

func total(by map[string]int) int {
	n := 0
	for _, k := range by {
		n += k
	}
	return n
}

func sorted(by map[string]int) []string {
	var names []string
	for name := range by {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// selected returns the Pods that the selector matches.
func (l *look) selected() []*corev1.Pod {
	var found []*corev1.Pod
	if len(l.svc.Spec.Selector) == 0 {
		return nil
	}
	selector := labels.SelectorFromSet(l.svc.Spec.Selector)
	for _, p := range l.pods.All {
		if selector.Matches(labels.Set(p.Labels)) && p.DeletionTimestamp == nil {
			found = append(found, p)
		}
	}
	return found
}

// near returns Pods that miss the selector in one label only.
func (l *look) near() []string {
	var found []string
	for _, p := range l.pods.All {
		var missed []string
		for key, want := range l.svc.Spec.Selector {
			switch has, is := p.Labels[key]; {
			case !is:
				missed = append(missed, fmt.Sprintf("Pod %s has no label %s", p.Name, key))
			case has != want:
				missed = append(missed, fmt.Sprintf("Pod %s has %s=%s, not %s=%s", p.Name, key, has, key, want))
			}
		}
		if len(missed) == 1 && len(found) < 5 {
			found = append(found, missed[0])
		}
	}
	slices.Sort(found)
	return found
}

// missingPort says which named targetPort no Pod has; "" if each is there.
func (l *look) missingPort() string {
	for _, port := range l.svc.Spec.Ports {
		if port.TargetPort.Type != intstr.String {
			continue
		}
		var names []string
		for _, pod := range l.selected() {
			for _, c := range pod.Spec.Containers {
				for _, p := range c.Ports {
					if p.Name != "" && !slices.Contains(names, p.Name) {
						names = append(names, p.Name)
					}
				}
			}
		}
		if !slices.Contains(names, port.TargetPort.StrVal) {
			text := fmt.Sprintf(
				"port %d goes to the Pods' port named %q, and no Pod has one",
				port.Port,
				port.TargetPort.StrVal,
			)
			if len(names) > 0 {
				slices.Sort(names)
				text += "; they have " + strings.Join(names, ", ")
			}
			return text + "; correct spec.ports[].targetPort, or name the container's port so"
		}
	}
	return ""
}

// portsWithout returns a sentence for each port of the Service that no ready endpoint has.
func (l *look) portsWithout() []string {
	var texts []string
	for _, port := range l.svc.Spec.Ports {
		has := slices.ContainsFunc(l.slices(), func(s *discoveryv1.EndpointSlice) bool {
			return slices.ContainsFunc(s.Ports, func(p discoveryv1.EndpointPort) bool {
				return p.Port != nil && (p.Name == nil && port.Name == "" || p.Name != nil && *p.Name == port.Name)
			})
		})
		if !has {
			text := l.missingPort()
			if text == "" {
				text = fmt.Sprintf(
					"no EndpointSlice has a port named %q, so port %d goes nowhere",
					port.Name,
					port.Port,
				)
			}
			texts = append(texts, text)
		}
	}
	return texts
}

// unreadiness says why a Pod is not ready.
func unreadiness(p *corev1.Pod) string {
	for _, c := range p.Status.ContainerStatuses {
		switch {
		case c.State.Waiting != nil:
			return strings.TrimSpace(
				fmt.Sprintf("container %s waits: %s %s", c.Name, c.State.Waiting.Reason, c.State.Waiting.Message),
			)
		case c.State.Terminated != nil:
			return fmt.Sprintf(
				"container %s ended: %s, exit code %d",
				c.Name,
				c.State.Terminated.Reason,
				c.State.Terminated.ExitCode,
			)
		}
	}
	for _, kind := range []corev1.PodConditionType{corev1.PodScheduled, corev1.ContainersReady, corev1.PodReady} {
		for _, c := range p.Status.Conditions {
			if c.Type == kind && c.Status != corev1.ConditionTrue {
				return strings.TrimSpace(fmt.Sprintf("%s is %s: %s %s", kind, c.Status, c.Reason, c.Message))
			}
		}
	}
	return "it is " + string(p.Status.Phase)
}

// newRules is how long kube-proxy may take until it has the rules of a new Service, in seconds: it
// writes at most once in a second (minSyncPeriod).
const newRules = 2

// forwarding says who takes the packet on.
func (l *look) forwarding() Step {
	if len(l.addresses) == 0 {
		return Step{}
	}
	step := Step{Name: "Forwarding", Grade: OK}
	step.Text = l.outlook.Forwarder.String()
	if l.svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		step.Text += ", to Pods of the same node, which see the client's address"
	} else {
		step.Text += ", to Pods of any node, which see the node's address"
	}
	if l.outlook.Forwarder.Fallback != "" {
		step.Grade = Warning
		step.next = "kubectl get speakers.berth.dev -o yaml"
	}
	if age := l.Taken.Sub(l.svc.CreationTimestamp.Time); age.Seconds() < newRules {
		step.Grade = Note
		step.Text += "; the Service is younger than the second that kube-proxy takes to write its rules: connections are refused or dropped until then"
	}
	return step
}
