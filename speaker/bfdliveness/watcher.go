// Package bfdliveness watches the paths to BGP peers by BFD (package bgp/bfd), as package bgp has
// them watched.
package bfdliveness

import (
	"context"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/bgp/bfd"
)

// Engine keeps BFD sessions, as bfd.Engine does.
type Engine interface {
	Sync(peers []bfd.Peer)
	Run(ctx context.Context) error
	Events() <-chan bfd.Event
}

// Watcher watches the paths to BGP peers. Make one with New.
type Watcher struct {
	engine  Engine
	changes chan bgp.PathChange
}

var _ bgp.Liveness = (*Watcher)(nil)

// New returns a Watcher that watches nothing yet, by means of the engine, which it runs.
func New(engine Engine) *Watcher {
	return &Watcher{engine: engine, changes: make(chan bgp.PathChange)}
}

// Run watches until the context ends.
func (w *Watcher) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.engine.Run(ctx) })
	group.Go(func() error { w.translate(ctx); return nil })
	return group.Wait()
}

// translate passes events of BFD on, in the words of package bgp.
func (w *Watcher) translate(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-w.engine.Events():
			c := bgp.PathChange{Peer: e.Peer, State: bgp.PathDown, Reason: e.Diag.String(), Time: time.Now()}
			switch {
			case e.State == bfd.Up:
				c.State, c.Reason = bgp.PathUp, ""
			case e.Remote == bfd.AdminDown:
				c.State = bgp.PathUnwatched
			}
			select {
			case w.changes <- c:
			case <-ctx.Done():
			}
		}
	}
}

// Watch replaces the peers that are watched.
func (w *Watcher) Watch(peers []bgp.Peer) {
	watched := make([]bfd.Peer, 0, len(peers))
	for _, peer := range peers {
		watched = append(watched, bfd.Peer{
			Name: peer.Name, Remote: peer.Address, Local: peer.SourceAddress, Device: peer.VRF, MinTTL: lowestTTL(peer),
			ReceiveInterval: peer.BFD.ReceiveInterval, TransmitInterval: peer.BFD.TransmitInterval,
			Multiplier: peer.BFD.Multiplier,
			Authentication: bfd.Authentication{
				Meticulous: peer.BFD.Key.Meticulous, KeyID: peer.BFD.Key.ID, Key: peer.BFD.Key.Text,
			},
		})
	}
	w.engine.Sync(watched)
}

// Changes is the stream of changes.
func (w *Watcher) Changes() <-chan bgp.PathChange { return w.changes }

// Complaints returns which paths cannot be watched.
func Complaints(paths []bfd.Status) []string {
	var found []string
	for _, s := range paths {
		if s.Err != "" {
			found = append(found, fmt.Sprintf("BFD with BGPNeighbor %s: %s", s.Peer, s.Err))
		}
	}
	return found
}

// lowestTTL is that of a router's BFD packets if it is several hops away (RFC 5883), and 0 if it is
// not. An internal peer is if the way to it leads through a gateway.
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
	case p.TTLSecurityHops == 1:
		return 0
	case external || p.Address.IsLinkLocalUnicast():
		return 0
	}
	ways, err := netlink.RouteGet(p.Address.AsSlice())
	if err != nil || len(ways) == 0 || ways[0].Gw == nil {
		return 0
	}
	return 1
}
