package bgp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	gobgpserver "github.com/osrg/gobgp/v4/pkg/server"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-lb/berth/internal/async"
)

const patience = time.Minute // on a busy machine; a probe may need several attempts

// router is a second GoBGP, that listens on a loopback address and waits for the driver.
type router struct {
	asn     uint32
	address netip.Addr
	port    uint16
	bgp     *gobgpserver.BgpServer
	changed async.Signal

	mu     sync.Mutex
	routes map[netip.Prefix]*apiutil.Path
	log    []string // "+prefix" and "-prefix", in order of arrival
	ends   []string // reasons of sessions that ended
}

// driverAddress is where the driver under test comes from.
var driverAddress = netip.MustParseAddr("127.0.0.1")

func newRouter(t testing.TB, address string, asn, driverASN uint32) *router {
	t.Helper()
	return newRouterWithID(t, address, address, asn, driverASN)
}

func newRouterWithID(t testing.TB, address, routerID string, asn, driverASN uint32) *router {
	t.Helper()
	r := &router{
		asn:     asn,
		address: netip.MustParseAddr(address),
		bgp:     gobgpserver.NewBgpServer(),
		changed: async.NewSignal(),
		routes:  map[netip.Prefix]*apiutil.Path{},
	}
	r.port = freePort(t, address)
	ctx, cancel := context.WithCancel(context.Background())
	go r.bgp.Serve()
	t.Cleanup(func() {
		cancel()
		r.bgp.Stop()
	})
	must(t, r.bgp.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{
		Asn: asn, RouterId: routerID, ListenPort: int32(r.port), ListenAddresses: []string{address},
	}}))
	source := driverAddress
	if r.address.Is6() {
		source = netip.IPv6Loopback()
	}
	neighbor := &api.Peer{
		Conf:      &api.PeerConf{NeighborAddress: source.String(), PeerAsn: driverASN},
		Transport: &api.Transport{PassiveMode: true, LocalAddress: address},
		Timers:    &api.Timers{Config: &api.TimersConfig{IdleHoldTimeAfterReset: 1}},
	}
	for _, f := range families {
		neighbor.AfiSafis = append(neighbor.AfiSafis, &api.AfiSafi{
			Config: &api.AfiSafiConfig{Family: apiutil.ToApiFamily(f.Afi(), f.Safi()), Enabled: true},
		})
	}
	must(t, r.bgp.AddPeer(ctx, &api.AddPeerRequest{Peer: neighbor}))
	must(t, r.bgp.WatchEvent(ctx, gobgpserver.WatchEventMessageCallbacks{
		OnPathUpdate: r.took,
		OnPeerUpdate: func(m *apiutil.WatchEventMessage_PeerEvent, _ time.Time) {
			if m.Type == apiutil.PEER_EVENT_STATE && m.Peer.State.SessionState == gobgp.BGP_FSM_IDLE {
				r.mu.Lock()
				r.ends = append(r.ends, m.Peer.State.DisconnectMessage)
				r.mu.Unlock()
				r.changed.Notify()
			}
		},
	}, gobgpserver.WatchPostUpdate(true, "", ""), gobgpserver.WatchPeer()))
	return r
}

func (r *router) took(paths []*apiutil.Path, _ time.Time) {
	r.mu.Lock()
	for _, p := range paths {
		prefix := netip.MustParsePrefix(p.Nlri.String())
		if p.Withdrawal {
			delete(r.routes, prefix)
			r.log = append(r.log, "-"+prefix.String())
		} else {
			r.routes[prefix] = p
			r.log = append(r.log, "+"+prefix.String())
		}
	}
	r.mu.Unlock()
	r.changed.Notify()
}

// peer is the router as the driver's peer.
func (r *router) peer(name string, driverASN uint32) Peer {
	p := Peer{
		Name:             name,
		Address:          r.address,
		Port:             r.port,
		LocalASN:         driverASN,
		RemoteASN:        r.asn,
		ConnectRetryTime: time.Second,
	}
	if r.address.Is4() {
		p.SourceAddress = driverAddress
	}
	return p
}

// prefixes is what the router has, sorted.
func (r *router) prefixes() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []netip.Prefix
	for p := range r.routes {
		list = append(list, p)
	}
	return texts(list)
}

func (r *router) path(prefix string) *apiutil.Path {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.routes[netip.MustParsePrefix(prefix)]
}

// forget empties the log.
func (r *router) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = nil
}

func (r *router) heard() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.log)
}

func (r *router) ended() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ends)
}

// has waits until the router has exactly these prefixes.
func (r *router) has(t testing.TB, prefixes ...string) {
	t.Helper()
	slices.Sort(prefixes)
	await(t, r.changed, func() bool { return slices.Equal(r.prefixes(), prefixes) }, func() string {
		return fmt.Sprintf("router %s has %v, want %v", r.address, r.prefixes(), prefixes)
	})
}

// await looks each time changed says so.
func await[T any](t testing.TB, changed <-chan T, ok func() bool, otherwise func() string) {
	t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for !ok() {
		select {
		case <-changed:
		case <-timeout.C:
			t.Fatalf("after %s: %s", patience, otherwise())
		}
	}
}

// taken are the ports that freePort gave away: tests run at the same time.
var taken sync.Map

func freePort(t testing.TB, address string) uint16 {
	t.Helper()
	for {
		l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
		must(t, err)
		port := l.Addr().(*net.TCPAddr).AddrPort().Port()
		must(t, l.Close())
		if _, before := taken.LoadOrStore(port, true); !before {
			return port
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// announces makes the router send a route of its own.
func (r *router) announces(t testing.TB, prefix string) {
	t.Helper()
	path, err := newPath(netip.MustParsePrefix(prefix), announcement{}, r.address, false, newAttributeSets(), r.asn)
	must(t, err)
	_, err = r.bgp.AddPath(apiutil.AddPathRequest{Paths: []*apiutil.Path{path}})
	must(t, err)
}

// bgpShutdown makes the router end the session on purpose.
func (r *router) bgpShutdown(t testing.TB, communication string) {
	t.Helper()
	must(t, r.bgp.ShutdownPeer(context.Background(), &api.ShutdownPeerRequest{Communication: communication}))
}

// bgpReset makes the router end its session with the driver, with a word.
func (r *router) bgpReset(t testing.TB, communication string) {
	t.Helper()
	must(
		t,
		r.bgp.ResetPeer(
			context.Background(),
			&api.ResetPeerRequest{Address: driverAddress.String(), Communication: communication},
		),
	)
}

func nextHop(p *apiutil.Path) string {
	for _, a := range p.Attrs {
		switch v := a.(type) {
		case *gobgp.PathAttributeNextHop:
			return v.Value.String()
		case *gobgp.PathAttributeMpReachNLRI:
			return v.Nexthop.String()
		}
	}
	return "none"
}

// attributes tells what else arrived with a path.
func attributes(p *apiutil.Path) (asPath string, localPref, communities bool) {
	for _, a := range p.Attrs {
		switch v := a.(type) {
		case *gobgp.PathAttributeAsPath:
			var list []string
			for _, segment := range v.Value {
				for _, asn := range segment.GetAS() {
					list = append(list, fmt.Sprint(asn))
				}
			}
			asPath = strings.Join(list, " ")
		case *gobgp.PathAttributeLocalPref:
			localPref = true
		case *gobgp.PathAttributeLargeCommunities, *gobgp.PathAttributeCommunities:
			communities = true
		}
	}
	return asPath, localPref, communities
}

// tells waits until a path says this.
func (r *router) tells(t testing.TB, prefix, want string) {
	t.Helper()
	said := func() string {
		if p := r.path(prefix); p != nil {
			return words(p)
		}
		return "nothing"
	}
	await(t, r.changed, func() bool { return said() == want }, func() string {
		return fmt.Sprintf("router %s is told of %s: %s, want %s", r.address, prefix, said(), want)
	})
}

// words are what a path says besides origin and next hop.
func words(p *apiutil.Path) string {
	path, _, _ := attributes(p)
	said := []string{"path " + path}
	for _, a := range p.Attrs {
		switch v := a.(type) {
		case *gobgp.PathAttributeMultiExitDisc:
			said = append(said, fmt.Sprintf("med %d", v.Value))
		case *gobgp.PathAttributeLocalPref:
			said = append(said, fmt.Sprintf("local %d", v.Value))
		case *gobgp.PathAttributeCommunities:
			said = append(said, "communities")
			for _, c := range v.Value {
				said[len(said)-1] += fmt.Sprintf(" %d:%d", c>>16, c&0xffff)
			}
		case *gobgp.PathAttributeExtendedCommunities:
			said = append(said, "extended")
			for _, c := range v.Value {
				if lb, ok := c.(*gobgp.LinkBandwidthExtended); ok {
					said[len(said)-1] += fmt.Sprintf(" %d:%.0f", lb.AS, lb.Bandwidth)
				}
			}
		case *gobgp.PathAttributeLargeCommunities:
			said = append(said, "large")
			for _, c := range v.Values {
				said[len(said)-1] += " " + c.String()
			}
		}
	}
	return strings.Join(said, ", ")
}

// gather flattens the metrics of a registry.
func gather(t testing.TB, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	must(t, err)
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			name := fmt.Sprintf("%s{%s}", f.GetName(), strings.Join(labels, ","))
			values[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return values
}
