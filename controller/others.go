package controller

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/condition"
	"github.com/berth-lb/berth/controller/service"
)

// This file handles Services that another implementation serves: Berth leaves them alone, or takes
// them over.

// leave leaves a Service to the implementation that gave it what its status shows, and removes only
// Berth's conditions. It keeps those of a former installation whose pools may not be there yet: its
// record will identify the Service then.
func (c *Controller) leave(ctx context.Context, key string, svc *corev1.Service) error {
	_, former := service.FormerRecord(svc, *c.recordKey.Load())
	if service.Marked(svc) && !former {
		if err := c.write(ctx, key, service.WithoutStatus(svc, nil)); err != nil {
			return err
		}
	}
	c.writes.Forget(key)
	c.allocations.Release(key)
	c.allocations.Occupy(key, svc, false)
	told := !c.writes.LeaveAlone(key, svc)
	switch {
	case told:
	case former:
		c.Events.Eventf(svc, nil, corev1.EventTypeNormal, service.ReasonLeftAlone, "Allocate",
			"a former installation of Berth gave this Service what its status shows; it is served again once a LoadBalancerPool that serves it holds its addresses (kubectl get loadbalancerpools.berth.dev)")
		c.Logger.Info("left a Service of a former installation alone until a pool holds its addresses", "service", key)
	default:
		c.Events.Eventf(svc, nil, corev1.EventTypeNormal, service.ReasonLeftAlone, "Allocate",
			"%s wrote status.loadBalancer, so Berth leaves this Service alone; to have Berth serve it with the addresses that it has, set spec.takeOver on their LoadBalancerPool; with others, empty the status when the other controller is gone", service.WriterOf(svc))
		c.Logger.Info("left a Service of another implementation alone", "service", key, "writer", service.LastWriter(svc))
	}
	return nil
}

// takeOver makes the allocator hold what another implementation gave the Service. It fails while a
// host still has one of the addresses.
func (c *Controller) takeOver(key string, svc *corev1.Service) error {
	if err := c.allocations.TakeOver(key, svc, c.isTakenOver); err != nil {
		return err
	}
	c.writes.Take(key)
	addresses, from := service.AddressesIn(svc), service.LastWriter(svc)
	c.Logger.Info("took over a Service", "service", key, "addresses", addresses, "from", from)
	return nil
}

// isTakenOver reports whether a Service of another implementation is to be taken over. Services
// that share an address do not wait for each other.
func (c *Controller) isTakenOver(key string) bool {
	namespace, name, _ := strings.Cut(key, "/")
	svc, err := c.informers.services.Services(namespace).Get(name)
	return err == nil && c.classes().Selects(svc) && svc.Spec.LoadBalancerClass == nil &&
		service.TakesOver(svc, c.namespaceLabels(namespace), c.snapshot.Load())
}

// explainWait says on a Service why its addresses are not taken over yet. They stay in its status,
// and nobody else gets them.
func (c *Controller) explainWait(ctx context.Context, key string, svc *corev1.Service, obstacle error) error {
	c.allocations.Occupy(key, svc, true)
	waits := condition.Condition{Kind: v1alpha1.ServiceAllocated, Reason: service.ReasonTakeOverWaits,
		Message: fmt.Sprintf("%v; the Service is taken over from %s once nobody else has the address", obstacle, service.WriterOf(svc))}
	desired, news := service.WithStatus(
		svc, svc.Status.LoadBalancer.Ingress, []condition.Condition{waits}, nil, metav1.Now(),
	)
	if desired == svc {
		return nil
	}
	if pause := c.writes.Explained(key, time.Now()); pause > 0 {
		c.services.AddAfter(key, pause)
		return nil
	}
	if err := c.write(ctx, key, desired); err != nil {
		return err
	}
	c.tellNews(key, svc, nil, news)
	return nil
}

// tellContest emits an event for a status that two controllers write.
func (c *Controller) tellContest(key string, svc *corev1.Service) {
	writer, delay, is := c.writes.News(key)
	if !is {
		return
	}
	c.Events.Eventf(svc, nil, corev1.EventTypeWarning, service.ReasonStatusContested, "Allocate",
		"%s overwrites status.loadBalancer of this Service, which Berth serves, again and again; Berth writes it again in %s; give the Service to one of the two by its spec.loadBalancerClass, or end the other", writer, delay)
	c.Logger.Warn("another controller overwrites the status of a Service", "service", key, "writer", writer, "pause", delay)
}
