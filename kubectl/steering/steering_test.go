package steering

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/internal/steerquery"
)

func serviceWith(addresses []string, ports ...corev1.ServicePort) *corev1.Service {
	svc := &corev1.Service{}
	svc.Name = "web"
	svc.Spec.Ports = ports
	for _, a := range addresses {
		svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a})
	}
	return svc
}

func TestQueryOf(t *testing.T) {
	both := []string{"192.0.2.1", "2001:db8::1"}
	http := corev1.ServicePort{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}
	dns := corev1.ServicePort{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}
	dnsTCP := corev1.ServicePort{Name: "dns-tcp", Port: 53} // TCP by default
	for _, c := range []struct {
		svc  *corev1.Service
		c    Choice
		want string // service client protocol, or the error
	}{
		{serviceWith(both, http), Choice{Client: "198.51.100.9:4000"}, "192.0.2.1:80 198.51.100.9:4000 TCP"},
		{serviceWith(both, http), Choice{Client: "[2001:db8::9]:4000"}, "[2001:db8::1]:80 [2001:db8::9]:4000 TCP"},
		{serviceWith(both, http), Choice{Client: "[::ffff:198.51.100.9]:4000"}, "192.0.2.1:80 198.51.100.9:4000 TCP"},
		{
			serviceWith(both, http, dns), Choice{Client: "198.51.100.9:4000", Port: "dns"},
			"192.0.2.1:53 198.51.100.9:4000 UDP",
		},
		{
			serviceWith(both, dns, dnsTCP), Choice{Client: "198.51.100.9:4000", Port: "53", Protocol: "tcp"},
			"192.0.2.1:53 198.51.100.9:4000 TCP",
		},
		{
			serviceWith([]string{"192.0.2.1", "192.0.2.2"}, http), Choice{Client: "198.51.100.9:4000", Address: "192.0.2.2"},
			"192.0.2.2:80 198.51.100.9:4000 TCP",
		},
		{
			serviceWith(both, http), Choice{Client: "198.51.100.9"},
			"--client 198.51.100.9: is not an address and a port; write it like 192.0.2.9:40000 or [2001:db8::9]:40000",
		},
		{serviceWith(both, http), Choice{Client: "0.0.0.0:4000"}, "--client 0.0.0.0:4000: is not"},
		{serviceWith(both, http), Choice{Port: "80"}, "--client : is not an address and a port"},
		{
			serviceWith(both, http, dns), Choice{Client: "198.51.100.9:4000"},
			"the ports of Service web are http 80/TCP, dns 53/UDP; name one with --port, and --protocol",
		},
		{
			serviceWith(both, http), Choice{Client: "198.51.100.9:4000", Port: "81"},
			`--port "81", --protocol "": name no port of Service web, which has http 80/TCP`,
		},
		{
			serviceWith(both[:1], http), Choice{Client: "[2001:db8::9]:4000"},
			"--client 2001:db8::9: Service web has no IPv6 address, it has 192.0.2.1",
		},
		{
			serviceWith([]string{"192.0.2.1", "192.0.2.2"}, http), Choice{Client: "198.51.100.9:4000"},
			"the IPv4 addresses of Service web are 192.0.2.1, 192.0.2.2; name one with --address",
		},
		{
			serviceWith(both, http), Choice{Client: "198.51.100.9:4000", Address: "192.0.2.7"},
			"--address 192.0.2.7: is not an address of Service web, which has 192.0.2.1, 2001:db8::1",
		},
		{
			serviceWith(both, http), Choice{Client: "198.51.100.9:4000", Address: "2001:db8::1"},
			"--client 198.51.100.9:4000: is of another family",
		},
	} {
		q, err := QueryOf(c.svc, c.c)
		got := q.Service.String() + " " + q.Client.String() + " " + q.Protocol
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, c.want) {
			t.Errorf("%+v: %s\nwant %s", c.c, got, c.want)
		}
	}
}

// answer is what a node says that has n3, which drains, n1, which is dead, n2 and n4 in rank.
func answer(by, to, reason string) Node {
	return Node{By: by, Answer: steerquery.Answer{
		Slot: 7, Slots: 4096, Node: to, Reason: reason,
		Ranks: []steerquery.Rank{{Node: "n3", Draining: true}, {Node: "n1", Dead: true}, {Node: "n2"}, {Node: "n4"}},
	}}
}

func TestOf(t *testing.T) {
	q := steerquery.Query{
		Service: netip.MustParseAddrPort("192.0.2.1:80"), Client: netip.MustParseAddrPort("198.51.100.9:4000"),
		Protocol: "TCP",
	}
	owner := func(n Node) Node { n.Owner = true; return n }
	asks := answer("n1", "n2", "first")
	asks.Asks = "n3"
	lacking := Node{By: "n9", Answer: steerquery.Answer{Lacking: "this node does not steer: no BPF"}}
	for _, c := range []struct {
		name        string
		nodes       []Node
		to, verdict string
	}{
		{
			"all agree", []Node{answer("n2", "n2", "local"), answer("n1", "n2", "first"), lacking},
			"n2", "a new connection goes to n2",
		},
		{"it asks", []Node{asks}, "n2", "a new connection goes to n2; of a connection that it does not know, it asks n3"},
		{
			"another node than the owner differs",
			[]Node{answer("n2", "n4", "first"), owner(answer("n1", "n2", "first"))}, "n2", "a new connection goes to n2",
		},
		{
			"they differ, and no owner is known", []Node{answer("n2", "n4", "first"), answer("n1", "n2", "first")},
			"", "it depends on the node that its packets come to: tables differ, as for a moment after a change",
		},
		{
			"its source is not let in", []Node{{By: "n1", Answer: steerquery.Answer{Node: "n1", Reason: "source"}}},
			"", "kube-proxy drops it, since loadBalancerSourceRanges do not have 198.51.100.9",
		},
		{
			"the owner does not steer", []Node{owner(lacking), answer("n2", "n2", "local")},
			"", "n9 answers for the address and does not steer: this node does not steer: no BPF",
		},
		{
			"one of two owners does not", []Node{owner(answer("n1", "n2", "first")), owner(lacking)},
			"", "n9 answers for the address and does not steer: this node does not steer: no BPF",
		},
		{"none steers", []Node{lacking}, "", "no node steers it; n9: this node does not steer: no BPF"},
	} {
		r := Of("shop", "web", q, c.nodes)
		if r.To != c.to || r.Verdict != c.verdict || r.Steered != (c.name != "none steers") {
			t.Errorf("%s: to %q, steered %v: %s", c.name, r.To, r.Steered, r.Verdict)
		}
	}
}

// Nodes that agree on a slot have one ranking, in which who gets no new connections is told why.
func TestRankings(t *testing.T) {
	other := answer("n5", "n2", "first")
	other.Slot = 8
	r := Of("shop", "web", steerquery.Query{}, []Node{
		answer("n2", "n2", "local"), answer("n1", "n2", "first"), other,
		{By: "n9", Answer: steerquery.Answer{Lacking: "why not"}},
	})
	ranks := []Ranked{
		{"n3", "no: it drains, since no Pod on it is ready"},
		{"n1", "no: it is thought dead, since nothing is heard of it"},
		{"n2", "yes"}, {"n4", "if those before do not"},
	}
	want := []Ranking{
		{Nodes: []string{"n1", "n2"}, Slot: 7, Slots: 4096, Ranks: ranks},
		{Nodes: []string{"n5"}, Slot: 8, Slots: 4096, Ranks: ranks},
	}
	if diff := cmp.Diff(want, r.Rankings()); diff != "" {
		t.Error(diff)
	}
}

func TestWriteTable(t *testing.T) {
	q := steerquery.Query{
		Service: netip.MustParseAddrPort("192.0.2.1:80"), Client: netip.MustParseAddrPort("198.51.100.9:4000"),
		Protocol: "TCP",
	}
	owner := answer("n1", "n2", "first")
	owner.Owner = true
	nodes := []Node{answer("n2", "n2", "local"), owner, {By: "n9", Answer: steerquery.Answer{Lacking: "no BPF"}}}
	for _, c := range []struct {
		r    *Report
		want string
	}{
		{
			Of("shop", "web", q, nodes),
			`Service shop/web: TCP 192.0.2.1:80, client 198.51.100.9:4000

Slot 7 of 4096, by addresses, ports and protocol
RANK|NODE|GETS NEW CONNECTIONS
1|n3|no: it drains, since no Pod on it is ready
2|n1|no: it is thought dead, since nothing is heard of it
3|n2|yes
4|n4|if those before do not

PACKETS COME TO|OWNER|GO TO|WHY
n1|yes|n2|first in rank of those that get new connections
n2|-|n2|stays: first in rank of those that get new connections
n9|-|-|no BPF

Why:  a new connection goes to n2
`,
		},
		{
			NotSteered("shop", "web", q, "connections are not steered: no pool"),
			"Service shop/web: TCP 192.0.2.1:80, client 198.51.100.9:4000\n\nWhy:  connections are not steered: no pool\n",
		},
	} {
		var out strings.Builder
		c.r.WriteTable(&out)
		if diff := cmp.Diff(c.want, strings.ReplaceAll(out.String(), "\t", "|")); diff != "" {
			t.Error(diff)
		}
	}
}
