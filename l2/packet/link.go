package packet

import (
	"net"
	"net/netip"
	"slices"

	"github.com/berth-lb/berth/l2/election"
)

// Link is an interface as the kernel describes it.
type Link struct {
	Name  string
	Index int
	MTU   int
	MAC   [6]byte
	Up    bool // administratively, and with a carrier
	Addrs []netip.Addr
	// Subnets are those of Addrs, masked.
	Subnets []netip.Prefix
}

// Segment returns the name of the segment for the mirror.
func (l Link) Segment() string { return election.SegmentName(l.Name, l.Subnets) }

// HostSubnets returns the link's subnets in which other hosts can have addresses, except link-local
// ones.
func (l Link) HostSubnets() []netip.Prefix {
	var list []netip.Prefix
	for _, p := range l.Subnets {
		if !p.IsSingleIP() && !p.Addr().IsLinkLocalUnicast() && !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	return list
}

// HostAddr returns an IPv4 address of the interface in whose name other hosts of the segment can be
// asked. It is invalid if there is none.
func (l Link) HostAddr() netip.Addr {
	for _, a := range l.Addrs {
		if a.Is4() && slices.ContainsFunc(l.HostSubnets(), func(p netip.Prefix) bool { return p.Contains(a) }) {
			return a
		}
	}
	return netip.Addr{}
}

// HardwareAddr returns the interface's MAC.
func (l Link) HardwareAddr() net.HardwareAddr { return net.HardwareAddr(l.MAC[:]) }

// Same reports whether sockets that were opened for l also serve k. A changed MTU needs no new
// sockets.
func (l Link) Same(k Link) bool { return l.Index == k.Index && l.MAC == k.MAC && l.Up == k.Up }
