package nodes

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/internal/probe"
	"github.com/berth-lb/berth/kubectl/cluster"
)

var now = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

func named(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(now), UID: "uid-0"}
}

func node(name, address string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: named(name)}
	n.Labels = map[string]string{corev1.LabelOSStable: "linux", corev1.LabelHostname: name}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	return n
}

func pool(name string, ranges ...v1alpha1.AddressRange) *v1alpha1.LoadBalancerPool {
	p := &v1alpha1.LoadBalancerPool{ObjectMeta: named(name)}
	p.Spec.Addresses = ranges
	p.Spec.Scopes = []v1alpha1.PoolScope{
		{NamespaceSelector: &v1alpha1.Selector{}, ServiceSelector: &v1alpha1.Selector{}},
	}
	return p
}

func segment(name string, interfaces []string, on v1alpha1.Selector, pools ...string) *v1alpha1.SegmentAnnouncement {
	a := &v1alpha1.SegmentAnnouncement{ObjectMeta: named(name)}
	a.Spec.PoolNames, a.Spec.NodeSelector, a.Spec.ServiceSelector = pools, &on, &v1alpha1.Selector{}
	a.Spec.Interfaces = interfaces
	return a
}

func neighbor(name, address, secret string) *v1alpha1.BGPNeighbor {
	n := &v1alpha1.BGPNeighbor{ObjectMeta: named(name)}
	n.Spec.Address, n.Spec.LocalASN, n.Spec.RemoteASN = address, 64513, 64512
	n.Spec.NodeSelector = &v1alpha1.Selector{}
	if secret != "" {
		n.Spec.Authentication.Type = "TCPMD5"
		n.Spec.Authentication.TCPMD5.SecretName = secret
	}
	return n
}

// world is a cluster of three nodes before an install, with a pool on the segment.
func world() *cluster.State {
	system := &corev1.Namespace{ObjectMeta: named(metav1.NamespaceSystem)}
	return &cluster.State{
		Taken: now, Namespace: "berth-system", Missing: map[cluster.Resource]error{},
		Nodes:      []*corev1.Node{node("n1", "192.0.2.11"), node("n2", "192.0.2.12"), node("n3", "192.0.2.13")},
		Namespaces: []*corev1.Namespace{system},
		Pools:      []*v1alpha1.LoadBalancerPool{pool("rack", "192.0.2.128-192.0.2.131")},
	}
}

func plan(t *testing.T, s *cluster.State) *Plan {
	t.Helper()
	snapshot, problems := config.Compile(s.Objects())
	for key, all := range problems {
		if len(all) > 0 {
			t.Fatalf("%v: %v", key, all)
		}
	}
	var names []string
	for _, p := range s.Pools {
		names = append(names, p.Name)
	}
	return PlanOf(s, snapshot, names, DefaultRate)
}

// asksIn returns who asks for what, and where.
func asksIn(p *Plan) (all []string) {
	for _, r := range p.Requests {
		for _, a := range r.Asks {
			for _, x := range a.Ranges {
				all = append(all, fmt.Sprintf("%s %q %s", r.Node, a.Interfaces, x))
			}
		}
	}
	return all
}

func TestPlan(t *testing.T) {
	rack := "192.0.2.128-192.0.2.131"
	onN3 := v1alpha1.Selector{}
	onN3.MatchLabels = map[string]string{corev1.LabelHostname: "n3"}
	for _, c := range []struct {
		name   string
		change func(*cluster.State)
		asks   []string
		facts  string
	}{
		{
			name:   "nothing announces the pool: three nodes ask where their addresses are",
			change: func(s *cluster.State) { s.Nodes = append(s.Nodes, node("n4", "192.0.2.14")) },
			asks:   []string{`n1 [""] ` + rack, `n2 [""] ` + rack, `n3 [""] ` + rack},
			facts:  "4 addresses of pools asked for",
		},
		{
			name: "an announcement says where",
			change: func(s *cluster.State) {
				s.SegmentAnnouncements = []*v1alpha1.SegmentAnnouncement{segment("a", []string{"bond*"}, onN3, "rack")}
			},
			asks: []string{`n3 ["bond*"] ` + rack},
		},
		{
			name: "only routers are told",
			change: func(s *cluster.State) {
				r := &v1alpha1.RouteAnnouncement{ObjectMeta: named("r")}
				r.Spec.PoolNames, r.Spec.NodeSelector, r.Spec.ServiceSelector = []string{"rack"}, &onN3, &v1alpha1.Selector{}
				r.Spec.NeighborSelector = &v1alpha1.Selector{}
				s.RouteAnnouncements = []*v1alpha1.RouteAnnouncement{r}
				s.BGPNeighbors = []*v1alpha1.BGPNeighbor{neighbor("tor", "192.0.2.1", "")}
			},
			facts: "pool rack is announced by BGP alone",
		},
		{
			name: "nodes that cannot be asked",
			change: func(s *cluster.State) {
				s.Nodes[0].Labels[v1alpha1.ExcludeLabel] = ""
				s.Nodes[1].Labels[corev1.LabelOSStable] = "windows"
			},
			asks:  []string{`n3 [""] ` + rack, `n3 [""] 192.0.2.11-192.0.2.11`, `n3 [""] 192.0.2.12-192.0.2.12`},
			facts: "node n1 was not asked",
		},
		{
			name: "a node without a kernel of its own",
			change: func(s *cluster.State) {
				s.Nodes[0].Labels["type"] = "virtual-kubelet"
				s.Nodes[1].Spec.Taints = []corev1.Taint{{Key: "virtual-kubelet.io/provider", Value: "azure"}}
				s.Nodes[1].Status.Addresses = nil
				s.Nodes = append(s.Nodes, node("n4", "192.0.2.14"))
				s.Nodes[3].Labels["eks.amazonaws.com/compute-type"] = "fargate"
			},
			asks: []string{`n3 [""] ` + rack, `n3 [""] 192.0.2.11-192.0.2.11`, `n3 [""] 192.0.2.14-192.0.2.14`},
			facts: "node n1 was not asked, since it is virtual and runs no pods in its network\n" +
				"node n2 was not asked, since it is virtual",
		},
		{
			name: "nodes in other racks ask there",
			change: func(s *cluster.State) {
				s.Nodes[0].Status.Addresses[0].Address = "198.51.100.11"
				s.Nodes = append(s.Nodes, node("n4", "192.0.2.14"), node("n5", "192.0.2.15"))
			},
			asks: []string{`n1 [""] ` + rack, `n2 [""] ` + rack, `n3 [""] ` + rack, `n4 [""] ` + rack},
		},
		{
			name: "more than can be asked for",
			change: func(s *cluster.State) {
				s.Pools = append(s.Pools, pool("six", "2001:db8::/64"))
				s.Nodes = s.Nodes[:1]
			},
			asks:  []string{`n1 [""] ` + rack, `n1 [""] 2001:db8::-2001:db8::ffb`},
			facts: "left out, since 4096 are asked for at most: 2001:db8::-2001:db8::ffff:ffff:ffff:ffff of pool six but for its first 4092",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := world()
			c.change(s)
			p := plan(t, s)
			if got := asksIn(p); !slices.Equal(got, c.asks) {
				t.Errorf("asked %q, want %q", got, c.asks)
			}
			if facts := strings.Join(p.Facts, "\n"); !strings.Contains(facts, c.facts) {
				t.Errorf("facts %q, want %q among them", facts, c.facts)
			}
			text, err := json.Marshal(p.Requests)
			if err != nil {
				t.Fatal(err)
			}
			var read []probe.Request
			if err := json.Unmarshal(text, &read); err != nil || !reflect.DeepEqual(read, p.Requests) {
				t.Errorf("as JSON the requests are %+v, want %+v: %v", read, p.Requests, err)
			}
		})
	}
}

// The most that a request can hold fits into an argument of a program.
func TestLongestRequest(t *testing.T) {
	s := world()
	s.Pools = nil
	first := netip.MustParseAddr("2001:db8:ffff:ffff:ffff:ffff:ffff:1000")
	for i := range 40 {
		var ranges []v1alpha1.AddressRange
		for range 60 {
			ranges = append(ranges, v1alpha1.AddressRange(first.String()+"/128"))
			first = first.Next().Next()
		}
		s.Pools = append(s.Pools, pool(fmt.Sprintf("p%d", i), ranges...))
	}
	for i := range 2 * maxSilent {
		silent := node(fmt.Sprintf("silent%d", i), first.String())
		silent.Labels[v1alpha1.ExcludeLabel] = ""
		first = first.Next().Next()
		s.Nodes = append(s.Nodes, silent)
	}
	p := plan(t, s)
	text, err := json.Marshal(p.Requests[0])
	if err != nil {
		t.Fatal(err)
	}
	if len(text) > 128<<10-1 || len(asksIn(p)) != 3*(maxRanges+maxSilent) {
		t.Errorf("%d ranges asked for in %d bytes", len(asksIn(p)), len(text))
	}
	if facts := strings.Join(p.Facts, "\n"); !strings.Contains(facts, "1376 more") &&
		!strings.Contains(facts, "1373 more") {
		t.Errorf("facts: %s", facts)
	}
}

func TestRequest(t *testing.T) {
	s := world()
	s.BGPNeighbors = []*v1alpha1.BGPNeighbor{neighbor("tor", "192.0.2.1", "md5")}
	speaker := &v1alpha1.Speaker{ObjectMeta: named("n1")}
	speaker.Status.Conditions = []metav1.Condition{
		{Type: v1alpha1.ConditionReady, Reason: string(v1alpha1.SpeakerAnnouncing)},
	}
	speaker.Status.Segments = []v1alpha1.SegmentReport{{Interface: "eth0"}}
	s.Speakers = []*v1alpha1.Speaker{speaker}
	p := plan(t, s)
	if r := p.Requests[0]; len(r.Speaks) != 0 || r.Cluster != "uid-0" || r.Peers[0].Node != "n2" ||
		len(r.Peers) != 2 {
		t.Errorf("without a pod of the speaker: %+v", r)
	}
	pod := &corev1.Pod{ObjectMeta: named("speaker")}
	pod.Labels, pod.Spec.NodeName = map[string]string{cluster.ComponentLabel: "speaker"}, "n1"
	pod.Status.Phase = corev1.PodRunning
	s.Pods = []*corev1.Pod{pod}
	p = plan(t, s)
	if r := p.Requests[0]; !slices.Equal(r.Speaks, []string{"eth0"}) {
		t.Errorf("with a speaker: %+v", r)
	}
	want := probe.Router{
		Neighbor:  "tor",
		Address:   netip.MustParseAddr("192.0.2.1"),
		LocalASN:  64513,
		RemoteASN: 64512,
		Secret:    "md5",
	}
	if got := p.Requests[1].Routers; len(got) != 1 || got[0] != want {
		t.Errorf("routers: %+v, want %+v", got, want)
	}
	if !p.HasPasswords() || len(Secrets(p.Requests[0])) != 0 {
		t.Errorf("passwords before they are to be tried: %+v", p.Requests[0])
	}
	p.TryPasswords()
	if got := Secrets(p.Requests[0]); !slices.Equal(got, []string{"md5"}) ||
		p.Requests[0].Routers[0].PasswordFile != "/run/berth-passwords/md5/password" {
		t.Errorf("passwords: %q, %+v", got, p.Requests[0].Routers)
	}
	if text := fmt.Sprintf("%+v", p.Requests); strings.Contains(text, "unread") {
		t.Errorf("a password is in a request: %s", text)
	}
}

// Who looks for IPVS has the kernel load it, so a probe does only if a pool asks for it.
func TestRequestForIPVS(t *testing.T) {
	s := world()
	for _, r := range plan(t, s).Requests {
		if r.IPVS {
			t.Errorf("no pool asks for IPVS, and node %s looks for it", r.Node)
		}
	}
	s.Pools[0].Spec.Dataplane = v1alpha1.DataplaneIPVS
	for _, r := range plan(t, s).Requests {
		if !r.IPVS {
			t.Errorf("a pool asks for IPVS, and node %s does not look for it", r.Node)
		}
	}
}

// Routers that a node cannot call are not called, and it is said.
func TestRoutersThatCall(t *testing.T) {
	s := world()
	passive, prefix, found := neighbor(
		"passive",
		"192.0.2.1",
		"",
	), neighbor(
		"leaves",
		"",
		"",
	), neighbor(
		"fabric",
		"",
		"",
	)
	passive.Spec.Connect = v1alpha1.ConnectAccept
	prefix.Spec.AddressPrefix, found.Spec.Interface = "198.51.100.0/24", "eth9"
	elsewhere := neighbor("elsewhere", "192.0.2.2", "")
	elsewhere.Spec.Connect = v1alpha1.ConnectAccept
	elsewhere.Spec.NodeSelector.MatchLabels = map[string]string{"none": "such"}
	s.BGPNeighbors = []*v1alpha1.BGPNeighbor{passive, prefix, found, elsewhere}
	p := plan(t, s)
	want := []string{
		"whether the router of BGPNeighbor passive is reached: it calls the nodes (connect: Accept), so none calls it",
		"whether the router of BGPNeighbor leaves is reached: routers in addressPrefix 198.51.100.0/24 call the nodes, so none calls them",
		"whether the router of BGPNeighbor fabric is reached: speakers find it on interface eth9, and a probe does not",
	}
	got := slices.Sorted(slices.Values(p.Unknown))
	slices.Sort(want)
	if !slices.Equal(got, want) || len(p.Requests[0].Routers) != 0 {
		t.Errorf("not known:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

const stranger = "02:00:00:00:00:99"

func macOf(node string) string { return "02:00:00:00:00:0" + node[1:] }

func link(node string, hears ...string) probe.Link {
	return probe.Link{
		Name: "eth0", MAC: macOf(node), MTU: 1500, Up: true, Segment: true, Hears: hears, ReversePath: 1,
		Subnets: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Replies4: []string{"eth0"},
	}
}

func answer(last byte, mac string, rounds uint8) probe.Answer {
	return probe.Answer{
		Address:   netip.AddrFrom4([4]byte{192, 0, 2, last}),
		Interface: "eth0",
		MAC:       mac,
		Rounds:    rounds,
	}
}

// fine is what probes see of the world when all is well.
func fine(t *testing.T, s *cluster.State) *Seen {
	t.Helper()
	seen := &Seen{Plan: plan(t, s), Reports: map[string]probe.Report{}, Failures: map[string]string{}}
	kernel := probe.Kernel{Release: "6.1", NFTables: probe.Present, Conntrack: probe.Present, IPVS: probe.Absent}
	names := []string{"n1", "n2", "n3"}
	for i, n := range names {
		others := slices.Delete(slices.Clone(names), i, i+1)
		seen.Reports[n] = probe.Report{Node: n, Done: true, Links: []probe.Link{link(n, others...)}, Kernel: kernel}
	}
	return seen
}

func change(seen *Seen, node string, do func(*probe.Report)) {
	r := seen.Reports[node]
	do(&r)
	seen.Reports[node] = r
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  func(*cluster.State, *Seen)
		want    []string
		unknown string
	}{
		{name: "all is well", change: func(*cluster.State, *Seen) {}},
		{
			name: "a stranger, whom two nodes see",
			change: func(_ *cluster.State, seen *Seen) {
				for _, n := range []string{"n1", "n2"} {
					change(seen, n, func(r *probe.Report) {
						r.Answers = []probe.Answer{answer(129, stranger, 3), answer(130, stranger, 1)}
					})
				}
			},
			want: []string{
				"pool-address-answered LoadBalancerPool rack: a host with MAC address 02:00:00:00:00:99 answers for 192.0.2.129, 192.0.2.130, as node n1 sees on interface eth0",
			},
		},
		{
			name: "a node that is not asked, for nobody",
			change: func(_ *cluster.State, seen *Seen) {
				seen.Plan.Silent = map[netip.Addr]string{netip.MustParseAddr("192.0.2.14"): "n4"}
				change(seen, "n1", func(r *probe.Report) {
					r.Answers = []probe.Answer{answer(14, stranger, 3), answer(129, stranger, 3)}
				})
			},
			want: []string{
				"pool-address-answered LoadBalancerPool rack: node n4 (MAC address 02:00:00:00:00:99) answers for 192.0.2.129, as node n1 sees on interface eth0, and no Service has that",
			},
		},
		{
			name: "a node that is not asked, for a Service",
			change: func(_ *cluster.State, seen *Seen) {
				seen.Plan.Given[netip.MustParseAddr("192.0.2.129")] = true
				seen.Plan.Silent = map[netip.Addr]string{netip.MustParseAddr("192.0.2.14"): "n4"}
				change(seen, "n1", func(r *probe.Report) {
					r.Answers = []probe.Answer{answer(14, stranger, 3), answer(129, stranger, 3)}
				})
			},
		},
		{
			name: "a router that answers for a node that is not asked, too",
			change: func(_ *cluster.State, seen *Seen) {
				seen.Plan.Silent = map[netip.Addr]string{netip.MustParseAddr("192.0.2.14"): "n4"}
				change(seen, "n1", func(r *probe.Report) {
					r.Links[0].Proxies = []string{stranger}
					r.Answers = []probe.Answer{answer(14, stranger, 3)}
				})
				change(seen, "n2", func(r *probe.Report) { r.Answers = []probe.Answer{answer(129, macOf("n3"), 3)} })
			},
			want: []string{
				"pool-address-answered LoadBalancerPool rack: node n3 (MAC address 02:00:00:00:00:03) answers for 192.0.2.129, as node n2 sees on interface eth0, and no Service has that",
				"proxy-arp Node n1: interface eth0: router 02:00:00:00:00:99 answers for every address that it is asked for (proxy ARP)",
			},
		},
		{
			name: "somebody, while MAC addresses of a node are not known",
			change: func(s *cluster.State, seen *Seen) {
				s.Nodes = append(s.Nodes, node("n4", "192.0.2.14"))
				change(seen, "n1", func(r *probe.Report) { r.Answers = []probe.Answer{answer(129, stranger, 3)} })
			},
			want: []string{
				"pool-address-answered LoadBalancerPool rack: a host with MAC address 02:00:00:00:00:99 answers for 192.0.2.129, as node n1 sees on interface eth0 (unless it is one of the nodes whose MAC addresses are not known: n4)",
			},
		},
		{
			name: "a node, for nobody",
			change: func(_ *cluster.State, seen *Seen) {
				change(seen, "n1", func(r *probe.Report) { r.Answers = []probe.Answer{answer(129, macOf("n2"), 3)} })
			},
			want: []string{
				"pool-address-answered LoadBalancerPool rack: node n2 (MAC address 02:00:00:00:00:02) answers for 192.0.2.129, as node n1 sees on interface eth0, and no Service has that",
			},
		},
		{
			name: "a node, for a Service that has come",
			change: func(s *cluster.State, seen *Seen) {
				svc := &corev1.Service{ObjectMeta: named("web")}
				svc.Spec.Type = corev1.ServiceTypeLoadBalancer
				svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.129"}}
				s.Services = []*corev1.Service{svc}
				change(seen, "n1", func(r *probe.Report) { r.Answers = []probe.Answer{answer(129, macOf("n2"), 3)} })
			},
		},
		{
			name: "a node, for a Service that has gone",
			change: func(_ *cluster.State, seen *Seen) {
				seen.Plan.Given[netip.MustParseAddr("192.0.2.129")] = true
				change(seen, "n1", func(r *probe.Report) { r.Answers = []probe.Answer{answer(129, macOf("n2"), 3)} })
			},
		},
		{
			name: "an address that moves",
			change: func(_ *cluster.State, seen *Seen) {
				seen.Plan.Given[netip.MustParseAddr("192.0.2.129")] = true
				change(seen, "n1", func(r *probe.Report) {
					r.Answers = []probe.Answer{answer(129, macOf("n2"), 1), answer(129, macOf("n3"), 2)}
				})
				change(seen, "n2", func(r *probe.Report) { r.Answers = []probe.Answer{answer(129, macOf("n3"), 3)} })
			},
		},
		{
			name: "two nodes at once",
			change: func(_ *cluster.State, seen *Seen) {
				seen.Plan.Given[netip.MustParseAddr("192.0.2.129")] = true
				change(seen, "n1", func(r *probe.Report) {
					r.Answers = []probe.Answer{answer(129, macOf("n2"), 3), answer(129, macOf("n3"), 2)}
				})
			},
			want: []string{
				"pool-address-answered-twice LoadBalancerPool rack: nodes n2 and n3 both answer for 192.0.2.129 on one segment",
			},
		},
		{
			name: "two nodes at once, which are those that ask",
			change: func(_ *cluster.State, seen *Seen) {
				seen.Plan.Given[netip.MustParseAddr("192.0.2.129")] = true
				change(seen, "n1", func(r *probe.Report) { r.Answers = []probe.Answer{answer(129, macOf("n2"), 3)} })
				change(seen, "n2", func(r *probe.Report) { r.Answers = []probe.Answer{answer(129, macOf("n1"), 3)} })
			},
			want: []string{
				"pool-address-answered-twice LoadBalancerPool rack: nodes n1 and n2 both answer for 192.0.2.129 on one segment",
			},
		},
		{
			name: "a proxy",
			change: func(_ *cluster.State, seen *Seen) {
				change(seen, "n1", func(r *probe.Report) {
					r.Links[0].Proxies = []string{stranger}
					r.Answers = []probe.Answer{answer(129, stranger, 3)}
				})
			},
			want: []string{
				"proxy-arp Node n1: interface eth0: router 02:00:00:00:00:99 answers for every address that it is asked for (proxy ARP)",
			},
		},
		{
			name: "frames are lost one way",
			change: func(_ *cluster.State, seen *Seen) {
				change(seen, "n2", func(r *probe.Report) { r.Links[0].Hears = []string{"n3"} })
			},
			want: []string{
				"frames-lost Node n2: on interface eth0 no multicast frame of EtherType 0x88b5 arrives from n1, though they share a subnet",
			},
		},
		{
			name: "another segment",
			change: func(_ *cluster.State, seen *Seen) {
				change(seen, "n3", func(r *probe.Report) {
					r.Links[0].Hears, r.Links[0].Subnets = nil, []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
				})
				for _, n := range []string{"n1", "n2"} {
					change(seen, n, func(r *probe.Report) {
						r.Links[0].Hears = slices.DeleteFunc(r.Links[0].Hears, func(x string) bool { return x == "n3" })
					})
				}
			},
		},
		{
			name: "a node without a report",
			change: func(_ *cluster.State, seen *Seen) {
				delete(seen.Reports, "n3")
				seen.Failures["n3"] = "its pod did not start in time"
			},
			unknown: "node n3: nothing was looked at from there: its pod did not start in time",
		},
		{
			name: "replies that leave elsewhere, and a kernel that minds",
			change: func(_ *cluster.State, seen *Seen) {
				change(seen, "n1", func(r *probe.Report) { r.Links[0].Replies4 = []string{"eth1"} })
			},
			want: []string{
				"rp-filter Node n1: interface eth0: rp_filter is 1 (strict), and replies to clients beyond the segment leave by eth1: the kernel drops what these clients send",
			},
		},
		{
			name: "and one that does not",
			change: func(_ *cluster.State, seen *Seen) {
				change(seen, "n1", func(r *probe.Report) {
					r.Links[0].ReversePath, r.Links[0].Replies4 = 2, []string{"eth1"}
				})
			},
			want: []string{
				"return-path Node n1: interface eth0: replies to clients beyond the segment leave by another interface (eth1)",
			},
		},
		{
			name: "a narrow path",
			change: func(_ *cluster.State, seen *Seen) {
				a := netip.MustParseAddr("192.0.2.12")
				change(seen, "n1", func(r *probe.Report) {
					r.Paths = []probe.Path{
						{Node: "n2", Address: a, Interface: "eth0", MTU: 1500, Largest: 1400},
						{Node: "n3", Address: a, Interface: "eth0", MTU: 1500, Largest: 0},
					}
				})
			},
			want: []string{
				"path-mtu Node n1: interface eth0 sends packets of 1500 bytes, and of those to node n2 (192.0.2.12) none above about 1400 is answered",
			},
		},
		{
			name: "kernels that lack something",
			change: func(_ *cluster.State, seen *Seen) {
				change(seen, "n1", func(r *probe.Report) { r.Kernel.NFTables = probe.Absent })
				change(seen, "n2", func(r *probe.Report) { r.Kernel.Conntrack = probe.NotLoaded })
				seen.Plan.IPVS = true
				change(seen, "n3", func(r *probe.Report) { r.Kernel.IPVS = probe.Present })
			},
			want: []string{
				"kernel-feature Node n1: kernel 6.1 has no nftables, which Berth's rules and kube-proxy's need",
				"kernel-feature Node n1: kernel 6.1 has no IPVS (ip_vs), which pools with the dataplane IPVS need",
				"kernel-feature Node n2: kernel 6.1 has no IPVS (ip_vs), which pools with the dataplane IPVS need",
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := world()
			seen := fine(t, s)
			c.change(s, seen)
			check(t, Judge(s, seen), c.want, c.unknown)
		})
	}
}

func check(t *testing.T, got Conclusion, want []string, unknown string) {
	t.Helper()
	var found []string
	for _, f := range got.Found {
		found = append(found, f.ID+" "+f.Object+": "+f.What)
	}
	if !slices.Equal(found, want) {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(found, "\n"), strings.Join(want, "\n"))
	}
	if text := strings.Join(got.Unknown, "\n"); unknown == "" && text != "" || !strings.Contains(text, unknown) {
		t.Errorf("not known: %q, want %q", text, unknown)
	}
}

func TestJudgeRouters(t *testing.T) {
	for _, c := range []struct {
		name    string
		knock   probe.Knock
		want    []string
		unknown string
	}{
		{name: "a session", knock: probe.Knock{Established: true}},
		{name: "a connection", knock: probe.Knock{}},
		{
			name:  "none",
			knock: probe.Knock{Failure: "cannot connect: connection refused"},
			want:  []string{"router-unreachable BGPNeighbor tor: from node n1, 192.0.2.1:179: cannot connect: connection refused"},
		},
		{
			name:  "another password",
			knock: probe.Knock{Failure: "peer answers ping, and no connection", Signature: true},
			want:  []string{"router-password BGPNeighbor tor: from node n1, 192.0.2.1:179: peer answers ping, and no connection"},
		},
		{
			name:  "a password that the router does not ask for",
			knock: probe.Knock{Untried: true},
			want: []string{
				"router-password BGPNeighbor tor: 192.0.2.1:179 takes connections from node n1 without a password, and the BGPNeighbor has one",
			},
		},
		{
			name:    "a password that was not tried",
			knock:   probe.Knock{Untried: true, Failure: "cannot connect: i/o timeout"},
			unknown: "whether node n1 reaches 192.0.2.1:179 (BGPNeighbor tor), which has a password that was not tried",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := world()
			s.BGPNeighbors = []*v1alpha1.BGPNeighbor{neighbor("tor", "192.0.2.1", "md5")}
			seen := fine(t, s)
			c.knock.Neighbor, c.knock.Address = "tor", netip.MustParseAddr("192.0.2.1")
			change(seen, "n1", func(r *probe.Report) { r.Routers = []probe.Knock{c.knock} })
			check(t, Judge(s, seen), c.want, c.unknown)
		})
	}
}

func TestSettled(t *testing.T) {
	seen := fine(t, world())
	if done, heard := seen.Settled(); !done || !heard {
		t.Errorf("all is done and heard: %v, %v", done, heard)
	}
	change(seen, "n1", func(r *probe.Report) { r.Links[0].Hears = nil })
	if done, heard := seen.Settled(); !done || heard {
		t.Errorf("n1 hears nobody: %v, %v", done, heard)
	}
	change(seen, "n1", func(r *probe.Report) { r.Done = false })
	if done, _ := seen.Settled(); done {
		t.Error("n1 is not done")
	}
	delete(seen.Reports, "n1")
	if done, _ := seen.Settled(); done {
		t.Error("n1 has no report")
	}
	seen.Failures["n1"] = "its pod failed"
	if done, heard := seen.Settled(); !done || !heard {
		t.Errorf("n1 has failed: %v, %v", done, heard)
	}
}
