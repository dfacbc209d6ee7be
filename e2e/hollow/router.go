//go:build linux

package hollow

import (
	"context"
	"fmt"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	gobgpserver "github.com/osrg/gobgp/v4/pkg/server"
)

// AS numbers of the routers and of the nodes.
const (
	routerAS = 64512
	nodeAS   = 64513
)

// router is GoBGP at an address of the segment, with a session for each node.
type router struct {
	address string
	bgp     *gobgpserver.BgpServer // nil: it is away
}

// start starts it, and has it wait for the nodes.
func (r *router) start(ctx context.Context, nodes []*node) error {
	bgp := gobgpserver.NewBgpServer()
	go bgp.Serve() // ends with stop
	r.bgp = bgp
	if err := bgp.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{
		Asn: routerAS, RouterId: r.address, ListenPort: 179, ListenAddresses: []string{r.address},
	}}); err != nil {
		return fmt.Errorf("start router %s: %w", r.address, err)
	}
	for _, n := range nodes {
		family := apiutil.ToApiFamily(gobgp.RF_IPv4_UC.Afi(), gobgp.RF_IPv4_UC.Safi())
		if err := bgp.AddPeer(ctx, &api.AddPeerRequest{Peer: &api.Peer{
			Conf:      &api.PeerConf{NeighborAddress: n.address.String(), PeerAsn: nodeAS},
			Transport: &api.Transport{PassiveMode: true, LocalAddress: r.address},
			Timers:    &api.Timers{Config: &api.TimersConfig{IdleHoldTimeAfterReset: 1, HoldTime: 9, KeepaliveInterval: 3}},
			AfiSafis:  []*api.AfiSafi{{Config: &api.AfiSafiConfig{Family: family, Enabled: true}}},
		}}); err != nil {
			return fmt.Errorf("router %s, peer %s: %w", r.address, n.name, err)
		}
	}
	return nil
}

// stop takes the router away.
func (r *router) stop() {
	if r.bgp != nil {
		r.bgp.Stop()
		r.bgp = nil
	}
}

// sessions counts those that are established.
func (r *router) sessions(ctx context.Context) (int, error) {
	up := 0
	err := r.bgp.ListPeer(ctx, &api.ListPeerRequest{}, func(p *api.Peer) {
		if p.State.SessionState == api.PeerState_SESSION_STATE_ESTABLISHED {
			up++
		}
	})
	return up, err
}
