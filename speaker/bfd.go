package speaker

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/bgp/bfd"
)

// bfdLiveness watches the paths to BGP peers by BFD.
type bfdLiveness struct {
	engine  *bfd.Engine
	changes chan bgp.PathChange
}

var _ bgp.Liveness = (*bfdLiveness)(nil)

func newBFDLiveness(log *slog.Logger, metrics prometheus.Registerer) (*bfdLiveness, error) {
	engine, err := bfd.New(log, metrics)
	if err != nil {
		return nil, fmt.Errorf("BFD: %w", err)
	}
	return &bfdLiveness{engine: engine, changes: make(chan bgp.PathChange)}, nil
}

// Run watches until the context ends.
func (p *bfdLiveness) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.engine.Run(ctx) })
	group.Go(func() error { p.translate(ctx); return nil })
	return group.Wait()
}

// translate passes events of BFD on, in the words of package bgp.
func (p *bfdLiveness) translate(ctx context.Context) {
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
}

// Watch replaces the peers that are watched.
func (p *bfdLiveness) Watch(peers []bgp.Peer) {
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
func (p *bfdLiveness) Changes() <-chan bgp.PathChange { return p.changes }

// Complaints says which paths cannot be watched.
func (p *bfdLiveness) Complaints() []string {
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
