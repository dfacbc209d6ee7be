package inuse

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
)

func node(name string, podCIDRs []string, addresses ...corev1.NodeAddress) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.NodeSpec{PodCIDRs: podCIDRs},
		Status:     corev1.NodeStatus{Addresses: addresses},
	}
}

func apiServerAt(addresses ...string) []*discoveryv1.EndpointSlice {
	return []*discoveryv1.EndpointSlice{{Endpoints: []discoveryv1.Endpoint{{Addresses: addresses}}}}
}

func speaker(name string, report v1alpha1.SpeakerStatus) *v1alpha1.Speaker {
	return &v1alpha1.Speaker{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: report}
}

func on(iface string, addresses ...string) []v1alpha1.LocalAddress {
	var all []v1alpha1.LocalAddress
	for _, a := range addresses {
		all = append(all, v1alpha1.LocalAddress{Address: a, Interface: iface})
	}
	return all
}

func segment(subnets ...string) []v1alpha1.SegmentReport {
	return []v1alpha1.SegmentReport{{Interface: "eth0", Subnets: subnets}}
}

// words are the uses as lines that a reader can check.
func words(uses []Use) []string {
	var all []string
	for _, u := range uses {
		what := u.From().String()
		if p, ok := u.Prefix(); ok && !p.IsSingleIP() {
			what = p.String()
		}
		line := what + " is " + u.By
		if u.Local != "" {
			line += fmt.Sprintf(" (%s of %s)", u.Interface, u.Local)
		}
		all = append(all, line)
	}
	return all
}

func TestWhoSaysWhatIsInUse(t *testing.T) {
	internal := func(a string) corev1.NodeAddress { return corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a} }
	for _, c := range []struct {
		name string
		from Sources
		want []string
	}{
		{
			name: "nobody",
			from: Sources{},
		},
		{
			name: "nodes",
			from: Sources{Nodes: []*corev1.Node{
				node("n2", []string{"10.244.2.0/24", "fd44:2::/64"}, internal("172.30.0.12"),
					corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "203.0.113.2"}),
				node("n1", nil, internal("172.30.0.11"), internal("fd00:30::11"),
					corev1.NodeAddress{Type: corev1.NodeHostName, Address: "172.30.0.99"}),
			}},
			want: []string{
				"172.30.0.11 is the InternalIP of node n1",
				"172.30.0.12 is the InternalIP of node n2",
				"203.0.113.2 is the ExternalIP of node n2",
				"fd00:30::11 is the InternalIP of node n1",
				"10.244.2.0/24 is in the pod CIDR 10.244.2.0/24 of node n2",
				"fd44:2::/64 is in the pod CIDR fd44:2::/64 of node n2",
			},
		},
		{
			name: "the API server",
			from: Sources{APIServer: apiServerAt("172.30.0.2", "fd00:30::2", "api.example.com")},
			want: []string{
				"172.30.0.2 is an address of the API server",
				"fd00:30::2 is an address of the API server",
			},
		},
		{
			name: "BGPNeighbors, one of them by a link-local address",
			from: Sources{Peers: map[string]netip.Addr{
				"tor": netip.MustParseAddr("172.30.0.1"), "link": netip.MustParseAddr("fe80::1%eth0"), "none": {},
			}},
			want: []string{"172.30.0.1 is the address of BGPNeighbor tor"},
		},
		{
			name: "speakers",
			from: Sources{Speakers: []*v1alpha1.Speaker{
				speaker("n1", v1alpha1.SpeakerStatus{
					Gateways: []string{"172.30.0.1", "fe80::1"}, Addresses: on("eth0", "172.30.0.50", "fd00:30::50"),
					Segments: segment("172.30.0.0/24", "fd00:30::/64", "fe80::/64"),
				}),
				speaker("n2", v1alpha1.SpeakerStatus{Segments: segment("172.30.0.0/24")}),
			}},
			want: []string{
				"172.30.0.1 is a default gateway of node n1",
				"172.30.0.50 is on interface eth0 of node n1 (eth0 of n1)",
				"fd00:30::50 is on interface eth0 of node n1 (eth0 of n1)",
				"172.30.0.0 is the network address of 172.30.0.0/24, a segment of node n1",
				"172.30.0.255 is the broadcast address of 172.30.0.0/24, a segment of node n1",
				"fd00:30:: is the subnet-router anycast address (RFC 4291 section 2.6.1) of fd00:30::/64, a segment of node n1",
			},
		},
		{
			name: "addresses that are bound because a Service has them",
			from: Sources{Speakers: []*v1alpha1.Speaker{speaker("n1", v1alpha1.SpeakerStatus{
				Addresses: slices.Concat(
					on("kube-ipvs0", "192.0.2.1"), on("kube-lb0", "192.0.2.2"),
					on("kube-dummy-if", "192.0.2.3"), on("kube-ipvs00", "192.0.2.4"),
				),
			})}},
			want: []string{"192.0.2.4 is on interface kube-ipvs00 of node n1 (kube-ipvs00 of n1)"},
		},
		{
			name: "subnets of two addresses, and of one",
			from: Sources{Speakers: []*v1alpha1.Speaker{speaker("n1", v1alpha1.SpeakerStatus{
				Segments: segment(
					"192.0.2.4/30", "192.0.2.8/31", "192.0.2.10/32",
					"2001:db8::4/126", "2001:db8::8/127", "2001:db8::a/128",
				),
			})}},
			want: []string{
				"192.0.2.4 is the network address of 192.0.2.4/30, a segment of node n1",
				"192.0.2.7 is the broadcast address of 192.0.2.4/30, a segment of node n1",
				"2001:db8::4 is the subnet-router anycast address (RFC 4291 section 2.6.1) of 2001:db8::4/126, a segment of node n1",
			},
		},
		{
			name: "CIDRs of the cluster",
			from: Sources{
				ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
				PodCIDRs:     []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), {}},
			},
			want: []string{"10.96.0.0/16 is in the Service CIDR 10.96.0.0/16", "10.244.0.0/16 is in the pod CIDR 10.244.0.0/16"},
		},
		{
			name: "what cannot be read, or is in no pool",
			from: Sources{
				Nodes: []*corev1.Node{
					node("n1", []string{"x", "10.0.0.0/33", ""}, internal(""), internal("n1.example.com"), internal("127.0.0.1")),
				},
				APIServer: apiServerAt("::1"),
				Speakers: []*v1alpha1.Speaker{speaker("n1", v1alpha1.SpeakerStatus{
					Gateways: []string{"", "0.0.0.0", "300.1.1.1", "224.0.0.1"}, Addresses: on("lo", "127.0.0.1", "169.254.1.1", "::"),
					Segments: segment("", "1.2.3.4", "127.0.0.0/8", "::ffff:192.0.2.0/120"),
				})},
			},
		},
		{
			name: "addresses in other clothes",
			from: Sources{Speakers: []*v1alpha1.Speaker{speaker("n1", v1alpha1.SpeakerStatus{
				Gateways: []string{"::ffff:192.0.2.1", "2001:db8::1%eth0"}, Segments: segment("192.0.2.77/24"),
			})}},
			want: []string{
				"192.0.2.1 is a default gateway of node n1",
				"2001:db8::1 is a default gateway of node n1",
				"192.0.2.0 is the network address of 192.0.2.0/24, a segment of node n1",
				"192.0.2.255 is the broadcast address of 192.0.2.0/24, a segment of node n1",
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := words(Compile(c.from).All()); !slices.Equal(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

// crowded has every kind of use of 10.0.0.0, taken away one by one in order of importance.
func crowded(without int) Sources {
	a := netip.MustParseAddr("10.0.0.0")
	report := v1alpha1.SpeakerStatus{}
	from := Sources{PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	for i, add := range []func(){
		func() { from.APIServer = apiServerAt(a.String()) },
		func() {
			from.Nodes = []*corev1.Node{node("n1", nil, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})}
		},
		func() { report.Gateways = []string{a.String()} },
		func() { from.Peers = map[string]netip.Addr{"tor": a} },
		func() { report.Addresses = on("eth0", a.String()) },
		func() { report.Segments = segment("10.0.0.0/24") },
		func() { from.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")} },
		func() { from.Nodes = append(from.Nodes, node("n3", []string{"10.0.0.0/25"})) },
	} {
		if i >= without {
			add()
		}
	}
	from.Speakers = []*v1alpha1.Speaker{speaker("n2", report)}
	return from
}

func TestOfSeveralUsesTheMostImportantIsTold(t *testing.T) {
	for without, want := range []string{
		"an address of the API server",
		"the InternalIP of node n1",
		"a default gateway of node n2",
		"the address of BGPNeighbor tor",
		"on interface eth0 of node n2",
		"the network address of 10.0.0.0/24, a segment of node n2",
		"in the Service CIDR 10.0.0.0/16",
		"in the pod CIDR 10.0.0.0/25 of node n3",
		"in the pod CIDR 10.0.0.0/8",
	} {
		use, used := Compile(crowded(without)).Of(netip.MustParseAddr("10.0.0.0"))
		if !used || use.By != want {
			t.Errorf("%q, %v, want %q", use.By, used, want)
		}
	}
}

func TestTheOrderOfSourcesDoesNotMatter(t *testing.T) {
	var speakers []*v1alpha1.Speaker
	for _, name := range []string{"n3", "n1", "n2"} {
		speakers = append(speakers, speaker(name, v1alpha1.SpeakerStatus{
			Gateways: []string{"10.0.0.1"}, Addresses: on("eth0", "10.0.0.50"), Segments: segment("10.0.0.0/24"),
		}))
	}
	one := Compile(Sources{Speakers: speakers})
	slices.Reverse(speakers)
	other := Compile(Sources{Speakers: speakers})
	if !one.Equal(other) {
		t.Errorf("%q\nis not\n%q", words(one.All()), words(other.All()))
	}
	if use, _ := one.Of(netip.MustParseAddr("10.0.0.50")); use.By != "on interface eth0 of node n1" ||
		use.Local != "n1" ||
		use.Interface != "eth0" {
		t.Errorf("%+v", use)
	}
}

func TestWhichAddressesAndPrefixesAreInUse(t *testing.T) {
	s := Compile(Sources{
		Nodes: []*corev1.Node{
			node("n1", nil, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "172.30.0.11"}),
		},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd96::/112")},
	})
	for address, want := range map[string]bool{
		"172.30.0.11": true, "::ffff:172.30.0.11": true, "172.30.0.12": false,
		"10.95.255.255": false, "10.96.0.0": true, "10.96.255.255": true, "10.97.0.0": false,
		"fd96::ffff": true, "fd96::1:0": false, "fd96::1%eth0": true,
	} {
		if _, got := s.Of(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: %v, want %v", address, got, want)
		}
	}
	for prefix, want := range map[string]bool{
		"172.30.0.0/24": true, "172.30.0.11/32": true, "172.30.0.12/32": false, "172.30.0.0/29": false,
		"10.96.7.0/24": true, "10.0.0.0/8": true, "10.97.0.0/16": false, "fd96::/64": true,
		"fd96::1:0/112": false, "0.0.0.0/0": true,
	} {
		if got := s.Overlaps(netip.MustParsePrefix(prefix)); got != want {
			t.Errorf("%s: %v, want %v", prefix, got, want)
		}
	}
}

func TestNoSetHasNothing(t *testing.T) {
	var none *Set
	if _, used := none.Of(netip.MustParseAddr("10.0.0.1")); used ||
		none.Overlaps(netip.MustParsePrefix("0.0.0.0/0")) ||
		none.All() != nil {
		t.Error("something is in use")
	}
	some := Compile(Sources{APIServer: apiServerAt("10.0.0.1")})
	if _, used := some.Of(netip.Addr{}); used || some.Overlaps(netip.Prefix{}) {
		t.Error("an address that is none is in use")
	}
	if empty := Compile(Sources{}); !none.Equal(nil) || !none.Equal(empty) || !empty.Equal(none) ||
		none.Equal(some) ||
		some.Equal(none) {
		t.Error("nothing is something")
	}
}

func FuzzWhateverASpeakerStatuss(f *testing.F) {
	f.Add("10.0.0.1", "eth0", "10.0.0.254", "10.0.0.0/24")
	f.Add("::ffff:10.0.0.1", "kube-ipvs0", "fe80::1%eth0", "::ffff:0:0/96")
	f.Add("0.0.0.0", "", "255.255.255.255", "0.0.0.0/0")
	f.Add("x", "\xff", "", "fd00::/64")
	f.Fuzz(func(t *testing.T, address, iface, gateway, subnet string) {
		report := v1alpha1.SpeakerStatus{
			Addresses: on(iface, address),
			Gateways:  []string{gateway},
			Segments:  segment(subnet),
		}
		s := Compile(Sources{Speakers: []*v1alpha1.Speaker{speaker("n1", report)}})
		if !s.Equal(Compile(Sources{Speakers: []*v1alpha1.Speaker{speaker("n1", report)}})) {
			t.Error("the same report says another thing")
		}
		uses := s.All()
		if len(uses) > 4 {
			t.Errorf("%q: four addresses at most are told", words(uses))
		}
		for _, u := range uses {
			a := u.From()
			got, used := s.Of(a)
			if !used || got != u || !u.IsValid() || a != u.To() || a.Is4In6() || a.Zone() != "" || a.IsLoopback() ||
				a.IsMulticast() ||
				!s.Overlaps(netip.PrefixFrom(a, a.BitLen())) {
				t.Errorf("%+v is %+v, %v", u, got, used)
			}
		}
	})
}
