package bgp

import (
	"math"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berth-lb/berth/bgp/community"
)

func routes(peers []string, prefixes ...string) Desired {
	var d Desired
	for _, p := range prefixes {
		d.Routes = append(d.Routes, Route{Prefix: netip.MustParsePrefix(p), Peers: peers})
	}
	return d
}

func texts(prefixes []netip.Prefix) []string {
	var list []string
	for _, p := range prefixes {
		list = append(list, p.String())
	}
	slices.Sort(list)
	return list
}

func TestOnlyThePrefixesOfAChangedGroupThatDifferAreTouched(t *testing.T) {
	w := newDesiredRoutes()
	steps := []struct {
		name    string
		group   string
		desired Desired
		changed []string
	}{
		{"first routes", "a", routes(nil, "192.0.2.1/32", "192.0.2.2/32"), []string{"192.0.2.1/32", "192.0.2.2/32"}},
		{"the same again", "a", routes(nil, "192.0.2.1/32", "192.0.2.2/32"), nil},
		{"one more", "a", routes(nil, "192.0.2.1/32", "192.0.2.2/32", "2001:db8::1/128"), []string{"2001:db8::1/128"}},
		{
			"other peers",
			"a",
			routes([]string{"tor1"}, "192.0.2.1/32"),
			[]string{"192.0.2.1/32", "192.0.2.2/32", "2001:db8::1/128"},
		},
		{"peers in another order and twice", "a", routes([]string{"tor1", "tor1"}, "192.0.2.1/32"), nil},
		{"another group", "b", routes(nil, "198.51.100.1/32"), []string{"198.51.100.1/32"}},
		{"unmasked and mapped spellings", "b", routes(nil, "::ffff:198.51.100.1/128"), nil},
		{"removed", "a", Desired{}, []string{"192.0.2.1/32"}},
		{"removed again", "a", Desired{}, nil},
	}
	for _, s := range steps {
		if diff := cmp.Diff(s.changed, texts(w.replace(s.group, s.desired))); diff != "" {
			t.Errorf("%s: changed prefixes (-want +got):\n%s", s.name, diff)
		}
	}
	if len(w.groups) != 1 || len(w.prefixes) != 1 {
		t.Errorf("kept %d groups and %d prefixes, want 1 and 1", len(w.groups), len(w.prefixes))
	}
}

// toldTo is what a peer is told, in words; "-" if it does not get the prefix.
func toldTo(a announcement, ok bool, peer string) string {
	told := a.told(peer)
	if !ok || told == nil {
		return "-"
	}
	return told.Key()
}

func TestAPrefixOfSeveralGroupsStaysWhileOneWantsItAndGoesToTheUnionOfTheirPeers(t *testing.T) {
	w := newDesiredRoutes()
	prefix := netip.MustParsePrefix("192.0.2.1/32")
	check := func(step string, peers ...string) {
		t.Helper()
		var got []string
		a, ok := w.announcement(prefix)
		for _, peer := range []string{"tor1", "tor2", "another"} {
			if toldTo(a, ok, peer) != "-" {
				got = append(got, peer)
			}
		}
		if ok != (len(peers) > 0) || !slices.Equal(got, peers) {
			t.Errorf("%s: got peers %q, %v; want %q", step, got, ok, peers)
		}
	}
	w.replace("a", routes([]string{"tor2"}, "192.0.2.1/32"))
	check("a alone", "tor2")
	w.replace("b", routes([]string{"tor1", "tor2"}, "192.0.2.1/32"))
	check("a and b", "tor1", "tor2")
	w.replace("c", routes(nil, "192.0.2.1/32"))
	check("c wants all", "tor1", "tor2", "another")
	w.replace("c", Desired{})
	w.replace("b", Desired{})
	check("a alone again", "tor2")
	w.replace("a", Desired{})
	check("nobody")
}

func TestWhatTwoGroupsSayOfOnePrefixIsUnitedForEachPeer(t *testing.T) {
	number := func(n uint32) *uint32 { return &n }
	w := newDesiredRoutes()
	w.replace("a", Desired{Routes: []Route{
		{
			Prefix: netip.MustParsePrefix("192.0.2.0/24"),
			Attributes: Attributes{
				MED:         number(5),
				LocalPref:   number(100),
				Weight:      1,
				Prepend:     2,
				Communities: []community.Community{{A: 1, B: 1}},
			},
		},
		{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Peers: []string{"tor1"}, Attributes: Attributes{Prepend: 3}},
	}})
	w.replace("b", Desired{Routes: []Route{
		{
			Prefix: netip.MustParsePrefix("192.0.2.0/24"),
			Peers:  []string{"tor1", "tor2"},
			Attributes: Attributes{
				MED:         number(7),
				LocalPref:   number(200),
				Weight:      4,
				Prepend:     5,
				Communities: []community.Community{{A: 1}, {A: 1, B: 1}},
			},
		},
	}})
	a, ok := w.announcement(netip.MustParsePrefix("192.0.2.0/24"))
	for peer, want := range map[string]string{
		"another": "100/5/2/1/1:1",
		"tor1":    "200/5/2/5/1:0/1:1",
		"tor2":    "200/5/2/5/1:0/1:1",
	} {
		if got := toldTo(a, ok, peer); got != want {
			t.Errorf("%s is told %s, want %s", peer, got, want)
		}
	}
}

func TestChangedPrefixesSufficeToFollowWhatIsWanted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newDesiredRoutes()
		followed := map[netip.Prefix]announcement{}
		groups := map[string]Desired{}
		names := rapid.SliceOfN(rapid.SampledFrom([]string{"tor1", "tor2", "tor3"}), 0, 3)
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			group := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "group")
			var d Desired
			for range rapid.IntRange(0, 4).Draw(t, "routes") {
				host := rapid.Byte().Draw(t, "host") % 6
				d.Routes = append(d.Routes, Route{
					Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, host}), 32),
					Peers:  names.Draw(t, "peers"),
					Attributes: Attributes{
						Weight:  uint32(rapid.IntRange(0, 2).Draw(t, "weight")),
						Prepend: uint8(rapid.IntRange(0, 2).Draw(t, "prepend")),
					},
				})
			}
			groups[group] = d
			for _, p := range w.replace(group, d) {
				if a, ok := w.announcement(p); ok {
					followed[p] = a
				} else {
					delete(followed, p)
				}
			}
		}
		for host := range byte(6) {
			prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, host}), 32)
			a, ok := followed[prefix]
			for _, peer := range []string{"tor1", "tor2", "tor3", "another"} {
				if got, want := toldTo(a, ok, peer), slowlyToldTo(groups, prefix, peer); got != want {
					t.Fatalf("%s is told %s of %s, want %s", peer, got, prefix, want)
				}
			}
		}
	})
}

// slowlyToldTo says the same as wanted, the slow and obvious way.
func slowlyToldTo(groups map[string]Desired, prefix netip.Prefix, peer string) string {
	var told *Attributes
	for _, d := range groups {
		for _, r := range d.Routes {
			switch {
			case r.Prefix != prefix || len(r.Peers) > 0 && !slices.Contains(r.Peers, peer):
			case told == nil:
				told = &r.Attributes
			default:
				both := united(*told, r.Attributes)
				told = &both
			}
		}
	}
	if told == nil {
		return "-"
	}
	return told.Key()
}

// What is counted is what the groups' announcements are, merged one by one; and no prefix is named
// as changed for one group of many that want the same.
func TestWhatIsCountedIsThePlainMerge(t *testing.T) {
	prefix := netip.MustParsePrefix("192.0.2.0/24")
	number := func(n uint32) *uint32 { return &n }
	rapid.Check(t, func(t *rapid.T) {
		w := newDesiredRoutes()
		peers := rapid.SampledFrom([][]string{nil, {"tor1"}, {"tor1", "tor2"}})
		weight := rapid.SampledFrom([]uint32{0, 0, 1, 7, math.MaxUint32 - 3})
		preference := rapid.SampledFrom([]*uint32{nil, number(100), number(200)})
		communities := rapid.SampledFrom([][]community.Community{nil, {{A: 1}}, {{A: 1}, {A: 2}}})
		plain := func() (a announcement, ok bool) {
			for _, wants := range w.groups {
				if one, some := wants[prefix]; some {
					a, ok = a.union(one), true
				}
			}
			return a.compact(), ok
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			var d Desired
			for range rapid.IntRange(0, 2).Draw(t, "routes") {
				d.Routes = append(d.Routes, Route{Prefix: prefix, Peers: peers.Draw(t, "peers"), Attributes: Attributes{
					Weight: weight.Draw(t, "weight"), LocalPref: preference.Draw(t, "preference"),
					MED: preference.Draw(t, "MED"), Communities: communities.Draw(t, "communities"),
				}})
			}
			before, was := plain()
			changed := w.replace(rapid.StringMatching("[a-f]").Draw(t, "group"), d)
			want, wanted := plain()
			if got, ok := w.announcement(prefix); ok != wanted || !got.equal(want) {
				t.Fatalf("counted %+v, %v, merged %+v, %v", got, ok, want, wanted)
			}
			if differs := was != wanted || !before.equal(want); differs && len(changed) == 0 {
				t.Fatalf("%+v became %+v, and no prefix changed", before, want)
			}
		}
		for group := range w.groups {
			w.replace(group, Desired{})
		}
		if len(w.prefixes) > 0 {
			t.Fatalf("kept %v", w.prefixes)
		}
	})
}

func TestAnAggregateOfManyGroupsIsTouchedOnlyIfItChanges(t *testing.T) {
	w := newDesiredRoutes()
	aggregate := func(weight uint32, peers ...string) Desired {
		d := routes(peers, "192.0.2.0/24")
		d.Routes[0].Weight = weight
		return d
	}
	for _, s := range []struct {
		name, group string
		desired     Desired
		changed     bool
	}{
		{"the first", "a", aggregate(0), true},
		{"another that wants the same", "b", aggregate(0), false},
		{"one with a weight", "c", aggregate(2), true},
		{"one with other peers", "d", aggregate(0, "tor1"), true},
		{"the first leaves", "a", Desired{}, false},
		{"the one with a weight loses it", "c", aggregate(0), true},
		{"and leaves", "c", Desired{}, false},
		{"the one with other peers wants the same", "d", aggregate(0), true},
		{"one of two leaves", "b", Desired{}, false},
		{"the last leaves", "d", Desired{}, true},
	} {
		if changed := w.replace(s.group, s.desired); len(changed) > 0 != s.changed {
			t.Errorf("%s: changed are %v, want some: %v", s.name, changed, s.changed)
		}
	}
}
