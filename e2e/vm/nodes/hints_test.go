//go:build qemu

package nodes_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/vm/cluster"
)

// hints: of two Services with the same endpoints IPVS forwards for one, kube-proxy for the other.
// The hints are those that Kubernetes writes for spec.trafficDistribution: here by hand, as all
// EndpointSlices are.
func (s *site) hints(t *testing.T) {
	s.kubeProxy(t, s.n1)
	zones := map[string]string{"n1": "a", "n2": "a", "n3": "b"}
	relabel := func(n *cluster.Node, zone any) {
		t.Helper()
		labels := map[string]any{corev1.LabelTopologyZone: zone}
		s.patchNode(t, n, map[string]any{"metadata": map[string]any{"labels": labels}})
	}
	for _, n := range s.able() {
		relabel(n, zones[n.Name])
		t.Cleanup(func() { relabel(n, nil) })
	}
	byZone := func(p cluster.Pod) *discoveryv1.EndpointHints {
		return &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: zones[p.Node]}}}
	}
	byNode := func(p cluster.Pod) *discoveryv1.EndpointHints {
		h := byZone(p)
		h.ForNodes = []discoveryv1.ForNode{{Name: p.Node}}
		return h
	}
	notOfN2 := func(p cluster.Pod) *discoveryv1.EndpointHints {
		if p.Node == "n2" {
			return nil
		}
		return byZone(p)
	}
	object := func(name, prefers string) *corev1.Service {
		svc := named(name)
		svc.Spec.TrafficDistribution = &prefers
		return svc
	}
	all := []string{"pod-1-1", "pod-2-1", "pod-3-1"}
	ours := s.expose(t, object("hints", corev1.ServiceTrafficDistributionPreferSameZone), all...)
	other := object("hints-of-kube-proxy", corev1.ServiceTrafficDistributionPreferSameZone)
	other.Annotations = map[string]string{v1alpha1.AnnotationPools: "theirs"}
	theirs := s.expose(t, other, all...)
	s.mode(t, ours, corev1.LoadBalancerIPModeProxy)
	s.mode(t, theirs, corev1.LoadBalancerIPModeVIP)

	for _, step := range []struct {
		name   string
		change func()
		hints  func(cluster.Pod) *discoveryv1.EndpointHints
		pods   []string
		want   map[*cluster.Node][]string // by where connections arrive
	}{
		{
			name: "each for its zone", hints: byZone, pods: all,
			want: map[*cluster.Node][]string{
				s.n1: {"pod-1-1", "pod-2-1"}, s.n2: {"pod-1-1", "pod-2-1"}, s.n3: {"pod-3-1"},
			},
		},
		{
			name: "one has none", hints: notOfN2, pods: all,
			want: map[*cluster.Node][]string{s.n1: all, s.n2: all, s.n3: all},
		},
		{
			name: "each for its node", hints: byNode, pods: all,
			want: map[*cluster.Node][]string{s.n1: {"pod-1-1"}, s.n2: {"pod-2-1"}, s.n3: {"pod-3-1"}},
		},
		{
			name: "none for a node, and one for its zone", hints: byNode, pods: all[1:],
			want: map[*cluster.Node][]string{s.n1: {"pod-2-1"}, s.n2: {"pod-2-1"}, s.n3: {"pod-3-1"}},
		},
		{
			name: "the node is in another zone", hints: byNode, pods: all[1:],
			change: func() { relabel(s.n1, "b") },
			want:   map[*cluster.Node][]string{s.n1: {"pod-3-1"}, s.n2: {"pod-2-1"}, s.n3: {"pod-3-1"}},
		},
		{
			name: "policy Local", hints: byZone, pods: all,
			change: func() {
				for _, v := range []service{ours, theirs} {
					s.policy(t, v, corev1.ServiceExternalTrafficPolicyLocal)
				}
			},
			want: map[*cluster.Node][]string{s.n1: {"pod-1-1"}, s.n2: {"pod-2-1"}, s.n3: {"pod-3-1"}},
		},
	} {
		if step.change != nil {
			step.change()
		}
		for _, v := range []service{ours, theirs} {
			s.hinted(t, v, step.hints, step.pods...)
		}
		for _, n := range s.able() {
			s.programmed(t, ours, []*cluster.Node{n}, step.want[n]...)
		}
		for _, v := range []service{ours, theirs} {
			s.owned(t, v, s.n1)
			reaches(t, step.name, v, step.want[s.n1])
		}
		s.through(t, s.n3, ours)
		reaches(t, step.name+", through n3", ours, step.want[s.n3])
		unroute(t, ours)
	}
}

// reaches waits until the client's connections to a Service are answered by these pods, by each and
// by no other.
func reaches(t *testing.T, name string, v service, want []string) {
	t.Helper()
	const connections = 16 // kube-proxy chooses by chance
	for _, address := range v.addresses() {
		cluster.Eventually(t, func(context.Context) error {
			answered := map[string]bool{}
			for range connections {
				answer, err := ask(cluster.Client, "tcp", address)
				if err != nil {
					return fmt.Errorf("%s: %s: %w", name, address, err)
				}
				answered[answer.Pod] = true
			}
			if got := slices.Sorted(maps.Keys(answered)); !slices.Equal(got, want) {
				return fmt.Errorf("%s: %s of %s is answered by %v, want %v", name, address, v.name, got, want)
			}
			return nil
		})
	}
}
