package steps

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Elsewhere says, before speakers tell their subnets, which Services' addresses may be on another
// interface than the one on which Berth would answer. It names one Service of each L2Advertisement
// and node.
func (s *Snapshot) Elsewhere() (notes []string) {
	announcing, l2, said := s.announcing("L2Advertisement"), s.l2Nodes(), map[string]bool{}
	for _, svc := range s.served() {
		name := l2[key(svc)]
		by := s.onAnyInterface(announcing(svc), name)
		if len(by) == 0 || len(s.segments(name, "")) > 0 {
			continue
		}
		advertisement := by[0].GetNamespace() + "/" + by[0].GetName()
		for _, text := range addresses(svc) {
			a, err := netip.ParseAddr(text)
			near := func(n corev1.NodeAddress) bool { return n.Type == corev1.NodeInternalIP && isNear(n.Address, a) }
			if err != nil || said[advertisement+" "+name] ||
				slices.ContainsFunc(s.node(name).Status.Addresses, near) {
				continue
			}
			said[advertisement+" "+name] = true
			notes = append(
				notes,
				fmt.Sprintf("L2Advertisement %s has no spec.interfaces, so that Berth will answer for %s of "+
					"Service %s on %s on the interfaces with an InternalIP of the node only, and may have no subnet with it there: "+
					"if it is on another interface, write that into spec.interfaces before you begin",
					advertisement, a, key(svc), name),
			)
		}
	}
	return notes
}

// isNear reports whether an address and one of a node have as much in common as those of the usual
// subnets do: 24 bits of IPv4, or 64 of IPv6. Larger ones are not known from Nodes.
func isNear(of string, a netip.Addr) bool {
	own, err := netip.ParseAddr(of)
	if err != nil {
		return false
	}
	bits := 64
	if own.Is4() {
		bits = 24
	}
	subnet, err := own.Prefix(bits)
	return err == nil && subnet.Contains(a)
}
