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
	// ready endpoints by node, of IPv4 and of IPv6
	count [2]map[string]int
	// Some: there is an endpoint that is ready or serves, on whichever node, or outside
	// of the cluster.
	Some bool
}

// Nodes returns the nodes that serve the Service under policy Local: those with a
// ready endpoint; when the whole cluster has none, those with one that still
// serves.
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

// Of returns where the endpoints are of which these EndpointSlices tell. Objects of
// other types are passed over.
func Of[T any](slices []T) Endpoints {
	e := Endpoints{Ready: map[string]bool{}, Serving: map[string]bool{}, count: [2]map[string]int{{}, {}}}
	for _, o := range slices {
		slice, ok := any(o).(*discoveryv1.EndpointSlice)
		if !ok {
			continue
		}
		for _, p := range slice.Endpoints {
			state := stateOf(p.Conditions)
			e.Some = e.Some || state != useless
			switch {
			case p.NodeName == nil:
			case state == ready:
				e.Ready[*p.NodeName] = true
				family := 0
				if slice.AddressType == discoveryv1.AddressTypeIPv6 {
					family = 1
				}
				e.count[family][*p.NodeName]++
			case state == serving:
				e.Serving[*p.NodeName] = true
			}
		}
	}
	return e
}

// state is how far kube-proxy sends to an endpoint.
type state uint8

const (
	useless state = iota
	ready
	serving // and terminating: while nothing is ready
)

func stateOf(c discoveryv1.EndpointConditions) state {
	is := func(b *bool, unset bool) bool {
		if b == nil {
			return unset
		}
		return *b
	}
	switch {
	case is(c.Ready, true):
		return ready
	case is(c.Serving, false) && is(c.Terminating, false):
		return serving
	}
	return useless
}

// ServiceOf returns namespace/name of the Service that an EndpointSlice belongs to,
// "" if it belongs to none.
func ServiceOf(slice *discoveryv1.EndpointSlice) string {
	name := slice.Labels[discoveryv1.LabelServiceName]
	if name == "" {
		return ""
	}
	return slice.Namespace + "/" + name
}

// SlimSlice returns the EndpointSlice with no more than its name, its Service, and of
// the endpoints that are alike to Of one each, or all of them if they are to be counted.
func SlimSlice(slice *discoveryv1.EndpointSlice, counted bool) *discoveryv1.EndpointSlice {
	slim := &discoveryv1.EndpointSlice{AddressType: slice.AddressType, ObjectMeta: metav1.ObjectMeta{
		Namespace: slice.Namespace, Name: slice.Name, UID: slice.UID, ResourceVersion: slice.ResourceVersion,
	}}
	if name := slice.Labels[discoveryv1.LabelServiceName]; name != "" {
		slim.Labels = map[string]string{discoveryv1.LabelServiceName: name}
	}
	type kind struct {
		node  string
		state state
	}
	seen := map[kind]bool{}
	for _, e := range slice.Endpoints {
		k := kind{state: stateOf(e.Conditions)}
		if e.NodeName != nil {
			k.node = *e.NodeName
		}
		if k.state == useless || seen[k] && !(counted && k.state == ready) {
			continue
		}
		seen[k] = true
		slim.Endpoints = append(slim.Endpoints, discoveryv1.Endpoint{Conditions: e.Conditions, NodeName: e.NodeName})
	}
	return slim
}
