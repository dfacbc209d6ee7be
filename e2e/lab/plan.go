//go:build linux

package lab

import (
	"fmt"
	"net"
	"net/netip"
)

// The names of the hosts that are not nodes.
const (
	ControlPlane = "cp"
	Client       = "client" // on the nodes' segment
	Router       = "router" // top of rack
	Remote       = "remote" // behind the router
	rack         = "rack"   // holds the segment's bridge, nothing else
)

// Interface and bridge names.
const (
	rackPort   = "eth0" // of every host on the segment
	remotePort = "eth1" // of the router, towards Remote
	bridgeName = "br0"
)

// Address ranges of the cluster.
const (
	// spineLoopback is an address of the spine's that is two hops from the nodes: they reach it
	// through the router.
	spineLoopback = "172.31.255.3"

	podRange4     = "10.244.0.0/16"
	podRange6     = "fd00:244::/32"
	serviceRange4 = "10.96.0.0/16"
	serviceRange6 = "fd00:96::/112"
)

// plan is the whole desired network: pure data, made from Options.
type plan struct {
	hosts []hostPlan
}

type hostPlan struct {
	name    string
	node    int // 1 and up for a node, else 0
	ports   []port
	routes  []route
	sysctls map[string]string // below /proc/sys/net
}

// port is an interface of a host. A port on the rack segment is plugged into the bridge, under the
// host's name.
type port struct {
	name     string
	mac      net.HardwareAddr
	prefixes []netip.Prefix
	onRack   bool
}

type route struct {
	to  netip.Prefix
	via netip.Addr
}

func newPlan(o Options) plan {
	families := families(o.DualStack)
	p := plan{hosts: []hostPlan{{name: rack, sysctls: map[string]string{
		// The segment is a switch: it filters nothing and sends nothing of its own.
		"bridge/bridge-nf-call-iptables":  "0",
		"bridge/bridge-nf-call-ip6tables": "0",
		"bridge/bridge-nf-call-arptables": "0",
		"ipv6/conf/all/disable_ipv6":      "1",
		"ipv6/conf/default/disable_ipv6":  "1",
	}}}}
	p.add(rackHost(ControlPlane, 2, families))
	for i := 1; i <= o.Nodes; i++ {
		p.add(nodeHost(i, families))
	}
	p.add(rackHost(Client, 100, families))
	p.add(routerHost(families))
	if o.Router == "frr" {
		spine := rackHost(Spine, spineNumber, families)
		spine.ports[0].prefixes = append(spine.ports[0].prefixes, netip.MustParsePrefix(spineLoopback+"/32"))
		p.add(spine)
	}
	p.add(remoteHost(families))
	p.route(families)
	for i := range p.hosts {
		if o.Router == "frr" && p.hosts[i].name == Router {
			p.hosts[i].routes = append(
				p.hosts[i].routes,
				route{netip.MustParsePrefix(spineLoopback + "/32"), families[0].onRack(spineNumber)},
			)
		}
	}
	return p
}

func (p *plan) add(h hostPlan) { p.hosts = append(p.hosts, h) }

// family holds the patterns of the addresses of one IP family.
type family struct {
	rack, remote string // pattern of an address, by its last part
	bits         int
	pod          string // pattern of a node's pod range, by the node's number
	any          netip.Prefix
}

func families(dualStack bool) []family {
	v4 := family{"172.30.0.%d", "172.31.0.%d", 24, "10.244.%d.0/24", netip.MustParsePrefix("0.0.0.0/0")}
	if !dualStack {
		return []family{v4}
	}
	// The last part is written as in IPv4, 11 for n1, to be easy to read.
	return []family{v4, {"fd00:30::%d", "fd00:31::%d", 64, "fd00:244:%d::/64", netip.MustParsePrefix("::/0")}}
}

func (f family) onRack(last int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf(f.rack, last)) }
func (f family) onRemote(last int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf(f.remote, last))
}
func (f family) pods(node int) netip.Prefix { return netip.MustParsePrefix(fmt.Sprintf(f.pod, node)) }

const firstNode = 10 // node i has the address ending in firstNode + i

func rackHost(name string, last int, families []family) hostPlan {
	p := port{name: rackPort, onRack: true, mac: net.HardwareAddr{0x02, 0xbe, 0, 0, 0, byte(last)}}
	for _, f := range families {
		p.prefixes = append(p.prefixes, netip.PrefixFrom(f.onRack(last), f.bits))
	}
	return hostPlan{name: name, ports: []port{p}, sysctls: endSystem()}
}

func nodeHost(i int, families []family) hostPlan {
	h := rackHost(fmt.Sprintf("n%d", i), firstNode+i, families)
	h.node = i
	h.sysctls = forwarding()
	// Replies between pods of a node must pass the rules that translated the requests.
	h.sysctls["bridge/bridge-nf-call-iptables"] = "1"
	h.sysctls["bridge/bridge-nf-call-ip6tables"] = "1"
	return h
}

func routerHost(families []family) hostPlan {
	h := rackHost(Router, 1, families)
	h.sysctls = forwarding()
	h.sysctls["ipv4/fib_multipath_hash_policy"] = "1" // by ports, as routers do
	h.sysctls["ipv6/fib_multipath_hash_policy"] = "1"
	h.ports = append(h.ports, remoteHostPort(remotePort, 1, families))
	return h
}

func remoteHost(families []family) hostPlan {
	return hostPlan{name: Remote, ports: []port{remoteHostPort(rackPort, 100, families)}, sysctls: endSystem()}
}

func remoteHostPort(name string, last int, families []family) port {
	p := port{name: name, mac: net.HardwareAddr{0x02, 0xbe, 0, 1, 0, byte(last)}}
	for _, f := range families {
		p.prefixes = append(p.prefixes, netip.PrefixFrom(f.onRemote(last), f.bits))
	}
	return p
}

// endSystem are the sysctls of a host that does not forward.
func endSystem() map[string]string {
	return map[string]string{
		"ipv4/conf/all/rp_filter":     "0",
		"ipv4/conf/default/rp_filter": "0",
		// Addresses are usable at once, and packets follow the routing table, not an old redirect.
		"ipv6/conf/default/accept_dad":       "0",
		"ipv4/conf/all/accept_redirects":     "0",
		"ipv4/conf/default/accept_redirects": "0",
		"ipv6/conf/all/accept_redirects":     "0",
		"ipv6/conf/default/accept_redirects": "0",
		"ipv6/conf/default/accept_ra":        "0",
	}
}

// forwarding are the sysctls of a node or router.
func forwarding() map[string]string {
	s := endSystem()
	s["ipv4/ip_forward"] = "1"
	s["ipv6/conf/all/forwarding"] = "1"
	s["ipv6/conf/default/forwarding"] = "1"
	s["ipv4/conf/all/send_redirects"] = "0"
	s["ipv4/conf/default/send_redirects"] = "0"
	return s
}

// route fills in the routes: pods through their nodes, all else to the router.
func (p *plan) route(families []family) {
	for i := range p.hosts {
		h := &p.hosts[i]
		for _, f := range families {
			switch h.name {
			case rack:
			case Remote:
				h.routes = append(h.routes, route{f.any, f.onRemote(1)})
			case Client:
				h.routes = append(h.routes, route{f.any, f.onRack(1)})
			case Router:
				h.routes = append(h.routes, p.podRoutes(f, 0)...)
			default:
				h.routes = append(h.routes, p.podRoutes(f, h.node)...)
				h.routes = append(h.routes, route{f.any, f.onRack(1)})
			}
		}
	}
}

// podRoutes returns the routes to the pods of all nodes but one.
func (p *plan) podRoutes(f family, but int) []route {
	var routes []route
	for _, h := range p.hosts {
		if h.node != 0 && h.node != but {
			routes = append(routes, route{f.pods(h.node), f.onRack(firstNode + h.node)})
		}
	}
	return routes
}

func (p *plan) nodes() []string {
	var names []string
	for _, h := range p.hosts {
		if h.node != 0 {
			names = append(names, h.name)
		}
	}
	return names
}

func (p *plan) host(name string) (hostPlan, error) {
	for _, h := range p.hosts {
		if h.name == name {
			return h, nil
		}
	}
	return hostPlan{}, fmt.Errorf("there is no host %q in the lab", name)
}

// addresses returns those of the host's first port, IPv4 first.
func (h hostPlan) addresses() []netip.Addr {
	if len(h.ports) == 0 {
		return nil
	}
	var all []netip.Addr
	for _, prefix := range h.ports[0].prefixes {
		all = append(all, prefix.Addr())
	}
	return all
}
