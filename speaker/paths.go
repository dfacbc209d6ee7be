package speaker

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/bgp/bfd"
)

// paths watches the paths to BGP peers by BFD.
type paths struct {
	engine  *bfd.Engine
	changes chan bgp.PathChange
}

func newPaths(log *slog.Logger, metrics prometheus.Registerer) (*paths, error) {
	engine, err := bfd.New(log, metrics)
	if err != nil {
		return nil, fmt.Errorf("BFD: %w", err)
	}
	return &paths{engine: engine, changes: make(chan bgp.PathChange)}, nil
}

// run watches until the context ends.
func (p *paths) run(ctx context.Context) error {
	done := make(chan struct{})
	go func() { // ends with ctx
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case e := <-p.engine.Events():
				c := bgp.PathChange{Peer: e.Peer, State: bgp.PathDown, Reason: e.Diag.String(), Time: time.Now()}
				switch {
				case e.State == bfd.Up:
					c.State, c.Reason = bgp.PathUp, ""
				case e.Remote == bfd.AdminDown:
					c.State = bgp.PathUnwatched
				}
				select {
				case p.changes <- c:
				case <-ctx.Done():
				}
			}
		}
	}()
	err := p.engine.Run(ctx)
	<-done
	return err
}

// Watch replaces the peers that are watched.
func (p *paths) Watch(peers []bgp.Peer) {
	watched := make([]bfd.Peer, 0, len(peers))
	for _, peer := range peers {
		watched = append(watched, bfd.Peer{
			Name: peer.Name, Remote: peer.Address, Local: peer.SourceAddress, Device: peer.VRF, MinTTL: lowestTTL(peer),
			ReceiveInterval: peer.BFD.ReceiveInterval, TransmitInterval: peer.BFD.TransmitInterval, Multiplier: peer.BFD.Multiplier,
		})
	}
	p.engine.Sync(watched)
}

// Changes is the stream of changes.
func (p *paths) Changes() <-chan bgp.PathChange { return p.changes }

// complaints tells which paths cannot be watched.
func (p *paths) complaints() []string {
	var found []string
	for _, s := range p.engine.Status() {
		if s.Err != "" {
			found = append(found, fmt.Sprintf("BFD with BGPNeighbor %s: %s", s.Peer, s.Err))
		}
	}
	return found
}

// lowestTTL is that of a router's BFD packets if it is several hops away (RFC 5883), and 0 if it is not. An
// internal peer is if the way to it leads through a gateway.
func lowestTTL(p bgp.Peer) uint8 {
	external := p.RemoteASN != p.LocalASN
	if p.RemoteASN == 0 {
		external = p.RemoteType == bgp.External
	}
	switch {
	case p.EBGPMultihop > 0:
		return 255 - p.EBGPMultihop + 1
	case p.TTLSecurityHops > 1:
		return 255 - p.TTLSecurityHops + 1
	case external || p.Address.IsLinkLocalUnicast():
		return 0
	}
	ways, err := netlink.RouteGet(p.Address.AsSlice())
	if err != nil || len(ways) == 0 || ways[0].Gw == nil {
		return 0
	}
	return 1
}
