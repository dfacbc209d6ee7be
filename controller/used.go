package controller

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/inuse"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/ipam"
)

// This file is about the addresses that somebody else has: they are not given.

// apiServer is the Service whose EndpointSlices tell the addresses of the API server.
const apiServer = metav1.NamespaceDefault + "/kubernetes"

// reviewUsed takes in what tells which addresses are in use, and reports whether anything changed. Services that have one of
// them are looked at again, and lose it.
func (c *Controller) reviewUsed() bool {
	now := inuse.Compile(c.usedSources())
	if now.Equal(c.used.Load()) {
		return false
	}
	c.used.Store(now)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.giveNoneOf(now)
	c.retryWaiting("")
	return true
}

// giveNoneOf has the allocator give no address that is in use. The mutex is held.
func (c *Controller) giveNoneOf(set *inuse.Set) {
	var used []ipam.Used
	for _, u := range set.All() {
		if u.Local == "" || !c.boundForService(u.From()) {
			used = append(used, ipam.Used{IPRange: u.IPRange, By: u.By})
		}
	}
	c.allocator.SetUsed(used)
	for _, key := range c.allocator.HeldUsed() {
		c.services.Add(key)
	}
}

// isLocal reports whether an interface of a node has the address, and no more is known of it.
func (c *Controller) isLocal(address netip.Addr) bool {
	use, found := c.used.Load().Of(address)
	return found && use.Local != ""
}

// anyUsed reports whether one of the addresses is in use elsewhere.
func (c *Controller) anyUsed(addresses []netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(addresses, func(a netip.Addr) bool { return c.allocator.UsedBy(a) != "" })
}

// bindingAgents are the prefixes of annotations that programs put on the Services whose addresses they bind to an interface
// of a node: kube-vip and PureLB.
var bindingAgents = []string{"kube-vip.io/", "purelb.io/"}

// boundForService reports whether the address is on an interface since a Service of Berth's has it. The mutex is held.
func (c *Controller) boundForService(address netip.Addr) bool {
	return slices.ContainsFunc(c.allocator.Holders(address), func(key string) bool {
		namespace, name, _ := strings.Cut(key, "/")
		svc, err := c.informers.services.Services(namespace).Get(name)
		if err != nil {
			return false
		}
		for annotation := range svc.Annotations {
			if slices.ContainsFunc(bindingAgents, func(prefix string) bool { return strings.HasPrefix(annotation, prefix) }) {
				return true
			}
		}
		return false
	})
}

// usedSources returns what tells which addresses are in use, as the caches have it.
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

// watchServiceCIDRs fills the cache of ServiceCIDRs, if the API server has the kind (it is in Kubernetes 1.33 and later).
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
				c.Logger.Warn("the API server has no ServiceCIDRs (Kubernetes before 1.33), so pools may overlap the range of ClusterIPs unnoticed; give it by --service-cidrs")
			}
			return nil
		}
		c.Logger.Warn("does the API server have ServiceCIDRs? It will be asked again", "error", err)
		retry.Reset(time.Second) // nothing tells when the API server answers again
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
	return slices.ContainsFunc(resources.APIResources, func(r metav1.APIResource) bool { return r.Name == "servicecidrs" }), nil
}

// knowsServiceCIDRs reports whether the cache holds every ServiceCIDR, or there is no such kind.
func (c *Controller) knowsServiceCIDRs() bool {
	known := c.serviceCIDRs.Load()
	return known != nil && (!*known || c.informers.serviceCIDR.HasSynced())
}

// watchAPIServer has the addresses of the API server looked at again when they change.
func (c *Controller) watchAPIServer(o any) {
	keys, _ := serviceOf(last(o))
	if slices.Contains(keys, apiServer) {
		c.settings.Add(reviewUsed)
	}
}

// restoreResting lets rest what former leaders freed, or may have, as the statuses of the pools say: a speaker that has not
// heard of it may still announce it.
func (c *Controller) restoreResting(now time.Time) {
	if c.Rest <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	longest := now.Add(c.Rest)
	for _, pool := range client.Stored[*v1alpha1.LoadBalancerPool](c.informers.pool) {
		for _, r := range pool.Status.Resting {
			address, err := netip.ParseAddr(r.Address)
			if err != nil || !r.UntilTime.After(now) {
				continue
			}
			until := r.UntilTime.Time
			if until.After(longest) { // another clock, or another setting
				until = longest
			}
			c.allocator.Rest(address, r.Service, until)
		}
		for _, address := range recentOf(pool) {
			c.allocator.Rest(address, "", longest)
		}
	}
	c.settings.AddAfter(wakeResting, time.Second)
}

// mostRecent bounds the addresses that a leader lets rest when it begins.
const mostRecent = 1 << 16

// recentOf returns the addresses that were held, or rested, when the status of the pool was written last.
func recentOf(pool *v1alpha1.LoadBalancerPool) []netip.Addr {
	var found []netip.Addr
	for _, text := range pool.Status.Recent {
		from, to, err := parseRange(text)
		for a := from; err == nil && len(found) < mostRecent; a = a.Next() {
			found = append(found, a)
			if a == to {
				break
			}
		}
	}
	return found
}

// parseRange parses a range "a-b" or a single address.
func parseRange(text string) (from, to netip.Addr, err error) {
	first, second, isRange := strings.Cut(text, "-")
	if from, err = netip.ParseAddr(first); err != nil || !isRange {
		return from, from, err
	}
	to, err = netip.ParseAddr(second)
	if err == nil && (to.Less(from) || to.BitLen() != from.BitLen()) {
		err = fmt.Errorf("%q is no range", text)
	}
	return from, to, err
}

// wake ends the rest of freed addresses whose time is over, and has those who wait tried again.
func (c *Controller) wake(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	woke, next := c.allocator.Wake(now)
	if woke {
		c.giveNoneOf(c.used.Load()) // a Service that was deleted may have left its address on an interface
		c.retryWaiting("")
		c.settings.AddAfter(publishUsage, usageInterval)
	}
	if !next.IsZero() {
		c.settings.AddAfter(wakeResting, time.Until(next))
	}
}
