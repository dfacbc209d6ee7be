package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/tools/cache"
	servicecontroller "k8s.io/cloud-provider/controllers/service"
	"k8s.io/cloud-provider/service/helpers"
	"k8s.io/component-base/metrics/prometheus/controllers"

	"github.com/berth-lb/berth/config/record"
	"github.com/berth-lb/berth/controller/announcement"
	"github.com/berth-lb/berth/controller/condition"
	"github.com/berth-lb/berth/controller/service"
)

// clusterName is what the service controller passes back to the provider, which has one cluster.
const clusterName = "berth"

// Lead does the work of the leader until the context ends, like Controller.Lead, but with the
// service controller of k8s.io/cloud-provider instead of the Controller's own reconciler of
// Services. Watch of the Controller must be running. When Lead returns, no write of a Service is
// under way.
func (p *Provider) Lead(ctx context.Context) error {
	writer := &gate{context: ctx, written: p.wrote, signed: p.signed}
	defer writer.close()
	tap := &tap{}
	core := p.c.informers.factory.Core().V1()
	sc, err := servicecontroller.New(
		p, gatedClient{p.c.Kubernetes, writer}, tappedServices{core.Services(), tap, p.concerns},
		quietNodes{core.Nodes()}, clusterName, nil,
	)
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

// wrote records that the service controller wrote the Service, or failed to.
func (p *Provider) wrote(key string, svc *corev1.Service) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if svc != nil {
		p.c.writes.Wrote(key, svc)
		p.written[key] = svc.ResourceVersion
		p.c.services.Add(key) // the cache may have it already, and the review may be over
	}
	if o, ok := p.outcomes[key]; ok && o.pending {
		o.pending = false
		p.outcomes[key] = o
	}
}

// review does for one Service what the service controller does not. It enqueues the Service there
// if a retry could help or the status is not what it should be, frees what no status shows any
// more, and writes the conditions.
func (p *Provider) review(ctx context.Context, key string, enqueue func(*corev1.Service)) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // not a valid key
	}
	svc, err := p.c.informers.services.Services(namespace).Get(name)
	switch {
	case apierrors.IsNotFound(err):
		p.forget(key)
		p.c.allocations.Release(key)
		p.c.writes.Gone(key)
		p.c.allocations.Vacate(key)
		return nil
	case err != nil:
		return fmt.Errorf("get Service %s: %w", key, err)
	case p.c.writes.Outdated(key, svc):
		return nil // the last write requeues the key when it reaches the cache
	}
	whose, _ := p.c.judge(svc)
	asked := p.c.requestOf(svc, whose)
	p.c.notePins(key, whose, asked)
	switch {
	case whose == service.Others:
		p.forget(key)
		return p.c.leave(ctx, key, svc)
	case whose == service.NotServed:
		if p.concerns(svc) {
			return nil // the service controller clears it first
		}
		p.forget(key)
		return p.c.disown(ctx, key, svc)
	case svc.Spec.LoadBalancerClass != nil || svc.DeletionTimestamp != nil:
		return nil // keeps what it has; the service controller ignores it, or deletes it
	case whose == service.TakenOver:
		if err := p.c.takeOver(key, svc); err != nil {
			return p.c.explainWait(ctx, key, svc, err)
		}
	}
	p.c.allocations.Vacate(key)
	p.c.writes.Take(key)
	if p.behind(key, svc) {
		return nil // the write of the service controller requeues the key when it reaches the cache
	}
	if wait := p.c.writes.Review(key, svc, time.Now()); wait > 0 {
		p.c.services.AddAfter(key, wait)
		p.c.tellContest(key, svc)
		return nil
	}
	conditions, changed, again := p.settle(key, svc, asked)
	if again {
		enqueue(svc)
	}
	if conditions == nil {
		return nil
	}
	if changed != nil {
		p.c.tellForwarder(svc, *changed)
	}
	return p.publish(ctx, key, svc, conditions)
}

// publish writes the conditions of a Service, and makes events of what is new in them.
func (p *Provider) publish(
	ctx context.Context,
	key string,
	svc *corev1.Service,
	conditions []condition.Condition,
) error {
	desired, news := service.WithStatus(
		svc, svc.Status.LoadBalancer.Ingress, conditions, p.c.recorded(key, svc, service.AddressesIn(svc)),
		metav1.Now(),
	)
	if p.c.waits(key, svc, desired) {
		return nil
	}
	if desired != svc {
		if err := p.c.write(ctx, key, desired); err != nil {
			return err
		}
	}
	p.c.tellNews(key, svc, conditions, news)
	return nil
}

// concerns reports whether the service controller may see the Service: it writes status and
// finalizer of every Service that it sees, even if another implementation put them there.
func (p *Provider) concerns(svc *corev1.Service) bool {
	ends := svc.DeletionTimestamp != nil || svc.Spec.Type != corev1.ServiceTypeLoadBalancer
	switch {
	case ends:
		return helpers.HasLBFinalizer(svc) && p.finalizes(svc)
	}
	if svc.Spec.LoadBalancerClass != nil {
		return false
	}
	whose, _ := p.c.judge(svc)
	return whose == service.Own || whose == service.TakenOver
}

// finalizes reports whether Berth is to remove the finalizer of load balancers from the Service:
// Berth added it, or gave the Service its addresses, so that nobody else will. The finalizer may
// also come from a manifest or from an earlier implementation.
func (p *Provider) finalizes(svc *corev1.Service) bool {
	if finalizedByBerth(svc) {
		return true
	}
	if svc.Spec.LoadBalancerClass != nil {
		return false
	}
	_, err := record.Of(svc, *p.c.recordKey.Load())
	return err == nil || p.c.allocations.Gave(svc)
}

// finalizedByBerth reports whether Berth added the finalizer of load balancers, which other cloud
// providers and implementations of a class use, too. If the object does not say, Berth's conditions
// on it decide.
func finalizedByBerth(svc *corev1.Service) bool {
	var told bool
	for _, m := range svc.ManagedFields {
		var fields struct {
			Metadata struct {
				Finalizers map[string]json.RawMessage `json:"f:finalizers"`
			} `json:"f:metadata"`
		}
		if m.FieldsV1 == nil || json.Unmarshal(m.FieldsV1.GetRawBytes(), &fields) != nil {
			continue
		}
		if _, set := fields.Metadata.Finalizers[`v:"`+helpers.LoadBalancerCleanupFinalizer+`"`]; set {
			if strings.HasPrefix(m.Manager, service.FieldManager) {
				return true
			}
			told = true
		}
	}
	return !told && service.Marked(svc)
}

// signed returns the record of what the service controller is about to write into the status of a
// Service; nil without addresses.
func (p *Provider) signed(namespace, name string, addresses []netip.Addr) *metav1.Condition {
	svc, err := p.c.informers.services.Services(namespace).Get(name)
	if err != nil {
		return nil
	}
	return p.c.recorded(namespace+"/"+name, svc, addresses)
}

// behind reports whether the cached Service is older than what the service controller wrote, or is
// about to write.
func (p *Provider) behind(key string, svc *corev1.Service) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.outcomes[key].pending || staler(svc.ResourceVersion, p.written[key])
}

func (p *Provider) forget(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.outcomes, key)
	delete(p.written, key)
}

// settle frees what the Service does not show any more, and returns its conditions. changed is what
// forwards, if that differs from what its reader was last told. While the service controller has
// not acted yet there are no conditions. again reports that it must be asked to.
func (p *Provider) settle(
	key string,
	svc *corev1.Service,
	asked request,
) (conditions []condition.Condition, changed *announcement.Forwarder, again bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o, known := p.outcomes[key]
	if !known {
		return nil, nil, true // it may have become Berth's just now
	}
	if o.pending || staler(svc.ResourceVersion, p.written[key]) {
		return nil, nil, false // its write requeues the key
	}
	addresses := o.Addresses
	view := p.c.outlook(svc, addresses)
	if !service.Shows(svc, service.IngressOf(view.Addresses, view.Forwarder.Mode())) || p.stale(&o, asked) {
		return nil, nil, true
	}
	// Only now that no status shows them, others may get them.
	p.c.allocations.Free(key, p.c.allocations.Surplus(key, addresses))
	if mode := view.Forwarder.Mode(); len(addresses) > 0 && mode != o.told {
		o.told, changed = mode, &view.Forwarder
	}
	p.outcomes[key] = o
	first := service.ContestedBy(p.c.writes.Writer(key), service.Allocated(o.asked, o.Assignment, o.Err, o.Outside))
	return p.c.withAnnounced([]condition.Condition{first}, svc, view), changed, false
}

// staler reports whether resourceVersion a is older than b; "" is none.
func staler(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order < 0
}
