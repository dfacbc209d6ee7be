//go:build linux

package lab

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
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
			if err := os.WriteFile(filepath.Join("/proc/sys/net", name), []byte("1"), 0o644); err != nil && !os.IsNotExist(err) {
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
