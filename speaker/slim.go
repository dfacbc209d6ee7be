package speaker

import (
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The caches keep no more of an object than the speaker reads; most of that is in package stored.

func slimMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace:         m.Namespace,
		Name:              m.Name,
		UID:               m.UID,
		ResourceVersion:   m.ResourceVersion,
		DeletionTimestamp: m.DeletionTimestamp,
	}
}

func slimDaemonSet(o any) (any, error) {
	set, ok := o.(*appsv1.DaemonSet)
	if !ok {
		return o, nil
	}
	slim := &appsv1.DaemonSet{ObjectMeta: slimMeta(set.ObjectMeta)}
	slim.DeletionTimestamp = set.DeletionTimestamp
	return slim, nil
}
