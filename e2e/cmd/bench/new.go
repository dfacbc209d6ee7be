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
	resolved := func(address netip.Addr) error {
		mac, err := b.Neighbor(lab.Client, address)
		if err == nil && mac == nil {
			err = errors.New("nobody answers ARP")
		}
		return err
	}
	m, err := b.newOnes(ctx, lab.Client, func(int) string { return "" }, resolved)
	b.report.times("service_created_to_status", m.status)
	b.report.times("status_to_arp_reply", m.announced)
	b.report.times("status_to_first_answer_l2", m.answered)
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
	pin := func(i int) string { return fmt.Sprintf("198.51.100.%d", 10+i) }
	m, err := b.newOnes(ctx, lab.Remote, pin, routed)
	b.report.times("service_created_to_status_bgp", m.status)
	b.report.times("status_to_route", m.announced)
	b.report.times("status_to_first_answer_bgp", m.answered)
	return err
}

// moments are times of new Services: from the request to create them to the status, and from the
// status to the announcement and to the first answer.
type moments struct{ status, announced, answered []time.Duration }

func (b *bench) newOnes(
	ctx context.Context,
	client string,
	pin func(i int) string,
	announced func(netip.Addr) error,
) (moments, error) {
	var m moments
	var made []string
	for i := range newServices {
		if err := pause(ctx, rest); err != nil {
			return m, err
		}
		svc := b.Expose(everywhere(), fmt.Sprintf("new-%d", i))
		svc.Spec.LoadBalancerIP = pin(i)
		if err := b.newOne(ctx, client, svc, announced, &m); err != nil {
			return m, err
		}
		made = append(made, svc.Name)
	}
	// Services are not deleted one by one: kube-proxy keeps serving a freed address for a while, and
	// the next Service could get it.
	return m, b.remove(ctx, made)
}

func (b *bench) newOne(
	ctx context.Context,
	client string,
	svc *corev1.Service,
	announced func(netip.Addr) error,
	m *moments,
) error {
	statuses, err := b.watchStatuses(ctx)
	if err != nil {
		return err
	}
	defer statuses.stop()
	begun := time.Now()
	if _, err := b.Kubernetes.CoreV1().Services(svc.Namespace).Create(ctx, svc, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create Service %s: %w", svc.Name, err)
	}
	address, err := statuses.next(ctx)
	if err != nil {
		return err
	}
	written := time.Now()
	watch := b.StartWatch(ctx, client, address, every, timeout, false)
	defer watch.Stop()
	var seen time.Time
	err = stage.Eventually(ctx, patience, func(context.Context) error {
		if seen.IsZero() && announced(address) == nil {
			seen = time.Now()
		}
		if len(watch.Record().Good()) == 0 {
			return fmt.Errorf("%s does not answer %s", address, client)
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
