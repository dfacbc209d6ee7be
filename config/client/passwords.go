package client

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
)

// NewPasswordInformer returns an informer, not running yet, over the Secrets of type
// kubernetes.io/basic-auth of one namespace. Its cache has only their passwords.
func NewPasswordInformer(k kubernetes.Interface, namespace string) (cache.SharedIndexInformer, error) {
	informer := NewInformer(basicAuth{k.CoreV1().Secrets(namespace)}, &corev1.Secret{})
	err := informer.SetTransform(func(o any) (any, error) {
		s, ok := o.(*corev1.Secret)
		if !ok {
			return o, nil
		}
		return &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{
				Name:            s.Name,
				Namespace:       s.Namespace,
				UID:             s.UID,
				ResourceVersion: s.ResourceVersion,
			},
			Data: map[string][]byte{corev1.BasicAuthPasswordKey: s.Data[corev1.BasicAuthPasswordKey]},
		}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("watch Secrets of namespace %s: %w", namespace, err)
	}
	return informer, nil
}

// basicAuth is a source of the Secrets of type kubernetes.io/basic-auth.
type basicAuth struct{ typedcorev1.SecretInterface }

func (basicAuth) only(o metav1.ListOptions) metav1.ListOptions {
	o.FieldSelector = fields.OneTermEqualSelector("type", string(corev1.SecretTypeBasicAuth)).String()
	return o
}

func (b basicAuth) List(ctx context.Context, o metav1.ListOptions) (*corev1.SecretList, error) {
	return b.SecretInterface.List(ctx, b.only(o))
}

func (b basicAuth) Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	return b.SecretInterface.Watch(ctx, b.only(o))
}

// Passwords returns the passwords in the informer's cache, by the name of their Secret.
func Passwords(informer cache.SharedIndexInformer) map[string]string {
	passwords := map[string]string{}
	for _, s := range Stored[*corev1.Secret](informer) {
		passwords[s.Name] = string(s.Data[corev1.BasicAuthPasswordKey])
	}
	return passwords
}
