package config

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// meta names an object that was created in that minute.
func meta(name string, minute int) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Date(2026, 1, 1, 0, minute, 0, 0, time.UTC)}
}

func pool(name string, minute int, addresses ...string) *v1alpha1.IPPool {
	return &v1alpha1.IPPool{ObjectMeta: meta(name, minute), Spec: v1alpha1.IPPoolSpec{Addresses: addresses}}
}

func peer(name string, minute int, address string) *v1alpha1.BGPPeer {
	return &v1alpha1.BGPPeer{ObjectMeta: meta(name, minute), Spec: v1alpha1.BGPPeerSpec{Address: address, LocalASN: 64513, PeerASN: 64512}}
}

func messages(problems []Problem) []string {
	var m []string
	for _, p := range problems {
		m = append(m, p.Reason+": "+p.Message)
	}
	return m
}

func TestParseRange(t *testing.T) {
	for entry, want := range map[string]string{
		"192.0.2.0/24":              "192.0.2.0-192.0.2.255",
		"192.0.2.7/32":              "192.0.2.7-192.0.2.7",
		"192.0.2.10-192.0.2.20":     "192.0.2.10-192.0.2.20",
		"2001:db8::/126":            "2001:db8::-2001:db8::3",
		"2001:db8::1-2001:db8::f":   "2001:db8::1-2001:db8::f",
		"192.0.2.7":                 `error: "192.0.2.7" is no prefix such as 192.0.2.0/24 and no range such as 192.0.2.10-192.0.2.20`,
		"192.0.2.7/24":              "error: 192.0.2.7/24 has host bits set; write 192.0.2.0/24",
		"192.0.2.20-192.0.2.10":     `error: "192.0.2.20-192.0.2.10" is reversed; write 192.0.2.10-192.0.2.20`,
		"192.0.2.1-2001:db8::1":     `error: "192.0.2.1-2001:db8::1": both ends of a range are of one family`,
		"192.0.2.1-x":               `error: "192.0.2.1-x": "x" is no IP address`,
		"-192.0.2.1":                `error: "-192.0.2.1": "" is no IP address`,
		"fe80::1%eth0-fe80::2%eth0": `error: "fe80::1%eth0-fe80::2%eth0": an address of a pool has no zone`,
		"224.0.0.0/24":              `error: "224.0.0.0/24" overlaps 224.0.0.0/3 (unspecified, loopback, link-local, multicast, reserved or IPv4-mapped); a pool holds unicast addresses`,
		"0.0.0.0/0":                 `error: "0.0.0.0/0" overlaps 0.0.0.0/8 (unspecified, loopback, link-local, multicast, reserved or IPv4-mapped); a pool holds unicast addresses`,
		"::ffff:192.0.2.0/120":      `error: "::ffff:192.0.2.0/120" overlaps ::ffff:0.0.0.0/96 (unspecified, loopback, link-local, multicast, reserved or IPv4-mapped); a pool holds unicast addresses`,
	} {
		r, err := ParseRange(entry)
		got := r.String()
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != want {
			t.Errorf("ParseRange(%q)\n got %s\nwant %s", entry, got, want)
		}
	}
}

func FuzzParseRange(f *testing.F) {
	for _, seed := range []string{"192.0.2.0/24", "192.0.2.1-192.0.2.9", "2001:db8::/64", "::1-::2", "-", "a-b-c", "::ffff:1.2.3.4/128"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, entry string) {
		r, err := ParseRange(entry)
		if err == nil && (!r.IsValid() || !unicast(r.From()) || !unicast(r.To())) {
			t.Errorf("%q parsed to %v, which is no range of unicast addresses", entry, r)
		}
	})
}

func TestTheOlderPoolKeepsWhatTwoPoolsClaim(t *testing.T) {
	older, younger := pool("zebra", 1, "192.0.2.0/28"), pool("ant", 2, "192.0.2.8-192.0.2.31")
	for _, pools := range [][]*v1alpha1.IPPool{{older, younger}, {younger, older}} {
		s, problems := Compile(Objects{Pools: pools})
		if got := s.PoolOf(netip.MustParseAddr("192.0.2.9")).Name; got != "zebra" {
			t.Errorf("192.0.2.9 is in %s, want zebra, the older", got)
		}
		if got := s.PoolOf(netip.MustParseAddr("192.0.2.16")).Name; got != "ant" {
			t.Errorf("192.0.2.16 is in %s, want ant: the rest of a pool in conflict serves", got)
		}
		want := []string{"Conflict: spec.addresses: 192.0.2.8/29 is in the older IPPool zebra too, which keeps it; take it out of one of the two"}
		if diff := cmp.Diff(want, messages(problems[Key{"IPPool", "ant"}])); diff != "" {
			t.Error(diff)
		}
		told := []Problem{{Reason: "Conflict", Harmless: true, Message: "spec.addresses: 192.0.2.8/29 is in the younger IPPool ant too, which does not get it; take it out of one of the two"}}
		if diff := cmp.Diff(told, problems[Key{"IPPool", "zebra"}]); diff != "" {
			t.Error(diff)
		}
	}
}

func TestOneBadEntryLeavesTheRestOfThePoolInEffect(t *testing.T) {
	s, problems := Compile(Objects{Pools: []*v1alpha1.IPPool{pool("p", 1, "192.0.2.9-192.0.2.1", "198.51.100.0/24")}})
	if s.PoolOf(netip.MustParseAddr("198.51.100.1")) == nil || s.PoolOf(netip.MustParseAddr("192.0.2.5")) != nil {
		t.Error("want 198.51.100.1 in the pool and 192.0.2.5 not")
	}
	want := []string{`InvalidAddresses: spec.addresses[0]: "192.0.2.9-192.0.2.1" is reversed; write 192.0.2.1-192.0.2.9`}
	if diff := cmp.Diff(want, messages(problems[Key{"IPPool", "p"}])); diff != "" {
		t.Error(diff)
	}
}

func TestEachKindSaysWhatIsWrongWithIt(t *testing.T) {
	bad := metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Near"}}}
	half := &metav1.Duration{Duration: 4500 * time.Millisecond}
	uneven := peer("uneven", 3, "192.0.2.3")
	uneven.Spec.HoldTime = half
	lost := peer("lost", 4, "192.0.2.4")
	lost.Spec.NodeSelectors = []metav1.LabelSelector{bad}
	_, problems := Compile(Objects{
		Pools: []*v1alpha1.IPPool{pool("p", 1, "192.0.2.0/24")},
		L2Advertisements: []*v1alpha1.L2Advertisement{
			{ObjectMeta: meta("typo", 1), Spec: v1alpha1.L2AdvertisementSpec{Pools: []string{"p", "q"}}},
			{ObjectMeta: meta("pattern", 1), Spec: v1alpha1.L2AdvertisementSpec{Interfaces: []string{"eth[", "bond*"}}},
			{ObjectMeta: meta("selector", 1), Spec: v1alpha1.L2AdvertisementSpec{NodeSelectors: []metav1.LabelSelector{bad}}},
			{ObjectMeta: meta("services", 1), Spec: v1alpha1.L2AdvertisementSpec{ServiceSelectors: []metav1.LabelSelector{{}, bad}}},
			{ObjectMeta: meta("preference", 1), Spec: v1alpha1.L2AdvertisementSpec{PreferredNodes: []v1alpha1.PreferredNode{{Weight: 1, NodeSelector: bad}}}},
		},
		BGPAdvertisements: []*v1alpha1.BGPAdvertisement{
			{ObjectMeta: meta("typo", 1), Spec: v1alpha1.BGPAdvertisementSpec{Peers: []string{"one", "two"}}},
		},
		BGPPeers: []*v1alpha1.BGPPeer{peer("one", 1, "192.0.2.1"), peer("again", 2, "192.0.2.1"), peer("group", 2, "224.0.0.1"), uneven, lost},
	})
	got := map[Key][]string{}
	for key, p := range problems {
		got[key] = messages(p)
	}
	want := map[Key][]string{
		{"IPPool", "p"}:                   nil,
		{"L2Advertisement", "typo"}:       {`UnknownPool: spec.pools[1]: no IPPool "q" exists; create it or take the name out`},
		{"L2Advertisement", "pattern"}:    {`InvalidInterface: spec.interfaces[0]: "eth[" is no shell pattern; write a name such as eth0 or a pattern such as bond*`},
		{"L2Advertisement", "selector"}:   {`InvalidSelector: spec.nodeSelectors[0]: "Near" is not a valid label selector operator; the object is not in effect until this is mended`},
		{"L2Advertisement", "services"}:   {`InvalidSelector: spec.serviceSelectors[1]: "Near" is not a valid label selector operator; the object is not in effect until this is mended`},
		{"L2Advertisement", "preference"}: {`InvalidSelector: spec.preferredNodes[0].nodeSelector: "Near" is not a valid label selector operator; the entry is not in effect until this is mended`},
		{"BGPAdvertisement", "typo"}:      {`UnknownPeer: spec.peers[1]: no BGPPeer "two" is in effect; create it, mend it, or take the name out`},
		{"BGPPeer", "one"}:                nil,
		{"BGPPeer", "again"}:              {`Conflict: spec.address: 192.0.2.1 is that of the older BGPPeer one already, on every node; change or delete one of the two`},
		{"BGPPeer", "group"}:              {`InvalidPeer: spec.address: 224.0.0.1 is not the address of a router; write a unicast address`},
		{"BGPPeer", "uneven"}:             {`InvalidPeer: spec.holdTime: 4.5s is not in whole seconds; write 5s`},
		{"BGPPeer", "lost"}:               {`InvalidSelector: spec.nodeSelectors[0]: "Near" is not a valid label selector operator; the object is not in effect until this is mended`},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAdvertisementsSelectPools(t *testing.T) {
	s, _ := Compile(Objects{
		Pools: []*v1alpha1.IPPool{pool("a", 1, "192.0.2.0/24"), pool("b", 1, "198.51.100.0/24")},
		L2Advertisements: []*v1alpha1.L2Advertisement{
			{ObjectMeta: meta("all", 1)},
			{ObjectMeta: meta("only-b", 2), Spec: v1alpha1.L2AdvertisementSpec{Pools: []string{"b"}}},
		},
	})
	for address, want := range map[string]string{"192.0.2.1": "all", "198.51.100.1": "all only-b", "203.0.113.1": "all"} {
		var names []string
		for _, a := range s.L2For(netip.MustParseAddr(address)) {
			names = append(names, a.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s is selected by %q, want %q", address, got, want)
		}
	}
	if got := s.BGPFor(netip.MustParseAddr("192.0.2.1")); len(got) != 0 {
		t.Errorf("BGP advertisements %v, want none", got)
	}
}

func TestANodeHasOnePeerPerAddress(t *testing.T) {
	rack := func(p *v1alpha1.BGPPeer, rack string) *v1alpha1.BGPPeer {
		p.Spec.NodeSelectors = []metav1.LabelSelector{{MatchLabels: map[string]string{"rack": rack}}}
		return p
	}
	s, problems := Compile(Objects{BGPPeers: []*v1alpha1.BGPPeer{
		rack(peer("r1", 1, "192.0.2.1"), "one"), rack(peer("r2", 2, "192.0.2.1"), "two"), peer("any", 3, "192.0.2.1"),
	}})
	for rack, want := range map[string]string{"one": "r1", "two": "r2", "three": "any"} {
		got := s.PeersOf(labels.Set{"rack": rack})
		if len(got) != 1 || got[0].Name != want {
			t.Errorf("rack %s has peers %v, want %s", rack, got, want)
		}
	}
	for key, p := range problems {
		if len(p) != 0 {
			t.Errorf("%v: %v", key, p)
		}
	}
}

func TestL2AdvertisementsSelectServicesAndPreferNodes(t *testing.T) {
	match := func(key, value string) metav1.LabelSelector {
		return metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
	}
	s, _ := Compile(Objects{
		Pools: []*v1alpha1.IPPool{pool("a", 1, "192.0.2.0/24")},
		L2Advertisements: []*v1alpha1.L2Advertisement{
			{ObjectMeta: meta("all", 1)},
			{ObjectMeta: meta("web", 2), Spec: v1alpha1.L2AdvertisementSpec{
				ServiceSelectors: []metav1.LabelSelector{match("tier", "web"), match("tier", "edge")},
				PreferredNodes:   []v1alpha1.PreferredNode{{Weight: 100, NodeSelector: match("rack", "a")}, {Weight: 1, NodeSelector: metav1.LabelSelector{}}},
			}},
		},
	})
	web, edge, db := labels.Set{"tier": "web"}, labels.Set{"tier": "edge"}, labels.Set{"tier": "db"}
	for _, c := range []struct {
		name     string
		services []labels.Set
		want     string
	}{
		{"no Service is known", nil, "all"},
		{"a Service without labels", []labels.Set{nil}, "all"},
		{"another Service", []labels.Set{db}, "all"},
		{"the first selector", []labels.Set{web}, "all web"},
		{"the second", []labels.Set{edge}, "all web"},
		{"one of two Services that share the address", []labels.Set{db, edge}, "all web"},
	} {
		var names []string
		for _, a := range s.L2For(netip.MustParseAddr("192.0.2.1"), c.services...) {
			names = append(names, a.Name)
		}
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("%s: selected by %q, want %q", c.name, got, c.want)
		}
	}
	preferring := s.L2For(netip.MustParseAddr("192.0.2.1"), web)[1]
	for rack, want := range map[string]int32{"a": 101, "b": 1} {
		if got := preferring.Weight(labels.Set{"rack": rack}); got != want {
			t.Errorf("a node of rack %s weighs %d, want %d", rack, got, want)
		}
	}
}
