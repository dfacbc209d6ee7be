package speaker

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/bgp/bfd"
	"github.com/berth-lb/berth/config/inuse"
	"github.com/berth-lb/berth/l2"
	"github.com/berth-lb/berth/speaker/dataplane"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
	"github.com/berth-lb/berth/speaker/deadnodes"
	"github.com/berth-lb/berth/speaker/deadnodes/notice"
	"github.com/berth-lb/berth/speaker/localnet"
	"github.com/berth-lb/berth/speaker/plan"
	"github.com/berth-lb/berth/speaker/rival"
	"github.com/berth-lb/berth/speaker/steer"
)

// Drivers have one contract. Sync replaces what is desired of one group, or of one address, and
// returns at once; the zero value removes it, and the cost does not depend on others. The planner
// sends the zero value: for a group that is gone in reviewService, for an address that is no longer
// announced on segments in withdraw. Run compares what is desired with what is, repairs the
// difference, and ends with the context. Observed is the stream of what was seen. It is bounded: a
// slow reader loses the oldest and delays nothing.
//
// The interfaces say what the planner and the reporter use of each driver.

// segmentAnnouncer announces addresses on segments.
type segmentAnnouncer interface {
	Sync(address netip.Addr, desired l2.Desired)
	Run(ctx context.Context) error
	Observed() <-chan l2.Observation

	Anticipate(addresses map[netip.Addr]l2.Desired)
	Rebalance(address netip.Addr)
	SetState(state l2.State)
	SetKeys(keys l2.Keys)
	SetCapabilities(capabilities l2.Capabilities)
	Confirm(at time.Time)
	SetNodes(addresses map[string][]netip.Addr)
	MirrorLost()
	Status() l2.Status
	Holds(address netip.Addr) (interfaces []string)
	BFD() []bfd.Status
	Drained() <-chan struct{}
}

// routeAnnouncer announces routes to BGP peers.
type routeAnnouncer interface {
	Sync(group string, desired bgp.Desired)
	Run(ctx context.Context) error
	Observed() <-chan bgp.Observation

	SyncPeers(peers []bgp.Peer)
	SetRouterID(id netip.Addr) error
	SetNextHops(addresses []netip.Addr) error
	Drain(after time.Duration)
	LastResort()
	Resume()
	Restart()
	Withdraw(ctx context.Context) error
	Status() bgp.Status

	Meet(ctx context.Context)
	Ends(ctx context.Context) bool
	Look(routers []rival.Router) ([]rival.Connection, error)
}

// forwarder forwards connections; on nodes that do not, it removes what a former process left.
type forwarder interface {
	Sync(group plan.Group, desired plan.Forwarding) dataplane.Status
	Run(ctx context.Context) error
	Observed() <-chan dataplane.Observation

	// Backends and Marks return what a plan of forwarding is made from.
	Backends(group plan.Group, services []plan.ClassifiedService, read func(service string) []plan.Backend,
		limit func(addresses []netip.Addr) time.Duration) (backends map[string][]plan.Backend, again time.Duration)
	Marks(group string, frontends []ipvs.Frontend) map[ipvs.Frontend]uint32
	Forget(group string)
	ForgetService(name string)
	SetPods(prefixes []netip.Prefix)
	SetSources(addresses []netip.Addr)
	Probe()
	Abilities() (schedulers []string, lacking string)
	Report() (report dataplane.Report, asked bool)
	Remove() error
}

// steerer steers connections to the nodes that have endpoints; on nodes that do not, it removes
// what a former process left.
type steerer interface {
	Sync(group string, ports []plan.SteeredPort)
	Run(ctx context.Context) error
	// Changed names a group for which Steers returns something else, or "" if Report does.
	Changed() <-chan string

	Steers(group string) bool
	SetSeed(seed [16]byte)
	SetEnabled(enabled bool)
	SetNodes(addresses map[string][]netip.Addr)
	SetInterfaces(names, ways []string)
	Suspect(nodes, dead map[string]bool)
	Report() (report steer.Report, asked bool)
	Remove() error
}

// dropper drops packets for announced addresses that nothing on this node serves.
type dropper interface {
	Sync(group string, prefixes []netip.Prefix)
	Run(ctx context.Context) error

	SetUsed(used *inuse.Set)
	SetConflicts(addresses []netip.Addr)
	Err() error
	Remove() error
}

// claimMirror keeps claims of layer 2 in L2Owners.
type claimMirror interface {
	Show(address netip.Addr, services, announcements []string)
	Run(ctx context.Context) error

	Depart()
	Reconsider(node string)
	Refresh()
	Synced() bool
}

// network follows which addresses and gateways this node's kernel has.
type network interface {
	Run(ctx context.Context) error
	Read() error
	Current() localnet.Network
	Changed() <-chan struct{}
}

// peerFilter holds peers back that another BGP speaker of this node has a session with.
type peerFilter interface {
	Free(peers []bgp.Peer) []bgp.Peer
	Run(ctx context.Context) error
	Changed() <-chan struct{}

	Check()
	Held() []rival.HeldPeer
	Begun() <-chan rival.HeldPeer
}

// runner is a driver that needs nothing but to run.
type runner interface {
	Run(ctx context.Context) error
}

// proxyHealth says when kube-proxy becomes unhealthy or healthy.
type proxyHealth interface {
	Run(ctx context.Context) error
	Changes() <-chan bool
}

// drivers are all that the planner drives and the reporter reads.
type drivers struct {
	l2        segmentAnnouncer
	bgp       routeAnnouncer
	dataplane forwarder
	steering  steerer
	dead      *deadnodes.Detector
	asksDead  bool           // something uses what dead knows
	notices   *notice.Driver // nil: deaths are not told
	unserved  dropper
	mirror    claimMirror
	localnet  network
	rivals    peerFilter
	paths     runner // nil: BFD is not for this process to order
	kubeProxy proxyHealth
	midstream runner // resets connections to addresses that moved here in their midst
}

// runs returns the Run methods of all but the mirror, which runs before the first plan.
func (d drivers) runs() []func(context.Context) error {
	runs := []func(context.Context) error{
		d.l2.Run, d.bgp.Run, d.dataplane.Run, d.unserved.Run, d.localnet.Run, d.rivals.Run, d.kubeProxy.Run,
		d.midstream.Run, d.steering.Run,
	}
	if d.asksDead {
		runs = append(runs, d.dead.Run)
	}
	if d.notices != nil {
		runs = append(runs, d.notices.Run)
	}
	if d.paths != nil {
		runs = append(runs, d.paths.Run)
	}
	return runs
}

// established returns the peers that have a session; one with a prefix may have several.
func established(routes routeAnnouncer) map[string]bool {
	up := map[string]bool{}
	for _, peer := range routes.Status().Peers {
		if peer.Established() {
			up[peer.Name] = true
		}
	}
	return up
}

// freshness tells the drivers how old this speaker's picture of the API is.
type freshness struct {
	drivers
	logger   *slog.Logger
	complain func(reason, subject, message string)
	lost     bool
	refused  map[string]int
}

// Confirmed says that everything that the API had at that time was received.
func (f *freshness) Confirmed(at time.Time) {
	f.l2.Confirm(at)
	if f.lost {
		f.lost = false
		f.logger.Info("the API server is back")
		f.mirror.Refresh()
	}
}

// Lost says that nothing was confirmed for long.
func (f *freshness) Lost() {
	f.lost = true
	f.logger.Warn("no word from the API server; what is announced stays, unless a node that hears from it takes over")
	f.l2.MirrorLost()
}
