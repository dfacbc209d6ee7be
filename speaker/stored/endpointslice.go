package stored

import (
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/berth-lb/berth/config/candidate"
)

// EndpointSlice is an EndpointSlice.
type EndpointSlice struct {
	identity
	service  string // namespace/name, "" if it belongs to none
	family   discoveryv1.AddressType
	places   []place
	backends *discoveryv1.EndpointSlice // nil: places are all that is kept
}

// place says how many endpoints of one state are on a node.
type place struct {
	node  string // "": outside of the cluster, or not known
	state candidate.State
	count uint16 // of a slice that has 1 000 endpoints at most
}

// NewEndpointSlice returns what is kept of the EndpointSlice: on which nodes it has endpoints.
func NewEndpointSlice(slice *discoveryv1.EndpointSlice) *EndpointSlice {
	kept := newEndpointSlice(slice)
	kept.places = placesOf(slice.Endpoints)
	return kept
}

// NewBackends returns what is kept of the EndpointSlice by who sends connections to its endpoints.
func NewBackends(slice *discoveryv1.EndpointSlice) *EndpointSlice {
	kept := newEndpointSlice(slice)
	kept.backends = candidate.SlimBackends(slice)
	for i := range kept.backends.Endpoints {
		if node := kept.backends.Endpoints[i].NodeName; node != nil {
			kept.backends.Endpoints[i].NodeName = new(Shared(*node))
		}
	}
	return kept
}

func newEndpointSlice(slice *discoveryv1.EndpointSlice) *EndpointSlice {
	return &EndpointSlice{
		identity: identityOf(&slice.ObjectMeta),
		service:  candidate.ServiceOf(slice),
		family:   discoveryv1.AddressType(Shared(string(slice.AddressType))),
	}
}

func placesOf(endpoints []discoveryv1.Endpoint) []place {
	places := make([]place, 0, len(endpoints))
	at := map[place]int{} // index by place without its count
	for _, e := range endpoints {
		p := place{state: candidate.StateOf(e.Conditions)}
		if p.state == candidate.Useless {
			continue
		}
		if e.NodeName != nil {
			p.node = Shared(*e.NodeName)
		}
		i, seen := at[p]
		if !seen {
			i = len(places)
			at[p] = i
			places = append(places, p)
		}
		places[i].count++
	}
	return places
}

// Service returns namespace/name of the Service that it belongs to, "" if it belongs to none.
func (s *EndpointSlice) Service() string { return s.service }

// GetObjectKind implements runtime.Object.
func (*EndpointSlice) GetObjectKind() schema.ObjectKind {
	return &metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"}
}

// DeepCopyObject implements runtime.Object. Nobody changes what is kept.
func (s *EndpointSlice) DeepCopyObject() runtime.Object { return s }

// Object returns the EndpointSlice as far as it is kept. The caller does not change it.
func (s *EndpointSlice) Object() *discoveryv1.EndpointSlice {
	if s.backends != nil {
		return s.backends
	}
	slice := &discoveryv1.EndpointSlice{AddressType: s.family}
	no, yes := false, true
	for _, p := range s.places {
		e := discoveryv1.Endpoint{Conditions: discoveryv1.EndpointConditions{Ready: &yes}}
		if p.state == candidate.Serving {
			e.Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}
		}
		if p.node != "" {
			e.NodeName = &p.node
		}
		for range p.count {
			slice.Endpoints = append(slice.Endpoints, e)
		}
	}
	return slice
}
