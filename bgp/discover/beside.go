package discover

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Beside returns the addresses of the other family on the interface that has this one of ours:
// those in a network before single ones, else in the order of the kernel. Link-local and loopback
// addresses are none of them, nor those that do not last.
func Beside(own netip.Addr) ([]netip.Addr, error) {
	all, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("find the interface with %s: %w", own, err)
	}
	at := func(a netlink.Addr) netip.Addr {
		address, _ := netip.AddrFromSlice(a.IP)
		return address.Unmap()
	}
	here := slices.IndexFunc(all, func(a netlink.Addr) bool { return at(a) == own })
	if here < 0 {
		return nil, nil
	}
	const passing = unix.IFA_F_TEMPORARY | unix.IFA_F_DEPRECATED | unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED
	var inNetworks, single []netip.Addr
	for _, a := range all {
		address := at(a)
		if a.LinkIndex != all[here].LinkIndex || address.Is4() == own.Is4() || !address.IsGlobalUnicast() {
			continue
		}
		// To IPv4 a flag of IPv6 means that another address of its network is the first.
		if address.Is6() && a.Flags&passing != 0 {
			continue
		}
		if ones, bits := a.Mask.Size(); ones == bits {
			single = append(single, address)
		} else {
			inNetworks = append(inNetworks, address)
		}
	}
	return append(inNetworks, single...), nil
}
