package config

import (
	"net/netip"
	"reflect"
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

// all selects everything.
var all = &v1alpha1.Selector{}

// match selects what has the label.
func match(key, value string) *v1alpha1.Selector {
	return &v1alpha1.Selector{MatchLabels: map[string]string{key: value}}
}

// pool is a pool for all Services.
func pool(name string, minute int, addresses ...v1alpha1.AddressRange) *v1alpha1.LoadBalancerPool {
	return &v1alpha1.LoadBalancerPool{ObjectMeta: meta(name, minute), Spec: v1alpha1.LoadBalancerPoolSpec{
		Addresses: addresses,
		Scopes:    []v1alpha1.PoolScope{{NamespaceSelector: all, ServiceSelector: all}},
	}}
}

// neighbor is a neighbor of all nodes.
func neighbor(name string, minute int, address string) *v1alpha1.BGPNeighbor {
	return &v1alpha1.BGPNeighbor{
		ObjectMeta: meta(name, minute),
		Spec:       v1alpha1.BGPNeighborSpec{Address: address, LocalASN: 64513, RemoteASN: 64512, NodeSelector: all},
	}
}

// segment announces the addresses of the pools, or of all, from all nodes for all Services, with
// changes.
func segment(
	name string,
	minute int,
	pools []string,
	changes ...func(*v1alpha1.SegmentAnnouncementSpec),
) *v1alpha1.SegmentAnnouncement {
	a := &v1alpha1.SegmentAnnouncement{
		ObjectMeta: meta(name, minute),
		Spec:       v1alpha1.SegmentAnnouncementSpec{PoolNames: pools, NodeSelector: all, ServiceSelector: all},
	}
	if len(pools) == 0 {
		a.Spec.PoolSelector = all
	}
	for _, change := range changes {
		change(&a.Spec)
	}
	return a
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
		"192.0.2.7":                 "192.0.2.7-192.0.2.7",
		"2001:db8::7":               "2001:db8::7-2001:db8::7",
		"127.0.0.1":                 `error: "127.0.0.1" overlaps 127.0.0.0/8 (loopback); take it out`,
		"fe80::1%eth0":              `error: "fe80::1%eth0": an address of a pool has no zone`,
		"192.0.2":                   `error: "192.0.2" is not an address (192.0.2.1), a prefix (192.0.2.0/24) or a range (192.0.2.10-192.0.2.20: no spaces, both ends in full)`,
		"192.0.2.7/24":              "error: 192.0.2.7/24 has host bits set; write 192.0.2.0/24",
		"192.0.2.20-192.0.2.10":     `error: "192.0.2.20-192.0.2.10" is reversed; write 192.0.2.10-192.0.2.20`,
		"192.0.2.1-2001:db8::1":     `error: "192.0.2.1-2001:db8::1": both ends of a range are of one family`,
		"192.0.2.1-x":               `error: "192.0.2.1-x": "x" is not an IP address`,
		"-192.0.2.1":                `error: "-192.0.2.1": "" is not an IP address`,
		"fe80::1%eth0-fe80::2%eth0": `error: "fe80::1%eth0-fe80::2%eth0": an address of a pool has no zone`,
		"224.0.0.0/24":              `error: "224.0.0.0/24" overlaps 224.0.0.0/4 (multicast); take it out`,
		"0.0.0.0/0":                 `error: "0.0.0.0/0" overlaps 0.0.0.0/8 (unspecified); take it out`,
		"::ffff:192.0.2.0/120":      `error: "::ffff:192.0.2.0/120" overlaps ::ffff:0.0.0.0/96 (IPv4-mapped); take it out`,
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

// unicast reports whether a host can have the address.
func unicast(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

func FuzzParseRange(f *testing.F) {
	for _, seed := range []string{
		"192.0.2.0/24", "192.0.2.1-192.0.2.9", "2001:db8::/64", "::1-::2", "-", "a-b-c", "::ffff:1.2.3.4/128",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, entry string) {
		r, err := ParseRange(entry)
		if err == nil && (!r.IsValid() || !unicast(r.From()) || !unicast(r.To())) {
			t.Errorf("%q parsed to %v, which is no range of unicast addresses", entry, r)
		}
	})
}

// In files nobody is older.
func TestNobodyIsOlderInFiles(t *testing.T) {
	ant, zebra := pool("ant", 1, "192.0.2.0/28"), pool("zebra", 1, "192.0.2.0/28")
	ant.CreationTimestamp, zebra.CreationTimestamp = metav1.Time{}, metav1.Time{}
	_, problems := Compile(Objects{Pools: []*v1alpha1.LoadBalancerPool{zebra, ant}})
	for name, want := range map[string]string{
		"zebra": "LoadBalancerPool ant too, and only one of them can have it; take it out of one of the two: of ant to have it here",
		"ant":   "LoadBalancerPool zebra too, and only one of them can have it; take it out of one of the two",
	} {
		got := messages(problems[Key{"LoadBalancerPool", name}])
		if diff := cmp.Diff([]string{"Conflict: spec.addresses: 192.0.2.0/28 is in " + want}, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// A name with a typing error is likely to be meant for the one that there is.
func TestNamesThatAreMeant(t *testing.T) {
	s, _ := Compile(Objects{Pools: []*v1alpha1.LoadBalancerPool{
		pool("office", 1, "192.0.2.0/28"), pool("p", 1, "192.0.2.16"),
	}})
	const other = "create it or take the name out"
	for name, want := range map[string]string{
		"offce":  `write "office" if you mean that, or ` + other,
		"fofice": `write "office" if you mean that, or ` + other,
		"rack":   other,
		"q":      other, // as near to p as any letter is
	} {
		if got := s.MeantPool(name, []string{name}); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestTheOlderPoolKeepsWhatTwoPoolsClaim(t *testing.T) {
	older, younger := pool("zebra", 1, "192.0.2.0/28"), pool("ant", 2, "192.0.2.8-192.0.2.31")
	for _, pools := range [][]*v1alpha1.LoadBalancerPool{{older, younger}, {younger, older}} {
		s, problems := Compile(Objects{Pools: pools})
		if got := s.PoolOf(netip.MustParseAddr("192.0.2.9")).Name; got != "zebra" {
			t.Errorf("192.0.2.9 is in %s, want zebra, the older", got)
		}
		if got := s.PoolOf(netip.MustParseAddr("192.0.2.16")).Name; got != "ant" {
			t.Errorf("192.0.2.16 is in %s, want ant: the rest of a pool in conflict serves", got)
		}
		want := []string{
			"Conflict: spec.addresses: 192.0.2.8/29 is in the older LoadBalancerPool zebra too, which keeps it; take it out of one of the two: of zebra to have it here",
		}
		if diff := cmp.Diff(want, messages(problems[Key{"LoadBalancerPool", "ant"}])); diff != "" {
			t.Error(diff)
		}
		told := []Problem{
			{
				Reason:   "Conflict",
				Harmless: true,
				Message:  "spec.addresses: 192.0.2.8/29 is in the younger LoadBalancerPool ant too, which does not get it; take it out of one of the two",
			},
		}
		if diff := cmp.Diff(told, problems[Key{"LoadBalancerPool", "zebra"}]); diff != "" {
			t.Error(diff)
		}
	}
}

func TestOneBadEntryLeavesTheRestOfThePoolInEffect(t *testing.T) {
	s, problems := Compile(
		Objects{Pools: []*v1alpha1.LoadBalancerPool{pool("p", 1, "192.0.2.9-192.0.2.1", "198.51.100.0/24")}},
	)
	if s.PoolOf(netip.MustParseAddr("198.51.100.1")) == nil || s.PoolOf(netip.MustParseAddr("192.0.2.5")) != nil {
		t.Error("want 198.51.100.1 in the pool and 192.0.2.5 not")
	}
	want := []string{
		`InvalidAddresses: spec.addresses[0]: "192.0.2.9-192.0.2.1" is reversed; write 192.0.2.1-192.0.2.9`,
	}
	if diff := cmp.Diff(want, messages(problems[Key{"LoadBalancerPool", "p"}])); diff != "" {
		t.Error(diff)
	}
}

func TestEachKindSaysWhatIsWrongWithIt(t *testing.T) {
	bad := &v1alpha1.Selector{MatchExpressions: []v1alpha1.SelectorRequirement{{Key: "a", Operator: "Near"}}}
	uneven := neighbor("uneven", 3, "192.0.2.3")
	uneven.Spec.HoldTime = "4s500ms"
	lost := neighbor("lost", 4, "192.0.2.4")
	lost.Spec.NodeSelector = bad
	silent := neighbor("silent", 5, "192.0.2.5")
	silent.Spec.NodeSelector = nil
	closed, half := pool("closed", 2, "198.51.100.0/25"), pool("half", 3, "198.51.100.128/25")
	closed.Spec.Scopes = nil
	half.Spec.Scopes = []v1alpha1.PoolScope{
		{NamespaceNames: []string{"a"}, NamespaceSelector: all, ServiceSelector: all},
		{NamespaceNames: []string{"a"}},
		{NamespaceSelector: bad, ServiceSelector: all},
	}
	s, problems := Compile(Objects{
		Pools: []*v1alpha1.LoadBalancerPool{pool("p", 1, "192.0.2.0/24"), closed, half},
		SegmentAnnouncements: []*v1alpha1.SegmentAnnouncement{
			segment("typo", 1, []string{"p", "q"}),
			segment(
				"pattern",
				1,
				nil,
				func(s *v1alpha1.SegmentAnnouncementSpec) { s.Interfaces = []string{"eth[", "bond*"} },
			),
			segment("selector", 1, nil, func(s *v1alpha1.SegmentAnnouncementSpec) { s.NodeSelector = bad }),
			segment("services", 1, nil, func(s *v1alpha1.SegmentAnnouncementSpec) { s.ServiceSelector = bad }),
			segment("nothing", 1, nil, func(s *v1alpha1.SegmentAnnouncementSpec) {
				s.PoolSelector, s.NodeSelector, s.ServiceSelector = nil, nil, nil
			}),
			segment("both", 1, []string{"p"}, func(s *v1alpha1.SegmentAnnouncementSpec) { s.PoolSelector = all }),
			segment(
				"unlabeled",
				1,
				nil,
				func(s *v1alpha1.SegmentAnnouncementSpec) { s.PoolSelector = match("no", "pool") },
			),
			segment("preference", 1, nil, func(s *v1alpha1.SegmentAnnouncementSpec) {
				s.PreferredNodes = []v1alpha1.PreferredNode{{Weight: 1, NodeSelector: bad}, {Weight: 1}}
			}),
		},
		RouteAnnouncements: []*v1alpha1.RouteAnnouncement{
			route("typo", 1, v1alpha1.RouteAnnouncementSpec{NeighborNames: []string{"one", "two"}}),
			route("to-group", 1, v1alpha1.RouteAnnouncementSpec{NeighborNames: []string{"group"}}),
			route("nobody", 1, v1alpha1.RouteAnnouncementSpec{NeighborSelector: match("no", "neighbor")}),
			{
				ObjectMeta: meta("nothing", 1),
				Spec: v1alpha1.RouteAnnouncementSpec{
					PoolSelector:    all,
					NodeSelector:    all,
					ServiceSelector: all,
				},
			},
		},
		BGPNeighbors: []*v1alpha1.BGPNeighbor{
			neighbor("one", 1, "192.0.2.1"),
			neighbor("again", 2, "192.0.2.1"),
			neighbor("group", 2, "224.0.0.1"),
			uneven,
			lost,
			silent,
		},
	})
	got := map[Key][]string{}
	for key, p := range problems {
		got[key] = messages(p)
	}
	const fix = "the object is not in effect until this is fixed"
	const noAddresses = "the pool gives no addresses until this is fixed"
	want := map[Key][]string{
		{"LoadBalancerPool", "p"}: nil,
		{"LoadBalancerPool", "closed"}: {
			"InvalidSelector: spec.scopes is empty, so the pool gives no addresses; write {namespaceSelector: {}, serviceSelector: {}} for all Services",
		},
		{"LoadBalancerPool", "half"}: {
			"InvalidSelector: spec.scopes[0]: write one of namespaceNames and namespaceSelector; " + noAddresses,
			"InvalidSelector: spec.scopes[1].serviceSelector is missing; write {} to select all; " + noAddresses,
			`InvalidSelector: spec.scopes[2].namespaceSelector: "Near" is not a valid label selector operator; ` + noAddresses,
		},
		{"SegmentAnnouncement", "typo"}: {
			`UnknownPool: spec.poolNames[1]: no LoadBalancerPool "q" exists; create it or take the name out`,
		},
		{"SegmentAnnouncement", "pattern"}: {
			`InvalidInterface: spec.interfaces[0]: "eth[" is not a shell pattern; write a name such as eth0 or a pattern such as bond*`,
		},
		{"SegmentAnnouncement", "selector"}: {
			`InvalidSelector: spec.nodeSelector: "Near" is not a valid label selector operator; ` + fix,
		},
		{"SegmentAnnouncement", "services"}: {
			`InvalidSelector: spec.serviceSelector: "Near" is not a valid label selector operator; ` + fix,
		},
		{"SegmentAnnouncement", "nothing"}: {
			"InvalidSelector: spec.poolNames and spec.poolSelector: write one of them, poolSelector: {} for all pools; " + fix,
			"InvalidSelector: spec.nodeSelector is missing; write {} to select all; " + fix,
			"InvalidSelector: spec.serviceSelector is missing; write {} to select all; " + fix,
		},
		{"SegmentAnnouncement", "both"}: {
			"InvalidSelector: spec.poolNames and spec.poolSelector: write one of them, poolSelector: {} for all pools; " + fix,
		},
		{"SegmentAnnouncement", "unlabeled"}: {
			"NothingSelected: spec.poolSelector: no LoadBalancerPool has these labels; label one so, or change the selector",
		},
		{"SegmentAnnouncement", "preference"}: {
			`InvalidSelector: spec.preferredNodes[0].nodeSelector: "Near" is not a valid label selector operator; the entry is not in effect until this is fixed`,
			`InvalidSelector: spec.preferredNodes[1].nodeSelector is missing; write {} to select all; the entry is not in effect until this is fixed`,
		},
		{"RouteAnnouncement", "typo"}: {
			`UnknownNeighbor: spec.neighborNames[1]: no BGPNeighbor "two" exists; create it or take the name out`,
		},
		{"RouteAnnouncement", "to-group"}: {
			`UnknownNeighbor: spec.neighborNames[0]: BGPNeighbor "group" is not in effect; fix what its condition Ready says, or take the name out`,
		},
		{"RouteAnnouncement", "nobody"}: {
			"NothingSelected: spec.neighborSelector: no BGPNeighbor that is in effect has these labels; label one so, or change the selector",
		},
		{"RouteAnnouncement", "nothing"}: {
			"InvalidSelector: spec.neighborNames and spec.neighborSelector: write one of them, neighborSelector: {} for all neighbors; " + fix,
		},
		{"BGPNeighbor", "one"}: nil,
		{"BGPNeighbor", "again"}: {
			`Conflict: spec.address: 192.0.2.1 is that of the older BGPNeighbor one already, on every node; change or delete one of the two`,
		},
		{"BGPNeighbor", "group"}: {
			`InvalidNeighbor: spec.address: 224.0.0.1 is not the address of a router; write a unicast address`,
		},
		{"BGPNeighbor", "uneven"}: {`InvalidNeighbor: spec.holdTime: 4.5s is not in whole seconds; write 5s`},
		{"BGPNeighbor", "lost"}: {
			`InvalidSelector: spec.nodeSelector: "Near" is not a valid label selector operator; ` + fix,
		},
		{"BGPNeighbor", "silent"}: {
			"InvalidSelector: spec.nodeSelector is missing; write {} to select all; " + fix,
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	accepted := map[Key]bool{
		{"LoadBalancerPool", "p"}:             true,
		{"LoadBalancerPool", "closed"}:        true,
		{"LoadBalancerPool", "half"}:          true,
		{"SegmentAnnouncement", "typo"}:       true,
		{"SegmentAnnouncement", "pattern"}:    true,
		{"SegmentAnnouncement", "preference"}: true,
		{"SegmentAnnouncement", "unlabeled"}:  true,
		{"RouteAnnouncement", "typo"}:         true,
		{"RouteAnnouncement", "to-group"}:     true,
		{"RouteAnnouncement", "nobody"}:       true,
		{"BGPNeighbor", "one"}:                true,
	}
	for key := range want {
		if s.Accepted(key) != accepted[key] {
			t.Errorf("%v: accepted %t, want %t", key, s.Accepted(key), accepted[key])
		}
	}
	for _, name := range []string{"closed", "half"} {
		if p := s.Pool(name); p.Allocation != v1alpha1.AllocationDisabled || p.Serves("a", nil, nil) {
			t.Errorf("pool %s, of which nobody knows whom it serves, gives addresses", name)
		}
	}
}

// TestKinds asks a Snapshot about each kind of Objects: a new one must not be forgotten.
func TestKinds(t *testing.T) {
	s, _ := Compile(Objects{})
	panics := func(call func()) (panicked bool) {
		defer func() { panicked = recover() != nil }()
		call()
		return false
	}
	for field := range reflect.TypeFor[Objects]().Fields() {
		if field.Type.Kind() != reflect.Slice {
			continue // the passwords are not objects
		}
		key := Key{field.Type.Elem().Elem().Name(), "missing"}
		if panics(func() { s.Accepted(key) }) {
			t.Errorf("Accepted does not know the kind %s", key.Kind)
		}
		if strings.HasSuffix(key.Kind, "Announcement") && panics(func() { s.Counts(key) }) {
			t.Errorf("Counts does not know the kind %s", key.Kind)
		}
	}
	unknown := Key{"Unknown", "missing"}
	if !panics(func() { s.Accepted(unknown) }) || !panics(func() { s.Counts(unknown) }) {
		t.Error("an unknown kind is taken for one that is not in effect")
	}
}

func TestAnnouncementsSelectPools(t *testing.T) {
	gold, silver := pool("gold", 1, "192.0.2.0/24"), pool("silver", 1, "198.51.100.0/24")
	gold.Labels, silver.Labels = map[string]string{"tier": "gold"}, map[string]string{"tier": "silver"}
	by := func(selector *v1alpha1.Selector) func(*v1alpha1.SegmentAnnouncementSpec) {
		return func(s *v1alpha1.SegmentAnnouncementSpec) { s.PoolSelector = selector }
	}
	s, _ := Compile(Objects{
		Pools: []*v1alpha1.LoadBalancerPool{gold, silver},
		SegmentAnnouncements: []*v1alpha1.SegmentAnnouncement{
			segment(
				"all",
				1,
				nil,
			), segment("only-silver", 2, []string{"silver"}), segment("by-label", 3, nil, by(match("tier", "gold"))),
			segment(
				"names-one-that-is-gone",
				4,
				[]string{"bronze"},
			), segment("matches-one-that-is-gone", 5, nil, by(match("tier", "bronze"))),
		},
	})
	for address, want := range map[string]string{
		"192.0.2.1":    "all by-label",
		"198.51.100.1": "all only-silver",
		"203.0.113.1":  "all names-one-that-is-gone matches-one-that-is-gone",
	} {
		var names []string
		for _, a := range s.L2For(netip.MustParseAddr(address)) {
			names = append(names, a.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s is selected by %q, want %q", address, got, want)
		}
	}
	if got := s.BGPFor(netip.MustParseAddr("192.0.2.1")); len(got) != 0 {
		t.Errorf("BGP announcements %v, want none", got)
	}
	for name, want := range map[string]int{"all": 2, "by-label": 1, "names-one-that-is-gone": 0} {
		if got, _ := s.Counts(Key{"SegmentAnnouncement", name}); got != want {
			t.Errorf("%s selects %d pools, want %d", name, got, want)
		}
	}
}

func TestAPoolServesWhomItsScopesSelect(t *testing.T) {
	p := pool("p", 1, "192.0.2.0/24")
	p.Spec.Scopes = []v1alpha1.PoolScope{
		{NamespaceNames: []string{"a", "b"}, ServiceSelector: all},
		{NamespaceSelector: match("team", "edge"), ServiceSelector: match("tier", "web")},
	}
	s, _ := Compile(Objects{Pools: []*v1alpha1.LoadBalancerPool{p}})
	edge, web := labels.Set{"team": "edge"}, labels.Set{"tier": "web"}
	for _, c := range []struct {
		namespace          string
		labels, service    labels.Set
		serves, servesSome bool
	}{
		{
			namespace:  "a",
			serves:     true,
			servesSome: true,
		},
		{
			namespace: "c",
		},
		{
			namespace:  "c",
			labels:     edge,
			servesSome: true,
		},
		{
			namespace:  "c",
			labels:     edge,
			service:    web,
			serves:     true,
			servesSome: true,
		},
		{
			namespace: "c",
			service:   web,
		},
	} {
		if got := s.Pool("p").Serves(c.namespace, c.labels, c.service); got != c.serves {
			t.Errorf("%+v: serves %t", c, got)
		}
		if got := s.Pool("p").ServesNamespace(c.namespace, c.labels); got != c.servesSome {
			t.Errorf("%+v: serves the namespace %t", c, got)
		}
	}
}

func TestANodeHasOneNeighborPerAddress(t *testing.T) {
	rack := func(p *v1alpha1.BGPNeighbor, rack string) *v1alpha1.BGPNeighbor {
		p.Spec.NodeSelector = match("rack", rack)
		return p
	}
	s, problems := Compile(Objects{BGPNeighbors: []*v1alpha1.BGPNeighbor{
		rack(
			neighbor("r1", 1, "192.0.2.1"),
			"one",
		), rack(neighbor("r2", 2, "192.0.2.1"), "two"), neighbor("any", 3, "192.0.2.1"),
	}})
	for rack, want := range map[string]string{"one": "r1", "two": "r2", "three": "any"} {
		got := s.NeighborsOf(labels.Set{"rack": rack})
		if len(got) != 1 || got[0].Name != want {
			t.Errorf("rack %s has neighbors %v, want %s", rack, got, want)
		}
	}
	for key, p := range problems {
		if len(p) != 0 {
			t.Errorf("%v: %v", key, p)
		}
	}
}

func TestSegmentAnnouncementsSelectServicesAndPreferNodes(t *testing.T) {
	s, _ := Compile(Objects{
		Pools: []*v1alpha1.LoadBalancerPool{pool("a", 1, "192.0.2.0/24")},
		SegmentAnnouncements: []*v1alpha1.SegmentAnnouncement{
			segment("all", 1, nil),
			segment("web", 2, nil, func(s *v1alpha1.SegmentAnnouncementSpec) {
				s.ServiceSelector = &v1alpha1.Selector{
					MatchExpressions: []v1alpha1.SelectorRequirement{
						{Key: "tier", Operator: v1alpha1.SelectorIn, Values: []string{"web", "edge"}},
					},
				}
				s.PreferredNodes = []v1alpha1.PreferredNode{
					{Weight: 100, NodeSelector: match("rack", "a")},
					{Weight: 1, NodeSelector: all},
				}
			}),
		},
	})
	web, edge, db := labels.Set{"tier": "web"}, labels.Set{"tier": "edge"}, labels.Set{"tier": "db"}
	for _, c := range []struct {
		name     string
		services []labels.Set
		want     string
	}{
		{
			name: "no Service is known",
			want: "all",
		},
		{
			name:     "a Service without labels",
			services: []labels.Set{nil},
			want:     "all",
		},
		{
			name:     "another Service",
			services: []labels.Set{db},
			want:     "all",
		},
		{
			name:     "the first value",
			services: []labels.Set{web},
			want:     "all web",
		},
		{
			name:     "the second",
			services: []labels.Set{edge},
			want:     "all web",
		},
		{
			name:     "one of two Services that share the address",
			services: []labels.Set{db, edge},
			want:     "all web",
		},
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
