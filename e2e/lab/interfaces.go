//go:build linux

package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Flap sets the host's interface on the segment down and up again at once. IPv6 addresses and
// routes, which the kernel drops then, are configured again, as a real host's network manager does.
func (l *Lab) Flap(hostName string) error {
	if err := l.onSegment(hostName); err != nil {
		return err
	}
	host, err := l.plan.host(hostName)
	if err != nil {
		return err
	}
	h, err := l.netlink(hostName)
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(rackPort)
	if err != nil {
		return fmt.Errorf("find %s of %s: %w", rackPort, hostName, err)
	}
	if err := h.LinkSetDown(link); err != nil {
		return fmt.Errorf("set %s of %s down: %w", rackPort, hostName, err)
	}
	if err := l.configure(host); err != nil {
		return fmt.Errorf("set %s of %s up: %w", rackPort, hostName, err)
	}
	return nil
}

// LinkDown sets the host's interface on the segment down, until Reconfigure. Its IPv6 addresses and
// its routes go with it.
func (l *Lab) LinkDown(hostName string) error {
	err := l.onPort(hostName, func(h *netlink.Handle, port netlink.Link) error { return h.LinkSetDown(port) })
	if err != nil {
		return fmt.Errorf("set %s of %s down: %w", rackPort, hostName, err)
	}
	return nil
}

// DropAddresses takes the host's own addresses of a family (unix.AF_INET, unix.AF_INET6, or
// unix.AF_UNSPEC for both) from its interface on the segment, as a network manager does that
// configures it again or loses a DHCP lease. Routes by them go, too. Reconfigure gives all back.
func (l *Lab) DropAddresses(hostName string, family int) error {
	host, err := l.plan.host(hostName)
	if err != nil {
		return err
	}
	err = l.onPort(hostName, func(h *netlink.Handle, port netlink.Link) error {
		for _, p := range host.ports {
			for _, prefix := range p.prefixes {
				is6 := prefix.Addr().Is6()
				if !p.onRack || is6 && family == unix.AF_INET || !is6 && family == unix.AF_INET6 {
					continue
				}
				err := h.AddrDel(port, &netlink.Addr{IPNet: ipNet(prefix)})
				if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("take the addresses of %s: %w", hostName, err)
	}
	return nil
}

// Reconfigure sets the host's interfaces up, and gives it the addresses and routes that it lacks.
func (l *Lab) Reconfigure(hostName string) error {
	host, err := l.plan.host(hostName)
	if err != nil {
		return err
	}
	if err := l.configure(host); err != nil {
		return fmt.Errorf("configure %s again: %w", hostName, err)
	}
	return nil
}

// SetMTU sets the longest packet of a host's interface on the segment, and of the switch's port
// that it is plugged into. What is longer than the port's is lost, as in a switch.
func (l *Lab) SetMTU(hostName string, own, port int) error {
	if err := l.onSegment(hostName); err != nil {
		return err
	}
	for _, end := range []struct {
		host, link string
		mtu        int
	}{{hostName, rackPort, own}, {rack, hostName, port}} {
		if err := l.setMTU(end.host, end.link, end.mtu); err != nil {
			return fmt.Errorf("set the MTU of %s of %s to %d: %w", end.link, end.host, end.mtu, err)
		}
	}
	return nil
}

func (l *Lab) setMTU(hostName, name string, mtu int) error {
	h, err := l.netlink(hostName)
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	return h.LinkSetMTU(link, mtu)
}

// ChangeMAC gives the host's interface on the segment a hardware address that it has not had
// before, while it is up, and returns the address. The kernel announces it on the segment for the
// host's own addresses.
func (l *Lab) ChangeMAC(hostName string) (net.HardwareAddr, error) {
	mac, err := l.NodeMAC(hostName)
	if err != nil {
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
	err = l.In(hostName, func() error {
		for _, name := range []string{"ipv4/conf/" + rackPort + "/arp_notify", "ipv6/conf/" + rackPort + "/ndisc_notify"} {
			if err := os.WriteFile(filepath.Join("/proc/sys/net", name), []byte("1"), 0o644); err != nil &&
				!os.IsNotExist(err) {
				return fmt.Errorf("set sysctl: %w", err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("change the hardware address of %s: %w", hostName, err)
	}
	mac[4]++ // the plan's have 0 there
	if err := h.LinkSetHardwareAddr(link, mac); err != nil {
		return nil, fmt.Errorf("change the hardware address of %s: %w", hostName, err)
	}
	return mac, nil
}
