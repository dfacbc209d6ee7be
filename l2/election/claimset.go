package election

import (
	"bytes"
	"maps"
	"slices"
)

// claimSet is all that one node claims on a segment, with its digest.
type claimSet struct {
	claims map[groupKey]claim
	digest uint64
}

func newClaimSet() claimSet { return claimSet{claims: make(map[groupKey]claim)} }

// put sets one claim.
func (s *claimSet) put(group groupKey, c claim) {
	s.remove(group)
	s.claims[group] = c
	s.digest += c.sum(group)
}

func (s *claimSet) remove(group groupKey) {
	if c, ok := s.claims[group]; ok {
		delete(s.claims, group)
		s.digest -= c.sum(group)
	}
}

// take applies what the set's node said, and returns the groups whose claims changed.
func (s *claimSet) apply(said claimList) []groupKey {
	var changed []groupKey
	named := make(map[groupKey]bool, len(said.entries))
	for _, e := range said.entries {
		named[e.group] = true
		was, had := s.claims[e.group]
		switch {
		case e.removed && had:
			s.remove(e.group)
		case !e.removed && (!had || was != e.claim):
			s.put(e.group, e.claim)
		default:
			continue
		}
		changed = append(changed, e.group)
	}
	if !said.whole {
		return changed
	}
	for group := range s.claims {
		if !named[group] && bytes.Compare(group[:], said.from[:]) >= 0 && bytes.Compare(group[:], said.to[:]) <= 0 {
			changed = append(changed, group)
		}
	}
	slices.SortFunc(changed, compareKeys)
	changed = slices.Compact(changed)
	for _, group := range changed {
		if !named[group] {
			s.remove(group)
		}
	}
	return changed
}

// all returns the whole set in parts of at most so many claims, which cover every group there can be.
func (s *claimSet) parts(most int) []claimList {
	groups := slices.SortedFunc(maps.Keys(s.claims), compareKeys)
	var parts []claimList
	part := claimList{whole: true}
	for _, group := range groups {
		if len(part.entries) == most {
			part.to = predecessor(group)
			parts = append(parts, part)
			part = claimList{whole: true, from: group}
		}
		part.entries = append(part.entries, claimEntry{group: group, claim: s.claims[group]})
	}
	for i := range part.to {
		part.to[i] = 0xff
	}
	return append(parts, part)
}

// predecessor returns the key before one that is not the first.
func predecessor(k groupKey) groupKey {
	for i := len(k) - 1; i >= 0; i-- {
		k[i]--
		if k[i] != 0xff {
			break
		}
	}
	return k
}

func compareKeys(a, b groupKey) int { return bytes.Compare(a[:], b[:]) }
