//go:build qemu

// Package rate_test compares what Berth's own data plane, its steering and kube-proxy's nftables
// rules cost, on one kernel and in one run: what nodes spend on a packet, and new connections, bulk
// and datagrams per second of a client on the segment. This is on a kernel that has IPVS. The
// machine is emulated, so only ratios mean something. See BenchmarkSteering for this machine's.
//
//	BERTH_VM_KIND=qemu BERTH_VM_MEMORY=2G BERTH_VM_TIMEOUT=30m go test -tags qemu -timeout 30m \
//		-run '^$' -bench . -exec .cache/bin/vm-exec ./vm/rate
package rate_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/e2e/vm/cluster"
)

// growth is how many other Services there are, of each data plane.
var growth = []int{0, 300}

// variants are kinds of Services, of which each data plane has one.
var variants = []struct {
	name   string
	policy corev1.ServiceExternalTrafficPolicy
	node   int // that has the endpoints; the client's packets come to node 1
	client string
}{
	{"masqueraded", corev1.ServiceExternalTrafficPolicyCluster, 1, "10.244.1.254"},
	{"local", corev1.ServiceExternalTrafficPolicyLocal, 1, cluster.ClientIPv4},
	{"remote", corev1.ServiceExternalTrafficPolicyCluster, 2, "172.30.0.11"},
}

// Data planes are also pools. Two more paths tell what they cost at all: to a pod's own address
// through the same node, past the rules of both, and through a node that has no rules. Steering is
// beside them where the endpoints are on another node.
const (
	byIPVS      = "ipvs"
	byKubeProxy = "kube-proxy"
	routed      = "routed"
	bare        = "bare"
)

func BenchmarkForwarding(b *testing.B) {
	// Each thread that waits in a system call holds its place, so that its return does not cost a
	// change of threads.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(32))
	s := newSite(b)
	b.Run("cost", func(b *testing.B) {
		s.rack.measure(b, s.rack.named(direct, policyC, policyL, byIPVS, steered, looked, tunneled))
	})
	for _, others := range growth {
		s.populate(b, others)
		for _, v := range variants {
			c := comparison{
				paths: map[string]path{
					byIPVS:      {s.address[byIPVS+"-"+v.name], s.ports[byIPVS]},
					byKubeProxy: {s.address[byKubeProxy+"-"+v.name], s.ports[byKubeProxy]},
					routed:      {s.pods[1].IPv4, s.ports[routed]},
					bare:        {s.pods[2].IPv4, s.ports[bare]},
				},
				ratios:  [][2]string{{byIPVS, byKubeProxy}, {byIPVS, routed}, {byIPVS, bare}},
				counted: counted,
				before:  s.rack.refresh,
			}
			if v.node == 2 {
				w := s.rack.ways[steered]
				c.paths[steered] = path{w.address, s.ports[steered]}
				c.ratios = append(c.ratios, [2]string{steered, byKubeProxy}, [2]string{steered, byIPVS})
				c.counted = func(b *testing.B) map[string]count {
					all := counted(b)
					all[steered] = count{packets: s.rack.counted(b, w).sent}
					return all
				}
			}
			for _, l := range loads {
				b.Run(fmt.Sprintf("others=%d/%s/%s", others, v.name, l.name), func(b *testing.B) { c.run(b, l) })
			}
		}
	}
}

// counted returns what IPVS of node 1 has forwarded.
func counted(b *testing.B) map[string]count {
	b.Helper()
	// The file without _percpu is up to 2 s old.
	text, err := cluster.In(
		"n1",
		func() ([]byte, error) { return os.ReadFile("/proc/thread-self/net/ip_vs_stats_percpu") },
	)
	if err != nil {
		b.Fatal(err)
	}
	var sum count
	for line := range strings.Lines(string(text)) {
		// Of each CPU, in hexadecimal: its number, connections, packets in and out, bytes in and out.
		// Sums and rates have fewer.
		var cpu, connections, in, out, bytesIn, bytesOut int
		if n, _ := fmt.Sscanf(line, "%x %x %x %x %x %x", &cpu, &connections, &in, &out, &bytesIn, &bytesOut); n == 6 {
			sum.connections += connections
			sum.packets += in
		}
	}
	return map[string]count{byIPVS: sum}
}
