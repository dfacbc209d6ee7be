package view

import (
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/bgp/community"
	"github.com/berth-lb/berth/config/record"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/router"
)

// routed is a cluster of nodes n1, n2 and n3, where n3 is excluded, and n2 has no session. Service
// shop/web has 198.51.100.7, which all nodes announce to tor.
func routed() *cluster.State {
	s := &cluster.State{Missing: map[cluster.Resource]error{}}
	for i, name := range []string{"n1", "n2", "n3"} {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		n.Status.Addresses = []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: []string{"172.30.0.11", "172.30.0.12", "172.30.0.13"}[i]},
		}
		speaker := &v1alpha1.Speaker{ObjectMeta: metav1.ObjectMeta{Name: name}}
		speaker.Status.Conditions = []metav1.Condition{
			{Type: v1alpha1.ConditionReady, Reason: string(v1alpha1.SpeakerAnnouncing)},
		}
		speaker.Status.Sessions = []v1alpha1.SessionReport{{NeighborName: "tor", State: v1alpha1.SessionEstablished}}
		if name == "n2" {
			speaker.Status.Sessions = []v1alpha1.SessionReport{
				{NeighborName: "tor", State: "Active", LastError: "refused"},
			}
		}
		s.Nodes, s.Speakers = append(s.Nodes, n), append(s.Speakers, speaker)
	}
	s.Nodes[2].Labels = map[string]string{v1alpha1.ExcludeLabel: ""}
	pool := &v1alpha1.LoadBalancerPool{ObjectMeta: metav1.ObjectMeta{Name: "routed"}}
	pool.Spec.Addresses = []v1alpha1.AddressRange{"198.51.100.0/24"}
	pool.Spec.Scopes = []v1alpha1.PoolScope{
		{NamespaceSelector: &v1alpha1.Selector{}, ServiceSelector: &v1alpha1.Selector{}},
	}
	tor := &v1alpha1.BGPNeighbor{ObjectMeta: metav1.ObjectMeta{Name: "tor"}}
	tor.Spec.LocalASN, tor.Spec.RemoteASN, tor.Spec.Address = 64512, 64513, "172.30.0.1"
	tor.Spec.NodeSelector = &v1alpha1.Selector{}
	route := &v1alpha1.RouteAnnouncement{ObjectMeta: metav1.ObjectMeta{Name: "tor"}}
	route.Spec.PoolNames, route.Spec.NeighborNames = []string{"routed"}, []string{"tor"}
	route.Spec.NodeSelector, route.Spec.ServiceSelector = &v1alpha1.Selector{}, &v1alpha1.Selector{}
	s.Pools, s.BGPNeighbors = []*v1alpha1.LoadBalancerPool{pool}, []*v1alpha1.BGPNeighbor{tor}
	s.RouteAnnouncements = []*v1alpha1.RouteAnnouncement{route}

	web := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u"}}
	web.Spec.Type = corev1.ServiceTypeLoadBalancer
	web.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.7"}}
	given := record.Record{UID: web.UID, Request: "r", Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.7")}}
	web.Status.Conditions = []metav1.Condition{given.Condition([]byte("a key of sixteen"), metav1.Time{})}
	s.Services = []*corev1.Service{web}
	return s
}

func TestRoutesAreThoseOfThePlan(t *testing.T) {
	var lines []string
	for _, r := range RoutesOf(routed(), "", "") {
		lines = append(
			lines,
			strings.Join(
				[]string{r.Prefix, r.Neighbor, r.Node, r.NextHop, strings.Join(r.Services, ","), r.Obstacle},
				" ",
			),
		)
	}
	const want = "198.51.100.7/32 tor n1 172.30.0.11 shop/web \n" +
		"198.51.100.7/32 tor n2 172.30.0.12 shop/web its session is Active: refused"
	if got := strings.Join(lines, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if rows := RoutesOf(routed(), "n1", "tor"); len(rows) != 1 {
		t.Errorf("of n1: %+v", rows)
	}
	if rows := RoutesOf(routed(), "", "spine"); len(rows) != 0 {
		t.Errorf("to another neighbor: %+v", rows)
	}
}

func TestARoutersTableIsCompared(t *testing.T) {
	for name, c := range map[string]struct{ table, want string }{
		"what it can have": {
			"198.51.100.7/32 172.30.0.11\n10.0.0.0/8 172.30.0.11",
			"Missing n2 198.51.100.7/32 from n2 (next hop 172.30.0.12) is wanted, but the router does not have it: its session is Active: refused",
		},
		"all": {"198.51.100.7/32 172.30.0.11\n198.51.100.7/32 172.30.0.12", ""},
		"one that is not wanted": {
			"198.51.100.7/32 172.30.0.11\n198.51.100.7/32 172.30.0.12\n198.51.100.9/32 172.30.0.11",
			"Extra  198.51.100.9/32 is not wanted, but the router has it by 172.30.0.11",
		},
		"one of an excluded node": {
			"198.51.100.7/32 172.30.0.11\n198.51.100.7/32 172.30.0.12\n198.51.100.7/32 172.30.0.13",
			"Extra  198.51.100.7/32 by 172.30.0.13 is not wanted, but the router has it",
		},
		"another next hop": {
			"198.51.100.7/32 172.30.0.99\n198.51.100.7/32 172.30.0.12",
			"OtherNextHop n1 198.51.100.7/32 from n1 has the next hop 172.30.0.11 in the plan, and 172.30.0.99 in the router",
		},
		"filtered": {
			"198.51.100.7/32 172.30.0.12",
			"Missing n1 198.51.100.7/32 from n1 (next hop 172.30.0.11) is wanted, but the router does not have it, though the session is established: look at the router's filters (its import policy)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			table := router.Table{}
			for line := range strings.SplitSeq(c.table, "\n") {
				prefix, hop, _ := strings.Cut(line, " ")
				p := netip.MustParsePrefix(prefix)
				table[p] = append(table[p], router.Path{NextHops: []netip.Addr{netip.MustParseAddr(hop)}})
			}
			var lines []string
			for _, d := range Compare(routed(), "tor", table).Differences {
				lines = append(lines, d.Kind+" "+d.Node+" "+d.Text)
			}
			if got := strings.Join(lines, "\n"); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
	six := router.Table{netip.MustParsePrefix("2001:db8::/64"): {{}}}
	if found := Compare(routed(), "tor", six); found.Wanted != 0 ||
		!strings.Contains(found.Skipped, "no route of IPv4") {
		t.Errorf("a table of IPv6 alone: %+v", found)
	}
}

func TestAttributesAreCompared(t *testing.T) {
	no := community.Community{A: 64512, B: 7}
	for name, c := range map[string]struct {
		internal bool
		shown    router.Attributes
		want     string
	}{
		"nothing is shown": {},
		"all is as it is to be": {shown: router.Attributes{
			MED: new(uint32(50)), LocalPref: new(uint32(300)), Length: new(3), Communities: []community.Community{no},
		}},
		"another MED": {shown: router.Attributes{MED: new(uint32)}, want: "the MED 50 in the plan, and 0 in the router"},
		"another length": {
			shown: router.Attributes{Length: new(1)}, want: "an AS path of length 3 in the plan, and 1 in the router",
		},
		"no prepending": {internal: true, shown: router.Attributes{Length: new(0)}},
		"no communities": {
			shown: router.Attributes{Communities: []community.Community{}},
			want:  "the communities 64512:7 in the plan, and none in the router",
		},
		"a preference of its own": {
			internal: true, shown: router.Attributes{LocalPref: new(uint32(300))},
			want: "the local preference 200 in the plan, and 300 in the router",
		},
		"a node that is drained": {
			shown: router.Attributes{Length: new(12), Communities: []community.Community{community.GracefulShutdown}},
			want:  "the node is drained, or its speaker ends",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := routed()
			s.RouteAnnouncements[0].Spec.MED, s.RouteAnnouncements[0].Spec.LocalPreference = new(
				int64(50),
			), new(
				int64(200),
			)
			s.RouteAnnouncements[0].Spec.Prepend = new(int32(2))
			s.RouteAnnouncements[0].Spec.Communities = []string{"64512:7"}
			if c.internal {
				s.BGPNeighbors[0].Spec.RemoteASN = 64512
			}
			hop := func(text string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(text)} }
			found := Compare(s, "tor", router.Table{netip.MustParsePrefix("198.51.100.7/32"): {
				{NextHops: hop("172.30.0.11"), Attributes: c.shown}, {NextHops: hop("172.30.0.12")},
			}}).Differences
			switch {
			case c.want == "" && len(found) > 0:
				t.Errorf("found %+v", found)
			case c.want != "" && (len(found) != 1 || found[0].Kind != OtherAttributes || found[0].Node != "n1" ||
				!strings.Contains(found[0].Text, c.want)):
				t.Errorf("found %+v, want %q", found, c.want)
			}
		})
	}
}
