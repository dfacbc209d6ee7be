package controller

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/inuse"
	"github.com/berth-lb/berth/config/v1alpha1"
)

// This file finds the addresses in use elsewhere, which are not given.

// apiServer is the Service whose EndpointSlices have the addresses of the API server.
const apiServer = metav1.NamespaceDefault + "/kubernetes"

// reviewUsed updates which addresses are in use elsewhere, and reports whether that changed.
// Services that have one of them are requeued, and lose it.
func (c *Controller) reviewUsed() bool { return c.allocations.SetUsed(inuse.Compile(c.usedSources())) }

// usedSources returns the objects in the caches that say which addresses are in use.
func (c *Controller) usedSources() inuse.Sources {
	s := inuse.Sources{
		Nodes:        client.Stored[*corev1.Node](c.informers.node),
		Speakers:     client.Stored[*v1alpha1.Speaker](c.informers.speaker),
		Peers:        map[string]netip.Addr{},
		ServiceCIDRs: slices.Clone(c.ServiceCIDRs),
		PodCIDRs:     c.PodCIDRs,
	}
	for _, p := range c.snapshot.Load().Neighbors {
		if p.Address.IsValid() {
			s.Peers[p.Name] = p.Address
		}
	}
	if found, err := c.informers.slice.GetIndexer().ByIndex(byService, apiServer); err == nil {
		for _, o := range found {
			if slice, ok := o.(*discoveryv1.EndpointSlice); ok {
				s.APIServer = append(s.APIServer, slice)
			}
		}
	}
	for _, o := range client.Stored[*networkingv1.ServiceCIDR](c.informers.serviceCIDR) {
		for _, text := range o.Spec.CIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				s.ServiceCIDRs = append(s.ServiceCIDRs, p.Masked())
			}
		}
	}
	return s
}

// watchServiceCIDRs fills the cache of ServiceCIDRs, if the API server has this kind (Kubernetes
// 1.33 and later).
func (c *Controller) watchServiceCIDRs(ctx context.Context) error {
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-retry.C:
		}
		known, err := c.hasServiceCIDRs()
		if err == nil {
			c.serviceCIDRs.Store(&known)
			if known {
				c.informers.serviceCIDR.RunWithContext(ctx)
			} else if len(c.ServiceCIDRs) == 0 {
				c.Logger.Warn("the API server has no ServiceCIDRs (Kubernetes before 1.33), so Berth does not notice pools that overlap the range of ClusterIPs; set --service-cidrs to that range")
			}
			return nil
		}
		c.Logger.Warn("did not learn whether the API server has ServiceCIDRs; will be tried again", "error", err)
		retry.Reset(time.Second) // no event says when the API server answers again
	}
}

func (c *Controller) hasServiceCIDRs() (bool, error) {
	resources, err := c.Kubernetes.Discovery().ServerResourcesForGroupVersion(networkingv1.SchemeGroupVersion.String())
	switch {
	case apierrors.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("discover %s: %w", networkingv1.SchemeGroupVersion, err)
	}
	return slices.ContainsFunc(
		resources.APIResources,
		func(r metav1.APIResource) bool { return r.Name == "servicecidrs" },
	), nil
}

// knowsServiceCIDRs reports whether the cache has every ServiceCIDR, or there is no such kind.
func (c *Controller) knowsServiceCIDRs() bool {
	known := c.serviceCIDRs.Load()
	return known != nil && (!*known || c.informers.serviceCIDR.HasSynced())
}

// watchAPIServer queues a review of the addresses in use when those of the API server change.
func (c *Controller) watchAPIServer(o any) {
	keys, _ := serviceOf(last(o))
	if slices.Contains(keys, apiServer) {
		c.tasks.Add(reviewUsed)
	}
}
