package controller

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
)

// This file says which updates of an object matter.

func always(_, _ metav1.Object) bool { return true }

func relabeled(before, after metav1.Object) bool {
	return !maps.Equal(before.GetLabels(), after.GetLabels())
}

// nodeMatters tells whether a Node changed in what chooses among nodes, or in its
// readiness.
func nodeMatters(before, after metav1.Object) bool {
	b, okB := before.(*corev1.Node)
	a, okA := after.(*corev1.Node)
	return okA && okB && (!candidate.Same(b, a) || readyStatus(b) != readyStatus(a))
}

// readyStatus returns the status of the Node's condition Ready.
func readyStatus(n *corev1.Node) corev1.ConditionStatus {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return corev1.ConditionUnknown
}

// renetworked reports whether a speaker tells of other addresses in use.
func renetworked(before, after metav1.Object) bool {
	b, okB := before.(*v1alpha1.Speaker)
	a, okA := after.(*v1alpha1.Speaker)
	sameSubnets := func(x, y v1alpha1.SegmentReport) bool { return slices.Equal(x.Subnets, y.Subnets) }
	return okA && okB && !(slices.Equal(b.Status.Addresses, a.Status.Addresses) &&
		slices.Equal(b.Status.Gateways, a.Status.Gateways) &&
		slices.EqualFunc(b.Status.Segments, a.Status.Segments, sameSubnets))
}

// addressed reports whether a Node changed in its addresses or in those of its pods.
func addressed(before, after metav1.Object) bool {
	b, okB := before.(*corev1.Node)
	a, okA := after.(*corev1.Node)
	return okA && okB && !(slices.Equal(b.Status.Addresses, a.Status.Addresses) &&
		slices.Equal(b.Spec.PodCIDRs, a.Spec.PodCIDRs))
}

func respecified(before, after metav1.Object) bool {
	return before.GetGeneration() != after.GetGeneration() || before.GetUID() != after.GetUID()
}
