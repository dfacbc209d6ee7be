//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

const (
	newServices = 20
	every       = 5 * time.Millisecond // between two requests of a client
	timeout     = 2 * time.Second      // of one request
	patience    = 30 * time.Second     // for what is measured to happen
)

// newServicesL2 measures the time from the creation of new Services to the first answer to a client
// on the segment, and how much of it the announcement takes.
func (b *bench) newServicesL2(ctx context.Context) error {
	m, err := b.newOnes(ctx, newcomer{client: lab.Client, announced: b.resolved})
	b.report.times("service_created_to_status", m.status)
	b.report.times("status_to_arp_reply", m.announced)
	b.report.times("status_to_first_answer_l2", m.answered)
	return err
}

// resolved returns an error unless the client on the segment knows where the address is.
func (b *bench) resolved(address netip.Addr) error {
	mac, err := b.Neighbor(lab.Client, address)
	if err == nil && mac == nil {
		err = errors.New("nobody answers ARP")
	}
	return err
}

// newServicesBGP does the same for a client behind the router.
func (b *bench) newServicesBGP(ctx context.Context) error {
	routed := func(address netip.Addr) error {
		return b.In(lab.Router, func() error {
			_, err := netlink.RouteGet(net.IP(address.AsSlice()))
			return err
		})
	}
	pin := func(i int, svc *corev1.Service) { svc.Spec.LoadBalancerIP = fmt.Sprintf("198.51.100.%d", 10+i) }
	m, err := b.newOnes(ctx, newcomer{client: lab.Remote, change: pin, announced: routed})
	b.report.times("service_created_to_status_bgp", m.status)
	b.report.times("status_to_route", m.announced)
	b.report.times("status_to_first_answer_bgp", m.answered)
	return err
}

// newcomer says how new Services are measured.
type newcomer struct {
	client    string // who asks
	announced func(netip.Addr) error
	// change is made to a Service before it is created, and created is called after that.
	change  func(i int, svc *corev1.Service)
	created func(ctx context.Context, i int, svc *corev1.Service) error
}

// moments are times of new Services: from the request to create them to the status, and from the
// status to the announcement and to the first answer.
type moments struct{ status, announced, answered []time.Duration }

// untilAnswered returns the times from the request to the first answer.
func (m moments) untilAnswered() []time.Duration {
	var all []time.Duration
	for i := range m.answered {
		all = append(all, m.status[i]+m.answered[i])
	}
	return all
}

func (b *bench) newOnes(ctx context.Context, n newcomer) (moments, error) {
	var m moments
	var made []string
	for i := range newServices {
		if err := pause(ctx, rest); err != nil {
			return m, err
		}
		svc := b.Expose(everywhere(), fmt.Sprintf("new-%d", i))
		if n.change != nil {
			n.change(i, svc)
		}
		if err := b.newOne(ctx, n, i, svc, &m); err != nil {
			return m, err
		}
		made = append(made, svc.Name)
	}
	// Services are not deleted one by one: kube-proxy keeps serving a freed address for a while, and
	// the next Service could get it.
	return m, b.remove(ctx, made)
}

func (b *bench) newOne(ctx context.Context, n newcomer, i int, svc *corev1.Service, m *moments) error {
	statuses, err := b.watchStatuses(ctx)
	if err != nil {
		return err
	}
	defer statuses.stop()
	begun := time.Now()
	if _, err := b.Kubernetes.CoreV1().Services(svc.Namespace).Create(ctx, svc, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create Service %s: %w", svc.Name, err)
	}
	if n.created != nil {
		if err := n.created(ctx, i, svc); err != nil {
			return err
		}
	}
	address, err := statuses.next(ctx)
	if err != nil {
		return err
	}
	written := time.Now()
	watch := b.StartWatch(ctx, n.client, address, every, timeout, false)
	defer watch.Stop()
	var seen time.Time
	err = stage.Eventually(ctx, patience, func(context.Context) error {
		if seen.IsZero() && n.announced(address) == nil {
			seen = time.Now()
		}
		if len(watch.Record().Good()) == 0 {
			return fmt.Errorf("%s does not answer %s", address, n.client)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if seen.IsZero() { // both came between two looks
		seen = time.Now()
	}
	m.status = append(m.status, written.Sub(begun))
	m.announced = append(m.announced, seen.Sub(written))
	m.answered = append(m.answered, watch.Record().Good()[0].Done.Sub(written))
	return nil
}

// remove deletes Services and waits until they are gone.
func (b *bench) remove(ctx context.Context, names []string) error {
	args := append([]string{"-n", namespace, "delete", "--timeout=60s", "service"}, names...)
	_, err := b.Kubectl(ctx, "", args...)
	return err
}

// rest is the pause before a measurement. It is longer than the second between two syncs of
// kube-proxy, so that kube-proxy is idle.
const rest = 1500 * time.Millisecond

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
