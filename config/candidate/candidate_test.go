package candidate

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestANodeIsExcludedByOneOfTheseRulesAndSaysByWhich(t *testing.T) {
	now := metav1.Now()
	tainted := func(key string) corev1.Node {
		return corev1.Node{Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "dedicated"}, {Key: key}}}}
	}
	network := func(s corev1.ConditionStatus) corev1.Node {
		return corev1.Node{
			Status: corev1.NodeStatus{
				Conditions: []corev1.NodeCondition{
					{Type: corev1.NodeReady, Status: corev1.ConditionFalse},
					{Type: corev1.NodeNetworkUnavailable, Status: s},
				},
			},
		}
	}
	for _, c := range []struct {
		name string
		node corev1.Node
		want string
	}{
		{
			name: "nothing speaks against it",
			node: corev1.Node{},
		},
		{
			name: "a label",
			node: corev1.Node{ObjectMeta: metav1.ObjectMeta{
				Labels: map[string]string{"node.kubernetes.io/exclude-from-external-load-balancers": "false"},
			}},
			want: "has the label node.kubernetes.io/exclude-from-external-load-balancers",
		},
		{
			name: "deletion",
			node: corev1.Node{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}},
			want: "is being deleted",
		},
		{
			name: "out of service",
			node: tainted("node.kubernetes.io/out-of-service"),
			want: "has the taint node.kubernetes.io/out-of-service",
		},
		{
			name: "the autoscaler",
			node: tainted("ToBeDeletedByClusterAutoscaler"),
			want: "has the taint ToBeDeletedByClusterAutoscaler",
		},
		{
			name: "another taint",
			node: tainted("node.kubernetes.io/unschedulable"),
		},
		{
			name: "no network",
			node: network(corev1.ConditionTrue),
			want: "has the condition NetworkUnavailable",
		},
		{
			name: "a network, and a kubelet that is not ready",
			node: network(corev1.ConditionFalse),
		},
	} {
		if got := Exclusion(&c.node); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		if got := Exclusion(SlimNode(&c.node)); got != c.want {
			t.Errorf("%s: in the cache %q, want %q", c.name, got, c.want)
		}
		if other := (corev1.Node{}); Same(&c.node, &other) != (c.want == "") {
			t.Errorf("%s: is the same as a node without: %v", c.name, c.want != "")
		}
	}
}

func TestANodeWithOtherAddressesIsAnother(t *testing.T) {
	at := func(podCIDR string, addresses ...string) *corev1.Node {
		n := &corev1.Node{Spec: corev1.NodeSpec{PodCIDRs: []string{podCIDR}}}
		for _, a := range addresses {
			n.Status.Addresses = append(
				n.Status.Addresses,
				corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a},
			)
		}
		return n
	}
	before := at("10.244.1.0/24", "192.0.2.11")
	for _, c := range []struct {
		name  string
		after *corev1.Node
		want  bool
	}{
		{
			name:  "the same",
			after: at("10.244.1.0/24", "192.0.2.11"),
			want:  true,
		},
		{
			name:  "another address",
			after: at("10.244.1.0/24", "192.0.2.12"),
		},
		{
			name:  "one more",
			after: at("10.244.1.0/24", "192.0.2.11", "2001:db8::11"),
		},
		{
			name:  "none",
			after: at("10.244.1.0/24"),
		},
		{
			name:  "another pod CIDR",
			after: at("10.244.2.0/24", "192.0.2.11"),
		},
	} {
		if Same(before, c.after) != c.want || Same(SlimNode(before), SlimNode(c.after)) != c.want {
			t.Errorf("%s: want that it is the same: %v", c.name, c.want)
		}
	}
}

func TestWhereAServiceHasEndpoints(t *testing.T) {
	node := func(name string) *string { return &name }
	yes, no := new(bool), new(bool)
	*yes = true
	ready := discoveryv1.EndpointConditions{Ready: yes, Serving: yes, Terminating: no}
	ending := discoveryv1.EndpointConditions{Ready: no, Serving: yes, Terminating: yes}
	gone := discoveryv1.EndpointConditions{Ready: no, Serving: no, Terminating: yes}
	unready := discoveryv1.EndpointConditions{Ready: no, Serving: no, Terminating: no}
	for _, c := range []struct {
		name      string
		endpoints []discoveryv1.Endpoint
		want      Endpoints
		serve     []string
	}{
		{
			name: "none",
			want: Endpoints{},
		},
		{
			name: "ready ones, and one that ends",
			endpoints: []discoveryv1.Endpoint{
				{NodeName: node("n1"), Conditions: ready},
				{NodeName: node("n1"), Conditions: ready},
				{NodeName: node("n2"), Conditions: ending},
			},
			want:  Endpoints{Ready: map[string]bool{"n1": true}, Serving: map[string]bool{"n2": true}, Some: true},
			serve: []string{"n1"},
		},
		{
			name: "only one that ends and serves",
			endpoints: []discoveryv1.Endpoint{
				{NodeName: node("n2"), Conditions: ending},
				{NodeName: node("n1"), Conditions: unready},
			},
			want:  Endpoints{Serving: map[string]bool{"n2": true}, Some: true},
			serve: []string{"n2"},
		},
		{
			name: "only ones that do not serve",
			endpoints: []discoveryv1.Endpoint{
				{NodeName: node("n2"), Conditions: gone},
				{NodeName: node("n1"), Conditions: unready},
			},
			want: Endpoints{},
		},
		{
			name:      "conditions left out stand for ready",
			endpoints: []discoveryv1.Endpoint{{NodeName: node("n1")}},
			want:      Endpoints{Ready: map[string]bool{"n1": true}, Some: true},
			serve:     []string{"n1"},
		},
		{
			name:      "outside of the cluster",
			endpoints: []discoveryv1.Endpoint{{Conditions: ready}},
			want:      Endpoints{Some: true},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			slice := &discoveryv1.EndpointSlice{Endpoints: c.endpoints}
			empty := func(e Endpoints) Endpoints {
				for _, m := range []*map[string]bool{&e.Ready, &e.Serving} {
					if len(*m) == 0 {
						*m = nil
					}
				}
				return e
			}
			for _, s := range []*discoveryv1.EndpointSlice{slice, SlimSlice(slice, false)} {
				got := Of([]*discoveryv1.EndpointSlice{s})
				if diff := cmp.Diff(c.want, empty(got), cmpopts.IgnoreUnexported(Endpoints{})); diff != "" {
					t.Error(diff)
				}
				var serve []string
				for _, n := range []string{"n1", "n2"} {
					if got.Nodes()[n] {
						serve = append(serve, n)
					}
				}
				if diff := cmp.Diff(c.serve, serve); diff != "" {
					t.Errorf("under policy Local: %s", diff)
				}
			}
		})
	}
}

func TestTheCacheKeepsOneOfEndpointsThatAreAlike(t *testing.T) {
	node := "n1"
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "d",
			Name:      "web-x",
			Labels:    map[string]string{"kubernetes.io/service-name": "web", "app": "web"},
		},
	}
	for range 1000 {
		slice.Endpoints = append(
			slice.Endpoints,
			discoveryv1.Endpoint{NodeName: &node, Addresses: []string{"10.0.0.1"}},
		)
	}
	want := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "d",
			Name:      "web-x",
			Labels:    map[string]string{"kubernetes.io/service-name": "web"},
		},
		Endpoints: []discoveryv1.Endpoint{{NodeName: &node}},
	}
	got := SlimSlice(slice, false)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	slice.AddressType = discoveryv1.AddressTypeIPv6
	for _, s := range []*discoveryv1.EndpointSlice{slice, SlimSlice(slice, true)} {
		e := Of([]*discoveryv1.EndpointSlice{s})
		if v4, v6 := e.Count(node, true), e.Count(node, false); v4 != 0 || v6 != 1000 {
			t.Errorf("%d and %d endpoints are counted, want 0 and 1000", v4, v6)
		}
	}
	if s := ServiceOf(got); s != "d/web" {
		t.Errorf("it belongs to %q, want d/web", s)
	}
}
