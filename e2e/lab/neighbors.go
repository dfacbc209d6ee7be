//go:build linux

package lab

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// FlushNeighbors empties the ARP and NDP caches of a host: its next packet asks again who has the
// address.
func (l *Lab) FlushNeighbors(hostName string) error {
	h, err := l.netlink(hostName)
	if err != nil {
		return err
	}
	defer h.Close()
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		entries, err := h.NeighList(0, family)
		if err != nil {
			return fmt.Errorf("list neighbors of %s: %w", hostName, err)
		}
		for _, n := range entries {
			if n.State&(netlink.NUD_PERMANENT|netlink.NUD_NOARP) != 0 {
				continue
			}
			if err := h.NeighDel(&n); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("forget neighbor %s of %s: %w", n.IP, hostName, err)
			}
		}
	}
	return nil
}

// Neighbor returns the hardware address that a host's ARP or NDP cache has for an address, or nil
// if it has none or failed to resolve it.
func (l *Lab) Neighbor(hostName string, addr netip.Addr) (net.HardwareAddr, error) {
	h, err := l.netlink(hostName)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	entries, err := h.NeighList(0, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list neighbors of %s: %w", hostName, err)
	}
	for _, n := range entries {
		if got, ok := netip.AddrFromSlice(n.IP); ok && got.Unmap() == addr &&
			n.State&(netlink.NUD_FAILED|netlink.NUD_INCOMPLETE) == 0 {
			return n.HardwareAddr, nil
		}
	}
	return nil, nil
}

// NodeMAC returns the hardware address that a host's port on the segment has now.
func (l *Lab) NodeMAC(hostName string) (net.HardwareAddr, error) {
	if err := l.onSegment(hostName); err != nil {
		return nil, err
	}
	h, err := l.netlink(hostName)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	link, err := h.LinkByName(rackPort)
	if err != nil {
		return nil, fmt.Errorf("find %s of %s: %w", rackPort, hostName, err)
	}
	return link.Attrs().HardwareAddr, nil
}

// HostOf returns the host whose port on the segment has a hardware address now, or "" if none has.
func (l *Lab) HostOf(mac net.HardwareAddr) string {
	for _, h := range l.plan.hosts {
		if got, err := l.NodeMAC(h.name); err == nil && bytes.Equal(got, mac) {
			return h.name
		}
	}
	return ""
}

// Addresses returns the addresses of a host's first port, IPv4 first.
func (l *Lab) Addresses(hostName string) ([]netip.Addr, error) {
	h, err := l.plan.host(hostName)
	if err != nil {
		return nil, err
	}
	return h.addresses(), nil
}
