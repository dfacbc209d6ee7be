package config

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/bgp/community"
	"github.com/berth-lb/berth/bgp/peer"
	"github.com/berth-lb/berth/config/v1alpha1"
)

func pointer[T any](v T) *T { return &v }

// route announces what the spec says; what it does not select by it selects wholly.
func route(name string, minute int, spec v1alpha1.RouteAnnouncementSpec) *v1alpha1.RouteAnnouncement {
	if len(spec.PoolNames) == 0 && spec.PoolSelector == nil {
		spec.PoolSelector = all
	}
	if len(spec.NeighborNames) == 0 && spec.NeighborSelector == nil {
		spec.NeighborSelector = all
	}
	if spec.NodeSelector == nil {
		spec.NodeSelector = all
	}
	if spec.ServiceSelector == nil {
		spec.ServiceSelector = all
	}
	return &v1alpha1.RouteAnnouncement{ObjectMeta: meta(name, minute), Spec: spec}
}

// md5 is authentication by the Secret of that name.
func md5(secret string) v1alpha1.Authentication {
	return v1alpha1.Authentication{Type: v1alpha1.AuthenticationTCPMD5, TCPMD5: v1alpha1.TCPMD5{SecretName: secret}}
}

func TestANeighborIsCompiledWithEachOfItsFields(t *testing.T) {
	o := &v1alpha1.BGPNeighbor{ObjectMeta: meta("tor", 1), Spec: v1alpha1.BGPNeighborSpec{
		LocalASN:         64513,
		LocalASNOverride: 65001,
		RemoteType:       v1alpha1.RemoteExternal,
		NodeSelector:     all,
		Address:          "192.0.2.1",
		SourceAddress:    "192.0.2.11",
		VRF:              "red",
		Families:         []v1alpha1.Family{v1alpha1.IPv6},
		Authentication:   md5("md5"),
		TTLSecurityHops:  3,
		GracefulRestart:  &v1alpha1.GracefulRestart{},
		BFD:              &v1alpha1.BFD{TransmitInterval: "50ms", Multiplier: 5},
	}}
	s, problems := Compile(
		Objects{BGPNeighbors: []*v1alpha1.BGPNeighbor{o}, Passwords: map[string]string{"md5": "secret"}},
	)
	want := []*Neighbor{{Peer: peer.Peer{
		Name:            "tor",
		Address:         netip.MustParseAddr("192.0.2.1"),
		LocalASN:        65001,
		RemoteType:      peer.External,
		TTLSecurityHops: 3,
		SourceAddress:   netip.MustParseAddr("192.0.2.11"),
		VRF:             "red",
		Password:        "secret",
		IPv6:            true,
		GracefulRestart: 2 * time.Minute,
		BFD:             peer.BFD{Enabled: true, TransmitInterval: 50 * time.Millisecond, Multiplier: 5},
	}}}
	comparison := cmp.Options{
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
		cmpopts.IgnoreFields(Neighbor{}, "Nodes", "labels"),
	}
	if diff := cmp.Diff(want, s.Neighbors, comparison); diff != "" {
		t.Error(diff)
	}
	if found := problems[Key{"BGPNeighbor", "tor"}]; len(found) > 0 {
		t.Errorf("problems: %v", found)
	}
}

// byPrefix puts a prefix in the place of the address, and changes more.
func byPrefix(prefix string, more ...func(*v1alpha1.BGPNeighborSpec)) func(*v1alpha1.BGPNeighborSpec) {
	return func(s *v1alpha1.BGPNeighborSpec) {
		s.Address, s.AddressPrefix = "", prefix
		for _, change := range more {
			change(s)
		}
	}
}

func TestNeighborsThatConnectToUsAreCompiled(t *testing.T) {
	passive, racks := neighbor("passive", 1, "192.0.2.1"), neighbor("racks", 2, "")
	passive.Spec.Connect = v1alpha1.ConnectAccept
	byPrefix("10.0.0.0/24")(&racks.Spec)
	s, problems := Compile(Objects{BGPNeighbors: []*v1alpha1.BGPNeighbor{passive, racks}})
	if len(s.Neighbors) != 2 || !s.Neighbors[0].Passive || s.Neighbors[1].Passive ||
		s.Neighbors[1].Prefix != netip.MustParsePrefix("10.0.0.0/24") {
		t.Errorf("peers %+v, problems %v", s.Neighbors, problems)
	}
}

func TestANeighborThatOverlapsThePrefixOfAnOlderOneIsNotInEffect(t *testing.T) {
	racks, inside, wider, outside := neighbor(
		"racks",
		1,
		"",
	), neighbor(
		"inside",
		2,
		"10.0.0.7",
	), neighbor(
		"wider",
		3,
		"",
	), neighbor(
		"outside",
		4,
		"10.0.1.7",
	)
	byPrefix("10.0.0.0/24")(&racks.Spec)
	byPrefix("10.0.0.0/16")(&wider.Spec)
	s, problems := Compile(Objects{BGPNeighbors: []*v1alpha1.BGPNeighbor{racks, inside, wider, outside}})
	if len(s.Neighbors) != 2 || s.Neighbors[1].Name != "outside" {
		t.Errorf("peers %+v", s.Neighbors)
	}
	for name, want := range map[string]string{
		"inside": "spec.address: 10.0.0.7 overlaps the older BGPNeighbor racks, which has addressPrefix: 10.0.0.0/24",
		"wider":  "spec.addressPrefix: 10.0.0.0/16 overlaps the older BGPNeighbor racks",
	} {
		if found := messages(problems[Key{"BGPNeighbor", name}]); len(found) != 1 ||
			!strings.HasPrefix(found[0], ReasonConflict+": "+want) {
			t.Errorf("%s: %q, want %q", name, found, want)
		}
	}
}

func TestANeighborOfWhichAnythingIsWrongIsNotInEffectAndSaysWhat(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*v1alpha1.BGPNeighborSpec)
		want   string
	}{
		{
			name:   "neither address nor interface",
			change: func(s *v1alpha1.BGPNeighborSpec) { s.Address = "" },
			want:   "spec.address, spec.interface and spec.addressPrefix",
		},
		{
			name:   "both",
			change: func(s *v1alpha1.BGPNeighborSpec) { s.Interface = "eth0" },
			want:   "spec.address, spec.interface and spec.addressPrefix",
		},
		{
			name:   "an address and a prefix",
			change: func(s *v1alpha1.BGPNeighborSpec) { s.AddressPrefix = "10.0.0.0/24" },
			want:   "spec.address, spec.interface and spec.addressPrefix",
		},
		{
			name:   "a prefix with host bits",
			change: byPrefix("10.0.0.7/24"),
			want:   "spec.addressPrefix: \"10.0.0.7/24\"",
		},
		{
			name:   "every address",
			change: byPrefix("0.0.0.0/0"),
			want:   "spec.addressPrefix: 0.0.0.0/0 is too wide",
		},
		{
			name:   "half of IPv6",
			change: byPrefix("2000::/31"),
			want:   "spec.addressPrefix: 2000::/31 is too wide",
		},
		{
			name:   "a link-local prefix",
			change: byPrefix("fe80::/64"),
			want:   "spec.addressPrefix: fe80::",
		},
		{
			name: "a prefix and any AS",
			change: byPrefix("10.0.0.0/24", func(s *v1alpha1.BGPNeighborSpec) {
				s.RemoteASN, s.RemoteType = 0, v1alpha1.RemoteExternal
			}),
			want: "spec.remoteASN",
		},
		{
			name:   "a prefix and BFD",
			change: byPrefix("10.0.0.0/24", func(s *v1alpha1.BGPNeighborSpec) { s.BFD = &v1alpha1.BFD{} }),
			want:   "no sourceAddress, gracefulRestart or bfd",
		},
		{
			name: "a prefix and graceful restart",
			change: byPrefix("10.0.0.0/24", func(s *v1alpha1.BGPNeighborSpec) {
				s.GracefulRestart = &v1alpha1.GracefulRestart{}
			}),
			want: "no sourceAddress, gracefulRestart or bfd",
		},
		{
			name:   "an accepting prefix",
			change: byPrefix("10.0.0.0/24", func(s *v1alpha1.BGPNeighborSpec) { s.Connect = v1alpha1.ConnectAccept }),
			want:   "spec.connect",
		},
		{
			name:   "a prefix and a VRF",
			change: byPrefix("10.0.0.0/24", func(s *v1alpha1.BGPNeighborSpec) { s.VRF = "red" }),
			want:   "spec.vrf",
		},
		{
			name:   "an IPv6 prefix and TTL security",
			change: byPrefix("2001:db8::/64", func(s *v1alpha1.BGPNeighborSpec) { s.TTLSecurityHops = 1 }),
			want:   "spec.ttlSecurityHops",
		},
		{
			name: "an accepting neighbor on an interface",
			change: func(s *v1alpha1.BGPNeighborSpec) {
				s.Address, s.Interface, s.Connect = "", "eth0", v1alpha1.ConnectAccept
			},
			want: "spec.connect",
		},
		{
			name:   "an accepting neighbor with a port",
			change: func(s *v1alpha1.BGPNeighborSpec) { s.Connect, s.Port = v1alpha1.ConnectAccept, 1179 },
			want:   "spec.port",
		},
		{
			name:   "a source for a neighbor on an interface",
			change: func(s *v1alpha1.BGPNeighborSpec) { s.Address, s.Interface, s.SourceAddress = "", "eth0", "192.0.2.1" },
			want:   "spec.interface",
		},
		{
			name:   "a source of the other family",
			change: func(s *v1alpha1.BGPNeighborSpec) { s.SourceAddress = "2001:db8::1" },
			want:   "spec.sourceAddress",
		},
		{
			name:   "a source that is not an address",
			change: func(s *v1alpha1.BGPNeighborSpec) { s.SourceAddress = "eth0" },
			want:   "spec.sourceAddress",
		},
		{
			name:   "neither number nor type",
			change: func(s *v1alpha1.BGPNeighborSpec) { s.RemoteASN = 0 },
			want:   "spec.remoteASN and spec.remoteType",
		},
		{
			name:   "both of them",
			change: func(s *v1alpha1.BGPNeighborSpec) { s.RemoteType = v1alpha1.RemoteInternal },
			want:   "spec.remoteASN and spec.remoteType",
		},
		{
			name:   "an override out of range",
			change: func(s *v1alpha1.BGPNeighborSpec) { s.LocalASNOverride = 4294967295 },
			want:   "spec.localASNOverride 4294967295",
		},
		{
			name:   "an override by the same number",
			change: func(s *v1alpha1.BGPNeighborSpec) { s.LocalASNOverride = s.LocalASN },
			want:   "spec.localASNOverride: 64513 is localASN",
		},
		{
			name: "an override of an internal neighbor",
			change: func(s *v1alpha1.BGPNeighborSpec) {
				s.LocalASNOverride, s.RemoteASN, s.RemoteType = 65001, 0, v1alpha1.RemoteInternal
			},
			want: "spec.localASNOverride is for external neighbors",
		},
		{
			name:   "multihop within the AS",
			change: func(s *v1alpha1.BGPNeighborSpec) { s.EBGPMultihop, s.RemoteASN = 3, s.LocalASN },
			want:   "spec.ebgpMultihop",
		},
		{
			name:   "multihop within the AS, by the override",
			change: func(s *v1alpha1.BGPNeighborSpec) { s.EBGPMultihop, s.LocalASNOverride = 3, s.RemoteASN },
			want:   "spec.ebgpMultihop",
		},
		{
			name:   "multihop and TTL security",
			change: func(s *v1alpha1.BGPNeighborSpec) { s.EBGPMultihop, s.TTLSecurityHops = 3, 1 },
			want:   "spec.ttlSecurityHops",
		},
		{
			name:   "further away than the interface reaches",
			change: func(s *v1alpha1.BGPNeighborSpec) { s.Address, s.Interface, s.TTLSecurityHops = "", "eth0", 2 },
			want:   "spec.interface",
		},
		{
			name:   "a hold time that is none",
			change: func(s *v1alpha1.BGPNeighborSpec) { s.HoldTime = "soon" },
			want:   `spec.holdTime: "soon" is not a duration such as 90s or 1m30s`,
		},
		{
			name:   "an authentication of no type",
			change: func(s *v1alpha1.BGPNeighborSpec) { s.Authentication.TCPMD5.SecretName = "long" },
			want:   "spec.authentication",
		},
		{
			name: "a restart time of half seconds",
			change: func(s *v1alpha1.BGPNeighborSpec) {
				s.GracefulRestart = &v1alpha1.GracefulRestart{RestartTime: "1s500ms"}
			},
			want: "spec.gracefulRestart.restartTime",
		},
		{
			name:   "a Secret that is not there",
			change: func(s *v1alpha1.BGPNeighborSpec) { s.Authentication = md5("nobody") },
			want:   `Secret "nobody"`,
		},
		{
			name:   "an empty password",
			change: func(s *v1alpha1.BGPNeighborSpec) { s.Authentication = md5("empty") },
			want:   "0 bytes",
		},
		{
			name:   "a password that the kernel does not take",
			change: func(s *v1alpha1.BGPNeighborSpec) { s.Authentication = md5("long") },
			want:   "81 bytes",
		},
	} {
		o := neighbor("tor", 1, "192.0.2.1")
		c.change(&o.Spec)
		s, problems := Compile(
			Objects{
				BGPNeighbors: []*v1alpha1.BGPNeighbor{o, neighbor("other", 2, "192.0.2.2")},
				Passwords:    map[string]string{"empty": "", "long": strings.Repeat("x", 81)},
			},
		)
		found := messages(problems[Key{"BGPNeighbor", "tor"}])
		if len(found) != 1 || !strings.Contains(found[0], c.want) {
			t.Errorf("%s: %q, want one with %q", c.name, found, c.want)
		}
		if len(s.Neighbors) != 1 || s.Neighbors[0].Name != "other" {
			t.Errorf("%s: %d peers are in effect, want the other one only", c.name, len(s.Neighbors))
		}
	}
}

func TestAnAddressIsAnnouncedByItselfOrByItsAggregateIfThePoolHoldsAllOfThat(t *testing.T) {
	s, problems := Compile(Objects{
		Pools: []*v1alpha1.LoadBalancerPool{
			pool("wide", 1, "198.51.100.0/24", "2001:db8::/64"),
			pool("narrow", 2, "203.0.113.0-203.0.113.40"),
		},
		RouteAnnouncements: []*v1alpha1.RouteAnnouncement{
			route("by-itself", 1, v1alpha1.RouteAnnouncementSpec{PoolNames: []string{"wide"}}),
			route(
				"aggregate",
				2,
				v1alpha1.RouteAnnouncementSpec{
					Aggregation: &v1alpha1.Aggregation{IPv4PrefixLength: 28, IPv6PrefixLength: 64},
				},
			),
			route(
				"both",
				3,
				v1alpha1.RouteAnnouncementSpec{
					PoolNames:   []string{"wide"},
					Aggregation: &v1alpha1.Aggregation{IPv4PrefixLength: 26, Specifics: v1alpha1.SpecificsAnnounce},
				},
			),
		},
	})
	got := map[string][]string{}
	for _, text := range []string{"198.51.100.77", "203.0.113.20", "203.0.113.39", "2001:db8::7", "192.0.2.1"} {
		address := netip.MustParseAddr(text)
		for _, a := range s.BGPFor(address) {
			for _, p := range s.Prefixes(a, address) {
				got[text] = append(got[text], a.Name+" "+p.String())
			}
		}
	}
	want := map[string][]string{
		"198.51.100.77": {
			"by-itself 198.51.100.77/32",
			"aggregate 198.51.100.64/28",
			"both 198.51.100.64/26",
			"both 198.51.100.77/32",
		},
		"203.0.113.20": {"aggregate 203.0.113.16/28"},
		"203.0.113.39": {"aggregate 203.0.113.39/32"},
		"2001:db8::7":  {"by-itself 2001:db8::7/128", "aggregate 2001:db8::/64", "both 2001:db8::7/128"},
		"192.0.2.1":    {"aggregate 192.0.2.1/32"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	found := messages(problems[Key{"RouteAnnouncement", "aggregate"}])
	if len(found) != 1 || !strings.Contains(found[0], "203.0.113.32/28 is not all in LoadBalancerPool narrow") {
		t.Errorf("aggregate: %q", found)
	}
}

func TestTwoAnnouncementsThatContradictEachOtherAreNamedToTheYounger(t *testing.T) {
	web := match("app", "web")
	mail := match("app", "mail")
	older := v1alpha1.RouteAnnouncementSpec{
		PoolNames:       []string{"a", "b"},
		NeighborNames:   []string{"tor"},
		ServiceSelector: web,
		LocalPreference: pointer(int64(200)),
		MED:             pointer(int64(5)),
		WeightBy:        v1alpha1.WeightByLocalEndpoints,
	}
	for _, c := range []struct {
		name    string
		younger v1alpha1.RouteAnnouncementSpec
		want    []string
	}{
		{
			name:    "the same word",
			younger: v1alpha1.RouteAnnouncementSpec{LocalPreference: pointer(int64(200)), Prepend: pointer(int32(1))},
		},
		{
			name:    "another word",
			younger: v1alpha1.RouteAnnouncementSpec{LocalPreference: pointer(int64(100)), MED: pointer(int64(0))},
			want:    []string{"spec.localPreference: 100", "spec.med: 0"},
		},
		{
			name:    "another weight",
			younger: v1alpha1.RouteAnnouncementSpec{WeightBy: v1alpha1.WeightByNone},
			want:    []string{"spec.weightBy: None"},
		},
		{
			name:    "another pool",
			younger: v1alpha1.RouteAnnouncementSpec{PoolNames: []string{"c"}, LocalPreference: pointer(int64(100))},
		},
		{
			name:    "another peer",
			younger: v1alpha1.RouteAnnouncementSpec{NeighborNames: []string{"spine"}, LocalPreference: pointer(int64(100))},
		},
		{
			name:    "other Services, perhaps",
			younger: v1alpha1.RouteAnnouncementSpec{ServiceSelector: mail, LocalPreference: pointer(int64(100))},
		},
		{
			name:    "the same Services",
			younger: v1alpha1.RouteAnnouncementSpec{ServiceSelector: web, LocalPreference: pointer(int64(100))},
			want:    []string{"spec.localPreference: 100"},
		},
		{
			name: "other prefixes",
			younger: v1alpha1.RouteAnnouncementSpec{
				Aggregation:     &v1alpha1.Aggregation{IPv4PrefixLength: 28, IPv6PrefixLength: 64},
				LocalPreference: pointer(int64(100)),
			},
		},
	} {
		_, problems := Compile(Objects{
			Pools: []*v1alpha1.LoadBalancerPool{
				pool("a", 1, "192.0.2.0/24"),
				pool("b", 1, "198.51.100.0/24"),
				pool("c", 1, "203.0.113.0/24"),
			},
			BGPNeighbors: []*v1alpha1.BGPNeighbor{
				neighbor("tor", 1, "192.0.2.1"),
				neighbor("spine", 1, "192.0.2.2"),
			},
			RouteAnnouncements: []*v1alpha1.RouteAnnouncement{
				route("younger", 2, c.younger),
				route("older", 1, older),
			},
		})
		found := messages(problems[Key{"RouteAnnouncement", "younger"}])
		for _, want := range c.want {
			if !slices.ContainsFunc(found, func(m string) bool {
				return strings.Contains(m, want) && strings.Contains(m, "RouteAnnouncement older")
			}) {
				t.Errorf("%s: %q, want one with %q that names the older", c.name, found, want)
			}
		}
		if len(found) != len(c.want) {
			t.Errorf("%s: %q, want %d", c.name, found, len(c.want))
		}
		for _, p := range problems[Key{"RouteAnnouncement", "older"}] {
			if !p.Harmless || !strings.Contains(p.Message, "RouteAnnouncement younger") {
				t.Errorf("%s: the older one is told %+v", c.name, p)
			}
		}
	}
}

func TestCommunitiesOfAnAnnouncement(t *testing.T) {
	web, mail := labels.Set{"app": "web"}, labels.Set{"app": "mail"}
	for _, c := range []struct {
		name        string
		communities []string
		want        []community.Community
		problem     string
	}{
		{
			name:        "in ascending order",
			communities: []string{"1:2:3", "no-export", "1:1"},
			want:        []community.Community{{A: 1, B: 1}, {A: 65535, B: 65281}, {Large: true, Global: 1, A: 2, B: 3}},
		},
		{
			name:        "an invalid one keeps all routes back",
			communities: []string{"1:1", "no-exprot"},
			problem:     `InvalidRoute: spec.communities[1]: "no-exprot" is not a valid community`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, problems := Compile(Objects{RouteAnnouncements: []*v1alpha1.RouteAnnouncement{
				route(
					"a",
					1,
					v1alpha1.RouteAnnouncementSpec{Communities: c.communities, ServiceSelector: match("app", "web")},
				),
			}})
			key := Key{"RouteAnnouncement", "a"}
			found := messages(problems[key])
			if refused := c.problem != ""; refused != (len(found) == 1) ||
				refused && !strings.HasPrefix(found[0], c.problem) {
				t.Errorf("problems %q, want %q", found, c.problem)
			}
			if s.Accepted(key) != (c.problem == "") {
				t.Errorf("accepted %t", s.Accepted(key))
			}
			if a := s.BGPFor(netip.MustParseAddr("192.0.2.1"), mail); len(a) != 0 {
				t.Errorf("%d announcements select a Service that none asks for", len(a))
			}
			var got []community.Community
			for _, a := range s.BGPFor(netip.MustParseAddr("192.0.2.1"), web) {
				got = append(got, a.Communities...)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("communities %v, want %v", got, c.want)
			}
		})
	}
}

func TestCompileKeepsPasswords(t *testing.T) {
	o := neighbor("tor", 1, "192.0.2.1")
	o.Spec.Authentication = md5("router")
	compile := func(before *Snapshot, passwords map[string]string) (*Snapshot, []Problem) {
		s, problems := Compile(Objects{BGPNeighbors: []*v1alpha1.BGPNeighbor{o}, Passwords: passwords, Before: before})
		return s, problems[Key{"BGPNeighbor", "tor"}]
	}
	password := func(s *Snapshot) string {
		if len(s.Neighbors) == 0 {
			return "none"
		}
		return s.Neighbors[0].Password
	}
	first, problems := compile(nil, map[string]string{"router": "secret\r\n"})
	if password(first) != "secret" || len(problems) != 0 {
		t.Fatalf("password %q, %v; want it without the newline", password(first), problems)
	}
	for _, c := range []struct {
		name    string
		before  *Snapshot
		secrets map[string]string
		want    string
		problem string
	}{
		{name: "deleted", before: first, want: "secret", problem: ReasonMissingSecret},
		{
			name: "emptied", before: first, secrets: map[string]string{"router": "\n"},
			want: "secret", problem: ReasonMissingSecret,
		},
		{name: "deleted before the start", want: "none", problem: ReasonMissingSecret},
		{name: "changed", before: first, secrets: map[string]string{"router": "new"}, want: "new"},
		{name: "with two newlines", before: first, secrets: map[string]string{"router": "new\n\n"}, want: "new\n"},
	} {
		s, problems := compile(c.before, c.secrets)
		if password(s) != c.want || len(problems) > 0 != (c.problem != "") {
			t.Errorf("%s: password %q, %v; want %q, %q", c.name, password(s), problems, c.want, c.problem)
		}
	}
}

// What a spec says by default, and what it means if it is written out, is the same session: also
// for an object that the API server has not filled in.
func TestDefaultsOfANeighborWrittenOutChangeNoSession(t *testing.T) {
	compiled := func(change func(*v1alpha1.BGPNeighborSpec)) peer.Peer {
		o := neighbor("tor", 1, "192.0.2.1")
		o.Spec.GracefulRestart, o.Spec.BFD = &v1alpha1.GracefulRestart{}, &v1alpha1.BFD{}
		change(&o.Spec)
		s, problems := Compile(Objects{BGPNeighbors: []*v1alpha1.BGPNeighbor{o}})
		if len(s.Neighbors) != 1 {
			t.Fatalf("not compiled: %v", problems)
		}
		return s.Neighbors[0].Peer
	}
	plain := compiled(func(*v1alpha1.BGPNeighborSpec) {})
	for field, write := range map[string]func(*v1alpha1.BGPNeighborSpec){
		"port":    func(s *v1alpha1.BGPNeighborSpec) { s.Port = 179 },
		"connect": func(s *v1alpha1.BGPNeighborSpec) { s.Connect = v1alpha1.ConnectDial },
		"families": func(s *v1alpha1.BGPNeighborSpec) {
			s.Families = []v1alpha1.Family{v1alpha1.IPv6, v1alpha1.IPv4}
		},
		"holdTime":                    func(s *v1alpha1.BGPNeighborSpec) { s.HoldTime = "1m30s" },
		"keepaliveTime":               func(s *v1alpha1.BGPNeighborSpec) { s.KeepaliveTime = "30s" },
		"connectRetryTime":            func(s *v1alpha1.BGPNeighborSpec) { s.ConnectRetryTime = "5s" },
		"nextHop":                     func(s *v1alpha1.BGPNeighborSpec) { s.NextHop = v1alpha1.NextHopSessionAddress },
		"gracefulRestart.restartTime": func(s *v1alpha1.BGPNeighborSpec) { s.GracefulRestart.RestartTime = "2m" },
		"bfd.receiveInterval":         func(s *v1alpha1.BGPNeighborSpec) { s.BFD.ReceiveInterval = "300ms" },
		"bfd.transmitInterval":        func(s *v1alpha1.BGPNeighborSpec) { s.BFD.TransmitInterval = "300ms" },
		"bfd.multiplier":              func(s *v1alpha1.BGPNeighborSpec) { s.BFD.Multiplier = 3 },
	} {
		if got := compiled(write); got != plain {
			t.Errorf("%s: %+v, want %+v", field, got, plain)
		}
	}
}

func TestCompileBFDKeys(t *testing.T) {
	o := neighbor("tor", 1, "192.0.2.1")
	o.Spec.BFD = &v1alpha1.BFD{Authentication: v1alpha1.BFDAuthentication{
		Type: v1alpha1.BFDMeticulousKeyedSHA1, SecretName: "bfd",
	}}
	compile := func(before *Snapshot, passwords map[string]string) (peer.BFD, *Snapshot, string) {
		s, problems := Compile(Objects{BGPNeighbors: []*v1alpha1.BGPNeighbor{o}, Passwords: passwords, Before: before})
		if len(s.Neighbors) != 1 {
			t.Fatal("without its key of BFD a neighbor has no session")
		}
		text := ""
		for _, p := range problems[Key{"BGPNeighbor", "tor"}] {
			text += p.Message
		}
		return s.Neighbors[0].BFD, s, text
	}
	key := peer.BFDKey{Meticulous: true, ID: 1, Text: "secret"}
	got, first, problem := compile(nil, map[string]string{"bfd": "secret\n"})
	if !got.Enabled || got.Key != key || problem != "" {
		t.Fatalf("BFD is %+v, %q", got, problem)
	}
	for _, c := range []struct {
		name    string
		before  *Snapshot
		secrets map[string]string
		want    peer.BFDKey
		problem string
	}{
		{name: "deleted", before: first, want: key, problem: `spec.bfd.authentication.secretName: there is no Secret "bfd"`},
		{name: "deleted before the start", problem: "and others have the session without BFD"},
		{
			name: "too long", before: first, secrets: map[string]string{"bfd": "123456789012345678901"}, want: key,
			problem: `the value of "password" in Secret "bfd" has 21 bytes; write one of 1 to 20`,
		},
		{
			name: "changed", before: first, secrets: map[string]string{"bfd": "new"},
			want: peer.BFDKey{Meticulous: true, ID: 1, Text: "new"},
		},
	} {
		got, _, problem := compile(c.before, c.secrets)
		if got.Key != c.want || got.Enabled != (c.want.Text != "") || !strings.Contains(problem, c.problem) ||
			(problem == "") != (c.problem == "") {
			t.Errorf("%s: BFD is %+v, problem %q; want %+v, %q", c.name, got, problem, c.want, c.problem)
		}
	}
	o.Spec.BFD.Authentication.Type, o.Spec.BFD.Authentication.KeyID = v1alpha1.BFDKeyedSHA1, new(int32(0))
	if got, _, _ := compile(nil, map[string]string{"bfd": "x"}); got.Key != (peer.BFDKey{Text: "x"}) {
		t.Errorf("keyID 0: %+v", got.Key)
	}
}
