package bgp

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"strings"
)

// announcement is what one prefix needs, all groups that want it taken together.
type announcement struct {
	// everyone is what those peers are told that are not in named; nil: nothing.
	everyone *Attributes
	// named is what single peers are told, by name, ascending.
	named []share
}

// share is what one peer is told.
type share struct {
	peer string
	Attributes
}

func (a announcement) equal(b announcement) bool {
	return (a.everyone == nil) == (b.everyone == nil) && (a.everyone == nil || a.everyone.Equal(*b.everyone)) &&
		slices.EqualFunc(
			a.named,
			b.named,
			func(x, y share) bool { return x.peer == y.peer && x.Attributes.Equal(y.Attributes) },
		)
}

// of is what one route wants.
func of(r Route) announcement {
	if len(r.Peers) == 0 {
		return announcement{everyone: &r.Attributes}
	}
	var a announcement
	for _, peer := range slices.Compact(slices.Sorted(slices.Values(r.Peers))) {
		a.named = append(a.named, share{peer, r.Attributes})
	}
	return a
}

// told returns what the peer is told; nil: it does not get the prefix.
func (a announcement) told(peer string) *Attributes {
	i, named := slices.BinarySearchFunc(
		a.named,
		peer,
		func(s share, name string) int { return strings.Compare(s.peer, name) },
	)
	if named {
		return &a.named[i].Attributes
	}
	return a.everyone
}

// union is what a prefix needs that is wanted twice: each peer is told both.
func (a announcement) union(b announcement) announcement {
	both := func(x, y *Attributes) *Attributes {
		if x == nil || y == nil {
			return cmp.Or(x, y)
		}
		both := united(*x, *y)
		return &both
	}
	united := announcement{everyone: both(a.everyone, b.everyone)}
	var peers []string
	for _, s := range slices.Concat(a.named, b.named) {
		peers = append(peers, s.peer)
	}
	for _, peer := range slices.Compact(slices.Sorted(slices.Values(peers))) {
		united.named = append(united.named, share{peer, *both(a.told(peer), b.told(peer))})
	}
	return united
}

// compact leaves out who is told the same as everyone.
func (a announcement) compact() announcement {
	if a.everyone == nil {
		return a
	}
	return announcement{
		everyone: a.everyone,
		named:    slices.DeleteFunc(slices.Clone(a.named), func(s share) bool { return s.Attributes.Equal(*a.everyone) }),
	}
}

// extraPrepend makes the AS path of a last resort longer than that of any other route of a cluster:
// a RouteAnnouncement prepends 10 times at most. It is for routers that do not know
// GRACEFUL_SHUTDOWN.
const extraPrepend = 11

// lastResort is the announcement of a prefix that is used if there is no other route: for as long
// as it takes, or until it is withdrawn.
func (a announcement) lastResort() announcement {
	l := announcement{named: slices.Clone(a.named)}
	if a.everyone != nil {
		all := leastPreferred(*a.everyone)
		l.everyone = &all
	}
	for i := range l.named {
		l.named[i].Attributes = leastPreferred(l.named[i].Attributes)
	}
	return l
}

// alike returns the attributes if all who get the prefix are told the same, without a longer AS
// path: these stand on the path itself. Others are put on it for each peer, by the export policy.
func (a announcement) alike() (Attributes, bool) {
	var one *Attributes
	if a.everyone != nil {
		one = a.everyone
	}
	for i := range a.named {
		switch s := &a.named[i]; {
		case one == nil:
			one = &s.Attributes
		case !one.Equal(s.Attributes):
			return Attributes{}, false
		}
	}
	if one == nil || one.Prepend > 0 {
		return Attributes{}, false
	}
	return *one, true
}

// defaultLocalPref is what internal peers are told where nothing is asked for.
const defaultLocalPref = 100

// least reports whether somebody is told LOCAL_PREF 0, but not all are told alike. No policy of
// GoBGP sets 0, so it stands on the path.
func (a announcement) least() bool {
	return slices.ContainsFunc(a.sets(), func(s Attributes) bool { return s.LocalPref != nil && *s.LocalPref == 0 })
}

// explicit is the announcement with the default LOCAL_PREF written out where the path has another.
func (a announcement) explicit() announcement {
	if !a.least() {
		return a
	}
	usual := uint32(defaultLocalPref)
	say := func(s Attributes) Attributes {
		s.LocalPref = cmp.Or(s.LocalPref, &usual)
		return s
	}
	e := announcement{named: slices.Clone(a.named)}
	if a.everyone != nil {
		all := say(*a.everyone)
		e.everyone = &all
	}
	for i := range e.named {
		e.named[i].Attributes = say(e.named[i].Attributes)
	}
	return e
}

// sets returns the attributes that the export policy puts on paths of this announcement.
func (a announcement) sets() []Attributes {
	if _, ok := a.alike(); ok {
		return nil
	}
	var list []Attributes
	if a.everyone != nil {
		list = append(list, *a.everyone)
	}
	for _, s := range a.named {
		list = append(list, s.Attributes)
	}
	return slices.DeleteFunc(list, func(a Attributes) bool { return a.Equal(Attributes{}) })
}

func (a announcement) validate() error {
	if a.everyone != nil {
		if err := validate(*a.everyone); err != nil {
			return err
		}
	}
	for _, s := range a.named {
		if err := validate(s.Attributes); err != nil {
			return err
		}
	}
	return nil
}

// desiredRoutes is what the groups want, by group and by prefix. Replacing a group costs that
// group's routes, whatever the number of groups. It has one owner and no lock.
type desiredRoutes struct {
	groups   map[string]map[netip.Prefix]announcement
	prefixes map[netip.Prefix][]wanted // nearly always one; an aggregate is wanted by thousands of groups alike
}

// wanted is an announcement without weights that groups want of a prefix.
type wanted struct {
	announcement
	groups int
	sums   []int64 // of their weights, in the order of weights
}

func newDesiredRoutes() *desiredRoutes {
	return &desiredRoutes{
		groups:   map[string]map[netip.Prefix]announcement{},
		prefixes: map[netip.Prefix][]wanted{},
	}
}

// replace makes desired all that group wants, and returns the prefixes whose announcement may have
// changed. A desired without routes removes the group.
func (w *desiredRoutes) replace(group string, desired Desired) []netip.Prefix {
	before := w.groups[group]
	after := make(map[netip.Prefix]announcement, len(desired.Routes))
	for _, r := range desired.Routes {
		prefix := canonical(r.Prefix)
		after[prefix] = after[prefix].union(of(r))
	}
	var changed []netip.Prefix
	for prefix, a := range before {
		if _, stays := after[prefix]; !stays && w.count(prefix, a, -1) {
			changed = append(changed, prefix)
		}
	}
	for prefix, a := range after {
		old, had := before[prefix]
		if had && old.equal(a) {
			continue
		}
		news := w.count(prefix, a, 1)
		if had {
			news = w.count(prefix, old, -1) || news
		}
		if news {
			changed = append(changed, prefix)
		}
	}
	if len(after) == 0 {
		delete(w.groups, group)
	} else {
		w.groups[group] = after
	}
	return changed
}

// count takes that one more group wants an announcement of a prefix, or with -1 one less. It
// reports whether all that is wanted of the prefix may be another announcement now.
func (w *desiredRoutes) count(prefix netip.Prefix, a announcement, n int) (news bool) {
	weights := a.weights()
	a = a.weighing(make([]int64, len(weights)))
	all := w.prefixes[prefix]
	i := slices.IndexFunc(all, func(other wanted) bool { return other.equal(a) })
	if i < 0 {
		i, news = len(all), true
		all = append(all, wanted{announcement: a, sums: make([]int64, len(weights))})
	}
	all[i].groups += n
	for j, weight := range weights {
		all[i].sums[j] += int64(n) * weight
		news = news || weight > 0
	}
	if all[i].groups == 0 {
		all, news = slices.Delete(all, i, i+1), true
	}
	if w.prefixes[prefix] = all; len(all) == 0 {
		delete(w.prefixes, prefix)
	}
	return news
}

// announcement merges what all groups want for prefix; ok is false if none wants it.
func (w *desiredRoutes) announcement(prefix netip.Prefix) (a announcement, ok bool) {
	for i, one := range w.prefixes[prefix] {
		if all := one.weighing(one.sums); i == 0 {
			a = all
		} else {
			a = a.union(all)
		}
		ok = true
	}
	return a.compact(), ok
}

// weights returns that of everyone, and those of named.
func (a announcement) weights() []int64 {
	weights := make([]int64, 1+len(a.named))
	if a.everyone != nil {
		weights[0] = int64(a.everyone.Weight)
	}
	for i, s := range a.named {
		weights[1+i] = int64(s.Weight)
	}
	return weights
}

// weighing is the announcement with other weights, or the greatest that there is.
func (a announcement) weighing(weights []int64) announcement {
	if slices.Equal(weights, a.weights()) {
		return a
	}
	w := announcement{named: slices.Clone(a.named)}
	if a.everyone != nil {
		all := *a.everyone
		all.Weight = uint32(min(weights[0], math.MaxUint32))
		w.everyone = &all
	}
	for i := range w.named {
		w.named[i].Weight = uint32(min(weights[1+i], math.MaxUint32))
	}
	return w
}

// canonical makes equal prefixes compare equal.
func canonical(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}
