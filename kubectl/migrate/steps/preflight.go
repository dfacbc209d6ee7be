package steps

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/kubectl/migrate"
)

// RefusedError says why a step is not begun. Nothing was changed.
type RefusedError struct {
	// Reasons name the object, the field and the remedy.
	Reasons []string
}

// Error lists the reasons.
func (e *RefusedError) Error() string {
	return "nothing was changed, since it is not safe yet:\n- " + strings.Join(e.Reasons, "\n- ")
}

// Refusals returns why the next of these steps must not be done yet, in messages that name the
// object, the field and the remedy. Some stand in the way of the first step only. The way back is
// always open. Those about a tool that reconciles what the steps change do not stand if managed is
// true: then the user says that it is suspended.
func Refusals(s *Snapshot, all []Step, managed bool) (reasons []string) {
	if _, left := Next(all); !left {
		return nil
	}
	reasons = slices.Concat(s.unconverted(), s.unserved(), s.foreign(), s.offSegment())
	if !managed {
		reasons = append(reasons, s.Reconciled()...)
	}
	if !slices.ContainsFunc(all, not(Step.Undone)) {
		reasons = slices.Concat(reasons, s.unready())
	}
	return reasons
}

// moved are the kinds of MetalLB's without whose counterparts addresses would be lost.
var moved = []string{"IPAddressPool", "L2Advertisement", "BGPAdvertisement", "BGPPeer"}

// unconverted says which of MetalLB's objects Berth would have nothing for.
func (s *Snapshot) unconverted() (reasons []string) {
	for _, o := range Originals(s.MetalLB) {
		if !slices.Contains(moved, o.GetKind()) {
			continue
		}
		name := o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
		var lacks []string
		converted, leftOut := false, false
		for _, l := range s.Report {
			if l.Object != name {
				continue
			}
			converted, leftOut = converted || l.Outcome == migrate.Converted, leftOut || l.LeftOut
			if l.Outcome == migrate.NoCounterpart {
				lacks = append(lacks, l.Text())
			}
		}
		if !converted || leftOut {
			reasons = append(
				reasons,
				fmt.Sprintf("%s would have no counterpart, and what it announces would be lost: %s. "+
					"Change the object so that it can be converted, or delete it if nothing needs it",
					name, strings.Join(lacks, "; ")),
			)
		}
	}
	return reasons
}

// rangesOf returns the addresses that texts of a pool name, as far as they can be read.
func rangesOf(texts []string) *netipx.IPSet {
	var ranges netipx.IPSetBuilder
	for _, text := range texts {
		from, to, _ := strings.Cut(text, "-")
		text = strings.TrimSpace(from)
		if to != "" {
			text += "-" + strings.TrimSpace(to)
		}
		if prefix, err := netip.ParsePrefix(text); err == nil {
			ranges.AddPrefix(prefix.Masked())
		} else if r, err := netipx.ParseIPRange(text); err == nil {
			ranges.AddRange(r)
		} else if a, err := netip.ParseAddr(text); err == nil {
			ranges.Add(a)
		}
	}
	set, err := ranges.IPSet()
	if err != nil { // of a range that is not valid
		return &netipx.IPSet{}
	}
	return set
}

// addressesOf returns the addresses of pools.
func addressesOf(pools []*unstructured.Unstructured) *netipx.IPSet {
	var all []string
	for _, p := range pools {
		texts, _, _ := unstructured.NestedStringSlice(p.Object, "spec", "addresses")
		all = append(all, texts...)
	}
	return rangesOf(all)
}

// unserved says which Services of MetalLB's pools Berth's controller would not take over.
func (s *Snapshot) unserved() (reasons []string) {
	theirs, ours := addressesOf(s.of("IPAddressPool")), addressesOf(s.converted("LoadBalancerPool"))
	flags := s.Controller()
	for _, svc := range s.Services {
		if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
			continue
		}
		moves := false
		for _, text := range addresses(svc) {
			a, err := netip.ParseAddr(text)
			if err != nil || !theirs.Contains(a) {
				continue
			}
			moves = true
			if !ours.Contains(a) {
				reasons = append(reasons, fmt.Sprintf("Service %s has %s, which no pool of Berth's would have: "+
					"see what --plan says of the IPAddressPool, and change its spec.addresses", key(svc), a))
			}
		}
		switch class := svc.Spec.LoadBalancerClass; {
		case !moves:
		case class == nil && !flags.Classless:
			reasons = append(
				reasons,
				fmt.Sprintf("Service %s has no spec.loadBalancerClass, and Berth's controller runs "+
					"with --serve-classless=false: take that flag away", key(svc)),
			)
		case class != nil && !slices.Contains(flags.Classes, *class):
			reasons = append(
				reasons,
				fmt.Sprintf("Service %s has spec.loadBalancerClass %s, which Berth's controller "+
					"does not serve: name it in the controller's --classes", key(svc), *class),
			)
		}
	}
	return reasons
}

// unready says what keeps the migration from its first step: no node may be down, and Berth must be
// ready on all of MetalLB's.
func (s *Snapshot) unready() (reasons []string) {
	for _, name := range s.nodeNames() {
		if !s.ready(name) {
			reasons = append(
				reasons,
				fmt.Sprintf("Node %s is not ready (status.conditions): repair it, or delete the "+
					"Node, before you begin, since addresses do not move from a node that fails in the midst", name),
			)
		}
	}
	if text := s.berthReady(); text != "" {
		reasons = append(reasons, text+": see kubectl get speakers.berth.dev, and wait until each is Announcing")
	}
	return append(reasons, s.excluded()...)
}

// ready reports whether a node is ready, as Kubernetes says.
func (s *Snapshot) ready(name string) bool {
	return candidate.ReadyStatus(s.node(name)) == corev1.ConditionTrue
}

// failed is how long a node must not be ready to count as down: a busy one comes back sooner.
const failed = time.Minute

// down reports whether a node has failed: nobody ends Pods there, and nothing is waited for.
func (s *Snapshot) down(name string) bool {
	if s.ready(name) {
		return false
	}
	return !slices.ContainsFunc(s.node(name).Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && s.Taken.Sub(c.LastTransitionTime.Time) < failed
	})
}

// excluded says which nodes announce by MetalLB, and would not by Berth.
func (s *Snapshot) excluded() (reasons []string) {
	ignores := slices.ContainsFunc(s.daemonSet().Spec.Template.Spec.Containers, func(c corev1.Container) bool {
		return slices.ContainsFunc(slices.Concat(c.Command, c.Args), func(a string) bool {
			name, value, _ := strings.Cut(strings.TrimLeft(a, "-"), "=")
			return name == "ignore-exclude-lb" && value != "false"
		})
	})
	announces := map[string]string{}
	for service, node := range s.l2Nodes() {
		announces[node] = "Service " + service
	}
	for _, name := range s.nodeNames() {
		why := candidate.Exclusion(s.node(name))
		if why == "" {
			continue
		}
		what := announces[name]
		if what == "" && ignores && len(s.peers()) > 0 && len(s.speakerPods(name)) > 0 {
			what = "routes"
		}
		if what != "" {
			reasons = append(
				reasons,
				fmt.Sprintf("MetalLB announces %s from Node %s, which %s, so that Berth would not: "+
					"take that off the node, or keep MetalLB off it", what, name, why),
			)
		}
	}
	return reasons
}

// endsNever reports whether a Pod is on a node that is down: nobody says when it has ended.
func (s *Snapshot) endsNever(p *corev1.Pod) bool {
	return p.Spec.NodeName != "" && s.down(p.Spec.NodeName)
}

// foreign says which objects have the names of converted ones, and are not the migration's.
func (s *Snapshot) foreign() (reasons []string) {
	made := map[string]bool{}
	for _, p := range s.made() {
		made[p.resource.Resource+"/"+p.name] = true
	}
	there := s.there()
	for _, o := range s.Converted {
		kind := o.GetKind()
		if there[kind+" "+o.GetName()] && !made[resources[kind].Resource+"/"+o.GetName()] {
			reasons = append(
				reasons,
				fmt.Sprintf("%s %s is there, without the label %s=%s: the migration would take it for "+
					"its own. Delete it, or rename it, or rename the object of MetalLB's that becomes it",
					kind, o.GetName(), MadeLabel, madeFrom),
			)
		}
	}
	return reasons
}

// reconcilers are labels and annotations of tools that undo what others change.
var reconcilers = []struct{ key, tool, suspend string }{
	{"argocd.argoproj.io/tracking-id", "Argo CD", "turn its automated sync off"},
	{"argocd.argoproj.io/instance", "Argo CD", "turn its automated sync off"},
	{"kustomize.toolkit.fluxcd.io/name", "Flux", "flux suspend kustomization"},
	{"helm.toolkit.fluxcd.io/name", "Flux", "flux suspend helmrelease"},
}

// Reconciled says which tools reconcile the objects that the steps change, and how to suspend them.
func (s *Snapshot) Reconciled() (reasons []string) {
	for kind, o := range s.changed() {
		name := kind + " " + o.GetNamespace() + "/" + o.GetName()
		for _, r := range reconcilers {
			if o.GetLabels()[r.key] == "" && o.GetAnnotations()[r.key] == "" {
				continue
			}
			reasons = append(
				reasons,
				fmt.Sprintf("%s is reconciled by %s (%s), which would undo the steps: %s until the "+
					"migration is over, and then add --managed", name, r.tool, r.key, r.suspend),
			)
		}
		for _, owner := range o.GetOwnerReferences() {
			reasons = append(
				reasons,
				fmt.Sprintf("%s belongs to %s %s (metadata.ownerReferences), whose operator would undo "+
					"the steps: scale the operator to none until the migration is over, and then add --managed",
					name, owner.Kind, owner.Name),
			)
		}
	}
	return reasons
}

// changed are the objects of others that the steps change, but for Services and Nodes.
func (s *Snapshot) changed() iter.Seq2[string, metav1.Object] {
	return func(yield func(string, metav1.Object) bool) {
		if !yield("Deployment", s.controller()) || !yield("DaemonSet", s.daemonSet()) {
			return
		}
		if d := s.berthDeployment(); d != nil && !yield("Deployment", d) {
			return
		}
		for _, o := range s.advertisements() {
			if !yield("L2Advertisement", o) {
				return
			}
		}
	}
}

// OfHelm says which of the objects that the steps change a release of Helm has: it changes them
// back when it is upgraded.
func (s *Snapshot) OfHelm() (notes []string) {
	for kind, o := range s.changed() {
		if o.GetLabels()["app.kubernetes.io/managed-by"] == "Helm" {
			notes = append(
				notes,
				fmt.Sprintf("%s %s/%s is Helm's: do not upgrade the release until the migration is over",
					kind, o.GetNamespace(), o.GetName()),
			)
		}
	}
	return notes
}

// segments are the subnets of a node's interfaces on which Berth answers; none: they are not known.
func (s *Snapshot) segments(node, iface string) (subnets []netip.Prefix) {
	k := s.speaker(node)
	if k == nil {
		return nil
	}
	for _, r := range k.Status.Segments {
		for _, text := range r.Subnets {
			if p, err := netip.ParsePrefix(text); err == nil && (iface == "" || r.Interface == iface) {
				subnets = append(subnets, p.Masked())
			}
		}
	}
	return subnets
}

// onAnyInterface returns those of a Service's L2Advertisements that select a node, if none of them
// names an interface. MetalLB then answers on all, and Berth on those with an InternalIP of the
// node.
func (s *Snapshot) onAnyInterface(announcing []*unstructured.Unstructured, node string) []*unstructured.Unstructured {
	if s.node(node) == nil {
		return nil
	}
	by := slices.DeleteFunc(announcing, func(o *unstructured.Unstructured) bool { return !s.selects(o, node) })
	if slices.ContainsFunc(by, namesInterface) {
		return nil
	}
	return by
}

func namesInterface(o *unstructured.Unstructured) bool {
	interfaces, _, _ := unstructured.NestedStringSlice(o.Object, "spec", "interfaces")
	return len(interfaces) > 0
}

// offSegment says which Services' addresses are in none of the subnets on which Berth would answer.
// Speakers tell those once there is a SegmentAnnouncement; until then unanswered waits.
func (s *Snapshot) offSegment() (reasons []string) {
	announcing, l2 := s.announcing("L2Advertisement"), s.l2Nodes()
	for _, svc := range s.served() {
		node := l2[key(svc)]
		subnets := s.segments(node, "")
		by := s.onAnyInterface(announcing(svc), node)
		if len(subnets) == 0 || len(by) == 0 {
			continue
		}
		for _, text := range addresses(svc) {
			a, err := netip.ParseAddr(text)
			if err == nil && !slices.ContainsFunc(subnets, func(p netip.Prefix) bool { return p.Contains(a) }) {
				reasons = append(
					reasons,
					fmt.Sprintf("L2Advertisement %s/%s has no spec.interfaces, and %s of Service %s is in "+
						"no subnet of the interfaces on which Berth answers on %s, those with the node's InternalIP: go back "+
						"(--back), and name the interfaces in spec.interfaces",
						by[0].GetNamespace(), by[0].GetName(), a, key(svc), node),
				)
			}
		}
	}
	return reasons
}

// answersFor reports whether a node answers as an owner of Berth's for an address of a Service, and
// if need be on the segment that has the address in a subnet.
func (s *Snapshot) answersFor(address, node string, anywhere bool) bool {
	a, err := netip.ParseAddr(address)
	return err == nil && slices.ContainsFunc(s.Owners, func(o *v1alpha1.L2Owner) bool {
		if o.Status.Address != address || o.Status.NodeName != node {
			return false
		}
		subnets := s.segments(node, o.Status.Interface)
		if p, err := netip.ParsePrefix(o.Status.Segment); err == nil {
			subnets = append(subnets, p)
		}
		return anywhere || slices.ContainsFunc(subnets, func(p netip.Prefix) bool { return p.Contains(a) })
	})
}
