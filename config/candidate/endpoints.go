package candidate

import (
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Endpoints says where a Service has endpoints.
type Endpoints struct {
	// Ready nodes have a ready endpoint.
	Ready map[string]bool
	// Serving nodes have an endpoint that is terminating and still serves (KEP-1669).
	Serving map[string]bool
	// count has the number of ready endpoints by node, of IPv4 and of IPv6.
	count [2]map[string]int
	// Some is true if an endpoint is ready or serves, on any node or outside of the cluster.
	Some bool
}

// Nodes returns the nodes that serve the Service under policy Local: those with a ready endpoint,
// or if the whole cluster has none, those with one that still serves.
func (e Endpoints) Nodes() map[string]bool {
	if len(e.Ready) > 0 {
		return e.Ready
	}
	return e.Serving
}

// Count returns how many ready endpoints of a family are on the node.
func (e Endpoints) Count(node string, ipv4 bool) int {
	if ipv4 {
		return e.count[0][node]
	}
	return e.count[1][node]
}

// Of returns where the endpoints in these EndpointSlices are. It skips objects of other types.
func Of[T any](slices []T) Endpoints {
	e := Endpoints{Ready: map[string]bool{}, Serving: map[string]bool{}, count: [2]map[string]int{{}, {}}}
	for _, o := range slices {
		slice, ok := any(o).(*discoveryv1.EndpointSlice)
		if !ok {
			continue
		}
		for _, p := range slice.Endpoints {
			state := StateOf(p.Conditions)
			e.Some = e.Some || state != Useless
			switch {
			case p.NodeName == nil:
			case state == Ready:
				e.Ready[*p.NodeName] = true
				family := 0
				if slice.AddressType == discoveryv1.AddressTypeIPv6 {
					family = 1
				}
				e.count[family][*p.NodeName]++
			case state == Serving:
				e.Serving[*p.NodeName] = true
			}
		}
	}
	return e
}

// State says whether connections go to an endpoint.
type State uint8

// The states of endpoints.
const (
	Useless State = iota
	Ready
	Serving // and terminating: while nothing is ready
)

// StateOf returns the state of an endpoint with these conditions.
func StateOf(c discoveryv1.EndpointConditions) State {
	is := func(b *bool, unset bool) bool {
		if b == nil {
			return unset
		}
		return *b
	}
	switch {
	case is(c.Ready, true):
		return Ready
	case is(c.Serving, false) && is(c.Terminating, false):
		return Serving
	}
	return Useless
}

// ServiceOf returns namespace/name of the Service that an EndpointSlice belongs to, "" if it
// belongs to none.
func ServiceOf(slice *discoveryv1.EndpointSlice) string {
	name := slice.Labels[discoveryv1.LabelServiceName]
	if name == "" {
		return ""
	}
	return slice.Namespace + "/" + name
}

// SlimBackends returns the EndpointSlice with only its ports, and the addresses, nodes, conditions
// and hints of its endpoints.
func SlimBackends(slice *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	slim := slimmed(slice)
	slim.Ports = slice.Ports
	for _, e := range slice.Endpoints {
		slim.Endpoints = append(
			slim.Endpoints,
			discoveryv1.Endpoint{
				Addresses: e.Addresses, Conditions: e.Conditions, NodeName: e.NodeName, Hints: e.Hints,
			},
		)
	}
	return slim
}

// SlimSlice returns the EndpointSlice with only its name, its Service, and one endpoint of each
// kind that Of distinguishes, or all of them if they are counted.
func SlimSlice(slice *discoveryv1.EndpointSlice, counted bool) *discoveryv1.EndpointSlice {
	slim := slimmed(slice)
	type kind struct {
		node  string
		state State
	}
	seen := map[kind]bool{}
	for _, e := range slice.Endpoints {
		k := kind{state: StateOf(e.Conditions)}
		if e.NodeName != nil {
			k.node = *e.NodeName
		}
		if k.state == Useless || seen[k] && !(counted && k.state == Ready) {
			continue
		}
		seen[k] = true
		slim.Endpoints = append(slim.Endpoints, discoveryv1.Endpoint{Conditions: e.Conditions, NodeName: e.NodeName})
	}
	return slim
}

// slimmed returns the EndpointSlice without endpoints and ports.
func slimmed(slice *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	slim := &discoveryv1.EndpointSlice{AddressType: slice.AddressType, ObjectMeta: metav1.ObjectMeta{
		Namespace: slice.Namespace, Name: slice.Name, UID: slice.UID, ResourceVersion: slice.ResourceVersion,
	}}
	if name := slice.Labels[discoveryv1.LabelServiceName]; name != "" {
		slim.Labels = map[string]string{discoveryv1.LabelServiceName: name}
	}
	return slim
}
