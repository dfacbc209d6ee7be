package inuse

import (
	"fmt"
	"net/netip"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/internal/links"
)

// Sources report addresses in use.
type Sources struct {
	// Nodes have an InternalIP and an ExternalIP, and spec.podCIDRs.
	Nodes []*corev1.Node
	// APIServer is the EndpointSlices of Service default/kubernetes.
	APIServer []*discoveryv1.EndpointSlice
	// Peers are addresses by name of the BGPNeighbor.
	Peers map[string]netip.Addr
	// Speakers report addresses on interfaces, gateways and subnets of segments.
	Speakers []*v1alpha1.Speaker
	// ServiceCIDRs and PodCIDRs of the cluster.
	ServiceCIDRs, PodCIDRs []netip.Prefix
}

// Compile gathers the uses. It skips what it cannot parse.
func Compile(from Sources) *Set {
	var u uses
	for _, slice := range from.APIServer {
		for _, e := range slice.Endpoints {
			for _, text := range e.Addresses {
				u.text(apiServer, text, "an address of the API server")
			}
		}
	}
	for _, node := range from.Nodes {
		u.node(node)
	}
	for name, address := range from.Peers {
		u.address(peer, address, Use{By: "the address of BGPNeighbor " + name})
	}
	for _, s := range from.Speakers {
		u.speaker(s)
	}
	for _, p := range from.ServiceCIDRs {
		u.prefix(serviceCIDR, p, fmt.Sprintf("in the Service CIDR %s", p))
	}
	for _, p := range from.PodCIDRs {
		u.prefix(podCIDR, p, fmt.Sprintf("in the pod CIDR %s", p))
	}
	return newSet(u.singles, u.prefixes)
}

// uses are the uses gathered so far.
type uses struct{ singles, prefixes []ranked }

func (u *uses) node(node *corev1.Node) {
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP {
			u.text(nodeAddress, a.Address, fmt.Sprintf("the %s of node %s", a.Type, node.Name))
		}
	}
	for _, text := range append([]string{node.Spec.PodCIDR}, node.Spec.PodCIDRs...) {
		if p, err := netip.ParsePrefix(text); err == nil {
			u.prefix(podCIDR, p, fmt.Sprintf("in the pod CIDR %s of node %s", p.Masked(), node.Name))
		}
	}
}

func (u *uses) speaker(s *v1alpha1.Speaker) {
	for _, text := range s.Status.Gateways {
		u.text(gateway, text, "a default gateway of node "+s.Name)
	}
	for _, a := range s.Status.Addresses {
		if address, err := netip.ParseAddr(a.Address); err == nil && !links.OfServices(a.Interface) {
			u.address(onInterface, address, Use{
				By:        fmt.Sprintf("on interface %s of node %s", a.Interface, s.Name),
				Local:     s.Name,
				Interface: a.Interface,
			})
		}
	}
	for _, segment := range s.Status.Segments {
		for _, text := range segment.Subnets {
			if p, err := netip.ParsePrefix(text); err == nil {
				u.edges(p, s.Name)
			}
		}
	}
}

// edges adds the addresses that no host of a subnet can have. Point-to-point links (RFC 3021, RFC
// 6164) have none.
func (u *uses) edges(subnet netip.Prefix, node string) {
	subnet = subnet.Masked()
	whole := netipx.RangeOfPrefix(subnet)
	edge := func(address netip.Addr, what string) {
		u.address(
			segmentEdge,
			address,
			Use{By: fmt.Sprintf("the %s of %s, a segment of node %s", what, subnet, node), Edge: true},
		)
	}
	switch {
	case subnet.Addr().Is4() && subnet.Bits() <= 30:
		edge(whole.From(), "network address")
		edge(whole.To(), "broadcast address")
	case subnet.Addr().Is6() && !subnet.Addr().Is4In6() && subnet.Bits() < 127:
		edge(whole.From(), "subnet-router anycast address (RFC 4291 section 2.6.1)")
	}
}

func (u *uses) text(r rank, text, by string) {
	if address, err := netip.ParseAddr(text); err == nil {
		u.address(r, address, Use{By: by})
	}
}

// address adds an address that could be in a pool.
func (u *uses) address(r rank, address netip.Addr, use Use) {
	address = plain(address)
	if !address.IsValid() || address.IsUnspecified() || address.IsLoopback() || address.IsMulticast() ||
		address.IsLinkLocalUnicast() {
		return
	}
	use.IPRange = netipx.IPRangeFrom(address, address)
	u.singles = append(u.singles, ranked{use, r})
}

func (u *uses) prefix(r rank, prefix netip.Prefix, by string) {
	if prefix.IsValid() && !prefix.Addr().Is4In6() {
		u.prefixes = append(u.prefixes, ranked{Use{IPRange: netipx.RangeOfPrefix(prefix.Masked()), By: by}, r})
	}
}

// plain returns the address in the form that pools have it in.
func plain(address netip.Addr) netip.Addr { return address.Unmap().WithZone("") }
