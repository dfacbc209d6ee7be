package plan

import "github.com/berth-lb/berth/bgp"

// PlanPeers returns the BGP peers of this node; an excluded node keeps them, so
// that its return is quick.
func PlanPeers(world World) []bgp.Peer {
	self, ok := world.Nodes[world.Self]
	if !ok {
		return nil
	}
	var peers []bgp.Peer
	for _, p := range world.Snapshot.NeighborsOf(self.Labels) {
		peer := bgp.Peer{
			Name: p.Name, Address: p.Address, Interface: p.Interface, Prefix: p.Prefix,
			Passive: p.Accept, Port: p.Port, LocalASN: p.LocalASN, PeerASN: p.RemoteASN,
			HoldTime: p.HoldTime, KeepaliveTime: p.KeepaliveTime, ConnectRetryTime: p.ConnectRetryTime,
			EBGPMultihop: p.EBGPMultihop, TTLSecurityHops: p.TTLSecurityHops, SourceAddress: p.SourceAddress, VRF: p.VRF,
			Password: p.Password, IPv4: p.IPv4, IPv6: p.IPv6, GracefulRestart: p.GracefulRestart,
		}
		if p.RemoteASN == 0 {
			peer.PeerType = bgp.Internal
			if p.External {
				peer.PeerType = bgp.External
			}
		}
		if p.BFD != nil {
			peer.BFD = bgp.BFD{
				Enabled:          true,
				ReceiveInterval:  p.BFD.ReceiveInterval,
				TransmitInterval: p.BFD.TransmitInterval,
				Multiplier:       p.BFD.Multiplier,
			}
		}
		peers = append(peers, peer)
	}
	return peers
}
