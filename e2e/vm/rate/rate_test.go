//go:build qemu

// Package rate_test compares what Berth's own data plane and kube-proxy's nftables rules cost, on
// one kernel and in one run: new connections, bulk and datagrams per second of a client on the
// segment, through Services that differ in their pool alone. The machine is emulated, so only
// ratios mean something.
//
//	BERTH_VM_KIND=qemu BERTH_VM_MEMORY=2G BERTH_VM_TIMEOUT=30m go test -tags qemu -timeout 30m \
//		-run '^$' -bench . -exec .cache/bin/vm-exec ./vm/rate
package rate_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/e2e/vm/cluster"
)

// The data planes take many short turns, since what else the machine does varies; the ratio is the
// median of those of the rounds.
const (
	rounds = 7
	turns  = 6 // of each path in a round
	length = 100 * time.Millisecond
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
// through the same node, past the rules of both, and through a node that has no rules.
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
	for _, others := range growth {
		s.populate(b, others)
		for _, v := range variants {
			for _, l := range loads {
				b.Run(fmt.Sprintf("others=%d/%s/%s", others, v.name, l.name), func(b *testing.B) {
					s.compare(b, map[string]string{
						byIPVS: s.address[byIPVS+"-"+v.name], byKubeProxy: s.address[byKubeProxy+"-"+v.name],
						routed: s.pods[1].IPv4, bare: s.pods[2].IPv4,
					}, l)
				})
			}
		}
	}
}

// compare reports the medians of what the paths do, and the ratios that matter.
func (s *site) compare(b *testing.B, addresses map[string]string, l load) {
	all, ratios := map[string][]float64{}, map[string][]float64{}
	for b.Loop() {
		for range rounds {
			rate := s.round(b, addresses, l)
			for path := range addresses {
				all[path] = append(all[path], rate[path])
				if path != byIPVS {
					ratios[path] = append(ratios[path], rate[byIPVS]/rate[path])
				}
			}
		}
	}
	b.ReportMetric(0, "ns/op") // it means nothing here
	for path, rates := range all {
		b.ReportMetric(median(rates), path+"-"+l.unit)
	}
	for other, r := range ratios {
		b.ReportMetric(median(r), byIPVS+"/"+other)
	}
	b.ReportMetric(slices.Min(ratios[byKubeProxy]), "least")
	b.ReportMetric(slices.Max(ratios[byKubeProxy]), "most")
}

// round measures all paths in turn, in alternating order, and returns the rate of each per second.
func (s *site) round(b *testing.B, addresses map[string]string, l load) map[string]float64 {
	paths := slices.Sorted(maps.Keys(addresses))
	number, seconds := map[string]float64{}, map[string]float64{}
	for range turns {
		for _, path := range paths {
			n, took := s.turn(b, path, addresses[path], l)
			number[path] += float64(n)
			seconds[path] += took
		}
		slices.Reverse(paths)
	}
	rate := map[string]float64{}
	for _, path := range paths {
		rate[path] = number[path] / seconds[path]
	}
	return rate
}

// turn has a path take one turn. IPVS of the node has to count what went by it, and nothing of what
// did not.
func (s *site) turn(b *testing.B, path, address string, l load) (int, float64) {
	before := counted(b)
	n, seconds, err := l.run(address, s.ports[path])
	if err != nil {
		b.Fatalf("%s by %s to %s: %v", l.name, path, address, err)
	}
	after := counted(b)
	connections, packets := after.connections-before.connections, after.packets-before.packets
	switch {
	case path == byIPVS && (connections == 0 || l.each && packets < n):
		b.Fatalf("%d %s: IPVS counted %d connections and %d packets", n, l.name, connections, packets)
	case path != byIPVS && connections != 0:
		b.Fatalf("%d %s by %s: IPVS counted %d connections", n, l.name, path, connections)
	}
	return n, seconds
}

// count is what IPVS of node 1 has forwarded.
type count struct{ connections, packets int }

func counted(b *testing.B) count {
	b.Helper()
	// The file without _percpu is up to 2 s old.
	text, err := cluster.In("n1", func() ([]byte, error) { return os.ReadFile("/proc/thread-self/net/ip_vs_stats_percpu") })
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
	return sum
}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}

// answers waits until a Service answers, and checks whom its endpoint sees.
func answers(b *testing.B, address, client string) {
	b.Helper()
	cluster.Eventually(b, func(context.Context) error {
		conn, err := cluster.Dial(cluster.Client, "tcp", address, linePort)
		if err != nil {
			return err
		}
		answer, err := cluster.Say(conn)
		if err = errors.Join(err, conn.Close()); err == nil && answer.ClientAddress().String() != client {
			err = fmt.Errorf("behind %s %s saw %s, want %s", address, answer.Pod, answer.Client, client)
		}
		return err
	})
}
