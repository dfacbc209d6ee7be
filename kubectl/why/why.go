package why

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/announcement"
	"github.com/berth-lb/berth/controller/service"
	"github.com/berth-lb/berth/kubectl/cluster"
)

// Grade says how a step of the way is.
type Grade string

// The grades, from good to bad.
const (
	OK      Grade = "ok"
	Note    Grade = "note"    // it works, and somebody may wonder
	Warning Grade = "warning" // some clients may have trouble
	Failure Grade = "failure" // no client gets through
)

// Step is one step of the way.
type Step struct {
	Name  string `json:"name"`
	Grade Grade  `json:"grade"`
	// Text says in one line how it is.
	Text string `json:"text"`
	// Details are for those who want to know more: nodes, sessions, Pods.
	Details []string `json:"details,omitempty"`
	// next is a command that helps, if the step is what fails.
	next string
}

// Report is the way of a Service.
type Report struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Summary   string   `json:"summary"`
	Addresses []string `json:"addresses,omitempty"`
	Steps     []Step   `json:"steps"`
	// Reachable: no step fails.
	Reachable bool `json:"reachable"`
	// Verdict is one sentence: what keeps clients out, or that nothing does.
	Verdict string `json:"verdict"`
	// Next is the command to go on with.
	Next string `json:"next"`
}

// Pods are those that the selector of the Service may be meant for: of its namespace.
type Pods struct {
	All []*corev1.Pod
	// Err says why they are not known.
	Err error
}

// look is what the steps look at.
type look struct {
	*cluster.State
	svc       *corev1.Service
	pods      Pods
	snapshot  *config.Snapshot
	problems  map[config.Key][]config.Problem
	flags     cluster.ControllerFlags
	addresses []netip.Addr
	outlook   announcement.Service
	observed  announcement.Observed
	prospects map[netip.Addr][]announcement.Prospect
}

// newLook returns nil if there is no such Service.
func newLook(s *cluster.State, namespace, name string, pods Pods) *look {
	svc := s.Service(namespace, name)
	if svc == nil {
		return nil
	}
	l := &look{State: s, svc: svc, pods: pods, flags: s.Controller()}
	l.snapshot, l.problems = config.Compile(s.Objects())
	l.addresses = service.AddressesIn(svc)
	l.observed = announcement.Observe(s.Nodes, s.Speakers, func(*v1alpha1.Speaker) bool { return false })
	l.outlook = l.outlookOf()
	l.prospects = map[netip.Addr][]announcement.Prospect{}
	for _, a := range l.addresses {
		l.prospects[a] = l.outlook.Prospects(a)
	}
	return l
}

// Of follows the Service. It is nil if there is no such Service.
func Of(s *cluster.State, namespace, name string, pods Pods) *Report {
	l := newLook(s, namespace, name, pods)
	if l == nil {
		return nil
	}
	r := &Report{Namespace: namespace, Name: name, Summary: l.summary()}
	for _, a := range l.addresses {
		r.Addresses = append(r.Addresses, a.String())
	}
	served := l.class()
	r.Steps = append(r.Steps, served)
	if served.Grade != Failure {
		configuration := []cluster.Resource{
			cluster.Pools, cluster.SegmentAnnouncements, cluster.RouteAnnouncements, cluster.Nodes, cluster.Speakers,
		}
		r.Steps = append(r.Steps, l.controller(), l.allocation())
		if len(l.addresses) > 0 {
			r.Steps = append(
				r.Steps,
				l.known("Pool", l.pool, cluster.Pools),
				l.known("Announced", l.announced, append(configuration, cluster.EndpointSlices)...),
				l.known("Owner", l.owners, append(configuration, cluster.Owners)...),
				l.known("Sessions", l.sessions, append(configuration, cluster.BGPNeighbors)...),
				l.known("Speakers", l.speakers, cluster.Speakers, cluster.Nodes),
			)
		}
		r.Steps = append(
			r.Steps,
			l.known("Endpoints", l.endpoints, cluster.EndpointSlices),
			l.known("Forwarding", l.forwarding, configuration...),
			l.known("Return path", l.returnPath, configuration...),
			l.sources(),
		)
	}
	r.Steps = append(r.Steps, l.known("Events", l.events, cluster.Events))
	r.Steps = slices.DeleteFunc(r.Steps, func(s Step) bool { return s.Name == "" })
	l.conclude(r)
	return r
}

// known returns the step if what it needs could be read; otherwise nothing is concluded.
func (l *look) known(name string, step func() Step, needs ...cluster.Resource) Step {
	lack := l.Lack(needs...)
	if len(lack) == 0 {
		return step()
	}
	said := Step{Name: name, Grade: Note, Text: "not known, since you could not read " + list(lack)}
	if c := l.condition(v1alpha1.ServiceAnnounced); name == "Announced" && c != nil {
		said.Text += fmt.Sprintf("; the condition says %s %s: %s", c.Status, c.Reason, c.Message)
		if c.Status != metav1.ConditionTrue {
			said.Grade = Failure
		}
	}
	return said
}

// outlookOf returns what the controller decides by whether the addresses are announced.
func (l *look) outlookOf() announcement.Service {
	endpoints, known := l.Endpoints(l.svc)
	o := announcement.Service{
		Addresses: l.addresses,
		Labels:    map[netip.Addr][]labels.Set{},
		Local:     service.Local(l.svc),
		Endpoints: endpoints,
		Unknown:   !known,
		Conflicts: l.observed.Conflicts,
		Snapshot:  l.snapshot,
		Nodes:     l.observed.Nodes,
		Errors:    l.observed.Errors,
	}
	for _, a := range l.addresses {
		for _, other := range l.Holders(a) {
			o.Labels[a] = append(o.Labels[a], other.Labels)
		}
	}
	o.Forwarder = o.Forwarding(l.svc.Annotations[v1alpha1.AnnotationIPVSScheduler])
	return o
}

func (l *look) summary() string {
	text := string(l.svc.Spec.Type)
	if class := l.svc.Spec.LoadBalancerClass; class != nil {
		text += ", class " + *class
	}
	if policy := l.svc.Spec.ExternalTrafficPolicy; policy != "" {
		text += ", externalTrafficPolicy " + string(policy)
	}
	if len(l.svc.Spec.IPFamilies) > 0 {
		var families []string
		for _, f := range l.svc.Spec.IPFamilies {
			families = append(families, string(f))
		}
		text += ", " + strings.Join(families, " and ")
	}
	return text + ", created " + l.ago(l.svc.CreationTimestamp.Time) + " ago"
}

func (l *look) ago(at time.Time) string { return duration.HumanDuration(max(0, l.Taken.Sub(at))) }

func (l *look) condition(kind string) *metav1.Condition {
	return meta.FindStatusCondition(l.svc.Status.Conditions, kind)
}

// command returns a command of kubectl on the Service, such as kubectl get service web -n shop.
func (l *look) command(verb string, args ...string) string {
	return strings.Join(append([]string{"kubectl", verb, "service", l.svc.Name, "-n", l.svc.Namespace}, args...), " ")
}

// blame adds what is wrong with objects of these kinds to a step that fails, if they matter, since
// that is often the cause.
func (l *look) blame(step *Step, matters func(name string) bool, kinds ...string) {
	var texts []string
	for key, problems := range l.problems {
		for _, p := range problems {
			if slices.Contains(kinds, key.Kind) && matters(key.Name) && !p.Harmless {
				texts = append(texts, key.Kind+" "+key.Name+": "+p.Message)
			}
		}
	}
	if slices.Contains(kinds, "BGPNeighbor") { // whether Secrets are there only the controller knows
		for _, n := range l.BGPNeighbors {
			c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionAccepted)
			if matters(n.Name) && c != nil && c.Status == metav1.ConditionFalse &&
				!slices.ContainsFunc(texts, func(t string) bool { return strings.Contains(t, " "+n.Name+": ") }) {
				texts = append(texts, "BGPNeighbor "+n.Name+": "+c.Message)
			}
		}
	}
	if len(texts) == 0 {
		return
	}
	slices.Sort(texts)
	step.Details = append(texts, step.Details...)
	object := strings.Fields(strings.SplitN(texts[0], ":", 2)[0]) // its kind and name
	step.next = cmp.Or(
		l.secretCommand(texts[0]), "kubectl edit "+strings.ToLower(object[0])+".berth.dev "+object[1],
	)
	step.Text += "; " + texts[0]
	if len(texts) > 1 {
		step.Text += fmt.Sprintf(" (and %d more)", len(texts)-1)
	}
}

// conclude says what the steps come to.
func (l *look) conclude(r *Report) {
	for _, grade := range []Grade{Failure, Warning} {
		i := slices.IndexFunc(r.Steps, func(s Step) bool { return s.Grade == grade })
		if i < 0 {
			continue
		}
		s := r.Steps[i]
		r.Reachable = grade != Failure
		r.Verdict, r.Next = s.Text, s.next
		if grade == Warning {
			r.Verdict = "it is served, but: " + s.Text
		}
		if r.Next == "" {
			r.Next = l.command("describe")
		}
		return
	}
	r.Reachable = true
	shows := "the cluster shows"
	if len(l.Missing) > 0 {
		shows = "you could read"
	}
	r.Verdict = fmt.Sprintf(
		"nothing that %s keeps a client from %s; if one does not get through, look at that client, and at what is between",
		shows,
		strings.Join(r.Addresses, " or "),
	)
	r.Next = l.clientCommand()
}

// clientCommand is what to try on a client.
func (l *look) clientCommand() string {
	address := l.addresses[0]
	port := int32(80)
	if len(l.svc.Spec.Ports) > 0 {
		port = l.svc.Spec.Ports[0].Port
	}
	if mac := l.macOf(address); mac != "" {
		return fmt.Sprintf(
			"on the client: ip neigh show %s    # %s if it is on the segment; another MAC is a stale neighbor: ip neigh del %s dev INTERFACE",
			address,
			mac,
			address,
		)
	}
	return fmt.Sprintf("on the client: nc -vz %s %d; traceroute -T -p %d %s", address, port, port, address)
}
