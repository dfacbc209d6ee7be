package packet

import (
	"net"
	"net/netip"
	"slices"
)

// link is an interface as the kernel describes it.
type Link struct {
	Name  string
	Index int
	MTU   int
	MAC   [6]byte
	Up    bool // administratively, and with a carrier
	Addrs []netip.Addr
	// subnets are those of addrs, masked.
	Subnets []netip.Prefix
}

// segment names the segment for the mirror, alike on all nodes of it: by its lowest IPv4 subnet, or else its lowest
// IPv6 one; without any by the interface.
func (l Link) Segment() string {
	var lowest netip.Prefix
	for _, p := range l.Subnets {
		switch {
		case p.IsSingleIP() || p.Addr().IsLinkLocalUnicast():
		case !lowest.IsValid(), p.Addr().Is4() && lowest.Addr().Is6(),
			p.Addr().Is4() == lowest.Addr().Is4() && p.Addr().Less(lowest.Addr()):
			lowest = p
		}
	}
	if !lowest.IsValid() {
		return l.Name
	}
	return lowest.String()
}

// hostSubnets lists the link's subnets that other hosts have addresses of, beyond the link-local ones.
func (l Link) HostSubnets() []netip.Prefix {
	var list []netip.Prefix
	for _, p := range l.Subnets {
		if !p.IsSingleIP() && !p.Addr().IsLinkLocalUnicast() && !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	return list
}

// inSubnet returns an IPv4 address of the interface in whose name others on the segment can be asked; none: it has none.
func (l Link) HostAddr() netip.Addr {
	for _, a := range l.Addrs {
		if a.Is4() && slices.ContainsFunc(l.HostSubnets(), func(p netip.Prefix) bool { return p.Contains(a) }) {
			return a
		}
	}
	return netip.Addr{}
}

func (l Link) HardwareAddr() net.HardwareAddr { return net.HardwareAddr(l.MAC[:]) }

// same reports whether sockets opened for l serve for k too.
func (l Link) Same(k Link) bool { return l.Index == k.Index && l.MAC == k.MAC && l.Up == k.Up }
