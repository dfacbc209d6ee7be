// Package v1alpha1test helps tests to write objects.
package v1alpha1test

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// SelectAll makes each of the objects select everything by the selectors that the test left out. It
// returns them.
func SelectAll[T v1alpha1.Object](objects []T) []T {
	for _, o := range objects {
		SelectsAll(o)
	}
	return objects
}

// SelectsAll is SelectAll for one object.
func SelectsAll[T v1alpha1.Object](object T) T {
	switch o := any(object).(type) {
	case *v1alpha1.LoadBalancerPool:
		if len(o.Spec.Scopes) == 0 {
			o.Spec.Scopes = []v1alpha1.PoolScope{{NamespaceSelector: all(), ServiceSelector: all()}}
		}
	case *v1alpha1.SegmentAnnouncement:
		fill(&o.Spec.PoolSelector, len(o.Spec.PoolNames) > 0)
		fill(&o.Spec.NodeSelector, false)
		fill(&o.Spec.ServiceSelector, false)
	case *v1alpha1.RouteAnnouncement:
		fill(&o.Spec.PoolSelector, len(o.Spec.PoolNames) > 0)
		fill(&o.Spec.NeighborSelector, len(o.Spec.NeighborNames) > 0)
		fill(&o.Spec.NodeSelector, false)
		fill(&o.Spec.ServiceSelector, false)
	case *v1alpha1.BGPNeighbor:
		fill(&o.Spec.NodeSelector, false)
	}
	return object
}

func fill(selector **v1alpha1.Selector, selected bool) {
	if *selector == nil && !selected {
		*selector = all()
	}
}

func all() *v1alpha1.Selector { return &v1alpha1.Selector{} }

// InState returns the conditions of a speaker in that state.
func InState(state v1alpha1.SpeakerState) []metav1.Condition {
	ready := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: string(state)}
	if state == v1alpha1.SpeakerAnnouncing {
		ready.Status = metav1.ConditionTrue
	}
	return []metav1.Condition{ready}
}
