package speaker

import (
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/internal/tcpprobe"
	"github.com/berth-lb/berth/speaker/bfdliveness"
	"github.com/berth-lb/berth/speaker/bgpd"
	"github.com/berth-lb/berth/speaker/dataplane"
	"github.com/berth-lb/berth/speaker/dataplane/midstream"
	"github.com/berth-lb/berth/speaker/dataplane/unserved"
	"github.com/berth-lb/berth/speaker/deadnodes"
	"github.com/berth-lb/berth/speaker/deadnodes/notice"
	"github.com/berth-lb/berth/speaker/heart"
	"github.com/berth-lb/berth/speaker/kubeproxy"
	"github.com/berth-lb/berth/speaker/localnet"
	"github.com/berth-lb/berth/speaker/mirror"
	"github.com/berth-lb/berth/speaker/object"
	"github.com/berth-lb/berth/speaker/rival"
	"github.com/berth-lb/berth/speaker/steer"
)

// assemble makes the drivers, and the planner and the reporter on top of them. Each is made of what
// was made before it.
func (s *Speaker) assemble(node *corev1.Node, cluster string) (*planner, *reporter, error) {
	addresses := object.InternalIPs(node)
	id := routerID(s.Node, addresses)
	foreign := newConflicts()
	d, err := s.makeDrivers(addresses, cluster, id, foreign)
	if err != nil {
		return nil, nil, err
	}
	r := newReporter(s.Options, s.sources, d, foreign)
	p, err := newPlanner(s.Options, s.sources, d, r, id)
	if err != nil {
		return nil, nil, err
	}
	return p, r, nil
}

// makeDrivers makes the drivers of a node with these addresses.
func (s *Speaker) makeDrivers(
	addresses []netip.Addr,
	cluster string,
	id netip.Addr,
	foreign *conflicts,
) (drivers, error) {
	local := localnet.New(s.Logger.With("driver", "localnet"))
	drops, err := unserved.New(s.Logger.With("driver", "unserved"), s.Metrics)
	if err != nil {
		return drivers{}, err
	}
	resets := midstream.New(s.Logger.With("driver", "midstream"))
	claims := mirror.NewClaims()
	layer2 := heart.NewRemote(heart.RemoteConfig{
		Identity: heart.Identity{Node: s.Node, Cluster: cluster, NodeAddresses: addresses},
		Dial:     s.Heart, Logger: s.Logger.With("driver", "l2"),
		OnClaim: claims.Claimed, Whole: claims.Whole, Answers: drops.Answering,
		Gained: func(a netip.Addr) {
			resets.Moved(a)
			foreign.forget(a)
		},
	})
	s.heart.Store(layer2)
	mirrored, err := mirror.New(mirror.Config{
		Berth: s.Berth, Logger: s.Logger, Node: s.Node, NodeUID: s.sources.nodeUID, Ready: s.sources.nodeReady,
		Claims: claims, To: layer2,
	})
	if err != nil {
		return drivers{}, err
	}
	routes, paths, err := s.makeBGP(addresses, id)
	if err != nil {
		return drivers{}, err
	}
	forwards, err := s.makeDataplane(addresses)
	if err != nil {
		return drivers{}, err
	}
	dead := deadnodes.New(deadnodes.Config{
		Node: s.Node, Addresses: s.sources.nodeAddresses, Ports: s.portsOfNodes(),
	})
	steers, err := s.makeSteerer(dead)
	if err != nil {
		return drivers{}, err
	}
	notices, err := s.makeNotices(dead, steers)
	if err != nil {
		return drivers{}, err
	}
	return drivers{
		steering: steers, dead: dead, notices: notices, asksDead: s.IPVS || s.Steering || s.ReportSilent,
		l2: layer2, bgp: routes, dataplane: forwards, unserved: drops, mirror: mirrored, localnet: local,
		rivals: rival.NewFilter(
			s.Logger.With("driver", "bgp"), routes.Look, func() map[string]bool { return established(routes) },
		),
		paths: paths, kubeProxy: kubeproxy.NewHealth(s.ProxyHealthz), midstream: resets,
	}, nil
}

// makeBGP makes what speaks BGP: in a process of its own, or in this one, which then also has paths
// watched.
func (s *Speaker) makeBGP(addresses []netip.Addr, id netip.Addr) (routeAnnouncer, runner, error) {
	log := s.Logger.With("driver", "bgp")
	if err := bgp.CheckListen(s.BGPListen); err != nil {
		return nil, nil, err
	}
	if s.BGP != nil {
		remote := bgpd.NewRemote(bgpd.RemoteConfig{
			Identity: bgpd.Identity{
				Node:   s.Node,
				Listen: s.BGPListen,
			}, RouterID: id, NextHops: onePerFamily(addresses),
			Dial: s.BGP, Logger: log,
		})
		s.bgp.Store(remote)
		return remote, nil, nil
	}
	paths := bfdliveness.New(heart.NewPaths(s.Heart, log))
	driver, err := bgp.New(bgp.Config{
		Liveness: paths, Listen: s.BGPListen, Node: s.Node, RouterID: id, NextHops: onePerFamily(addresses),
		Logger: log, Metrics: s.Metrics,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("BGP: %w", err)
	}
	return bgpd.Within{Driver: driver}, paths, nil
}

// portsOfNodes are those by which nodes are asked whether they live.
func (s *Speaker) portsOfNodes() []uint16 {
	ports := []uint16{tcpprobe.KubeletPort} // one is enough, and so is a refusal
	if _, text, err := net.SplitHostPort(s.Listen); err == nil {
		if port, err := strconv.ParseUint(text, 10, 16); err == nil && port > 0 {
			ports = append(ports, uint16(port))
		}
	}
	return ports
}

// makeDataplane makes what forwards besides kube-proxy, if this node is asked to.
func (s *Speaker) makeDataplane(addresses []netip.Addr) (forwarder, error) {
	if !s.IPVS {
		return dataplane.NewNone(s.Logger, s.sources.awaitKubeProxy), nil
	}
	forwards, err := dataplane.New(dataplane.Config{
		Logger: s.Logger.With("driver", "ipvs"), Metrics: s.Metrics, MetricsPerService: s.MetricsPerService,
		ProxyMode: s.ProxyMode, Sysctls: s.IPVSSysctls,
	})
	if err != nil {
		return nil, err
	}
	forwards.SetSources(onePerFamily(addresses)) // before the kernel is compared with what is desired
	return forwards, nil
}

// makeNotices makes what tells other nodes of deaths, if something on this node uses that.
func (s *Speaker) makeNotices(dead *deadnodes.Detector, steers steerer) (*notice.Driver, error) {
	if s.NoticeListen == "" || !s.Steering {
		return nil, nil
	}
	return notice.New(notice.Config{
		Logger: s.Logger.With("driver", "notice"), Node: s.Node, Listen: s.NoticeListen,
		Nodes: s.sources.addresses, Addresses: s.sources.nodeAddresses, Dead: dead,
		Serves: func() bool {
			report, asked := steers.Report()
			return asked && report.Lacking == ""
		},
	})
}

// makeSteerer makes what steers connections, if this node is asked to.
func (s *Speaker) makeSteerer(dead *deadnodes.Detector) (steerer, error) {
	if !s.Steering {
		none := &steer.None{}
		s.routeOf.Store(new(none.Route))
		return none, nil
	}
	driver := steer.New(steer.Config{
		Logger: s.Logger.With("driver", "steering"), Node: s.Node, Pins: steer.Pins, Doubt: dead.Suspect,
		Refused: func() string {
			if kubeproxy.Mode(s.ProxyMode) == "ipvs" {
				return "kube-proxy runs in mode ipvs, beside which steering was not tried; run it in mode nftables or iptables"
			}
			return ""
		},
	})
	if s.Metrics != nil {
		if err := driver.Register(s.Metrics, s.MetricsPerService); err != nil {
			return nil, fmt.Errorf("steering: %w", err)
		}
	}
	s.routeOf.Store(new(driver.Route))
	return driver, nil
}

// onePerFamily returns the first address of each family.
func onePerFamily(addresses []netip.Addr) []netip.Addr {
	var firsts []netip.Addr
	have := map[bool]bool{}
	for _, a := range addresses {
		if !have[a.Is4()] {
			have[a.Is4()] = true
			firsts = append(firsts, a)
		}
	}
	return firsts
}

// routerID returns the node's IPv4 address; on a node without one a hash of its
// name, which is as unique as 32 bits allow (RFC 6286 asks for no more than a
// number that differs within the AS).
func routerID(node string, addresses []netip.Addr) netip.Addr {
	for _, a := range addresses {
		if a.Is4() {
			return a
		}
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(node))
	n := h.Sum32() | 1 // never 0
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}
