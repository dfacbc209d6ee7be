package controller

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	cloudprovider "k8s.io/cloud-provider"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/controller/allocation"
	"github.com/berth-lb/berth/controller/service"
)

// ProviderName is the name of the cloud provider.
const ProviderName = "berth"

// Provider is a Controller as a cloud provider. The service controller of k8s.io/cloud-provider
// asks it for addresses, and writes the finalizer and status.loadBalancer of the Services without a
// loadBalancerClass. The Controller allocates, and writes the conditions. NewProvider makes one.
type Provider struct {
	c *Controller

	mu       sync.Mutex // guards what follows; locked before that of allocations, not held across I/O
	leading  bool
	outcomes map[string]outcome
	written  map[string]string // resourceVersion that the service controller last wrote, by Service
}

var (
	_ cloudprovider.Interface    = (*Provider)(nil)
	_ cloudprovider.LoadBalancer = (*Provider)(nil)
)

// outcome is what the service controller was last told about a Service.
type outcome struct {
	asked service.Request
	allocation.Outcome
	snapshot   *config.Snapshot          // that it is based on, or one whose pools are the same
	generation int                       // of the allocations at that time
	told       corev1.LoadBalancerIPMode // last shown to its reader
	pending    bool                      // the service controller has not written it yet
}

// NewProvider returns the Controller as a cloud provider. The Controller must serve Services
// without a class (Options.Classless): the service controller ignores all others.
func NewProvider(c *Controller) (*Provider, error) {
	if !c.Classless {
		return nil, errNotClassless
	}
	return &Provider{c: c, outcomes: map[string]outcome{}, written: map[string]string{}}, nil
}

var errNotClassless = errors.New("a cloud provider serves only Services without spec.loadBalancerClass, and Options.Classless is not set")

var errNotLeading = errors.New("this instance does not lead: its allocator does not know what is taken")

// EnsureLoadBalancer gives the Service what it asks for. Its error has the reason and message of
// the condition berth.dev/Allocated. If the status still shows addresses that the Service lost, a
// first call without an error removes them. The nodes do not matter: the speakers decide which of
// them announce.
func (p *Provider) EnsureLoadBalancer(
	_ context.Context,
	_ string,
	svc *corev1.Service,
	_ []*corev1.Node,
) (*corev1.LoadBalancerStatus, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.leading {
		return nil, errNotLeading
	}
	key := svc.Namespace + "/" + svc.Name
	whose, given := p.c.judge(svc)
	if whose == service.TakenOver && p.c.takeOver(key, svc) == nil {
		whose = service.Own
	}
	if whose != service.Own {
		return nil, cloudprovider.ImplementedElsewhere
	}
	o := outcome{snapshot: p.c.snapshot.Load(), generation: p.c.allocations.Generation()}
	asked := p.c.requestOf(svc, whose)
	o.Outcome = p.c.assign(key, svc, &asked, given)
	o.asked = asked.Request
	shown := p.c.ingressOf(svc, o.Addresses)
	o.pending = !service.Shows(svc, shown)
	o.told = service.ModeOf(svc)
	if before, known := p.outcomes[key]; known {
		o.told = before.told
	}
	p.outcomes[key] = o
	p.c.services.Add(key) // its conditions
	if o.Err != nil && !o.pending {
		reason, message := service.Explain(o.asked, o.Err)
		return nil, fmt.Errorf("%s: %s", reason, message)
	}
	return &corev1.LoadBalancerStatus{Ingress: shown}, nil
}

// EnsureLoadBalancerDeleted releases what the Service holds. Others may get it once the status does
// not show it, or the Service is gone.
func (p *Provider) EnsureLoadBalancerDeleted(_ context.Context, _ string, svc *corev1.Service) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.leading {
		return errNotLeading
	}
	key := svc.Namespace + "/" + svc.Name
	delete(p.outcomes, key)
	p.c.allocations.Surrender(key)
	p.c.services.Add(key)
	return nil
}

// GetLoadBalancer returns the addresses that the Service holds, and whether there are any.
func (p *Provider) GetLoadBalancer(
	_ context.Context,
	_ string,
	svc *corev1.Service,
) (*corev1.LoadBalancerStatus, bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.leading {
		return nil, false, errNotLeading
	}
	held := p.c.allocations.Holdings(svc.Namespace + "/" + svc.Name)
	return &corev1.LoadBalancerStatus{Ingress: p.c.ingressOf(svc, held)}, len(held) > 0, nil
}

// GetLoadBalancerName returns namespace/name: no two Services share a load balancer.
func (p *Provider) GetLoadBalancerName(_ context.Context, _ string, svc *corev1.Service) string {
	return svc.Namespace + "/" + svc.Name
}

// UpdateLoadBalancer does nothing: changed nodes do not matter. Lead saves the service controller
// the call.
func (p *Provider) UpdateLoadBalancer(context.Context, string, *corev1.Service, []*corev1.Node) error {
	return nil
}

// stale reports whether the Service might get something else now: its request or the pools changed,
// something was freed that it waits for, or one of its addresses is in use elsewhere. If the pools
// are the same in another snapshot, that is the outcome's from now on: the next review need not
// compare them again, and the former one is not kept in memory.
func (p *Provider) stale(o *outcome, asked request) bool {
	now := p.c.snapshot.Load()
	has := o.Err == nil && len(o.Missing) == 0
	same := func(a, b *config.Pool) bool {
		before := *a
		if has { // it keeps that, whatever the pool gives
			before.Allocation, before.TakeOver = b.Allocation, b.TakeOver
		}
		return reflect.DeepEqual(&before, b)
	}
	if o.snapshot != now && !slices.EqualFunc(o.snapshot.Pools, now.Pools, same) {
		return true
	}
	o.snapshot = now
	if (o.Err != nil || len(o.Missing) > 0) && o.generation != p.c.allocations.Generation() {
		return true
	}
	if p.c.allocations.AnyUsed(o.Addresses) {
		return true
	}
	asked.Drop = o.asked.Drop // set by an annotation, whose edits the service controller sees
	var was *service.InvalidRequest
	errors.As(o.Err, &was)
	asked.Strict = o.asked.Strict
	return !reflect.DeepEqual(asked.Request, o.asked) || (asked.invalid != nil) != (was != nil)
}

// ingressOf returns the entries that the status of the Service should have for the addresses.
func (c *Controller) ingressOf(svc *corev1.Service, addresses []netip.Addr) []corev1.LoadBalancerIngress {
	return service.IngressOf(addresses, c.outlook(svc, addresses).Forwarder.Mode())
}

// Initialize does nothing: Lead runs what a Provider needs.
func (p *Provider) Initialize(cloudprovider.ControllerClientBuilder, <-chan struct{}) {}

// LoadBalancer returns the Provider, which provides nothing else.
func (p *Provider) LoadBalancer() (cloudprovider.LoadBalancer, bool) { return p, true }

// Instances are not provided.
func (p *Provider) Instances() (cloudprovider.Instances, bool) { return nil, false }

// InstancesV2 are not provided.
func (p *Provider) InstancesV2() (cloudprovider.InstancesV2, bool) { return nil, false }

// Zones are not provided.
func (p *Provider) Zones() (cloudprovider.Zones, bool) { return nil, false }

// Clusters are not provided.
func (p *Provider) Clusters() (cloudprovider.Clusters, bool) { return nil, false }

// Routes are not provided.
func (p *Provider) Routes() (cloudprovider.Routes, bool) { return nil, false }

// ProviderName returns ProviderName.
func (p *Provider) ProviderName() string { return ProviderName }

// HasClusterID returns true: Berth needs none.
func (p *Provider) HasClusterID() bool { return true }
