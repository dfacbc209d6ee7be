package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// Names of what a saved State consists of.
const (
	stateFile    = "state.json"
	objectFolder = "objects/"
)

// header is what a State has besides objects.
type header struct {
	Taken         time.Time  `json:"taken"`
	Namespace     string     `json:"namespace"`
	ServerVersion string     `json:"serverVersion"`
	Uninstalled   bool       `json:"uninstalled,omitempty"`
	Missing       Unreadable `json:"missing,omitempty"`
}

// Save returns the State as JSON files, by name: one for each kind, a List as kubectl writes it,
// and one for the rest.
func (s *State) Save() (map[string][]byte, error) {
	files := map[string][]byte{}
	top, err := json.Marshal(header{s.Taken, s.Namespace, s.ServerVersion, s.Uninstalled, s.Missing})
	if err != nil {
		return nil, err
	}
	files[stateFile] = top
	for _, k := range s.kinds() {
		if s.Missing[k.resource] != nil {
			continue
		}
		if files[k.file()], err = k.save(); err != nil {
			return nil, fmt.Errorf("save %s: %w", k.resource, err)
		}
	}
	return files, nil
}

// ErrNoState says that files are not those of a State.
var ErrNoState = errors.New("it has no " + stateFile)

// Load returns the State that was saved as these files. Other files are passed over.
func Load(files map[string][]byte) (*State, error) {
	top, found := files[stateFile]
	if !found {
		return nil, ErrNoState
	}
	var h header
	if err := json.Unmarshal(top, &h); err != nil {
		return nil, fmt.Errorf("%s: %w", stateFile, err)
	}
	s := &State{
		Taken: h.Taken, Namespace: h.Namespace, ServerVersion: h.ServerVersion, Uninstalled: h.Uninstalled,
		Missing: map[Resource]error{},
	}
	maps.Copy(s.Missing, h.Missing)
	for _, k := range s.kinds() {
		content, found := files[k.file()]
		switch {
		case found:
			if err := k.load(content); err != nil {
				return nil, fmt.Errorf("%s: %w", k.file(), err)
			}
		case s.Missing[k.resource] == nil:
			s.Missing[k.resource] = errors.New("it is not in the archive")
		}
	}
	return s, nil
}

// kind is how the objects of a kind are saved.
type kind struct {
	resource Resource
	save     func() ([]byte, error)
	load     func([]byte) error
}

func (k kind) file() string { return objectFolder + k.resource.String() + ".json" }

func (s *State) kinds() []kind {
	own := v1alpha1.GroupVersion
	return []kind{
		kindOf(Pools, own.WithKind("LoadBalancerPool"), &s.Pools),
		kindOf(SegmentAnnouncements, own.WithKind("SegmentAnnouncement"), &s.SegmentAnnouncements),
		kindOf(RouteAnnouncements, own.WithKind("RouteAnnouncement"), &s.RouteAnnouncements),
		kindOf(BGPNeighbors, own.WithKind("BGPNeighbor"), &s.BGPNeighbors),
		kindOf(Reservations, own.WithKind("AddressReservation"), &s.Reservations),
		kindOf(Speakers, own.WithKind("Speaker"), &s.Speakers),
		kindOf(Owners, own.WithKind("L2Owner"), &s.Owners),
		kindOf(Services, corev1.SchemeGroupVersion.WithKind("Service"), &s.Services),
		kindOf(Nodes, corev1.SchemeGroupVersion.WithKind("Node"), &s.Nodes),
		kindOf(Namespaces, corev1.SchemeGroupVersion.WithKind("Namespace"), &s.Namespaces),
		kindOf(Pods, corev1.SchemeGroupVersion.WithKind("Pod"), &s.Pods),
		kindOf(Events, corev1.SchemeGroupVersion.WithKind("Event"), &s.Events),
		kindOf(EndpointSlices, discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"), &s.EndpointSlices),
		kindOf(ServiceCIDRs, networkingv1.SchemeGroupVersion.WithKind("ServiceCIDR"), &s.ServiceCIDRs),
		kindOf(Deployments, appsv1.SchemeGroupVersion.WithKind("Deployment"), &s.Deployments),
		kindOf(DaemonSets, appsv1.SchemeGroupVersion.WithKind("DaemonSet"), &s.DaemonSets),
		kindOf(Leases, coordinationv1.SchemeGroupVersion.WithKind("Lease"), &s.Leases),
	}
}

func kindOf[T any, P typed[T]](resource Resource, is schema.GroupVersionKind, all *[]P) kind {
	return kind{
		resource: resource,
		save:     func() ([]byte, error) { return SaveList(is, *all) },
		load: func(content []byte) (err error) {
			*all, err = LoadList[T, P](content)
			return err
		},
	}
}

// typed is a pointer to an object of Kubernetes.
type typed[T any] interface {
	*T
	SetGroupVersionKind(schema.GroupVersionKind)
}

// SaveList returns objects as a List in JSON. Each names its kind, which objects from typed clients
// do not.
func SaveList[T any, P typed[T]](is schema.GroupVersionKind, all []P) ([]byte, error) {
	items := make([]T, 0, len(all))
	for _, o := range all {
		items = append(items, *o)
		P(&items[len(items)-1]).SetGroupVersionKind(is)
	}
	return json.Marshal(struct {
		metav1.TypeMeta `json:",inline"`
		Items           []T `json:"items"`
	}{metav1.TypeMeta{APIVersion: "v1", Kind: "List"}, items})
}

// LoadList returns the objects of a List, as typed clients return them.
func LoadList[T any, P typed[T]](content []byte) ([]P, error) {
	var list struct {
		Items []P `json:"items"`
	}
	err := json.Unmarshal(content, &list)
	for _, o := range list.Items {
		if o == nil {
			return nil, errors.New("an item is null")
		}
		o.SetGroupVersionKind(schema.GroupVersionKind{})
	}
	return list.Items, err
}

// MarshalText returns the resource as String does.
func (r Resource) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (r *Resource) UnmarshalText(text []byte) error {
	r.Name, r.Group, _ = strings.Cut(string(text), ".")
	return nil
}

// Unreadable is what could not be read, and why, as JSON: errors are the Status of the API.
type Unreadable map[Resource]error

// MarshalJSON writes each error as a Status.
func (u Unreadable) MarshalJSON() ([]byte, error) {
	all := map[Resource]metav1.Status{}
	for resource, err := range u {
		if status := apierrors.APIStatus(nil); errors.As(err, &status) {
			all[resource] = status.Status()
		} else {
			all[resource] = metav1.Status{Status: metav1.StatusFailure, Message: err.Error()}
		}
	}
	return json.Marshal(all)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (u *Unreadable) UnmarshalJSON(text []byte) error {
	var all map[Resource]metav1.Status
	if err := json.Unmarshal(text, &all); err != nil {
		return err
	}
	*u = Unreadable{}
	for resource, status := range all {
		(*u)[resource] = &apierrors.StatusError{ErrStatus: status}
	}
	return nil
}
