package cluster

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/service"
)

// Resource is something that is read, in the words of a rule of RBAC.
type Resource struct{ Group, Name string }

// String returns the resource as kubectl writes it.
func (r Resource) String() string {
	if r.Group == "" {
		return r.Name
	}
	return r.Name + "." + r.Group
}

// State is what the API server had at one moment. Nobody changes it.
type State struct {
	// Taken is when it was read, by the clock of the machine that read it.
	Taken time.Time
	// Namespace is Berth's own.
	Namespace string
	// ServerVersion is the API server's, such as v1.36.3; empty: not known.
	ServerVersion string

	Pools                []*v1alpha1.LoadBalancerPool
	SegmentAnnouncements []*v1alpha1.SegmentAnnouncement
	RouteAnnouncements   []*v1alpha1.RouteAnnouncement
	BGPNeighbors         []*v1alpha1.BGPNeighbor
	Reservations         []*v1alpha1.AddressReservation
	Speakers             []*v1alpha1.Speaker
	Owners               []*v1alpha1.L2Owner

	Services       []*corev1.Service
	EndpointSlices []*discoveryv1.EndpointSlice
	Nodes          []*corev1.Node
	Namespaces     []*corev1.Namespace
	ServiceCIDRs   []*networkingv1.ServiceCIDR
	Deployments    []*appsv1.Deployment
	DaemonSets     []*appsv1.DaemonSet
	// Pods are those in Berth's namespace.
	Pods []*corev1.Pod
	// Leases are those in Berth's namespace.
	Leases []*coordinationv1.Lease
	// Passwords are those of Secrets that were read, by name; nil: there is none of the type that
	// Berth reads. Only what foresees a change reads any.
	Passwords map[string]*string
	// Before is the Snapshot that is in effect before a change; nil: this is no change.
	Before *config.Snapshot
	// Events are those about Services and about Berth's objects.
	Events []*corev1.Event

	// Missing is what could not be read, and why. Berth's kinds are not among it when Uninstalled says
	// that the API server does not know them.
	Missing map[Resource]error
	// Uninstalled: the API server knows none of Berth's kinds.
	Uninstalled bool
}

// Lacks says what could not be read, in few sentences.
func (s *State) Lacks() []string {
	return Unread(s.Missing, "is not known (ClusterRole berth-view has these rights)")
}

// Failed returns why something could not be read that another time could be: the API server was
// busy, or away for a moment. What is missing then looks as if it were gone.
func (s *State) Failed() error {
	for resource, err := range s.Missing {
		if !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err) {
			return fmt.Errorf("%s could not be read: %w", resource, err)
		}
	}
	return nil
}

// Unread says what could not be read, and why, in few sentences: what the user may not read is one
// of them, which ends with what becomes of what depends on it.
func Unread(missing map[Resource]error, becomes string) []string {
	var forbidden, texts []string
	for resource, err := range missing {
		switch {
		case apierrors.IsForbidden(err):
			forbidden = append(forbidden, resource.String())
		case apierrors.IsNotFound(err):
			texts = append(texts, fmt.Sprintf("the API server does not know %s", resource))
		default:
			texts = append(texts, fmt.Sprintf("%s could not be read: %v", resource, err))
		}
	}
	slices.Sort(texts)
	if len(forbidden) > 0 {
		slices.Sort(forbidden)
		texts = append(texts, fmt.Sprintf(
			"you have no right to list %s; what depends on that %s", strings.Join(forbidden, ", "), becomes,
		))
	}
	return texts
}

// Resources that are read, by the names that conclusions need them by.
var (
	Pools                = berth("loadbalancerpools")
	SegmentAnnouncements = berth("segmentannouncements")
	RouteAnnouncements   = berth("routeannouncements")
	BGPNeighbors         = berth("bgpneighbors")
	Reservations         = berth("addressreservations")
	Speakers             = berth("speakers")
	Owners               = berth("l2owners")
	Services             = Resource{"", "services"}
	Nodes                = Resource{"", "nodes"}
	Namespaces           = Resource{"", "namespaces"}
	Pods                 = Resource{"", "pods"}
	Events               = Resource{"", "events"}
	EndpointSlices       = Resource{"discovery.k8s.io", "endpointslices"}
	ServiceCIDRs         = Resource{"networking.k8s.io", "servicecidrs"}
	Deployments          = Resource{"apps", "deployments"}
	DaemonSets           = Resource{"apps", "daemonsets"}
	Leases               = Resource{"coordination.k8s.io", "leases"}
)

func berth(name string) Resource { return Resource{v1alpha1.GroupVersion.Group, name} }

// Lack returns those of the resources that could not be read.
func (s *State) Lack(resources ...Resource) []Resource {
	return slices.DeleteFunc(slices.Clone(resources), func(r Resource) bool { return s.Missing[r] == nil })
}

// Objects returns the configuration, to be compiled. A Secret that a BGPNeighbor names and that was
// not read counts as present.
func (s *State) Objects() config.Objects {
	objects := config.Objects{
		Pools:                s.Pools,
		SegmentAnnouncements: s.SegmentAnnouncements,
		RouteAnnouncements:   s.RouteAnnouncements,
		BGPNeighbors:         s.BGPNeighbors,
		Passwords:            map[string]string{},
		Before:               s.Before,
	}
	for _, n := range s.BGPNeighbors {
		for _, name := range SecretsOf(n) {
			password, read := s.Passwords[name]
			switch {
			case !read:
				objects.Passwords[name] = "unread"
			case password != nil:
				objects.Passwords[name] = *password
			}
		}
	}
	return objects
}

// SecretsOf returns the names of the Secrets of a BGPNeighbor.
func SecretsOf(n *v1alpha1.BGPNeighbor) (names []string) {
	names = append(names, n.Spec.Authentication.TCPMD5.SecretName)
	if n.Spec.BFD != nil {
		names = append(names, n.Spec.BFD.Authentication.SecretName)
	}
	return slices.DeleteFunc(names, func(name string) bool { return name == "" })
}

// Service returns the Service, nil if there is none.
func (s *State) Service(namespace, name string) *corev1.Service {
	return find(s.Services, func(svc *corev1.Service) bool { return svc.Namespace == namespace && svc.Name == name })
}

// LeavesAlone reports whether Berth leaves a Service of its classes to the implementation that gave
// it its addresses, and whether it does so only until a pool exists. Whether a record in the status
// is signed by Berth is not known to a user; that there is a condition of Berth counts.
func (s *State) LeavesAlone(
	svc *corev1.Service,
	namespace labels.Set,
	snapshot *config.Snapshot,
) (leaves, untilPool bool) {
	marked := service.Marked(svc)
	untilPool = !marked && s.Missing[Pools] == nil && service.IsOthersWithoutPool(svc, snapshot)
	return untilPool || service.OwnershipOf(svc, marked, false, namespace, snapshot) == service.Others, untilPool
}

// Node returns the Node, nil if there is none.
func (s *State) Node(name string) *corev1.Node {
	return find(s.Nodes, func(n *corev1.Node) bool { return n.Name == name })
}

// Endpoints returns where the Service has endpoints, and whether it has an EndpointSlice.
func (s *State) Endpoints(svc *corev1.Service) (endpoints candidate.Endpoints, known bool) {
	key := svc.Namespace + "/" + svc.Name
	var its []*discoveryv1.EndpointSlice
	for _, slice := range s.EndpointSlices {
		if candidate.ServiceOf(slice) == key {
			its = append(its, slice)
		}
	}
	return candidate.Of(its), len(its) > 0
}

// Holders returns the Services of type LoadBalancer whose status has the address, by namespace and
// name.
func (s *State) Holders(address netip.Addr) []*corev1.Service {
	var found []*corev1.Service
	for _, svc := range s.Services {
		if svc.Spec.Type == corev1.ServiceTypeLoadBalancer && slices.Contains(service.AddressesIn(svc), address) {
			found = append(found, svc)
		}
	}
	slices.SortFunc(found, func(a, b *corev1.Service) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return found
}

// EventsOf returns the events about an object, oldest first, without those about another one that
// had its name.
func (s *State) EventsOf(kind string, object metav1.Object) []*corev1.Event {
	var found []*corev1.Event
	for _, e := range s.Events {
		o := e.InvolvedObject
		if o.Kind == kind && o.Namespace == object.GetNamespace() && o.Name == object.GetName() &&
			(o.UID == "" || o.UID == object.GetUID()) {
			found = append(found, e)
		}
	}
	slices.SortStableFunc(found, func(a, b *corev1.Event) int { return LastSeen(a).Compare(LastSeen(b)) })
	return found
}

// LastSeen is when an event happened last.
func LastSeen(e *corev1.Event) time.Time {
	switch {
	case e.Series != nil:
		return e.Series.LastObservedTime.Time
	case !e.LastTimestamp.IsZero():
		return e.LastTimestamp.Time
	case !e.EventTime.IsZero():
		return e.EventTime.Time
	}
	return e.CreationTimestamp.Time
}

func find[T any](all []*T, is func(*T) bool) *T {
	if i := slices.IndexFunc(all, is); i >= 0 {
		return all[i]
	}
	return nil
}
