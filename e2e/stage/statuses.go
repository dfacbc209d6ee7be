//go:build linux

package stage

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	toolswatch "k8s.io/client-go/tools/watch"
)

// StatusChange is a change of a Service's load balancer status or field managers.
type StatusChange struct {
	At      time.Time
	Service string
	// Before and After are the addresses and hostnames in the status.
	Before, After []string
	// Managers are the field managers of the Service after the change.
	Managers []string
}

func (c StatusChange) String() string {
	return fmt.Sprintf(
		"%s %s: %v became %v, written by %v", c.At.Format("15:04:05.000"), c.Service, c.Before, c.After, c.Managers,
	)
}

// StatusWatch records each change of the load balancer statuses and field managers of a namespace's
// Services.
type StatusWatch struct {
	stop func() error

	mu      sync.Mutex // guards what is below
	last    map[string]*corev1.Service
	changes []StatusChange
}

// WatchStatuses starts a StatusWatch, which lasts until Stop or the end of ctx.
func (s *Stage) WatchStatuses(ctx context.Context, namespace string) (*StatusWatch, error) {
	services := s.Kubernetes.CoreV1().Services(namespace)
	list, err := services.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("watch Services of %s: %w", namespace, err)
	}
	w := &StatusWatch{last: map[string]*corev1.Service{}}
	for i := range list.Items {
		w.last[list.Items[i].Name] = &list.Items[i]
	}
	source := &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return services.Watch(ctx, o)
		},
	}
	events, err := toolswatch.NewRetryWatcherWithContext(ctx, list.ResourceVersion, source)
	if err != nil {
		return nil, fmt.Errorf("watch Services of %s: %w", namespace, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- w.follow(events.ResultChan()) }() // ends with the watcher
	w.stop = sync.OnceValue(func() error {
		events.Stop()
		return <-ended
	})
	return w, nil
}

func (w *StatusWatch) follow(events <-chan watch.Event) error {
	for e := range events {
		svc, ok := e.Object.(*corev1.Service)
		if !ok {
			if e.Type == watch.Error {
				return fmt.Errorf("the watch of Services ended, and missed what came then: %v", e.Object)
			}
			continue
		}
		w.see(e.Type, svc)
	}
	return nil
}

func (w *StatusWatch) see(kind watch.EventType, svc *corev1.Service) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.last[svc.Name]
	w.last[svc.Name] = svc
	if before == nil || kind == watch.Deleted || before.UID != svc.UID {
		return
	}
	if apiequality.Semantic.DeepEqual(before.Status, svc.Status) && slices.Equal(managers(before), managers(svc)) {
		return
	}
	w.changes = append(w.changes, StatusChange{
		At: time.Now(), Service: svc.Name, Before: ingress(before), After: ingress(svc), Managers: managers(svc),
	})
}

// Changes returns what was seen until now.
func (w *StatusWatch) Changes() []StatusChange {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.changes)
}

// Stop ends the watch. It fails if the watch missed something.
func (w *StatusWatch) Stop() error { return w.stop() }

func ingress(svc *corev1.Service) []string {
	var all []string
	for _, i := range svc.Status.LoadBalancer.Ingress {
		all = append(all, i.IP+i.Hostname)
	}
	return all
}

// managers returns the field managers of a Service, each once, sorted.
func managers(svc *corev1.Service) []string {
	var all []string
	for _, f := range svc.ManagedFields {
		name := f.Manager
		if f.Subresource != "" {
			name += " (" + f.Subresource + ")"
		}
		all = append(all, name)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Writes returns each request of Berth's since the lab came up that would change a Service of the
// namespace, such as "patch web/status by berth-controller".
func (s *Stage) Writes(namespace string) ([]string, error) {
	var writes []string
	err := s.audited(func(r auditedRequest) {
		if r.Namespace != namespace || r.Resource != "services" ||
			slices.Contains([]string{"get", "list", "watch"}, r.Verb) ||
			r.Code == http.StatusForbidden {
			return
		}
		writes = append(
			writes,
			strings.TrimSuffix(fmt.Sprintf("%s %s/%s", r.Verb, r.Name, r.Subresource), "/")+" by "+r.Account,
		)
	})
	return writes, err
}
