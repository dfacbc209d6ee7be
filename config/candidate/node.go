package candidate

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// HasLabel is what Exclusion says of a label, before its name.
const HasLabel = "has the label "

// autoscalerTaint marks a node that the cluster autoscaler is about to delete; kube-proxy also
// reports itself unhealthy because of it (KEP-3836).
const autoscalerTaint = "ToBeDeletedByClusterAutoscaler"

// Exclusion returns why the Node announces nothing, in words that follow its name, or "" if it may
// announce.
func Exclusion(node *corev1.Node) string {
	if node.DeletionTimestamp != nil {
		return "is being deleted"
	}
	if _, labeled := node.Labels[v1alpha1.ExcludeLabel]; labeled {
		return HasLabel + v1alpha1.ExcludeLabel
	}
	for _, t := range node.Spec.Taints {
		if excludes(t) {
			return "has the taint " + t.Key
		}
	}
	if slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeNetworkUnavailable && c.Status == corev1.ConditionTrue
	}) {
		return "has the condition " + string(corev1.NodeNetworkUnavailable)
	}
	return ""
}

// ReadyStatus returns the status of the Node's condition Ready.
func ReadyStatus(node *corev1.Node) corev1.ConditionStatus {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return corev1.ConditionUnknown
}

func excludes(t corev1.Taint) bool {
	return t.Key == corev1.TaintNodeOutOfService || t.Key == autoscalerTaint
}

// Same reports whether two versions of a Node are equal in what matters to the choice among nodes,
// and in the addresses that they and their pods have.
func Same(a, b *corev1.Node) bool {
	return maps.Equal(a.Labels, b.Labels) && Exclusion(a) == Exclusion(b) &&
		slices.Equal(a.Spec.PodCIDRs, b.Spec.PodCIDRs) && slices.Equal(a.Status.Addresses, b.Status.Addresses)
}

// SlimNode returns the Node with only its name, labels, addresses and those of its pods, what
// Exclusion needs, and its condition Ready.
func SlimNode(node *corev1.Node) *corev1.Node {
	slim := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: node.Name, UID: node.UID, ResourceVersion: node.ResourceVersion,
		DeletionTimestamp: node.DeletionTimestamp, Labels: node.Labels,
	}}
	slim.Status.Addresses, slim.Spec.PodCIDRs = node.Status.Addresses, node.Spec.PodCIDRs
	for _, t := range node.Spec.Taints {
		if excludes(t) {
			slim.Spec.Taints = append(slim.Spec.Taints, corev1.Taint{Key: t.Key, Effect: t.Effect})
		}
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady || c.Type == corev1.NodeNetworkUnavailable {
			slim.Status.Conditions = append(
				slim.Status.Conditions,
				corev1.NodeCondition{Type: c.Type, Status: c.Status},
			)
		}
	}
	return slim
}
