package controller

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"sync"

	corev1 "k8s.io/api/core/v1"
	cloudprovider "k8s.io/cloud-provider"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/controller/allocation"
	"github.com/berth-lb/berth/controller/service"
)

// ProviderName is the cloud provider's name.
const ProviderName = "berth"

// Provider is a Controller as a cloud provider: the service controller of
// k8s.io/cloud-provider asks it for addresses, and writes the finalizer and
// status.loadBalancer of the Services without a loadBalancerClass. The allocation is
// the Controller's, and so are the conditions. Make one with NewProvider.
type Provider struct {
	c *Controller

	mu       sync.Mutex // guards what follows; taken before the Controller's, never held across I/O
	leading  bool
	outcomes map[string]outcome
	written  map[string]string // resourceVersion that the service controller wrote last, by Service
}

var (
	_ cloudprovider.Interface    = (*Provider)(nil)
	_ cloudprovider.LoadBalancer = (*Provider)(nil)
)

// outcome is what a Service was told last.
type outcome struct {
	asked service.Request
	allocation.Outcome
	snapshot   *config.Snapshot          // that it was decided on
	generation int                       // of the allocations, when it was decided
	told       corev1.LoadBalancerIPMode // that its reader knows of
	pending    bool                      // the service controller has yet to write it
}

// NewProvider returns the Controller as a cloud provider. The Controller must serve Services without
// a class (Options.Classless): the service controller ignores all others.
func NewProvider(c *Controller) (*Provider, error) {
	if !c.Classless {
		return nil, errNotClassless
	}
	return &Provider{c: c, outcomes: map[string]outcome{}, written: map[string]string{}}, nil
}

var errNotClassless = errors.New("a cloud provider serves only Services without spec.loadBalancerClass, and Options.Classless is not set")

var errNotLeading = errors.New("this instance does not lead: its allocator does not know what is taken")

// EnsureLoadBalancer gives the Service what it asks for. The error says in the words
// of the condition berth.dev/Allocated why that cannot be; addresses that the status
// shows all the same are taken out of it first, by a call without an error. The
// nodes make no difference: which of them announce is the speakers' business.
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

// EnsureLoadBalancerDeleted releases what the Service holds. Others may have it once
// the status does not show it any more, or the Service is gone.
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

// GetLoadBalancer returns the addresses that the Service holds, and whether there
// are any.
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

// GetLoadBalancerName returns namespace/name: a load balancer is the Service's alone.
func (p *Provider) GetLoadBalancerName(_ context.Context, _ string, svc *corev1.Service) string {
	return svc.Namespace + "/" + svc.Name
}

// UpdateLoadBalancer is told of changed nodes, and has nothing to do. Lead spares the
// service controller the call.
func (p *Provider) UpdateLoadBalancer(context.Context, string, *corev1.Service, []*corev1.Node) error {
	return nil
}

// stale tells whether the Service might be told something else now: it asks for
// something else, the pools are others, something was freed that it waits for, or somebody else has an address now.
func (p *Provider) stale(o outcome, asked request) bool {
	now := p.c.snapshot.Load()
	if o.snapshot != now && !reflect.DeepEqual(o.snapshot.Pools, now.Pools) {
		return true
	}
	if (o.Err != nil || len(o.Missing) > 0) && o.generation != p.c.allocations.Generation() {
		return true
	}
	if p.c.allocations.AnyUsed(o.Addresses) {
		return true
	}
	asked.Drop = o.asked.Drop // an annotation's, and the service controller minds those
	var was *service.InvalidRequest
	errors.As(o.Err, &was)
	asked.Strict = o.asked.Strict
	return !reflect.DeepEqual(asked.Request, o.asked) || (asked.invalid != nil) != (was != nil)
}

// ingressOf is what the status of the Service should say of the addresses.
func (c *Controller) ingressOf(svc *corev1.Service, addresses []netip.Addr) []corev1.LoadBalancerIngress {
	return service.IngressOf(addresses, c.outlook(svc, addresses).Forwarder.Mode())
}

// Initialize does nothing: Lead runs what a Provider needs.
func (p *Provider) Initialize(cloudprovider.ControllerClientBuilder, <-chan struct{}) {}

// LoadBalancer returns the Provider: load balancers are all that it provides.
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
