package why

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/service"
	"github.com/berth-lb/berth/internal/version"
	"github.com/berth-lb/berth/kubectl/cluster"
)

// class says whose the Service is.
func (l *look) class() Step {
	step := Step{Name: "Class", Grade: OK}
	svc := l.svc
	classes := service.Classes{Names: l.flags.Classes, Classless: l.flags.Classless}
	leaves, untilPool := l.LeavesAlone(svc, l.namespaceLabels(), l.snapshot)
	switch class := svc.Spec.LoadBalancerClass; {
	case svc.DeletionTimestamp != nil:
		step.Grade = Failure
		step.Text = fmt.Sprintf(
			"the Service is being deleted since %s, and waits for its finalizers: %s",
			l.ago(svc.DeletionTimestamp.Time),
			strings.Join(svc.Finalizers, ", "),
		)
	case svc.Spec.Type != corev1.ServiceTypeLoadBalancer:
		step.Grade = Failure
		step.Text = fmt.Sprintf("spec.type is %s: only Services of type LoadBalancer get an address", svc.Spec.Type)
		step.next = l.command("patch", `-p '{"spec":{"type":"LoadBalancer"}}'`)
	case l.Uninstalled:
		step.Grade, step.Text = Failure, "Berth is not installed in this cluster: the API server does not know its kinds"
		step.next = "kubectl berth doctor"
	case !classes.Selects(svc) && class != nil:
		step.Grade = Failure
		step.Text = fmt.Sprintf(
			"spec.loadBalancerClass is %q, and Berth serves %s; a class cannot be changed: create the Service again without it, or with one of these, or have Berth serve it by the controller's --classes",
			*class,
			quoted(l.flags.Classes),
		)
		step.next = l.command(
			"get",
			"-o yaml",
		) + " > service.yaml    # take out status and spec.loadBalancerClass, delete the Service, apply the file"
		if len(svc.Status.LoadBalancer.Ingress) > 0 {
			step.Grade, step.Text = Failure, fmt.Sprintf(
				"spec.loadBalancerClass is %q, which Berth does not serve; %s gave it its address",
				*class,
				l.writer(),
			)
			step.next = l.command("get", "-o yaml --show-managed-fields")
		}
	case !classes.Selects(svc):
		step.Grade = Failure
		step.Text = "it has no spec.loadBalancerClass, and the controller runs with --serve-classless=false; create it again with spec.loadBalancerClass: " + v1alpha1.LoadBalancerClass
	case untilPool:
		step.Grade = Failure
		step.Text = fmt.Sprintf(
			"%s gave it its address, and no pool exists, so Berth leaves it alone; it is Berth's once there is a LoadBalancerPool",
			l.writer(),
		)
		step.next = "kubectl get loadbalancerpools.berth.dev"
	case leaves:
		step.Grade = Failure
		step.Text = fmt.Sprintf(
			"%s gave it its address, so Berth leaves it alone; to have Berth take it over with its address, set spec.takeOver of a LoadBalancerPool that has the address",
			l.writer(),
		)
		step.next = "kubectl get loadbalancerpools.berth.dev -o wide"
	case class != nil:
		step.Text = "Berth serves class " + *class
	default:
		step.Text = "Berth serves Services without a class"
	}
	return step
}

func (l *look) writer() string {
	if name := service.LastWriter(l.svc); name != "" {
		return "field manager " + name
	}
	return "another implementation"
}

func (l *look) namespaceLabels() labels.Set {
	for _, n := range l.Namespaces {
		if n.Name == l.svc.Namespace {
			return n.Labels
		}
	}
	return nil
}

func quoted(names []string) string {
	var each []string
	for _, n := range names {
		each = append(each, fmt.Sprintf("%q", n))
	}
	return strings.Join(each, ", ")
}

// controller says whether a controller is at work.
func (l *look) controller() Step {
	step := Step{
		Name:  "Controller",
		Grade: OK,
		next:  "kubectl get pods -n " + l.Namespace + " -l app.kubernetes.io/component=controller",
	}
	switch c := l.Leadership(); {
	case c.Unknown:
		step.Grade, step.Text = Note, "whether a controller is at work is not known: what shows it could not be read"
	case !c.Installed && !c.Leads(l.Taken):
		step.Grade, step.Text = Failure, fmt.Sprintf(
			"there is no controller of Berth in namespace %s; install Berth, or name its namespace with --berth-namespace",
			l.Namespace,
		)
	case c.Installed && c.Wanted == 0:
		step.Grade, step.Text = Failure, "no controller runs: its Deployment is scaled to 0, so nothing that changes is decided"
		step.next = "kubectl scale deployment berth-controller -n " + l.Namespace + " --replicas=2"
	case c.Installed && c.Ready == 0:
		step.Grade, step.Text = Failure, fmt.Sprintf(
			"no controller is ready (0 of %d), so nothing that changes is decided; what is announced already stays",
			c.Wanted,
		)
	case c.Holder == "":
		step.Grade, step.Text = Warning, "no controller leads: the Lease berth-controller has no holder"
	case !c.Leads(l.Taken):
		step.Grade, step.Text = Warning, "no controller leads: the Lease berth-controller was not renewed for "+l.ago(
			c.Renewed,
		)
	default:
		step.Text = fmt.Sprintf("%s leads, %d of %d ready", c.Holder, c.Ready, c.Wanted)
	}
	return step
}

// allocation says whether it has an address.
func (l *look) allocation() Step {
	step := Step{Name: "Address", Grade: OK, next: nextOfReason(l)}
	c := l.condition(v1alpha1.ServiceAllocated)
	switch {
	case c == nil && len(l.addresses) == 0:
		step.Grade = Failure
		step.Text = fmt.Sprintf(
			"it has no address, and no controller has said why yet (it exists for %s)",
			l.ago(l.svc.CreationTimestamp.Time),
		)
		step.next = "kubectl logs -n " + l.Namespace + " -l app.kubernetes.io/component=controller --tail=20"
	case c == nil:
		step.Grade, step.Text = Warning, "it has an address, but no condition of Berth yet"
	case c.Status != metav1.ConditionTrue:
		step.Grade, step.Text = Failure, c.Message
		switch c.Reason {
		case service.ReasonNoPool, service.ReasonUnknownPool, service.ReasonPoolExhausted, service.ReasonAddressOutside:
			l.blame(&step, l.asksFor, "LoadBalancerPool")
		}
		if len(l.addresses) > 0 {
			step.Grade = Warning
			step.Text += fmt.Sprintf(" (it keeps %s)", join(l.addresses))
		}
	default:
		step.Text = c.Message
	}
	if c != nil {
		step.Details = append(
			step.Details,
			fmt.Sprintf("%s=%s %s since %s", c.Type, c.Status, c.Reason, l.ago(c.LastTransitionTime.Time)),
		)
	}
	for _, f := range []struct{ name, value string }{
		{"spec.loadBalancerIP", l.svc.Spec.LoadBalancerIP},
		{v1alpha1.AnnotationAddresses, l.svc.Annotations[v1alpha1.AnnotationAddresses]},
		{v1alpha1.AnnotationPools, l.svc.Annotations[v1alpha1.AnnotationPools]},
		{v1alpha1.AnnotationSharingKey, l.svc.Annotations[v1alpha1.AnnotationSharingKey]},
	} {
		if f.value != "" {
			step.Details = append(step.Details, "asks: "+f.name+": "+f.value)
		}
	}
	return step
}

// asksFor reports whether the Service may get an address from the pool, as far as it names pools.
func (l *look) asksFor(pool string) bool {
	named := service.AnnotationList(l.svc.Annotations, v1alpha1.AnnotationPools)
	return len(named) == 0 || slices.Contains(named, pool)
}

func join[T fmt.Stringer](all []T) string { return strings.Join(texts(all), " and ") }

func list[T fmt.Stringer](all []T) string { return strings.Join(texts(all), ", ") }

func texts[T fmt.Stringer](all []T) []string {
	var each []string
	for _, a := range all {
		each = append(each, a.String())
	}
	return each
}

// pool says where the addresses are from, and what is wrong there.
func (l *look) pool() Step {
	step := Step{Name: "Pool", Grade: OK}
	var texts []string
	for _, a := range l.addresses {
		p := l.snapshot.PoolOf(a)
		if p == nil {
			texts = append(texts, a.String()+" is in no LoadBalancerPool")
			step.Grade = Note
			continue
		}
		texts = append(texts, fmt.Sprintf("%s is of LoadBalancerPool %s", a, p.Name))
		for _, problem := range l.problems[config.Key{Kind: "LoadBalancerPool", Name: p.Name}] {
			step.Details = append(step.Details, p.Name+": "+problem.Message)
		}
		for _, other := range l.Holders(a) {
			if other.Namespace != l.svc.Namespace || other.Name != l.svc.Name {
				step.Details = append(
					step.Details,
					fmt.Sprintf("%s is shared with Service %s/%s", a, other.Namespace, other.Name),
				)
			}
		}
	}
	step.Text = strings.Join(texts, ", ")
	return step
}

// speakers says whether those that matter are of one version.
func (l *look) speakers() Step {
	step := Step{Name: "Speakers", Grade: OK, next: "kubectl get speakers.berth.dev"}
	versions := map[string][]string{}
	for _, s := range l.Speakers {
		if l.Node(s.Name) != nil && s.Status.Version != "" {
			versions[s.Status.Version] = append(versions[s.Status.Version], s.Name)
		}
		for _, p := range s.Status.Problems {
			step.Details = append(step.Details, fmt.Sprintf("%s: %s: %s", s.Name, p.Reason, p.Message))
		}
	}
	var all []string
	for v, nodes := range versions {
		slices.Sort(nodes)
		all = append(all, v+" on "+few(nodes))
	}
	slices.Sort(all)
	step.Text = "version " + strings.Join(all, ", ")
	switch {
	case len(all) == 0:
		step.Grade, step.Text = Failure, "no speaker has reported: no node announces"
		step.next = "kubectl get pods -n " + l.Namespace + " -l app.kubernetes.io/component=speaker -o wide"
	case len(all) > 1:
		step.Grade = Note
		step.Text += ": an upgrade is not finished"
	case versions[version.Number()] == nil:
		step.Grade = Note
		step.Text += "; this plugin is " + version.Number()
	case len(step.Details) > 0:
		step.Grade = Note
		step.Text += fmt.Sprintf("; %d report problems", len(step.Details))
	}
	return step
}

func few(names []string) string {
	if len(names) > 4 {
		return fmt.Sprintf("%s and %d more nodes", strings.Join(names[:3], ", "), len(names)-3)
	}
	return strings.Join(names, ", ")
}

// events are the last ones.
func (l *look) events() Step {
	step := Step{Name: "Events", Grade: OK, Text: "none"}
	events := l.EventsOf("Service", l.svc)
	if len(events) > 5 {
		events = events[len(events)-5:]
	}
	for _, e := range events {
		step.Details = append(
			step.Details,
			fmt.Sprintf("%s %s %s: %s", l.ago(cluster.LastSeen(e)), e.Type, e.Reason, e.Message),
		)
	}
	if n := len(step.Details); n > 0 {
		step.Text = fmt.Sprintf("the last %d", n)
	}
	return step
}
