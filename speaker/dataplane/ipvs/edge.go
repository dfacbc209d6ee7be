//go:build linux

package ipvs

import (
	"errors"
	"net/netip"
)

// edge is the kernel's side.
type edge struct {
	servers  virtualServers
	delivery router
	sysctls  sysctls
}

// router delivers packets for addresses to IPVS.
type router interface {
	addresses() (map[netip.Addr]bool, error)
	ensureRules(family) error
	add(netip.Addr) error
	remove(netip.Addr) error
	removeRules() error
	close() error
}

func openEdge(sources func() []netip.Addr, folder string) (edge, error) {
	servers, err := openKernel()
	if err != nil {
		return edge{}, err
	}
	routes, err := openDelivery(sources)
	if err != nil {
		return edge{}, errors.Join(err, servers.close())
	}
	return edge{servers, routes, kernelSysctls{folder}}, nil
}

func (e edge) close() error { return errors.Join(e.servers.close(), e.delivery.close()) }

// removeAll deletes what is on these addresses and on those that have a route.
func (e edge) removeAll(addresses map[netip.Addr]bool) error {
	routed, err := e.delivery.addresses()
	if err != nil {
		return err
	}
	actual, err := e.servers.table()
	if err != nil {
		return err
	}
	operations, _ := Diff(nil, actual, ownedAt(func(a netip.Addr) bool {
		_, ours := routed[a] // even with another source
		return ours || addresses[a]
	}))
	var problems []error
	if len(operations) > 0 {
		_ = e.sysctls.set(nodestConnections, "1") // as good as can be: with 0 connections are dropped and not reset
	}
	for _, o := range operations {
		problems = append(problems, e.servers.apply(o))
	}
	if err := errors.Join(problems...); err != nil {
		return err // the routes say whose the rest is
	}
	for a := range routed {
		problems = append(problems, e.delivery.remove(a))
	}
	return errors.Join(append(problems, e.delivery.removeRules())...)
}

// ownedAt returns a predicate for virtual servers that are ours: those by our marks, and those at
// addresses that are ours.
func ownedAt(address func(netip.Addr) bool) func(Frontend) bool {
	return func(f Frontend) bool {
		if f.Mark != 0 {
			return f.Mark&MarksMask == Marks
		}
		return address(f.Address)
	}
}
