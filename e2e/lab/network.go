//go:build linux

package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// buildNetwork makes the network namespaces, plugs every host in, and gives it its addresses and
// routes.
func (l *Lab) buildNetwork(context.Context) error {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", netnsDir, err)
	}
	for _, h := range l.plan.hosts {
		if err := l.makeNamespace(h); err != nil {
			return fmt.Errorf("host %s: %w", h.name, err)
		}
	}
	if err := l.makeBridge(); err != nil {
		return fmt.Errorf("rack segment: %w", err)
	}
	for _, h := range l.plan.hosts {
		if err := l.plug(h); err != nil {
			return fmt.Errorf("host %s: %w", h.name, err)
		}
	}
	for _, h := range l.plan.hosts {
		if err := l.configure(h); err != nil {
			return fmt.Errorf("host %s: %w", h.name, err)
		}
	}
	return nil
}

// makeNamespace makes a named network namespace and sets its sysctls before it has interfaces,
// which would inherit other values.
func (l *Lab) makeNamespace(h hostPlan) error {
	err := onThread(func() error {
		ns, err := netns.NewNamed(l.prefix() + h.name)
		if err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		return ns.Close()
	})
	if err != nil {
		return err
	}
	return l.In(h.name, func() error {
		for name, value := range h.sysctls {
			err := os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0o644)
			// Without br_netfilter or IPv6 there is nothing to set.
			if err != nil && !os.IsNotExist(err) {
				return fmt.Errorf("set sysctl: %w", err)
			}
		}
		return nil
	})
}

func (l *Lab) makeBridge() error {
	h, err := l.netlink(rack)
	if err != nil {
		return err
	}
	defer h.Close()
	off := false
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName}, MulticastSnooping: &off}
	if err := h.LinkAdd(bridge); err != nil {
		return fmt.Errorf("make bridge: %w", err)
	}
	return h.LinkSetUp(bridge)
}

// netlink opens a netlink connection in a host's network. The caller closes it.
func (l *Lab) netlink(host string) (*netlink.Handle, error) {
	ns, err := netns.GetFromPath(l.netnsPath(host))
	if err != nil {
		return nil, fmt.Errorf("there is no host %q in lab %q: %w", host, l.opts.Name, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink in %s: %w", host, err)
	}
	return h, nil
}

// plug connects the host's ports: to the bridge, or the remote client's to the router's.
func (l *Lab) plug(h hostPlan) error {
	for _, p := range h.ports {
		var err error
		switch {
		case p.onRack:
			err = l.cable(rack, h.name, nil, h.name, p)
		case h.name == Remote:
			router, findErr := l.plan.host(Router)
			if findErr != nil {
				return findErr
			}
			far := router.ports[1]
			err = l.cable(Router, far.name, far.mac, h.name, p)
		}
		if err != nil {
			return fmt.Errorf("plug in %s: %w", p.name, err)
		}
	}
	return nil
}

// cable makes a veth pair: one end in the host near, the other in the host far. An end in the rack
// joins the bridge.
func (l *Lab) cable(near, nearName string, nearMAC net.HardwareAddr, far string, farPort port) error {
	h, err := l.netlink(near)
	if err != nil {
		return err
	}
	defer h.Close()
	ns, err := netns.GetFromPath(l.netnsPath(far))
	if err != nil {
		return err
	}
	defer ns.Close()
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: nearName, HardwareAddr: nearMAC, TxQLen: -1})
	veth.PeerName, veth.PeerHardwareAddr, veth.PeerNamespace = farPort.name, farPort.mac, netlink.NsFd(ns)
	if err := h.LinkAdd(veth); err != nil {
		return err
	}
	if near == rack {
		bridge, err := h.LinkByName(bridgeName)
		if err != nil {
			return err
		}
		if err := h.LinkSetMaster(veth, bridge); err != nil {
			return err
		}
	}
	return h.LinkSetUp(veth)
}

// configure sets the host's ports up and adds the addresses and routes that are missing.
func (l *Lab) configure(host hostPlan) error {
	h, err := l.netlink(host.name)
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := h.LinkSetUp(lo); err != nil {
		return err
	}
	for _, p := range host.ports {
		link, err := h.LinkByName(p.name)
		if err != nil {
			return fmt.Errorf("find %s: %w", p.name, err)
		}
		if err := h.LinkSetUp(link); err != nil {
			return fmt.Errorf("set %s up: %w", p.name, err)
		}
		for _, prefix := range p.prefixes {
			addr := &netlink.Addr{IPNet: ipNet(prefix)}
			if prefix.Addr().Is6() {
				addr.Flags = unix.IFA_F_NODAD
			}
			if err := h.AddrReplace(link, addr); err != nil {
				return fmt.Errorf("give %s the address %s: %w", p.name, prefix, err)
			}
		}
	}
	for _, r := range host.routes {
		if err := h.RouteReplace(&netlink.Route{Dst: ipNet(r.to), Gw: r.via.AsSlice()}); err != nil {
			return fmt.Errorf("route %s via %s: %w", r.to, r.via, err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
