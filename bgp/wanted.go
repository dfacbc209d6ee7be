package bgp

import "net/netip"

// wanted is what the groups want, by group and by prefix. Replacing a group costs that group's routes,
// whatever the number of groups. It has one owner and no lock.
type wanted struct {
	groups   map[string]map[netip.Prefix]announcement
	prefixes map[netip.Prefix][]string // the groups that want a prefix, nearly always one
}

func newWanted() *wanted {
	return &wanted{
		groups:   map[string]map[netip.Prefix]announcement{},
		prefixes: map[netip.Prefix][]string{},
	}
}

// replace makes desired all that group wants, and returns the prefixes whose announcement may have changed.
// A desired without routes removes the group.
func (w *wanted) replace(group string, desired Desired) []netip.Prefix {
	before := w.groups[group]
	after := make(map[netip.Prefix]announcement, len(desired.Routes))
	for _, r := range desired.Routes {
		prefix := canonical(r.Prefix)
		after[prefix] = after[prefix].union(of(r))
	}
	var changed []netip.Prefix
	for prefix := range before {
		if _, stays := after[prefix]; !stays {
			w.drop(group, prefix)
			changed = append(changed, prefix)
		}
	}
	for prefix, a := range after {
		old, had := before[prefix]
		if had && old.equal(a) {
			continue
		}
		if !had {
			w.prefixes[prefix] = append(w.prefixes[prefix], group)
		}
		changed = append(changed, prefix)
	}
	if len(after) == 0 {
		delete(w.groups, group)
	} else {
		w.groups[group] = after
	}
	return changed
}

func (w *wanted) drop(group string, prefix netip.Prefix) {
	groups := w.prefixes[prefix]
	if len(groups) == 1 {
		delete(w.prefixes, prefix)
		return
	}
	kept := make([]string, 0, len(groups)-1)
	for _, g := range groups {
		if g != group {
			kept = append(kept, g)
		}
	}
	w.prefixes[prefix] = kept
}

// announcement merges what all groups want for prefix; ok is false if none wants it.
func (w *wanted) announcement(prefix netip.Prefix) (a announcement, ok bool) {
	for i, group := range w.prefixes[prefix] {
		if one := w.groups[group][prefix]; i == 0 {
			a = one
		} else {
			a = a.union(one)
		}
		ok = true
	}
	return a.compact(), ok
}

// canonical makes equal prefixes compare equal.
func canonical(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}
