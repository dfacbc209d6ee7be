package ipvs

import (
	"net/netip"
	"slices"
)

// desiredServers are what the groups desire.
type desiredServers struct {
	groups map[string]Table
	claims map[Frontend][]string // the groups that desire it, sorted
	users  map[netip.Addr]int    // how many frontends of claims have it
}

func newDesiredServers() desiredServers {
	return desiredServers{map[string]Table{}, map[Frontend][]string{}, map[netip.Addr]int{}}
}

// replace returns the frontends that it concerns.
func (s *desiredServers) replace(group string, desired Table) []Frontend {
	before := s.groups[group]
	if len(desired) == 0 {
		delete(s.groups, group)
	} else {
		s.groups[group] = desired
	}
	var changed []Frontend
	for f, v := range desired {
		old, had := before[f]
		if !had {
			s.claim(f, group)
		}
		if !had || old.Settings != v.Settings || !slices.Equal(old.RealServers, v.RealServers) {
			changed = append(changed, f)
		}
	}
	for f := range before {
		if _, still := desired[f]; !still {
			s.release(f, group)
			changed = append(changed, f)
		}
	}
	return changed
}

func (s *desiredServers) claim(f Frontend, group string) {
	if len(s.claims[f]) == 0 {
		s.users[f.Address]++
	}
	i, _ := slices.BinarySearch(s.claims[f], group)
	s.claims[f] = slices.Insert(s.claims[f], i, group)
}

func (s *desiredServers) release(f Frontend, group string) {
	s.claims[f] = slices.DeleteFunc(s.claims[f], func(g string) bool { return g == group })
	if len(s.claims[f]) > 0 {
		return
	}
	delete(s.claims, f)
	if s.users[f.Address]--; s.users[f.Address] == 0 {
		delete(s.users, f.Address)
	}
}

func (s *desiredServers) virtualServer(f Frontend) (VirtualServer, bool) {
	groups := s.claims[f]
	if len(groups) == 0 {
		return VirtualServer{}, false
	}
	return s.groups[groups[0]][f], true
}

// of returns what is desired of some frontends.
func (s *desiredServers) of(some map[Frontend]bool) Table {
	t := Table{}
	for f := range some {
		if v, ok := s.virtualServer(f); ok {
			t[f] = v
		}
	}
	return t
}

func (s *desiredServers) table() Table {
	t := make(Table, len(s.claims))
	for f := range s.claims {
		t[f], _ = s.virtualServer(f)
	}
	return t
}

func (s *desiredServers) addresses() map[netip.Addr]bool {
	all := make(map[netip.Addr]bool, len(s.users))
	for a := range s.users {
		all[a] = true
	}
	return all
}
