//go:build linux

package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// AddAddress adds an address to a host of the segment, as a /32 or /128 on its port there. On the
// client it is like a printer in the middle of a pool, on a node like an address of keepalived. The
// host answers for it until RemoveAddress. It is not an error if the host has it already. Other
// hosts are not told: see AnnounceAddress.
func (l *Lab) AddAddress(hostName string, address netip.Addr) error {
	err := l.onPort(hostName, func(h *netlink.Handle, port netlink.Link) error {
		return h.AddrReplace(port, soleAddress(address))
	})
	if err != nil {
		return fmt.Errorf("give %s the address %s: %w", hostName, address, err)
	}
	return nil
}

// RemoveAddress removes what AddAddress added. It is not an error if the host does not have it.
func (l *Lab) RemoveAddress(hostName string, address netip.Addr) error {
	err := l.onPort(hostName, func(h *netlink.Handle, port netlink.Link) error {
		err := h.AddrDel(port, soleAddress(address))
		if errors.Is(err, unix.EADDRNOTAVAIL) {
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("take the address %s from %s: %w", address, hostName, err)
	}
	return nil
}

// onPort calls do with a host's port on the segment.
func (l *Lab) onPort(hostName string, do func(h *netlink.Handle, port netlink.Link) error) error {
	if err := l.onSegment(hostName); err != nil {
		return err
	}
	h, err := l.netlink(hostName)
	if err != nil {
		return err
	}
	defer h.Close()
	port, err := h.LinkByName(rackPort)
	if err != nil {
		return fmt.Errorf("find %s of %s: %w", rackPort, hostName, err)
	}
	return do(h, port)
}

func soleAddress(address netip.Addr) *netlink.Addr {
	a := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(address, address.BitLen()))}
	if address.Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

// announcements is how many times AnnounceAddress announces an address, as keepalived does.
const announcements = 5

// AnnounceAddress makes a host of the segment announce an address as its own, even if it is not, by
// gratuitous ARP or an unsolicited neighbor advertisement. All hosts that know the address send to
// this host from then on.
func (l *Lab) AnnounceAddress(hostName string, address netip.Addr) error {
	err := l.onSegment(hostName)
	if err == nil {
		err = l.In(hostName, func() error {
			port, err := net.InterfaceByName(rackPort)
			if err != nil {
				return err
			}
			if address.Is4() {
				return gratuitousARP(port, address)
			}
			return advertise(port, address)
		})
	}
	if err != nil {
		return fmt.Errorf("announce %s from %s: %w", address, hostName, err)
	}
	return nil
}

// gratuitousARP sends ARP announcements (RFC 5227, section 3): requests for the sender's own
// address.
func gratuitousARP(port *net.Interface, address netip.Addr) error {
	conn, err := packet.Listen(port, packet.Raw, int(ethernet.EtherTypeARP), nil)
	if err != nil {
		return err
	}
	client, err := arp.New(port, conn)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	defer client.Close()
	p, err := arp.NewPacket(arp.OperationRequest, port.HardwareAddr, address, net.HardwareAddr{0, 0, 0, 0, 0, 0}, address)
	if err != nil {
		return err
	}
	for range announcements {
		if err := client.WriteTo(p, ethernet.Broadcast); err != nil {
			return err
		}
	}
	return nil
}

// advertise sends unsolicited neighbor advertisements (RFC 4861, section 7.2.6).
func advertise(port *net.Interface, address netip.Addr) error {
	socket, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	if err := unix.SetsockoptInt(socket, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
		return err
	}
	text, err := ndp.MarshalMessage(&ndp.NeighborAdvertisement{
		Override: true, TargetAddress: address,
		Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: port.HardwareAddr}},
	})
	if err != nil {
		return err
	}
	to := &unix.SockaddrInet6{Addr: netip.IPv6LinkLocalAllNodes().As16(), ZoneId: uint32(port.Index)}
	for range announcements {
		if err := unix.Sendto(socket, text, 0, to); err != nil {
			return err
		}
	}
	return nil
}
