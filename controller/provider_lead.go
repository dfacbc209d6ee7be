package controller

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/tools/cache"
	"k8s.io/cloud-provider/controllers/service"
	"k8s.io/cloud-provider/service/helpers"
	"k8s.io/component-base/metrics/prometheus/controllers"
)

// clusterName is what the service controller hands back to the provider, which has
// one cluster.
const clusterName = "berth"

// Lead does the work of the leader until the context ends, as Controller.Lead does,
// with the service controller of k8s.io/cloud-provider in the place of the
// Controller's own reconciler of Services. Watch of the Controller must be running.
// When it returns, no write of a Service is under way.
func (p *Provider) Lead(ctx context.Context) error {
	writer := &gate{context: ctx, written: p.wrote}
	defer writer.close()
	tap := &tap{}
	core := p.c.informers.factory.Core().V1()
	sc, err := service.New(p, gatedClient{p.c.Kubernetes, writer}, tappedServices{core.Services(), tap}, quietNodes{core.Nodes()}, clusterName, nil)
	if err != nil {
		return fmt.Errorf("make the service controller: %w", err)
	}
	defer p.lead(false)
	return p.c.lead(ctx,
		func(ctx context.Context, key string) error { return p.review(ctx, key, tap.enqueue) },
		func(ctx context.Context) error { // the allocator is rebuilt
			p.lead(true)
			sc.Run(ctx, p.c.Workers, controllers.NewControllerManagerMetrics(ProviderName))
			return nil
		})
}

func (p *Provider) lead(leading bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leading = leading
}

// wrote notes that the service controller wrote the Service, or failed to.
func (p *Provider) wrote(key, resourceVersion string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if resourceVersion != "" {
		p.written[key] = resourceVersion
		p.c.services.Add(key) // the cache may have it already, and the review be over
	}
	if o, ok := p.outcomes[key]; ok && o.pending {
		o.pending = false
		p.outcomes[key] = o
	}
}

// review does for one Service what the service controller does not: it has it looked
// at again (by enqueue) when a retry could help or the status is not what it should
// be, frees what no status shows any more, and writes the conditions.
func (p *Provider) review(ctx context.Context, key string, enqueue func(*corev1.Service)) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // no key of ours
	}
	svc, err := p.c.informers.services.Services(namespace).Get(name)
	switch {
	case apierrors.IsNotFound(err):
		p.forget(key)
		p.c.release(key)
		p.c.forget(key)
		return nil
	case err != nil:
		return fmt.Errorf("get Service %s: %w", key, err)
	case p.c.outdated(key, svc):
		return nil // what we wrote is on its way into the cache, and brings the key back
	case !serves(svc, true):
		if helpers.HasLBFinalizer(svc) {
			return nil // the service controller clears it first
		}
		p.forget(key)
		return p.c.disown(ctx, key, svc)
	case svc.Spec.LoadBalancerClass != nil || svc.DeletionTimestamp != nil:
		return nil // keeps what it has; the service controller passes over it, or is at it
	}
	conditions, changed, again := p.settle(key, svc)
	if again {
		enqueue(svc)
	}
	if conditions == nil {
		return nil
	}
	if changed != nil {
		p.c.tellForwarder(svc, *changed)
	}
	desired, news := withStatus(svc, svc.Status.LoadBalancer.Ingress, conditions, metav1.Now())
	if desired != svc {
		if err := p.c.write(ctx, key, desired); err != nil {
			return err
		}
	}
	for _, n := range news {
		p.c.tell(svc, n)
	}
	return nil
}

func (p *Provider) forget(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.outcomes, key)
	delete(p.written, key)
}

// settle frees what the Service does not show any more, and returns its conditions, and
// who forwards, if the status says so since its reader was told last.
// While the service controller has yet to act there are none; again tells that it
// does not know of it.
func (p *Provider) settle(key string, svc *corev1.Service) (conditions []condition, changed *forwarder, again bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o, known := p.outcomes[key]
	if !known || o.pending || older(svc.ResourceVersion, p.written[key]) {
		return nil, nil, false // its turn comes, and brings the key back
	}
	addresses := o.assignment.Addresses
	view := p.c.outlook(svc, addresses)
	if !shows(svc, view.ingress()) || p.stale(o, svc) {
		return nil, nil, true
	}
	// Only now that no status shows them may others have them.
	p.c.free(key, p.c.surplus(key, addresses))
	if mode := view.forwarder.mode(); len(addresses) > 0 && mode != o.told {
		o.told, changed = mode, &view.forwarder
		p.outcomes[key] = o
	}
	return p.c.withAnnounced([]condition{allocated(o.asked, o.assignment, o.failure, o.outside)}, svc, view), changed, false
}

// older tells whether resourceVersion a is older than b, "" being none.
func older(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order < 0
}
