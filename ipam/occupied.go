package ipam

import (
	"net/netip"
	"slices"
)

// occupation is who occupies which address: Services of other implementations.
type occupation struct {
	of map[netip.Addr][]occupant // the longest-standing first
	by map[string][]netip.Addr
}

type occupant struct {
	who string
	by  string // in words that follow "is"
}

// Occupy notes that addresses are those of another implementation's Service, instead of
// those that it occupied before. By says whose they are, in words that follow "is": "an
// address of Service x/y, which metallb serves". They are not given to anybody, but who
// holds one already keeps it. Several may occupy one address. It reports whether one that was occupied before is not any more.
func (a *Allocator) Occupy(who, by string, addresses []netip.Addr) (gaveUp bool) {
	before := a.occupied.by[who]
	a.Vacate(who)
	addresses = distinct(addresses)
	gaveUp = slices.ContainsFunc(before, func(address netip.Addr) bool { return !slices.Contains(addresses, address) })
	if len(addresses) == 0 {
		return gaveUp
	}
	a.occupied.by[who] = addresses
	for _, address := range addresses {
		a.occupied.of[address] = append(a.occupied.of[address], occupant{who, by})
		a.settle(address)
	}
	return gaveUp
}

// Vacate undoes Occupy, and reports whether there was something to undo.
func (a *Allocator) Vacate(who string) bool {
	addresses := a.occupied.by[who]
	delete(a.occupied.by, who)
	for _, address := range addresses {
		left := slices.DeleteFunc(a.occupied.of[address], func(o occupant) bool { return o.who == who })
		if len(left) > 0 {
			a.occupied.of[address] = left
		} else {
			delete(a.occupied.of, address)
		}
		a.settle(address)
	}
	return len(addresses) > 0
}

// distinct returns the addresses, each once, ascending.
func distinct(addresses []netip.Addr) []netip.Addr {
	sorted := slices.SortedFunc(slices.Values(addresses), netip.Addr.Compare)
	return slices.Compact(sorted)
}
