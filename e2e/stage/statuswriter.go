//go:build linux

package stage

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
)

// StatusWriterOptions configure a StatusWriter.
type StatusWriterOptions struct {
	Namespace, Service string
	// Manager is the field manager of its writes; empty: "k3s-servicelb".
	Manager string
	// Addresses are the ones that it wants in the Service's status, such as the nodes' own.
	Addresses []netip.Addr
	// Writes is the maximum number of writes; 0 means 1000. For is the maximum time; 0 means a minute.
	// After either it leaves the status alone.
	Writes int
	For    time.Duration
}

// StatusWriter is another load balancer that considers a Service its own, such as the ServiceLB of
// k3s: each time the status is not what it wants, it writes it again, as soon as its watch tells
// it.
type StatusWriter struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex // guards what is below
	writes int
	err    error
}

// StartStatusWriter starts a StatusWriter. It runs until Stop, until a limit is reached, or until
// the Service is deleted or ctx ends.
func (s *Stage) StartStatusWriter(ctx context.Context, o StatusWriterOptions) (*StatusWriter, error) {
	if o.Manager == "" {
		o.Manager = "k3s-servicelb"
	}
	if o.Writes == 0 {
		o.Writes = 1000
	}
	if o.For == 0 {
		o.For = time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, o.For)
	// Without a version the watch begins with the Service as it is.
	events, err := s.Kubernetes.CoreV1().Services(
		o.Namespace,
	).Watch(
		ctx,
		metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", o.Service).String()},
	)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("write the status of %s/%s as %s: %w", o.Namespace, o.Service, o.Manager, err)
	}
	w := &StatusWriter{cancel: cancel, done: make(chan struct{})}
	go func() { // ends with the watch
		defer close(w.done)
		defer events.Stop()
		err := s.writeStatuses(ctx, w, o, events.ResultChan())
		w.mu.Lock()
		defer w.mu.Unlock()
		w.err = err
	}()
	return w, nil
}

func (s *Stage) writeStatuses(
	ctx context.Context,
	w *StatusWriter,
	o StatusWriterOptions,
	events <-chan watch.Event,
) error {
	for e := range events {
		svc, ok := e.Object.(*corev1.Service)
		if ctx.Err() != nil {
			return nil
		}
		if !ok {
			return fmt.Errorf("the watch of %s/%s ended: %v", o.Namespace, o.Service, e.Object)
		}
		if e.Type == watch.Deleted || w.Writes() >= o.Writes {
			return nil
		}
		if slices.Equal(Addresses(svc), o.Addresses) {
			continue
		}
		svc = svc.DeepCopy()
		svc.Status.LoadBalancer.Ingress = nil
		for _, a := range o.Addresses {
			svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a.String()})
		}
		_, err := s.Kubernetes.CoreV1().Services(
			o.Namespace,
		).UpdateStatus(ctx, svc, metav1.UpdateOptions{FieldManager: o.Manager})
		switch {
		case err == nil:
			w.count()
		case apierrors.IsConflict(err), apierrors.IsNotFound(err): // the event of what is newer is on its way
		case ctx.Err() != nil:
			return nil
		default:
			return fmt.Errorf("write the status of %s/%s as %s: %w", o.Namespace, o.Service, o.Manager, err)
		}
	}
	if ctx.Err() == nil {
		return errors.New("the API server ended the watch")
	}
	return nil
}

func (w *StatusWriter) count() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writes++
}

// Writes returns how many times it has written so far.
func (w *StatusWriter) Writes() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.writes
}

// Done is closed when it no longer writes.
func (w *StatusWriter) Done() <-chan struct{} { return w.done }

// Stop ends it and returns how many times it wrote. It may be called more than once.
func (w *StatusWriter) Stop() (int, error) {
	w.cancel()
	<-w.done
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.writes, w.err
}
