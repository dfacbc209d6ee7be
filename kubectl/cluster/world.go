package cluster

import (
	"errors"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/inuse"
	"github.com/berth-lb/berth/config/record"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/speaker/object"
	"github.com/berth-lb/berth/speaker/plan"
)

// Worlds returns what the plans of the speaker of a node see besides their group, by node.
func (s *State) Worlds(snapshot *config.Snapshot) func(node string) plan.World {
	all := plan.World{Nodes: s.PlanNodes(), Snapshot: snapshot, Electorates: plan.NewElectorates()}
	used := inuse.Sources{
		Nodes: s.Nodes, APIServer: s.apiServer(), Peers: peerAddresses(snapshot), PodCIDRs: s.speakerPodCIDRs(),
	}
	return func(node string) plan.World {
		w, from := all, used
		w.Self = node
		if speaker := s.Speaker(node); speaker != nil {
			w.Forwards = speaker.Status.IPVS.Asked()
			w.Capabilities = plan.Capability(speaker.Status.IPVS.Schedulers...)
			if meta.IsStatusConditionTrue(speaker.Status.Conditions, v1alpha1.ConditionSteeringReady) {
				w.Capabilities |= plan.Steers
			}
			from.Speakers = []*v1alpha1.Speaker{speaker} // what others have, they say on the segments
		}
		w.Used = inuse.Compile(from)
		return w
	}
}

// PlanNodes returns what plans need to know of the nodes.
func (s *State) PlanNodes() map[string]plan.Node {
	all := map[string]plan.Node{}
	for _, n := range s.Nodes {
		all[n.Name] = plan.Node{Labels: n.Labels, Excluded: candidate.Exclusion(n)}
	}
	return all
}

// Speaker returns the Speaker of a node, nil if there is none.
func (s *State) Speaker(node string) *v1alpha1.Speaker {
	return find(s.Speakers, func(x *v1alpha1.Speaker) bool { return x.Name == node })
}

// Planned returns the Services that speakers plan with: those that the controller gave addresses.
// The signatures of its records are not verified, for that takes a Secret.
func (s *State) Planned() []plan.Service {
	var all []plan.Service
	for _, svc := range s.Services {
		if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
			continue
		}
		if planned := object.Service(svc, Given(svc)); len(planned.Addresses) > 0 {
			all = append(all, planned)
		}
	}
	return all
}

// Record returns what the controller recorded that it gave a Service.
func Record(svc *corev1.Service) (given record.Record, is bool) {
	_, err := record.Of(svc, nil)
	if signed, ok := errors.AsType[*record.UnknownKeyError](err); ok {
		return signed.Record, true
	}
	return record.Record{}, false
}

// Given returns the addresses that the controller gave a Service, by its record.
func Given(svc *corev1.Service) []netip.Addr {
	given, _ := Record(svc)
	return given.Addresses
}

// Groups returns the groups of these Services, by ID.
func Groups(services []plan.Service) []plan.Group {
	groups := plan.NewGroups()
	for _, svc := range services {
		groups.Set(svc)
	}
	all := groups.All()
	slices.SortFunc(all, func(a, b plan.Group) int { return strings.Compare(a.ID, b.ID) })
	return all
}

// Announcements returns what the node of a World announces of a group, if its kernel forwards as it
// is told to.
func (s *State) Announcements(group plan.Group, w plan.World) plan.Announcements {
	group, _ = group.Unused(w.Used)
	services := plan.Classify(group, w.Snapshot)
	endpoints := map[string]candidate.Endpoints{}
	for _, x := range services {
		if namespace, name, _ := strings.Cut(x.Name, "/"); x.ByEndpoints() {
			endpoints[x.Name], _ = s.Endpoints(
				&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}},
			)
		}
	}
	ready := plan.Readiness{Shown: true, Steers: w.Capabilities.Has(plan.Steers)}
	return plan.PlanAnnouncements(group, services, endpoints, ready, w)
}

func (s *State) apiServer() []*discoveryv1.EndpointSlice {
	var found []*discoveryv1.EndpointSlice
	for _, slice := range s.EndpointSlices {
		if candidate.ServiceOf(slice) == metav1.NamespaceDefault+"/kubernetes" {
			found = append(found, slice)
		}
	}
	return found
}

func peerAddresses(snapshot *config.Snapshot) map[string]netip.Addr {
	addresses := map[string]netip.Addr{}
	for _, n := range snapshot.Neighbors {
		if n.Address.IsValid() {
			addresses[n.Name] = n.Address
		}
	}
	return addresses
}

// speakerPodCIDRs returns the flag --pod-cidrs of the speakers.
func (s *State) speakerPodCIDRs() []netip.Prefix {
	var texts []string
	flags := pflag.NewFlagSet("speaker", pflag.ContinueOnError)
	flags.ParseErrorsAllowlist.UnknownFlags = true
	flags.SetOutput(io.Discard)
	flags.StringSliceVar(&texts, "pod-cidrs", nil, "")
	for _, d := range s.DaemonSets {
		if d.Namespace != s.Namespace || Component(d.Labels) != "speaker" {
			continue
		}
		for _, c := range d.Spec.Template.Spec.Containers {
			if args := slices.Concat(c.Command, c.Args); slices.Contains(args, "speaker") {
				_ = flags.Parse(args) // what does not parse counts as the default
			}
		}
	}
	return prefixes(texts)
}
