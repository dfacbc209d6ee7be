// Package rival sees whether another process of this node has a BGP session with a router: a router
// takes one per address of a node, and a second one would end the first. A Filter (filter.go) holds
// such peers back; Look (this file) finds the sessions, by way of the kernel's sockets (kernel.go).
// Linux only.
package rival

import (
	"net/netip"
	"slices"
)

// defaultPort is BGP's.
const defaultPort = 179

// Router is a router that this node is to dial.
type Router struct {
	// Address, or without one Interface, on which the router is the only neighbor.
	Address   netip.Addr
	Interface string
	// Port of the router; 0: 179.
	Port uint16
	// Source is the address of this node that it would be dialed from; the zero Addr: any.
	Source netip.Addr
	// VRF by its device; empty: none.
	VRF string
}

func (r Router) port() uint16 {
	if r.Port == 0 {
		return defaultPort
	}
	return r.Port
}

// Connection is an established TCP connection of any process of this node.
type Connection struct {
	Local, Remote netip.AddrPort
	// Interface and VRF are those that the socket is bound to, or ""; bound to a port of a VRF it is
	// in the VRF too.
	Interface, VRF string
	// Inode of the socket; 0: no process has it yet.
	Inode uint32
}

// Has reports whether the connection is a session with the router, no matter which of the two
// dialed.
func (r Router) Has(c Connection) bool {
	if c.Remote.Port() != r.port() && c.Local.Port() != defaultPort || c.VRF != r.VRF {
		return false
	}
	remote := c.Remote.Addr()
	if !r.Address.IsValid() {
		return r.Interface != "" && remote.IsLinkLocalUnicast() && c.Interface == r.Interface
	}
	return remote.WithZone("") == r.Address.WithZone("") &&
		(r.Address.Zone() == "" || c.Interface == r.Address.Zone()) &&
		(!r.Source.IsValid() || c.Local.Addr().WithZone("") == r.Source.WithZone(""))
}

// others returns the connections whose socket another process has.
func others(all []Connection, own map[uint32]bool) []Connection {
	return slices.DeleteFunc(slices.Clone(all), func(c Connection) bool { return c.Inode == 0 || own[c.Inode] })
}

// Look returns the established connections by BGP's ports that other processes of this node have,
// as far as they can be sessions with these routers. If it cannot see them all, it fails.
func Look(routers []Router) ([]Connection, error) {
	found, err := look(routers)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	// A socket of our own that was closed while we looked seems to be another process's. It is not
	// there the second time.
	again, err := look(routers)
	return slices.DeleteFunc(found, func(c Connection) bool { return !slices.Contains(again, c) }), err
}

func look(routers []Router) ([]Connection, error) {
	before, err := ownSockets()
	if err != nil {
		return nil, err
	}
	all, err := connections(remotePorts(routers))
	if err != nil {
		return nil, err
	}
	own, err := ownSockets() // also those that were opened since
	if err != nil {
		return nil, err
	}
	for inode := range before {
		own[inode] = true
	}
	return slices.DeleteFunc(others(all, own), func(c Connection) bool {
		return !slices.ContainsFunc(routers, func(r Router) bool { return r.Has(c) })
	}), nil
}

func remotePorts(routers []Router) []uint16 {
	var ports []uint16
	for _, r := range routers {
		ports = append(ports, r.port())
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}
