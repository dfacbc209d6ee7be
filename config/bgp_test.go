package config

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/bgp/community"
	"github.com/berth-lb/berth/config/v1alpha1"
)

func pointer[T any](v T) *T { return &v }

func advertisement(name string, minute int, spec v1alpha1.BGPAdvertisementSpec) *v1alpha1.BGPAdvertisement {
	return &v1alpha1.BGPAdvertisement{ObjectMeta: meta(name, minute), Spec: spec}
}

func TestAPeerIsCompiledWithEachOfItsFields(t *testing.T) {
	o := &v1alpha1.BGPPeer{ObjectMeta: meta("tor", 1), Spec: v1alpha1.BGPPeerSpec{
		LocalASN: 64513, LocalASOverride: 65001, PeerType: v1alpha1.PeerExternal, Address: "192.0.2.1", SourceAddress: "192.0.2.11", VRF: "red",
		Families: []v1alpha1.Family{v1alpha1.IPv6}, PasswordSecretRef: &v1alpha1.SecretReference{Name: "md5"}, TTLSecurity: true,
		GracefulRestart: &v1alpha1.GracefulRestart{}, BFD: &v1alpha1.BFD{TransmitInterval: &metav1.Duration{Duration: 50 * time.Millisecond}, Multiplier: 5},
	}}
	s, problems := Compile(Objects{BGPPeers: []*v1alpha1.BGPPeer{o}, Passwords: map[string]string{"md5": "secret"}})
	want := []*Peer{{
		Name: "tor", Address: netip.MustParseAddr("192.0.2.1"), Port: 179, LocalASN: 65001, External: true, TTLSecurity: true,
		SourceAddress: netip.MustParseAddr("192.0.2.11"), VRF: "red", Password: "secret", IPv6: true, GracefulRestart: 2 * time.Minute,
		BFD: &BFD{TransmitInterval: 50 * time.Millisecond, Multiplier: 5},
	}}
	if diff := cmp.Diff(want, s.Peers, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if found := problems[Key{"BGPPeer", "tor"}]; len(found) > 0 {
		t.Errorf("problems: %v", found)
	}
}

// byPrefix puts a prefix in the place of the address, and changes more.
func byPrefix(prefix string, more ...func(*v1alpha1.BGPPeerSpec)) func(*v1alpha1.BGPPeerSpec) {
	return func(s *v1alpha1.BGPPeerSpec) {
		s.Address, s.AddressPrefix = "", prefix
		for _, change := range more {
			change(s)
		}
	}
}

func TestPeersThatConnectToUsAreCompiled(t *testing.T) {
	passive, racks := peer("passive", 1, "192.0.2.1"), peer("racks", 2, "")
	passive.Spec.Passive = true
	byPrefix("10.0.0.0/24")(&racks.Spec)
	s, problems := Compile(Objects{BGPPeers: []*v1alpha1.BGPPeer{passive, racks}})
	if len(s.Peers) != 2 || !s.Peers[0].Passive || s.Peers[1].Passive || s.Peers[1].Prefix != netip.MustParsePrefix("10.0.0.0/24") {
		t.Errorf("peers %+v, problems %v", s.Peers, problems)
	}
}

func TestAPeerThatOverlapsThePrefixOfAnOlderOneIsNotInEffect(t *testing.T) {
	racks, inside, wider, outside := peer("racks", 1, ""), peer("inside", 2, "10.0.0.7"), peer("wider", 3, ""), peer("outside", 4, "10.0.1.7")
	byPrefix("10.0.0.0/24")(&racks.Spec)
	byPrefix("10.0.0.0/16")(&wider.Spec)
	s, problems := Compile(Objects{BGPPeers: []*v1alpha1.BGPPeer{racks, inside, wider, outside}})
	if len(s.Peers) != 2 || s.Peers[1].Name != "outside" {
		t.Errorf("peers %+v", s.Peers)
	}
	for name, want := range map[string]string{
		"inside": "spec.address: 10.0.0.7 overlaps the older BGPPeer racks, which has addressPrefix: 10.0.0.0/24",
		"wider":  "spec.addressPrefix: 10.0.0.0/16 overlaps the older BGPPeer racks",
	} {
		if found := messages(problems[Key{"BGPPeer", name}]); len(found) != 1 || !strings.HasPrefix(found[0], ReasonConflict+": "+want) {
			t.Errorf("%s: %q, want %q", name, found, want)
		}
	}
}

func TestAPeerOfWhichAnythingIsWrongIsNotInEffectAndSaysWhat(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*v1alpha1.BGPPeerSpec)
		want   string
	}{
		{"neither address nor interface", func(s *v1alpha1.BGPPeerSpec) { s.Address = "" }, "spec.address, spec.interface and spec.addressPrefix"},
		{"both", func(s *v1alpha1.BGPPeerSpec) { s.Interface = "eth0" }, "spec.address, spec.interface and spec.addressPrefix"},
		{"an address and a prefix", func(s *v1alpha1.BGPPeerSpec) { s.AddressPrefix = "10.0.0.0/24" }, "spec.address, spec.interface and spec.addressPrefix"},
		{"a prefix with host bits", byPrefix("10.0.0.7/24"), "spec.addressPrefix: \"10.0.0.7/24\""},
		{"every address", byPrefix("0.0.0.0/0"), "spec.addressPrefix: 0.0.0.0/0 is every address"},
		{"a link-local prefix", byPrefix("fe80::/64"), "spec.addressPrefix: fe80::"},
		{"a prefix and any AS", byPrefix("10.0.0.0/24", func(s *v1alpha1.BGPPeerSpec) { s.PeerASN, s.PeerType = 0, v1alpha1.PeerExternal }), "spec.peerASN"},
		{"a prefix and BFD", byPrefix("10.0.0.0/24", func(s *v1alpha1.BGPPeerSpec) { s.BFD = &v1alpha1.BFD{} }), "no sourceAddress, gracefulRestart or bfd"},
		{"a prefix and graceful restart", byPrefix("10.0.0.0/24", func(s *v1alpha1.BGPPeerSpec) { s.GracefulRestart = &v1alpha1.GracefulRestart{} }), "no sourceAddress, gracefulRestart or bfd"},
		{"a passive prefix", byPrefix("10.0.0.0/24", func(s *v1alpha1.BGPPeerSpec) { s.Passive = true }), "spec.passive"},
		{"a prefix and a VRF", byPrefix("10.0.0.0/24", func(s *v1alpha1.BGPPeerSpec) { s.VRF = "red" }), "spec.vrf"},
		{"an IPv6 prefix and TTL security", byPrefix("2001:db8::/64", func(s *v1alpha1.BGPPeerSpec) { s.TTLSecurity = true }), "spec.ttlSecurity"},
		{"a passive peer on an interface", func(s *v1alpha1.BGPPeerSpec) { s.Address, s.Interface, s.Passive = "", "eth0", true }, "spec.passive"},
		{"a passive peer with a port", func(s *v1alpha1.BGPPeerSpec) { s.Passive, s.Port = true, 1179 }, "spec.port"},
		{"a source for a peer on an interface", func(s *v1alpha1.BGPPeerSpec) { s.Address, s.Interface, s.SourceAddress = "", "eth0", "192.0.2.1" }, "spec.interface"},
		{"a source of the other family", func(s *v1alpha1.BGPPeerSpec) { s.SourceAddress = "2001:db8::1" }, "spec.sourceAddress"},
		{"a source that is no address", func(s *v1alpha1.BGPPeerSpec) { s.SourceAddress = "eth0" }, "spec.sourceAddress"},
		{"neither number nor type", func(s *v1alpha1.BGPPeerSpec) { s.PeerASN = 0 }, "spec.peerASN and spec.peerType"},
		{"both of them", func(s *v1alpha1.BGPPeerSpec) { s.PeerType = v1alpha1.PeerInternal }, "spec.peerASN and spec.peerType"},
		{"an override out of range", func(s *v1alpha1.BGPPeerSpec) { s.LocalASOverride = 4294967295 }, "spec.localASOverride 4294967295"},
		{"multihop within the AS", func(s *v1alpha1.BGPPeerSpec) { s.EBGPMultihop, s.PeerASN = pointer(int32(3)), s.LocalASN }, "spec.ebgpMultihop"},
		{"multihop within the AS, by the override", func(s *v1alpha1.BGPPeerSpec) { s.EBGPMultihop, s.LocalASOverride = pointer(int32(3)), s.PeerASN }, "spec.ebgpMultihop"},
		{"multihop and TTL security", func(s *v1alpha1.BGPPeerSpec) { s.EBGPMultihop, s.TTLSecurity = pointer(int32(3)), true }, "spec.ttlSecurity"},
		{"a restart time of half seconds", func(s *v1alpha1.BGPPeerSpec) {
			s.GracefulRestart = &v1alpha1.GracefulRestart{RestartTime: &metav1.Duration{Duration: 1500 * time.Millisecond}}
		}, "spec.gracefulRestart.restartTime"},
		{"a Secret that is not there", func(s *v1alpha1.BGPPeerSpec) { s.PasswordSecretRef = &v1alpha1.SecretReference{Name: "nobody"} }, `Secret "nobody"`},
		{"an empty password", func(s *v1alpha1.BGPPeerSpec) { s.PasswordSecretRef = &v1alpha1.SecretReference{Name: "empty"} }, "0 bytes"},
		{"a password that the kernel does not take", func(s *v1alpha1.BGPPeerSpec) { s.PasswordSecretRef = &v1alpha1.SecretReference{Name: "long"} }, "81 bytes"},
	} {
		o := peer("tor", 1, "192.0.2.1")
		c.change(&o.Spec)
		s, problems := Compile(Objects{BGPPeers: []*v1alpha1.BGPPeer{o, peer("other", 2, "192.0.2.2")}, Passwords: map[string]string{"empty": "", "long": strings.Repeat("x", 81)}})
		found := messages(problems[Key{"BGPPeer", "tor"}])
		if len(found) != 1 || !strings.Contains(found[0], c.want) {
			t.Errorf("%s: %q, want one with %q", c.name, found, c.want)
		}
		if len(s.Peers) != 1 || s.Peers[0].Name != "other" {
			t.Errorf("%s: %d peers are in effect, want the other one only", c.name, len(s.Peers))
		}
	}
}

func TestAnAddressIsAnnouncedByItselfOrByItsAggregateIfThePoolHoldsAllOfThat(t *testing.T) {
	s, problems := Compile(Objects{
		Pools: []*v1alpha1.IPPool{pool("wide", 1, "198.51.100.0/24", "2001:db8::/64"), pool("narrow", 2, "203.0.113.0-203.0.113.40")},
		BGPAdvertisements: []*v1alpha1.BGPAdvertisement{
			advertisement("by-itself", 1, v1alpha1.BGPAdvertisementSpec{Pools: []string{"wide"}}),
			advertisement("aggregate", 2, v1alpha1.BGPAdvertisementSpec{AggregationLength: pointer(int32(28)), AggregationLengthV6: pointer(int32(64))}),
			advertisement("both", 3, v1alpha1.BGPAdvertisementSpec{Pools: []string{"wide"}, AggregationLength: pointer(int32(26)), WithSpecifics: true}),
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
		"198.51.100.77": {"by-itself 198.51.100.77/32", "aggregate 198.51.100.64/28", "both 198.51.100.64/26", "both 198.51.100.77/32"},
		"203.0.113.20":  {"aggregate 203.0.113.16/28"},
		"203.0.113.39":  {"aggregate 203.0.113.39/32"},
		"2001:db8::7":   {"by-itself 2001:db8::7/128", "aggregate 2001:db8::/64", "both 2001:db8::7/128"},
		"192.0.2.1":     {"aggregate 192.0.2.1/32"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	found := messages(problems[Key{"BGPAdvertisement", "aggregate"}])
	if len(found) != 1 || !strings.Contains(found[0], "203.0.113.32/28 is not all in IPPool narrow") {
		t.Errorf("aggregate: %q", found)
	}
}

func TestTwoAdvertisementsThatContradictEachOtherAreNamedToTheYounger(t *testing.T) {
	web := []metav1.LabelSelector{{MatchLabels: map[string]string{"app": "web"}}}
	mail := []metav1.LabelSelector{{MatchLabels: map[string]string{"app": "mail"}}}
	older := v1alpha1.BGPAdvertisementSpec{Pools: []string{"a", "b"}, Peers: []string{"tor"}, ServiceSelectors: web, LocalPref: pointer(int64(200)), MED: pointer(int64(5))}
	for _, c := range []struct {
		name    string
		younger v1alpha1.BGPAdvertisementSpec
		want    []string
	}{
		{"the same word", v1alpha1.BGPAdvertisementSpec{LocalPref: pointer(int64(200)), Prepend: pointer(int32(1))}, nil},
		{"another word", v1alpha1.BGPAdvertisementSpec{LocalPref: pointer(int64(100)), MED: pointer(int64(0))}, []string{"spec.localPref: 100", "spec.med: 0"}},
		{"another pool", v1alpha1.BGPAdvertisementSpec{Pools: []string{"c"}, LocalPref: pointer(int64(100))}, nil},
		{"another peer", v1alpha1.BGPAdvertisementSpec{Peers: []string{"spine"}, LocalPref: pointer(int64(100))}, nil},
		{"other Services, perhaps", v1alpha1.BGPAdvertisementSpec{ServiceSelectors: mail, LocalPref: pointer(int64(100))}, nil},
		{"the same Services", v1alpha1.BGPAdvertisementSpec{ServiceSelectors: web, LocalPref: pointer(int64(100))}, []string{"spec.localPref: 100"}},
		{"other prefixes", v1alpha1.BGPAdvertisementSpec{AggregationLength: pointer(int32(28)), AggregationLengthV6: pointer(int32(64)), LocalPref: pointer(int64(100))}, nil},
	} {
		_, problems := Compile(Objects{
			Pools:             []*v1alpha1.IPPool{pool("a", 1, "192.0.2.0/24"), pool("b", 1, "198.51.100.0/24"), pool("c", 1, "203.0.113.0/24")},
			BGPPeers:          []*v1alpha1.BGPPeer{peer("tor", 1, "192.0.2.1"), peer("spine", 1, "192.0.2.2")},
			BGPAdvertisements: []*v1alpha1.BGPAdvertisement{advertisement("younger", 2, c.younger), advertisement("older", 1, older)},
		})
		found := messages(problems[Key{"BGPAdvertisement", "younger"}])
		for _, want := range c.want {
			if !slices.ContainsFunc(found, func(m string) bool { return strings.Contains(m, want) && strings.Contains(m, "BGPAdvertisement older") }) {
				t.Errorf("%s: %q, want one with %q that names the older", c.name, found, want)
			}
		}
		if len(found) != len(c.want) {
			t.Errorf("%s: %q, want %d", c.name, found, len(c.want))
		}
		for _, p := range problems[Key{"BGPAdvertisement", "older"}] {
			if !p.Harmless || !strings.Contains(p.Message, "BGPAdvertisement younger") {
				t.Errorf("%s: the older one is told %+v", c.name, p)
			}
		}
	}
}

func TestAnAdvertisementGoesWithoutACommunityThatIsNone(t *testing.T) {
	s, problems := Compile(Objects{BGPAdvertisements: []*v1alpha1.BGPAdvertisement{
		advertisement("a", 1, v1alpha1.BGPAdvertisementSpec{Communities: []string{"1:2:3", "no-export", "65536:1", "1:1"},
			ServiceSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"app": "web"}}}}),
	}})
	found := messages(problems[Key{"BGPAdvertisement", "a"}])
	if len(found) != 1 || !strings.Contains(found[0], `spec.communities[2]: "65536:1"`) {
		t.Errorf("problems: %q", found)
	}
	if a := s.BGPFor(netip.MustParseAddr("192.0.2.1"), labels.Set{"app": "mail"}); len(a) != 0 {
		t.Errorf("%d advertisements select a Service that none asks for", len(a))
	}
	a := s.BGPFor(netip.MustParseAddr("192.0.2.1"), labels.Set{"app": "web"})
	want := []community.Community{{A: 1, B: 1}, {A: 65535, B: 65281}, {Large: true, Global: 1, A: 2, B: 3}}
	if len(a) != 1 || !slices.Equal(a[0].Communities, want) {
		t.Errorf("communities %v, want %v", a[0].Communities, want)
	}
}
