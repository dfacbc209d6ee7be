package l2

import (
	"context"
	"net"
	"net/netip"
	"slices"
)

// system is the edge to the kernel: what interfaces there are, and sockets on them.
type system interface {
	// links lists the interfaces that can carry a segment: Ethernet, not a port of a bridge or bond.
	links() ([]link, error)
	// watch calls changed whenever links may answer differently, until ctx ends or the kernel's
	// notifications are lost; then it returns why.
	watch(ctx context.Context, changed func()) error
	// open opens the sockets on an interface that is up, and calls in from goroutines of its own until the
	// wire is closed.
	open(l link, in ingress) (wire, error)
}

// link is an interface as the kernel describes it.
type link struct {
	name  string
	index int
	mtu   int
	mac   [6]byte
	up    bool // administratively, and with a carrier
	addrs []netip.Addr
	// subnets are those of addrs, masked.
	subnets []netip.Prefix
}

// segment names the segment for the mirror, alike on all nodes of it: by its lowest IPv4 subnet, or else its lowest
// IPv6 one; without any by the interface.
func (l link) segment() string {
	var lowest netip.Prefix
	for _, p := range l.subnets {
		switch {
		case p.IsSingleIP() || p.Addr().IsLinkLocalUnicast():
		case !lowest.IsValid(), p.Addr().Is4() && lowest.Addr().Is6(),
			p.Addr().Is4() == lowest.Addr().Is4() && p.Addr().Less(lowest.Addr()):
			lowest = p
		}
	}
	if !lowest.IsValid() {
		return l.name
	}
	return lowest.String()
}

// hostSubnets lists the link's subnets that other hosts have addresses of, beyond the link-local ones.
func (l link) hostSubnets() []netip.Prefix {
	var list []netip.Prefix
	for _, p := range l.subnets {
		if !p.IsSingleIP() && !p.Addr().IsLinkLocalUnicast() && !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	return list
}

// inSubnet returns an IPv4 address of the interface in whose name others on the segment can be asked; none: it has none.
func (l link) inSubnet() netip.Addr {
	for _, a := range l.addrs {
		if a.Is4() && slices.ContainsFunc(l.hostSubnets(), func(p netip.Prefix) bool { return p.Contains(a) }) {
			return a
		}
	}
	return netip.Addr{}
}

func (l link) hardware() net.HardwareAddr { return net.HardwareAddr(l.mac[:]) }

// same reports whether sockets opened for l serve for k too.
func (l link) same(k link) bool { return l.index == k.index && l.mac == k.mac && l.up == k.up }

// ingress is what a wire does with what it receives. Frames are valid during the call only.
type ingress struct {
	hello  func(payload []byte)
	arp    func(frame []byte) (reply []byte)
	ndp    func(frame []byte) (reply []byte)
	broken func(error) // a socket failed for good: the wire is to be closed
	failed func(error) // something failed that the wire tries again; nil: it works (again)
}

// wire is an interface's sockets. Its methods do not wait for anything but the interface's own queue.
type wire interface {
	// sendHello, sendARP and sendNDP send a whole Ethernet frame.
	sendHello(frame []byte) error
	sendARP(frame []byte) error
	sendNDP(frame []byte) error
	// drain hands every hello that waits in the socket to take before it returns.
	drain(take func(payload []byte)) error
	// join lets ARP or neighbour discovery about an address reach the responders, at once; the solicited-node
	// group of an IPv6 address follows soon after. leave undoes one join, soon after.
	join(netip.Addr)
	leave(netip.Addr)
	// close closes the sockets; it may be called more than once and from any goroutine. wait returns once
	// the ingress will not be called any more.
	close()
	wait()
}
