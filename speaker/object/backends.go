package object

import (
	"net/netip"

	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/speaker/plan"
)

// Backends returns the endpoints in these EndpointSlices, once for each port.
func Backends(endpointSlices []*discoveryv1.EndpointSlice) []plan.Backend {
	var found []plan.Backend
	for _, slice := range endpointSlices {
		for _, e := range slice.Endpoints {
			if len(e.Addresses) == 0 {
				continue
			}
			address, err := netip.ParseAddr(e.Addresses[0]) // the others are not used: KEP-752
			if err != nil {
				continue // of an FQDN
			}
			b := plan.Backend{
				State:      candidate.StateOf(e.Conditions),
				Terminates: e.Conditions.Terminating != nil && *e.Conditions.Terminating,
			}
			if e.NodeName != nil {
				b.Node = *e.NodeName
			}
			if e.Hints != nil {
				for _, n := range e.Hints.ForNodes {
					b.ForNodes = append(b.ForNodes, n.Name)
				}
				for _, z := range e.Hints.ForZones {
					b.ForZones = append(b.ForZones, z.Name)
				}
			}
			for _, p := range slice.Ports {
				if p.Port == nil || *p.Port < 1 || *p.Port > 65535 {
					continue
				}
				if p.Name != nil {
					b.Port = *p.Name
				}
				b.Address = netip.AddrPortFrom(address.Unmap(), uint16(*p.Port))
				found = append(found, b)
			}
		}
	}
	return found
}
