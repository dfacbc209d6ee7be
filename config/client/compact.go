package client

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// Compact is where objects of type T come from for an informer that keeps little of each, since
// there are very many.
//
// It gets them by a list, since the API server compresses those, and not by a watch that sends all
// objects at first (KEP-3157): of 10 000 Services that is 2 MB in place of 22. It reads a list
// object by object.
type Compact[T runtime.Object] struct {
	Client    rest.Interface
	Resource  string // in the plural, in lower case
	Namespace string // "" is all
	// Select says which objects, by their fields and labels; nil: all.
	Select func(*metav1.ListOptions)
	// New returns an empty object.
	New func() T
	// Keep returns what is kept of an object. The object is not used again.
	Keep func(T) runtime.Object
}

// Informer returns an informer, not running yet, whose cache has what is kept of the objects.
func (c Compact[T]) Informer(indexers cache.Indexers) (cache.SharedIndexInformer, error) {
	informer := cache.NewSharedIndexInformer(source[T]{c}, c.New(), 0, indexers)
	err := informer.SetTransform(func(o any) (any, error) {
		if object, ok := o.(T); ok {
			return c.Keep(object), nil
		}
		return o, nil // of a list, or of what is in the cache already
	})
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", c.Resource, err)
	}
	return informer, nil
}

// source implements what an informer reads from.
type source[T runtime.Object] struct{ Compact[T] }

// IsWatchListSemanticsUnSupported tells the informer to list before it watches.
func (source[T]) IsWatchListSemanticsUnSupported() bool { return true }

// List implements cache.Lister.
func (s source[T]) List(o metav1.ListOptions) (runtime.Object, error) {
	return s.ListWithContext(context.Background(), o)
}

// ListWithContext implements cache.ListerWithContext.
func (s source[T]) ListWithContext(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	body, err := s.request(o).Stream(ctx)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	list := &keptList{}
	list.ListMeta, err = readList(body, func(decode func(any) error) error {
		object := s.New()
		if err := decode(object); err != nil {
			return err
		}
		list.Items = append(list.Items, s.Keep(object))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", s.Resource, err)
	}
	return list, nil
}

// Watch implements cache.Watcher.
func (s source[T]) Watch(o metav1.ListOptions) (watch.Interface, error) {
	return s.WatchWithContext(context.Background(), o)
}

// WatchWithContext implements cache.WatcherWithContext.
func (s source[T]) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch = true
	var timeout time.Duration
	if o.TimeoutSeconds != nil {
		timeout = time.Duration(*o.TimeoutSeconds) * time.Second
	}
	return s.request(o).Timeout(timeout).Watch(ctx)
}

func (s source[T]) request(o metav1.ListOptions) *rest.Request {
	if s.Select != nil {
		s.Select(&o)
	}
	return s.Client.Get().
		NamespaceIfScoped(s.Namespace, s.Namespace != "").
		Resource(s.Resource).
		SpecificallyVersionedParams(&o, metav1.ParameterCodec, metav1.Unversioned)
}

// keptList is what is kept of a list.
type keptList struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []runtime.Object
}

// DeepCopyObject implements runtime.Object. Nobody changes what is kept.
func (l *keptList) DeepCopyObject() runtime.Object { return l }
