//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/berth-lb/berth/e2e/stage"
)

// statuses watches the Services of the bench for addresses.
type statuses struct {
	stop   func()
	events <-chan watch.Event
	seen   map[string]bool
}

// watchStatuses starts a watch of the changes from now on.
func (b *bench) watchStatuses(ctx context.Context) (*statuses, error) {
	services := b.Kubernetes.CoreV1().Services(namespace)
	list, err := services.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("watch Services: %w", err)
	}
	w, err := services.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return nil, fmt.Errorf("watch Services: %w", err)
	}
	s := &statuses{stop: w.Stop, events: w.ResultChan(), seen: map[string]bool{}}
	for i := range list.Items {
		s.seen[list.Items[i].Name] = true
	}
	return s, nil
}

// next waits for the next Service that gets an address, and returns the address.
func (s *statuses) next(ctx context.Context) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return netip.Addr{}, errors.New("no Service gets an address")
		case event, ok := <-s.events:
			if !ok {
				return netip.Addr{}, errors.New("the watch of the Services ended")
			}
			svc, ok := event.Object.(*corev1.Service)
			if !ok || event.Type == watch.Deleted || s.seen[svc.Name] {
				continue
			}
			if addresses := stage.Addresses(svc); len(addresses) > 0 {
				s.seen[svc.Name] = true
				return addresses[0], nil
			}
		}
	}
}
