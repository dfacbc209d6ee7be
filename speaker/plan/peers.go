package plan

import "github.com/berth-lb/berth/bgp/peer"

// PlanPeers returns the BGP peers of this node; an excluded node keeps them, so
// that its return is quick.
func PlanPeers(world World) []peer.Peer {
	self, ok := world.Nodes[world.Self]
	if !ok {
		return nil
	}
	var peers []peer.Peer
	for _, p := range world.Snapshot.NeighborsOf(self.Labels) {
		peers = append(peers, p.Peer)
	}
	return peers
}
