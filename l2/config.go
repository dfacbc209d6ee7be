package l2

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-lb/berth/l2/election"
	"github.com/berth-lb/berth/l2/neighbor"
)

// Config says who this node is and how patient it is.
type Config struct {
	// Node is this node's name, at most 253 bytes.
	Node string
	// Cluster keeps clusters that share a segment, and by accident a key, apart. It is any text
	// that is unique to the cluster, such as the UID of its namespace kube-system.
	Cluster string
	// NodeAddresses select the interfaces that serve addresses which name none, until SetNodes.
	NodeAddresses []netip.Addr
	// Logger must not be nil.
	Logger *slog.Logger
	// Metrics is where berth_l2_* is registered. Nil: nowhere.
	Metrics prometheus.Registerer

	// HelloInterval is the time between hellos, 10 ms to 10 s. Peers wait for three of them. 0: 100
	// ms.
	HelloInterval time.Duration
	// Listen is how long the driver listens on an interface before it claims anything. 0: 1 s.
	Listen time.Duration
	// OnClaim is called for each change of a claim of this node's, in order. It must not block.
	// Nil: not called.
	OnClaim func(Claim)
	// Handover is the longest time to answer for an address that another node is to take, or that this
	// node lacks a capability for. 0: 1 s.
	Handover time.Duration
	// FreshWithin and StaleAfter say what a node does about a peer that has not heard from the API
	// for long: one whose desired state was confirmed (see Driver.Confirm) within FreshWithin takes
	// what it wants from one whose desired state was not for StaleAfter. 0: 7 s and 15 s.
	FreshWithin, StaleAfter time.Duration
	// Answers is called with true just before this node first answers for an address on a segment
	// or announces it there. It is called with false after the node stopped, and while another host
	// is in conflict about the address, until a minute after that host was last heard. For each
	// segment the calls about one address alternate. They come from one goroutine per segment, so
	// an address is answered for on as many segments as there were more calls with true than with
	// false. It must not block. A driver that ends while it is Holding does not call it. Nil: not
	// called.
	Answers func(addr netip.Addr, on bool)
	// Asked is called for each question by ARP or NDP for an address that this node answers for or may
	// own, with the interface, from several goroutines. It must not block. Nil: not called.
	Asked func(ifname string, q neighbor.Question)
	// Harmless reports whether this node's own kernel has the address because a Service has it
	// (kube-proxy's ipvs mode). Kernels of peers then answer for it too, which is no conflict. It
	// must not block. Nil: never.
	Harmless func(netip.Addr) bool
}

// StaleAfter is the default of Config.StaleAfter.
const StaleAfter = 15 * time.Second

// grace is how long peers have to hear from the API again after this node does. Informers try
// again 30 to 60 s after they failed last, each for itself. A speaker counts as fresh when the last
// of a dozen has its list, so most nodes need almost the 60 s, and few are half a minute apart.
const grace = time.Minute

func (c Config) times() election.Times {
	return election.Times{FreshWithin: c.FreshWithin, StaleAfter: c.StaleAfter, Grace: grace}
}

func (c Config) withDefaults() (Config, error) {
	set := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	set(&c.HelloInterval, 100*time.Millisecond)
	set(&c.Listen, time.Second)
	set(&c.Handover, time.Second)
	set(&c.FreshWithin, 7*time.Second)
	set(&c.StaleAfter, StaleAfter)
	const shortest, longest = election.MinHelloInterval, election.MaxHelloInterval
	switch {
	case c.Node == "" || len(c.Node) > election.MaxNodeName:
		return c, fmt.Errorf("node name %q: must have 1 to %d bytes", c.Node, election.MaxNodeName)
	case c.Logger == nil:
		return c, errors.New("a logger is needed")
	case c.HelloInterval < shortest || c.HelloInterval > longest:
		return c, fmt.Errorf("hello interval %s: must be between %s and %s", c.HelloInterval, shortest, longest)
	case c.Listen < 0 || c.Handover < 0 || c.FreshWithin < 0:
		return c, errors.New("listen, handover and freshness times cannot be negative")
	case c.StaleAfter <= c.FreshWithin:
		return c, fmt.Errorf("stale after %s: must be longer than fresh within %s", c.StaleAfter, c.FreshWithin)
	}
	return c, nil
}
