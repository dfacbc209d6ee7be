package ipam

import (
	"fmt"
	"net/netip"
	"slices"
)

// Port is a port of a Service: its number and its protocol, such as "TCP".
type Port struct {
	Protocol string
	Number   int32
}

func (p Port) String() string { return fmt.Sprintf("%s port %d", p.Protocol, p.Number) }

// Terms say with whom an owner shares an address: with owners of the same key, in
// the same namespace unless the pool allows otherwise, whose ports do not clash.
// The zero Terms share with nobody.
type Terms struct {
	// Key that sharers have in common. Empty: shares with nobody.
	Key string
	// Ports that the owner uses.
	Ports []Port
	// Local: traffic goes to endpoints of the node that it reaches, so all sharers
	// must have the same endpoints.
	Local bool
	// Endpoints identifies what the traffic goes to: the selector.
	Endpoints string
}

func (t Terms) equal(other Terms) bool {
	return t.Key == other.Key && t.Local == other.Local && t.Endpoints == other.Endpoints && slices.Equal(t.Ports, other.Ports)
}

// clash says why two owners may not share an address, "" if they may. near says
// that their namespaces may share.
func (t Terms) clash(other Terms, near bool) string {
	switch {
	case t.Key == "" || t.Key != other.Key:
		return "without the same sharing key"
	case !near:
		return "in another namespace"
	case (t.Local || other.Local) && t.Endpoints != other.Endpoints:
		return "with another selector under externalTrafficPolicy Local"
	}
	for _, p := range t.Ports {
		for _, q := range other.Ports {
			if p == q {
				return "with the same " + p.String()
			}
		}
	}
	return ""
}

// setTerms replaces the terms of an owner.
func (a *Allocator) setTerms(name string, terms Terms) {
	o := a.owners[name]
	former := o.terms.Key
	o.terms = terms
	a.owners[name] = o
	if former != terms.Key {
		for _, address := range o.addresses {
			a.unkey(former, address)
			a.key(terms.Key, address)
		}
	}
}

// key notes that the address can be shared under the key.
func (a *Allocator) key(key string, address netip.Addr) {
	if key == "" {
		return
	}
	if a.keyed[key] == nil {
		a.keyed[key] = map[netip.Addr]bool{}
	}
	a.keyed[key][address] = true
}

// unkey notes that an owner with the key left the address.
func (a *Allocator) unkey(key string, address netip.Addr) {
	if key == "" {
		return
	}
	for _, other := range a.Holders(address) {
		if a.owners[other].terms.Key == key {
			return
		}
	}
	delete(a.keyed[key], address)
	if len(a.keyed[key]) == 0 {
		delete(a.keyed, key)
	}
}

// lowestShared returns the lowest address of the pool and family that others hold
// and the owner may share. It keeps away from addresses for which another waits that
// names them; who names what it holds already shares it as it would anyhow.
func (a *Allocator) lowestShared(name string, p *poolState, family Family, terms Terms) (lowest netip.Addr, found bool) {
	for address := range a.keyed[terms.Key] {
		if FamilyOf(address) != family || a.pools.of(address) != p || a.mayHold(name, address, terms) != nil {
			continue
		}
		awaited := slices.ContainsFunc(a.pinned.of[address], func(by string) bool { return by != name && !a.holds(by, address) })
		if !awaited && (!found || address.Less(lowest)) {
			lowest, found = address, true
		}
	}
	return lowest, found
}
