package migrate

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/dialect"
	"github.com/berth-lb/berth/config/v1alpha1"
)

const ciliumGroup = "cilium.io"

type ciliumPool struct {
	Blocks            []ciliumBlock         `json:"blocks,omitempty"`
	CIDRs             []ciliumBlock         `json:"cidrs,omitempty"` // before version 1.15
	ServiceSelector   *metav1.LabelSelector `json:"serviceSelector,omitempty"`
	AllowFirstLastIPs string                `json:"allowFirstLastIPs,omitempty"`
	Disabled          bool                  `json:"disabled,omitempty"`
}

type ciliumBlock struct {
	CIDR  string `json:"cidr,omitempty"`
	Start string `json:"start,omitempty"`
	Stop  string `json:"stop,omitempty"`
}

type ciliumL2Policy struct {
	NodeSelector    *metav1.LabelSelector `json:"nodeSelector,omitempty"`
	ServiceSelector *metav1.LabelSelector `json:"serviceSelector,omitempty"`
	Interfaces      []string              `json:"interfaces,omitempty"`
	LoadBalancerIPs bool                  `json:"loadBalancerIPs,omitempty"`
	ExternalIPs     bool                  `json:"externalIPs,omitempty"`
}

func fromCilium(c *converter) {
	for _, i := range c.of(ciliumGroup, "CiliumLoadBalancerIPPool") {
		if spec, ok := decode[ciliumPool](c, i.from, "spec", i.spec); ok {
			c.ciliumPool(i, spec)
		}
	}
	c.ciliumBGP()
	for _, i := range c.of(ciliumGroup, "CiliumL2AnnouncementPolicy") {
		if spec, ok := decode[ciliumL2Policy](c, i.from, "spec", i.spec); ok {
			c.ciliumL2Policy(i, spec)
		}
	}
	c.services(ciliumManner)
}

var ciliumAcross = []string{"lbipam.cilium.io/sharing-cross-namespace", "io.cilium/lb-ipam-sharing-cross-namespace"}

var ciliumManner = manner{
	Dialect:  dialect.Cilium,
	prefixes: []string{"lbipam.cilium.io/", "io.cilium/lb-ipam-"},
	// Pools say it: see shareAcross.
	across:  ciliumAcross,
	written: ciliumAcross,
	classes: []string{"io.cilium/bgp-control-plane", "io.cilium/l2-announcer"},
}

func (c *converter) ciliumPool(i item, spec ciliumPool) {
	scope, ok := c.ciliumScope(i.from, "spec.serviceSelector", spec.ServiceSelector)
	pool := &v1alpha1.LoadBalancerPool{Spec: v1alpha1.LoadBalancerPoolSpec{Scopes: []v1alpha1.PoolScope{scope}}}
	if !ok {
		pool.Spec.Scopes = everyService()
		pool.Spec.Allocation = v1alpha1.AllocationOnRequest
	}
	if spec.Disabled {
		pool.Spec.Allocation = v1alpha1.AllocationDisabled
	}
	pool.Name = c.nameFor("LoadBalancerPool", i, i.name)
	var entries []string
	for _, b := range slices.Concat(spec.Blocks, spec.CIDRs) {
		switch {
		case b.CIDR != "":
			entries = append(entries, b.CIDR)
		case b.Stop == "":
			entries = append(entries, b.Start)
		default:
			entries = append(entries, b.Start+"-"+b.Stop)
		}
	}
	pool.Spec.Addresses = c.addressesOf(i.from, "spec.blocks", entries, spec.AllowFirstLastIPs != "No")
	c.addPool(i, pool)
}

// Keys by which Cilium's selectors of Services match what is not a label.
const (
	ciliumNamespace = "io.kubernetes.service.namespace"
	ciliumName      = "io.kubernetes.service.name"
)

// ciliumScope converts a selector of Services of a pool, which may select namespaces, too.
func (c *converter) ciliumScope(from, field string, s *metav1.LabelSelector) (scope v1alpha1.PoolScope, ok bool) {
	services, namespaces := everything(), everything()
	for _, r := range requirements(s) {
		switch r.Key {
		case ciliumName:
			c.lacks(from, field, r.Key, "no Service is selected by name; the pool has allocation: OnRequest, "+
				"so write annotation "+v1alpha1.AnnotationPools+" on the Services that it is for")
			return scope, false
		case ciliumNamespace:
			r.Key = "kubernetes.io/metadata.name"
			namespaces.MatchExpressions = append(namespaces.MatchExpressions, r)
		default:
			services.MatchExpressions = append(services.MatchExpressions, r)
		}
	}
	scope = v1alpha1.PoolScope{NamespaceSelector: namespaces, ServiceSelector: services}
	if _, values := valuesIn(namespaces); len(values) > 0 {
		scope.NamespaceSelector, scope.NamespaceNames = nil, values
	}
	return scope, true
}

// requirements returns a selector as requirements only.
func requirements(s *metav1.LabelSelector) []v1alpha1.SelectorRequirement {
	converted := selectorOf(s)
	var all []v1alpha1.SelectorRequirement
	for key, value := range converted.MatchLabels {
		all = append(
			all,
			v1alpha1.SelectorRequirement{Key: key, Operator: v1alpha1.SelectorIn, Values: []string{value}},
		)
	}
	slices.SortFunc(all, func(a, b v1alpha1.SelectorRequirement) int { return strings.Compare(a.Key, b.Key) })
	return append(all, converted.MatchExpressions...)
}

// ciliumServices converts a selector of Services of an announcement. It cannot select namespaces.
func (c *converter) ciliumServices(
	from, field string,
	s *metav1.LabelSelector,
) (services *v1alpha1.Selector, ok bool) {
	for _, r := range requirements(s) {
		if r.Key == ciliumName || r.Key == ciliumNamespace {
			c.lacks(from, field, r.Key, "announcements select Services by their labels; "+
				"label those that are meant, and write an announcement that selects the label")
			return nil, false
		}
	}
	return selectorOf(s), true
}

func (c *converter) ciliumL2Policy(i item, spec ciliumL2Policy) {
	if spec.ExternalIPs {
		c.lacks(
			i.from,
			"spec.externalIPs",
			true,
			"Berth announces addresses of pools only; convert the Services by --from external-ips",
		)
	}
	if !spec.LoadBalancerIPs {
		c.note(
			i.from,
			"spec.loadBalancerIPs",
			false,
			"it announces no addresses of Services of type LoadBalancer, so it is left out",
		)
		return
	}
	services, ok := c.ciliumServices(i.from, "spec.serviceSelector", spec.ServiceSelector)
	if !ok {
		return
	}
	var interfaces []string
	for _, expression := range spec.Interfaces {
		pattern, ok := c.shellPattern(i.from, "spec.interfaces", expression)
		if ok && !slices.Contains(interfaces, pattern) {
			interfaces = append(interfaces, pattern)
		}
	}
	a := announcement{pools: everything(), nodes: selectorOf(spec.NodeSelector), services: services}
	c.addSegment(i, i.name, a, interfaces)
}
