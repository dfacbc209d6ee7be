package migrate

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/berth-lb/berth/config/dialect"
	"github.com/berth-lb/berth/config/v1alpha1"
)

const purelbGroup = "purelb.io"

type serviceGroup struct {
	Local             *serviceGroupPools `json:"local,omitempty"`
	Remote            *serviceGroupPools `json:"remote,omitempty"`
	External          map[string]any     `json:"external,omitempty"`
	Netbox            map[string]any     `json:"netbox,omitempty"`
	Namespaces        []string           `json:"namespaces,omitempty"`
	EnforceNamespaces bool               `json:"enforceNamespaces,omitempty"`
	NamespaceDefault  bool               `json:"namespaceDefault,omitempty"`
}

type serviceGroupPools struct {
	serviceGroupPool
	V4Pool       *serviceGroupPool  `json:"v4pool,omitempty"`
	V6Pool       *serviceGroupPool  `json:"v6pool,omitempty"`
	V4Pools      []serviceGroupPool `json:"v4pools,omitempty"`
	V6Pools      []serviceGroupPool `json:"v6pools,omitempty"`
	SkipIPv6DAD  bool               `json:"skipIPv6DAD,omitempty"`
	MultiPool    bool               `json:"multiPool,omitempty"`
	BalancePools bool               `json:"balancePools,omitempty"`
}

type serviceGroupPool struct {
	Pool        string `json:"pool,omitempty"`
	Subnet      string `json:"subnet,omitempty"`
	Aggregation string `json:"aggregation,omitempty"`
}

// nodeAgent is what matters of the settings of PureLB's agents. How they send gratuitous ARP, and
// which lifetimes the addresses on interfaces have, needs no counterpart.
type nodeAgent struct {
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`
	Local        *nodeAgentLocal       `json:"local,omitempty"`
}

type nodeAgentLocal struct {
	LocalInt       string         `json:"localint,omitempty"`       // in v1
	LocalInterface string         `json:"localInterface,omitempty"` // in v2
	Interfaces     []string       `json:"interfaces,omitempty"`
	AddressGuard   map[string]any `json:"addressGuard,omitempty"`

	ExtLBInt       string         `json:"extlbint,omitempty"`
	DummyInterface string         `json:"dummyInterface,omitempty"`
	SendGARP       bool           `json:"sendgarp,omitempty"`
	GARPConfig     map[string]any `json:"garpConfig,omitempty"`
	AddressConfig  map[string]any `json:"addressConfig,omitempty"`
}

func fromPureLB(c *converter) {
	var local []string
	for _, i := range c.of(purelbGroup, "ServiceGroup") {
		if spec, ok := decode[serviceGroup](c, i.from, "spec", i.spec); ok {
			local = append(local, c.serviceGroup(i, spec)...)
		}
	}
	agents := c.of(purelbGroup, "LBNodeAgent")
	for _, i := range agents {
		if spec, ok := decode[nodeAgent](c, i.from, "spec", i.spec); ok {
			c.nodeAgent(i, spec, local)
		}
	}
	if len(agents) == 0 && len(local) > 0 {
		i := item{from: "ServiceGroups", name: "default"}
		c.addSegment(i, i.name, announcement{poolNames: local, nodes: everything(), services: everything()}, nil)
	}
	c.unknown(purelbGroup, "ServiceGroup", "LBNodeAgent")
	c.services(purelbManner)
}

var purelbManner = manner{
	Dialect:  dialect.PureLB,
	prefixes: []string{"purelb.io/"},
	written: []string{
		"purelb.io/allocated-by", "purelb.io/allocated-from", "purelb.io/pool-type", "purelb.io/announcing*",
		"purelb.io/skip-ipv6-dad", "purelb.io/re-evaluate",
	},
	remedies: map[string]string{
		"purelb.io/allow-local": "with externalTrafficPolicy: Local, Berth announces from nodes that have endpoints only",
		"purelb.io/multi-pool":  "a Service has one address of each family; make another Service for each other segment",
	},
}

// serviceGroup makes a pool, and returns its name if it is announced on the nodes' segment.
func (c *converter) serviceGroup(i item, spec serviceGroup) (local []string) {
	pools, field, remote := spec.Local, "spec.local", spec.Remote != nil
	if remote {
		pools, field = spec.Remote, "spec.remote"
	}
	if pools == nil {
		c.lacks(i.from, "spec", "", "Berth gives addresses of its own pools only; "+
			"make a LoadBalancerPool of those that the other system set apart")
		return nil
	}
	pool := &v1alpha1.LoadBalancerPool{Spec: v1alpha1.LoadBalancerPoolSpec{Scopes: everyService()}}
	pool.Name = c.nameFor("LoadBalancerPool", i, i.name)
	all := pools.all()
	for _, p := range all {
		pool.Spec.Addresses = append(pool.Spec.Addresses, c.addressesOf(i.from, field, []string{p.Pool}, true)...)
	}
	switch {
	case len(spec.Namespaces) > 0:
		c.servedNamespaces(i, spec, pool)
	case i.name != "default":
		pool.Spec.Allocation = v1alpha1.AllocationOnRequest
		c.note(
			i.from,
			"metadata.name",
			i.name,
			"allocation: OnRequest, since only Services that name it get its addresses",
		)
	}
	if pools.MultiPool {
		c.lacks(i.from, field+".multiPool", true, purelbManner.remedies["purelb.io/multi-pool"])
	}
	if pools.BalancePools {
		c.lacks(i.from, field+".balancePools", true, "Berth gives the lowest free address first")
	}
	if pools.SkipIPv6DAD {
		c.lacks(i.from, field+".skipIPv6DAD", true,
			"Berth asks for each address before it uses it; that takes a second at most")
	}
	c.addPool(i, pool)
	if len(pool.Spec.Addresses) == 0 {
		return nil
	}
	if !remote && !c.onVirtualInterface(i, field, all) {
		return []string{pool.Name}
	}
	v4, v6 := c.pureLBAggregation(i, field, all)
	c.addRoute(i, i.name, announcement{poolNames: []string{pool.Name}, nodes: everything(), services: everything()},
		v1alpha1.RouteAnnouncementSpec{
			NeighborSelector: everything(),
			Aggregation:      c.aggregation(i.from, field, field, v4, v6),
		})
	c.lacks(i.from, field, "", "PureLB leaves BGP to routing software; write a BGPNeighbor for each router, "+
		"and end that software's sessions")
	return nil
}

// onVirtualInterface reports whether PureLB has the addresses of a local group on kube-lb0, for
// routing software to announce: it does if their subnet is none of a node. Which ones those are is
// known if Nodes are among the input, and else there is something to look up.
func (c *converter) onVirtualInterface(i item, field string, pools []serviceGroupPool) bool {
	nodes := c.nodeAddresses()
	for _, p := range pools {
		subnet, err := netip.ParsePrefix(p.Subnet)
		switch {
		case err != nil: // nothing is known of it
			return false
		case len(nodes) == 0:
			c.note(i.from, field+".subnet", p.Subnet, "if no node has an address in it, PureLB has the addresses on "+
				"kube-lb0 for routing software; then write a RouteAnnouncement, and BGPNeighbors, "+
				"or add the cluster's Nodes to the files")
			return false
		case slices.ContainsFunc(nodes, subnet.Contains):
			return false
		}
	}
	if len(pools) > 0 {
		c.note(i.from, field+".subnet", pools[0].Subnet, "no node has an address in it, so that PureLB has the "+
			"addresses on kube-lb0, for routing software; they are announced by BGP")
	}
	return len(pools) > 0
}

// nodeAddresses returns the internal addresses of the Nodes among the input.
func (c *converter) nodeAddresses() (all []netip.Addr) {
	for _, o := range c.input {
		if o.GetKind() != "Node" || o.GroupVersionKind().Group != "" {
			continue
		}
		status, _, _ := unstructured.NestedMap(o.Object, "status")
		node, err := lenient[corev1.NodeStatus](status)
		if err != nil {
			continue
		}
		for _, a := range node.Addresses {
			if address, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
				all = append(all, address)
			}
		}
	}
	return all
}

// servedNamespaces restricts a pool to namespaces. It comes before the group "default" there.
func (c *converter) servedNamespaces(i item, spec serviceGroup, pool *v1alpha1.LoadBalancerPool) {
	pool.Spec.Scopes = []v1alpha1.PoolScope{{NamespaceNames: spec.Namespaces, ServiceSelector: everything()}}
	pool.Spec.Priority = new(int32(10))
	if spec.NamespaceDefault {
		pool.Spec.Priority = new(int32(20))
	}
	if !spec.EnforceNamespaces {
		c.note(i.from, "spec.namespaces", strings.Join(spec.Namespaces, ","),
			"Services of other namespaces get no address of it, even if they name it; add scopes for them")
	}
}

// all returns the pools of a group, in the order in which they are used.
func (p *serviceGroupPools) all() []serviceGroupPool {
	all := slices.Clone(p.V4Pools)
	if p.V4Pool != nil {
		all = append(all, *p.V4Pool)
	}
	all = append(all, p.V6Pools...)
	if p.V6Pool != nil {
		all = append(all, *p.V6Pool)
	}
	if p.Pool != "" {
		all = append(all, p.serviceGroupPool)
	}
	return all
}

// pureLBAggregation returns the lengths of the prefixes that routing software finds: a pool's own
// aggregation, or else the length of its subnet.
func (c *converter) pureLBAggregation(i item, field string, pools []serviceGroupPool) (v4, v6 int32) {
	for _, p := range pools {
		subnet, err := netip.ParsePrefix(p.Subnet)
		if err != nil {
			c.lacks(i.from, field+".subnet", p.Subnet, "it is not a prefix; each address is announced alone")
			continue
		}
		bits := subnet.Bits()
		if text := strings.TrimPrefix(p.Aggregation, "/"); text != "" && text != "default" {
			if bits, err = strconv.Atoi(text); err != nil || bits < 0 || bits > subnet.Addr().BitLen() {
				c.lacks(i.from, field+".aggregation", p.Aggregation,
					"it is not the length of a prefix; each address is announced alone")
				continue
			}
		}
		into := &v6
		if subnet.Addr().Is4() {
			into = &v4
		}
		if *into != 0 && *into != int32(bits) {
			c.lacks(i.from, field+".aggregation", fmt.Sprintf("/%d", bits), fmt.Sprintf(
				"an announcement has one length for a family, here %d; write another one, for a pool of its own",
				*into,
			))
			continue
		}
		*into = int32(bits)
	}
	return v4, v6
}

// nodeAgent makes the announcement on the nodes' segment.
func (c *converter) nodeAgent(i item, spec nodeAgent, pools []string) {
	if len(pools) == 0 {
		c.note(
			i.from,
			"",
			"",
			"there is no group with addresses of the nodes' segment, so nothing is announced there",
		)
		return
	}
	var interfaces []string
	if local := spec.Local; local != nil {
		if len(local.AddressGuard) > 0 {
			c.lacks(i.from, "spec.local.addressGuard", "",
				"Berth does not filter what comes to an address; write a firewall rule")
		}
		for _, pattern := range append([]string{local.LocalInt, local.LocalInterface}, local.Interfaces...) {
			if pattern != "" && pattern != "default" {
				if name, ok := c.shellPattern(i.from, "spec.local", pattern); ok {
					interfaces = append(interfaces, name)
				}
			}
		}
	}
	a := announcement{poolNames: pools, nodes: selectorOf(spec.NodeSelector), services: everything()}
	c.addSegment(i, i.name, a, interfaces)
}
