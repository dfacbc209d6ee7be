package allocation

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/berth-lb/berth/config/inuse"
	"github.com/berth-lb/berth/ipam"
)

// bindingAgents are the prefixes of annotations that some programs set on a Service when they bind
// its address to an interface of a node: kube-vip and PureLB.
var bindingAgents = []string{"kube-vip.io/", "purelb.io/"}

// SetUsed replaces the addresses in use elsewhere, and reports whether they changed. They are not
// given, and Services that hold one are requeued, to lose it.
func (a *Allocations) SetUsed(set *inuse.Set) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if set.Equal(a.used) {
		return false
	}
	a.used = set
	a.passOverUsed()
	a.retryWaiting()
	return true
}

// Used returns the addresses in use elsewhere.
func (a *Allocations) Used() *inuse.Set {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.used
}

// UseOf returns who else uses the address, and whether anybody does.
func (a *Allocations) UseOf(address netip.Addr) (inuse.Use, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.used.Of(address)
}

// AnyUsed reports whether one of the addresses is not given since it is in use elsewhere.
func (a *Allocations) AnyUsed(addresses []netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.ContainsFunc(addresses, func(address netip.Addr) bool { return a.allocator.UsedBy(address) != "" })
}

// passOverUsed tells the allocator which addresses are in use elsewhere. The mutex is held.
func (a *Allocations) passOverUsed() {
	var used []ipam.Used
	for _, u := range a.used.All() {
		if u.Local == "" || !a.boundForService(u.From()) {
			used = append(used, ipam.Used{IPRange: u.IPRange, By: u.By})
		}
	}
	a.allocator.SetUsed(used)
	for _, key := range a.allocator.HeldUsed() {
		a.config.Queue.Service(key)
	}
}

// isLocal reports whether an interface of a node has the address, and nothing else is known about
// it. The mutex is held.
func (a *Allocations) isLocal(address netip.Addr) bool {
	use, found := a.used.Of(address)
	return found && use.Local != ""
}

// boundForService reports whether the address is on an interface because it is that of a Service.
// The mutex is held.
func (a *Allocations) boundForService(address netip.Addr) bool {
	return slices.ContainsFunc(a.allocator.Holders(address), func(key string) bool {
		namespace, name, _ := strings.Cut(key, "/")
		svc, err := a.config.Services.Services(namespace).Get(name)
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
