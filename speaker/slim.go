package speaker

import (
	"crypto/sha256"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/dialect"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/speaker/object"
)

// apiServerService is the Service whose endpoints are the API servers.
const apiServerService = corev1.NamespaceDefault + "/kubernetes"

// The caches keep no more of an object than the speaker reads.

func slimService(o any) (any, error) {
	svc, ok := o.(*corev1.Service)
	if !ok {
		return o, nil
	}
	slim := &corev1.Service{ObjectMeta: slimMeta(svc.ObjectMeta)}
	slim.Status.LoadBalancer = svc.Status.LoadBalancer
	for _, c := range svc.Status.Conditions {
		if c.Type == v1alpha1.ServiceRecord {
			slim.Status.Conditions = []metav1.Condition{{Type: c.Type, Message: c.Message}}
		}
	}
	slim.CreationTimestamp = svc.CreationTimestamp
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		slim.Labels = svc.Labels
	}
	for name, key := range dialect.SharingAnnotations(svc.Annotations) {
		metav1.SetMetaDataAnnotation(&slim.ObjectMeta, name, short(key))
	}
	if object.BoundByOthers(svc) {
		metav1.SetMetaDataAnnotation(&slim.ObjectMeta, annotationBound, "")
	}
	slim.Spec.Type, slim.Spec.ExternalTrafficPolicy = svc.Spec.Type, svc.Spec.ExternalTrafficPolicy
	if asked, ok := svc.Annotations[v1alpha1.AnnotationIPVSScheduler]; ok {
		metav1.SetMetaDataAnnotation(&slim.ObjectMeta, v1alpha1.AnnotationIPVSScheduler, short(asked))
	}
	return slim, nil
}

// short is a text that is only compared, in few bytes: an annotation may have 256 KiB.
func short(text string) string {
	if len(text) <= sha256.Size {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	return string(sum[:])
}

// slimForwarded is slimService on a node that may forward itself.
func slimForwarded(o any) (any, error) {
	svc, ok := o.(*corev1.Service)
	if !ok {
		return o, nil
	}
	kept, err := slimService(svc)
	slim, ok := kept.(*corev1.Service)
	if ok && svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		slim.Spec.Ports, slim.Spec.LoadBalancerSourceRanges = svc.Spec.Ports, svc.Spec.LoadBalancerSourceRanges
		slim.Spec.SessionAffinity, slim.Spec.SessionAffinityConfig = svc.Spec.SessionAffinity, svc.Spec.SessionAffinityConfig
	}
	return kept, err
}

// slimBackends and slimSlice keep addresses of the API server's slices: they are in use.

func slimBackends(o any) (any, error) {
	if slice, ok := o.(*discoveryv1.EndpointSlice); ok {
		return candidate.SlimBackends(slice), nil
	}
	return o, nil
}

func slimSlice(o any) (any, error) {
	slice, ok := o.(*discoveryv1.EndpointSlice)
	switch {
	case ok && candidate.ServiceOf(slice) == apiServerService:
		return candidate.SlimBackends(slice), nil
	case ok:
		return candidate.SlimSlice(slice, true), nil
	}
	return o, nil
}

func slimNode(o any) (any, error) {
	if node, ok := o.(*corev1.Node); ok {
		return candidate.SlimNode(node), nil
	}
	return o, nil
}

func slimMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace:         m.Namespace,
		Name:              m.Name,
		UID:               m.UID,
		ResourceVersion:   m.ResourceVersion,
		DeletionTimestamp: m.DeletionTimestamp,
	}
}

// annotationBound marks a Service in the cache that object.BoundByOthers is true for. It stands for
// the annotations of the other implementations.
const annotationBound = "bound"

func slimDaemonSet(o any) (any, error) {
	set, ok := o.(*appsv1.DaemonSet)
	if !ok {
		return o, nil
	}
	slim := &appsv1.DaemonSet{ObjectMeta: slimMeta(set.ObjectMeta)}
	slim.DeletionTimestamp = set.DeletionTimestamp
	return slim, nil
}
