package pods

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// sweep deletes pods of earlier runs that were killed before they could. What it may not do is no
// matter: such pods have ended.
func (x *run) sweep(ctx context.Context) {
	pods := x.Kubernetes.CoreV1().Pods(x.Namespace)
	list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: nameLabel + "=" + Name})
	if err != nil {
		return
	}
	for _, p := range list.Items {
		if leftover(&p, time.Now()) {
			_ = pods.Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}})
		}
	}
}

// leftover reports whether a pod has ended, and so long ago was created that its run is over, which
// would want to know how it ended.
func leftover(p *corev1.Pod, now time.Time) bool {
	ended := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	limit := p.Spec.ActiveDeadlineSeconds
	return ended && limit != nil && now.Sub(p.CreationTimestamp.Time) > time.Duration(*limit)*time.Second
}
