package bgp

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
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
	w := newWanted()
	steps := []struct {
		name    string
		group   string
		desired Desired
		changed []string
	}{
		{"first routes", "a", routes(nil, "192.0.2.1/32", "192.0.2.2/32"), []string{"192.0.2.1/32", "192.0.2.2/32"}},
		{"the same again", "a", routes(nil, "192.0.2.1/32", "192.0.2.2/32"), nil},
		{"one more", "a", routes(nil, "192.0.2.1/32", "192.0.2.2/32", "2001:db8::1/128"), []string{"2001:db8::1/128"}},
		{"other peers", "a", routes([]string{"tor1"}, "192.0.2.1/32"), []string{"192.0.2.1/32", "192.0.2.2/32", "2001:db8::1/128"}},
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

func TestAPrefixOfSeveralGroupsStaysWhileOneWantsItAndGoesToTheUnionOfTheirPeers(t *testing.T) {
	w := newWanted()
	prefix := netip.MustParsePrefix("192.0.2.1/32")
	check := func(step string, peers []string, ok bool) {
		t.Helper()
		a, gotOK := w.announcement(prefix)
		if gotOK != ok || !cmp.Equal(a.peers, peers) {
			t.Errorf("%s: got peers %q, %v; want %q, %v", step, a.peers, gotOK, peers, ok)
		}
	}
	w.replace("a", routes([]string{"tor2"}, "192.0.2.1/32"))
	check("a alone", []string{"tor2"}, true)
	w.replace("b", routes([]string{"tor1", "tor2"}, "192.0.2.1/32"))
	check("a and b", []string{"tor1", "tor2"}, true)
	w.replace("c", routes(nil, "192.0.2.1/32"))
	check("c wants all", nil, true)
	w.replace("c", Desired{})
	w.replace("b", Desired{})
	check("a alone again", []string{"tor2"}, true)
	w.replace("a", Desired{})
	check("nobody", nil, false)
}

func TestChangedPrefixesSufficeToFollowWhatIsWanted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWanted()
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
		if diff := cmp.Diff(merged(groups), followed, cmp.AllowUnexported(announcement{})); diff != "" {
			t.Fatalf("announcements (-want +got):\n%s", diff)
		}
	})
}

// merged says the same as wanted, the slow and obvious way.
func merged(groups map[string]Desired) map[netip.Prefix]announcement {
	all := map[netip.Prefix]bool{}
	some := map[netip.Prefix][]string{}
	for _, d := range groups {
		for _, r := range d.Routes {
			all[r.Prefix] = all[r.Prefix] || len(r.Peers) == 0
			some[r.Prefix] = append(some[r.Prefix], r.Peers...)
		}
	}
	result := map[netip.Prefix]announcement{}
	for p, every := range all {
		if every {
			result[p] = announcement{}
			continue
		}
		slices.Sort(some[p])
		result[p] = announcement{peers: slices.Compact(some[p])}
	}
	return result
}
