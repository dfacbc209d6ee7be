package plan

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// Groups keeps the groups of Services that are connected by shared addresses. It
// is not safe for concurrent use.
type Groups struct {
	services map[string]Service
	holders  map[netip.Addr][]string // Services by address
	current  map[string]string       // group ID by Service
}

// NewGroups returns no groups.
func NewGroups() *Groups {
	return &Groups{
		services: map[string]Service{},
		holders:  map[netip.Addr][]string{},
		current:  map[string]string{},
	}
}

// Has reports whether the Service is in a group.
func (g *Groups) Has(service string) bool { _, ok := g.services[service]; return ok }

// Set puts the Service in, or takes it out when it has no addresses. It returns
// the groups as they are now around it, and the IDs of groups that no longer exist.
// Its cost depends on these groups alone.
func (g *Groups) Set(s Service) (now []Group, gone []string) {
	old := g.services[s.Name]
	affected := map[string]bool{s.Name: true}
	before := map[string]bool{}
	for _, a := range slices.Concat(old.Addresses, s.Addresses) {
		for _, other := range g.holders[a] {
			affected[other] = true
		}
	}
	for name := range affected {
		if id, ok := g.current[name]; ok {
			before[id] = true
		}
	}
	g.replace(old, s)

	seen := map[string]bool{}
	for name := range affected {
		if _, ok := g.services[name]; ok && !seen[name] {
			now = append(now, g.around(name, seen))
		}
	}
	for _, group := range now {
		for _, member := range group.Services {
			if id, ok := g.current[member.Name]; ok {
				before[id] = true
			}
			g.current[member.Name] = group.ID
		}
	}
	for _, group := range now {
		delete(before, group.ID)
	}
	for id := range before {
		gone = append(gone, id)
	}
	return now, gone
}

func (g *Groups) replace(old, s Service) {
	for _, a := range old.Addresses {
		others := slices.DeleteFunc(g.holders[a], func(name string) bool { return name == s.Name })
		if g.holders[a] = others; len(others) == 0 {
			delete(g.holders, a)
		}
	}
	if len(s.Addresses) == 0 {
		delete(g.services, s.Name)
		delete(g.current, s.Name)
		return
	}
	g.services[s.Name] = s
	for _, a := range s.Addresses {
		if !slices.Contains(g.holders[a], s.Name) {
			g.holders[a] = append(g.holders[a], s.Name)
		}
	}
}

// around returns the group of a Service, and marks its members as seen.
func (g *Groups) around(service string, seen map[string]bool) Group {
	var group Group
	todo, visited := []string{service}, map[netip.Addr]bool{} // each address once: all its sharers have it
	seen[service] = true
	for len(todo) > 0 {
		member := g.services[todo[0]]
		todo = todo[1:]
		group.Services = append(group.Services, member)
		for _, a := range member.Addresses {
			if visited[a] {
				continue
			}
			visited[a] = true
			group.Addresses = append(group.Addresses, a)
			for _, other := range g.holders[a] {
				if !seen[other] {
					seen[other] = true
					todo = append(todo, other)
				}
			}
		}
	}
	slices.SortFunc(group.Services, func(a, b Service) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(group.Addresses, netip.Addr.Compare)
	group.ID = group.Services[0].Name // not an address: those change, and the owner need not
	return group
}

// All returns every group.
func (g *Groups) All() []Group { return g.Of(slices.Collect(maps.Keys(g.services))...) }

// At returns the group that has the address, if there is one.
func (g *Groups) At(address netip.Addr) []Group {
	return g.Of(g.holders[address]...)
}

// With returns the groups that have an address of these.
func (g *Groups) With(these func(netip.Addr) bool) []Group {
	var services []string
	for address, holders := range g.holders {
		if these(address) {
			services = append(services, holders...)
		}
	}
	return g.Of(services...)
}

// Of returns the groups of these Services. The ID of a group is the name of one of its own.
func (g *Groups) Of(services ...string) []Group {
	var all []Group
	seen := map[string]bool{}
	for _, name := range services {
		if !seen[name] {
			all = append(all, g.around(name, seen))
		}
	}
	return all
}
