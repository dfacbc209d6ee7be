// Package dialect knows the annotations by which Services speak to other load balancers, as far as
// they mean what Berth's own mean, so that Services need no edit while a cluster changes over.
package dialect

import (
	"fmt"
	"slices"
	"strings"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// Dialect is that of one load balancer: the annotations that mean what Berth's do, those that count
// first come first.
type Dialect struct {
	// Name of the load balancer, as --honor-annotations has it.
	Name string
	// Addresses, Pools and SharingKey mean berth.dev/load-balancer-ips, berth.dev/pools and
	// berth.dev/sharing-key.
	Addresses, Pools, SharingKey []string
}

// The dialects.
var (
	MetalLB = Dialect{
		Name:       "metallb",
		Addresses:  []string{"metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs"},
		Pools:      []string{"metallb.io/address-pool", "metallb.universe.tf/address-pool"},
		SharingKey: []string{"metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip"},
	}
	KubeVIP = Dialect{Name: "kube-vip", Addresses: []string{"kube-vip.io/loadbalancerIPs"}}
	Cilium  = Dialect{
		Name:       "cilium",
		Addresses:  []string{"lbipam.cilium.io/ips", "io.cilium/lb-ipam-ips"},
		SharingKey: []string{"lbipam.cilium.io/sharing-key", "io.cilium/lb-ipam-sharing-key"},
	}
	PureLB = Dialect{
		Name:       "purelb",
		Addresses:  []string{"purelb.io/addresses"},
		Pools:      []string{"purelb.io/service-group"},
		SharingKey: []string{"purelb.io/allow-shared-ip"},
	}
)

var all = []Dialect{MetalLB, KubeVIP, Cilium, PureLB}

// Names are those of all dialects.
func Names() []string {
	var names []string
	for _, d := range all {
		names = append(names, d.Name)
	}
	return names
}

// Honored are the dialects that count beside Berth's own annotations, which come first.
type Honored []Dialect

// Parse returns the dialects of these names.
func Parse(names []string) (Honored, error) {
	var found Honored
	for _, name := range names {
		i := slices.IndexFunc(all, func(d Dialect) bool { return d.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("%q is not a load balancer whose annotations are known; write %s",
				name, strings.Join(Names(), ", "))
		}
		found = append(found, all[i])
	}
	return found, nil
}

// SharingKeys returns the keys by which a Service may share addresses, whatever the controller
// honors: Berth's own, or else those for any other load balancer. Speakers only announce what the
// controller gave, so one that it does not honor has no effect.
func SharingKeys(annotations map[string]string) []string {
	if own, is := annotations[v1alpha1.AnnotationSharingKey]; is {
		if own == "" {
			return nil
		}
		return []string{own}
	}
	var keys []string
	for _, name := range sharing {
		if key := annotations[name]; key != "" && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// sharing are the annotations that SharingKeys reads besides Berth's own.
var sharing = func() (names []string) {
	for _, d := range all {
		names = append(names, d.SharingKey...)
	}
	return names
}()

// SharingAnnotations returns those of a Service that SharingKeys reads.
func SharingAnnotations(annotations map[string]string) map[string]string {
	found := map[string]string{}
	for _, name := range append([]string{v1alpha1.AnnotationSharingKey}, sharing...) {
		if key, is := annotations[name]; is {
			found[name] = key
		}
	}
	return found
}

// Lookup returns the annotation that counts for one of Berth's, and its value; the name of Berth's
// own and "" if there is none.
func (h Honored) Lookup(annotations map[string]string, own string) (name, value string) {
	if value, is := annotations[own]; is {
		return own, value
	}
	for _, d := range h {
		theirs := map[string][]string{
			v1alpha1.AnnotationAddresses: d.Addresses, v1alpha1.AnnotationPools: d.Pools,
			v1alpha1.AnnotationSharingKey: d.SharingKey,
		}[own]
		for _, name := range theirs {
			if value := annotations[name]; value != "" {
				return name, value
			}
		}
	}
	return own, ""
}
