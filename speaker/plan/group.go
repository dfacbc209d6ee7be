package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/berth-lb/berth/config/inuse"
)

// Group is a set of Services connected by shared addresses. It is announced, owned
// and moved as one.
type Group struct {
	// ID is the same on every node, as long as the addresses are.
	ID       string
	Services []Service
	// Addresses of all the Services, ascending.
	Addresses []netip.Addr
	// first of Addresses before Unused took some out, which differs by node; invalid: none was.
	first netip.Addr
}

// rank returns what nodes are ranked by for the addresses of the group, the same on every node.
func (g Group) rank() string {
	if g.first.IsValid() {
		return g.first.String()
	}
	return g.Addresses[0].String()
}

// Names returns namespace/name of each Service.
func (g Group) Names() []string {
	names := make([]string, 0, len(g.Services))
	for _, s := range g.Services {
		names = append(names, s.Name)
	}
	return names
}

// NamesAt returns namespace/name of each Service that has the address.
func (g Group) NamesAt(address netip.Addr) []string {
	var names []string
	for _, s := range g.Services {
		if slices.Contains(s.Addresses, address) {
			names = append(names, s.Name)
		}
	}
	return names
}

// Unused returns the group without addresses that are in use elsewhere, and says which those are.
// An address on an interface of this node is not in use if it is there because a Service of the
// group has it.
func (g Group) Unused(used *inuse.Set) (left Group, complaint string) {
	var taken []netip.Addr
	var said []string
	for _, address := range g.Addresses {
		use, inUse := used.Of(address)
		if !inUse || use.Local != "" && g.bound(address) {
			continue
		}
		taken = append(taken, address)
		said = append(said, fmt.Sprintf("%s is %s", address, use.By))
	}
	if len(taken) == 0 {
		return g, ""
	}
	without := func(addresses []netip.Addr) []netip.Addr {
		return slices.DeleteFunc(slices.Clone(addresses), func(a netip.Addr) bool { return slices.Contains(taken, a) })
	}
	left = g
	left.first = g.Addresses[0]
	left.Addresses = without(g.Addresses)
	left.Services = slices.Clone(g.Services)
	for i, s := range left.Services {
		left.Services[i].Addresses = without(s.Addresses)
	}
	return left, fmt.Sprintf("Service %s: not announced: %s", g.Services[0].Name, strings.Join(said, ", "))
}

// bound reports whether an implementation that puts addresses on interfaces serves a Service that
// has the address.
func (g Group) bound(address netip.Addr) bool {
	return slices.ContainsFunc(
		g.Services,
		func(s Service) bool { return s.Bound && slices.Contains(s.Addresses, address) },
	)
}
