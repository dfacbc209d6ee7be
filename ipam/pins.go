package ipam

import (
	"net/netip"
	"slices"
)

// pins are the addresses that owners ask for by name, whether they have them or not.
type pins struct {
	of map[netip.Addr][]string
	by map[string][]netip.Addr
}

// SetPins replaces the addresses that a known owner asks for by name, whether it has
// them or not: automatic allocation to others passes over them. It reports whether one
// was removed.
func (a *Allocator) SetPins(name string, addresses []netip.Addr) bool {
	before, now := a.pinned.by[name], distinct(addresses)
	if slices.Equal(before, now) {
		return false
	}
	if a.pinned.by[name] = now; len(now) == 0 {
		delete(a.pinned.by, name)
	}
	removed := false
	for _, address := range before {
		if slices.Contains(now, address) {
			continue
		}
		removed = true
		left := slices.DeleteFunc(a.pinned.of[address], func(by string) bool { return by == name })
		if len(left) > 0 {
			a.pinned.of[address] = left
		} else {
			delete(a.pinned.of, address)
		}
		a.settle(address)
	}
	for _, address := range now {
		if !slices.Contains(before, address) {
			a.pinned.of[address] = append(a.pinned.of[address], name)
			a.settle(address)
		}
	}
	return removed
}

// pinnedByOther reports whether another than the owner asks for the address by name.
func (a *Allocator) pinnedByOther(name string, address netip.Addr) bool {
	return slices.ContainsFunc(a.pinned.of[address], func(by string) bool { return by != name })
}
