//go:build linux

package ipvs

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
)

// Leftovers returns what a process that ran a Driver left: the addresses that have a route of ours,
// and whether anything is there at all, even if only rules. It reads only the routing tables, so it
// loads no module.
func Leftovers() (addresses []netip.Addr, anything bool, err error) {
	routes, err := openDelivery(noSources)
	if err != nil {
		return nil, false, err
	}
	defer routes.close()
	routed, err := routes.addresses()
	if err != nil {
		return nil, false, err
	}
	for a := range routed {
		addresses = append(addresses, a)
	}
	anything = len(routed) > 0
	for _, f := range families {
		have, err := routes.rules(f)
		if err != nil {
			return nil, false, err
		}
		anything = anything || len(have) > 0
	}
	return addresses, anything, nil
}

// RemoveLeftovers deletes what Leftovers found, and the virtual servers on its addresses: their
// connections are reset. No Driver may run beside it.
func RemoveLeftovers() error {
	routes, err := openDelivery(noSources)
	if err != nil {
		return err
	}
	e := edge{servers: noServers{}, delivery: routes, sysctls: kernelSysctls{sysctlFolder}}
	// A kernel that lost the module since has lost the virtual servers too, and need not load it
	// again.
	switch _, err := os.Stat(listing); {
	case err == nil:
		servers, err := openKernel()
		if err != nil {
			return errors.Join(err, routes.close())
		}
		e.servers = servers
	case !errors.Is(err, fs.ErrNotExist):
		return errors.Join(explain("look for the IPVS table", err), routes.close())
	}
	return errors.Join(e.removeAll(nil), e.close())
}

// noServers is the table of a kernel without IPVS, as far as removeAll asks for it.
type noServers struct{ virtualServers }

func (noServers) table() (Table, error) { return nil, nil }
func (noServers) close() error          { return nil }
