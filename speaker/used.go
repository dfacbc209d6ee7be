package speaker

import (
	"net/netip"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/inuse"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/internal/links"
	"github.com/berth-lb/berth/speaker/localnet"
	"github.com/berth-lb/berth/speaker/steer"
)

// This file is the planner's part in addresses that are in use elsewhere.

// reviewUsed learns which addresses are in use elsewhere, and reports whether that changed. Before
// is the Set until now: still the one of the world if nothing changed.
func (p *planner) reviewUsed() (before *inuse.Set, changed bool) {
	network := p.localnet.Current()
	p.reporter.setNetwork(reportedNetwork(network, p.world.Snapshot))
	p.steering.SetInterfaces(steer.Interfaces(network, p.pods()))
	used := inuse.Compile(inuse.Sources{
		Nodes:     p.sources.node.All(),
		APIServer: p.sources.apiServers(),
		Peers:     peerAddresses(p.world.Snapshot),
		PodCIDRs:  p.PodCIDRs,
		Speakers:  []*v1alpha1.Speaker{ownNetwork(p.Node, network)},
	})
	before = p.world.Used
	if used.Equal(before) {
		return before, false
	}
	p.world.Used = used
	p.unserved.SetUsed(used)
	return before, true
}

// replanUsed plans the groups again whose addresses or aggregates are used otherwise than before.
// Each node that joins or leaves changes what is in use, and nearly always nothing of ours.
func (p *planner) replanUsed(before *inuse.Set) {
	p.plan(p.groups.With(func(a netip.Addr) bool { return p.world.UsedOtherwise(a, before) })...)
}

// peerAddresses returns the addresses of BGP peers, also of those that other nodes have.
func peerAddresses(snapshot *config.Snapshot) map[string]netip.Addr {
	addresses := map[string]netip.Addr{}
	for _, peer := range snapshot.Neighbors {
		if peer.Address.IsValid() {
			addresses[peer.Name] = peer.Address
		}
	}
	return addresses
}

// ownNetwork returns all addresses and gateways of this node's kernel, in the form of a Speaker's
// status.
func ownNetwork(node string, network localnet.Network) *v1alpha1.Speaker {
	own := &v1alpha1.Speaker{}
	own.Name = node
	for _, a := range network.Addresses {
		if links.OfServices(a.Interface) {
			continue
		}
		own.Status.Addresses = append(
			own.Status.Addresses,
			v1alpha1.LocalAddress{Address: a.Addr().String(), Interface: a.Interface},
		)
		own.Status.Segments = append(
			own.Status.Segments,
			v1alpha1.SegmentReport{Interface: a.Interface, Subnets: []string{a.Masked().String()}},
		)
	}
	for _, g := range network.Gateways {
		own.Status.Gateways = append(own.Status.Gateways, g.String())
	}
	return own
}
