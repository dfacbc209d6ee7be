//go:build qemu

package rate_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/vm/cluster"
)

// site is a cluster in which node 1 has both data planes, and node 2 none. Beside them is the rack
// of steering.
type site struct {
	*cluster.Cluster
	rack    *rack
	pods    map[int]cluster.Pod // the first of each node
	ready   map[int][]string    // addresses of the pods of each node
	ports   map[string]*ports   // of the client, for each path
	address map[string]string   // of the Services that are measured
	others  int                 // Services that are there beside them, of each data plane
}

func newSite(b *testing.B) *site {
	s := &site{
		Cluster: cluster.New(b),
		pods:    map[int]cluster.Pod{},
		ready:   map[int][]string{},
		ports:   map[string]*ports{},
		address: map[string]string{},
	}
	nodes := map[int]*cluster.Node{}
	for number := 1; number <= 2; number++ {
		n := s.AddNode(b, number)
		nodes[number] = n
		for i := range 2 {
			p := s.AddPod(b, n)
			serve(b, p.Name)
			if s.ready[number] = append(s.ready[number], p.IPv4); i == 0 {
				s.pods[number] = p
			}
		}
		// The client reaches pods through their node.
		cluster.Run(b, cluster.Client, "ip", "route", "add", n.PodCIDRs()[0], "via", n.IPv4)
		quiet(b, n)
	}
	for i, path := range []string{byIPVS, byKubeProxy, routed, bare, steered} {
		s.ports[path] = &ports{first: 1024 + i*portsOfAPath}
	}
	keepPorts(b)
	s.Apply(b, objects)
	startKubeProxy(b, s.Cluster, nodes[1])
	// It ends when it cannot renew its lease in time, which may happen on a busy machine; a kubelet
	// would restart it.
	s.Start(b, cluster.Host, "controller", nil, "sh", "-c", `while :; do "$@"; sleep 1; done`, "sh",
		filepath.Join(filepath.Dir(s.Kube()), "berth"), "controller", "--kubeconfig="+s.Kubeconfig(), "--listen=")
	s.Speaker(b, "n1", "--ipvs")
	for i, v := range variants {
		for j, plane := range []string{byIPVS, byKubeProxy} {
			name, address := plane+"-"+v.name, fmt.Sprintf("172.30.0.2%d%d", j, i)
			if err := (service{
				name: name, policy: v.policy, pods: s.ready[v.node], node: fmt.Sprint("n", v.node),
				annotations: map[string]string{v1alpha1.AnnotationAddresses: address},
			}).create(b.Context(), s.Cluster); err != nil {
				b.Fatal(err)
			}
			answers(b, address, v.client)
			s.address[name] = address
		}
	}
	s.rack = newRack(b, s.Cluster)
	// Linux 6.1 leaves packets to ksoftirqd while that runs, and they must not be lost before it does.
	cluster.Run(b, cluster.Host, "sysctl", "-qw", "net.core.netdev_max_backlog=100000")
	s.rack.addIPVS(b, nodes[1])
	b.Log(cluster.Run(b, "n1", "uname", "-r"))
	return s
}

// objects are the pools; those of the others are not on the segment.
const objects = `
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: ipvs}
spec: {addresses: [172.30.0.200-172.30.0.209], dataplane: IPVS, scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: kube-proxy}
spec: {addresses: [172.30.0.210-172.30.0.219], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: ipvs-others}
spec: {addresses: [198.18.0.0/20], dataplane: IPVS, scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: kube-proxy-others}
spec: {addresses: [198.18.16.0/20], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: SegmentAnnouncement
metadata: {name: all}
spec: {poolNames: [ipvs, kube-proxy, ipvs-others, kube-proxy-others], nodeSelector: {}, serviceSelector: {}}
`

// addIPVS adds the way by IPVS of a node to the pods that kube-proxy's ways lead to.
func (r *rack) addIPVS(b *testing.B, owner *cluster.Node) {
	b.Helper()
	w := way{name: byIPVS, address: "172.30.0.209", gateway: owner, target: r.target, client: owner.IPv4}
	s := service{
		name: "rack-ipvs", policy: corev1.ServiceExternalTrafficPolicyCluster, node: r.target.Name,
		annotations: map[string]string{v1alpha1.AnnotationAddresses: w.address},
	}
	for _, p := range r.pods[r.target] {
		s.pods = append(s.pods, p.IPv4)
	}
	if err := s.create(b.Context(), r.Cluster); err != nil {
		b.Fatal(err)
	}
	answers(b, w.address, w.client)
	r.ways[w.name] = w
}

// populate adds other Services up to a number of each data plane, and waits until both have them
// and the machine is idle.
func (s *site) populate(b *testing.B, number int) {
	b.Helper()
	begun := time.Now()
	group, ctx := errgroup.WithContext(b.Context())
	group.SetLimit(8)
	for ; s.others < number; s.others++ {
		for _, plane := range []string{byIPVS, byKubeProxy} {
			name := fmt.Sprintf("%s-%d", plane, s.others)
			group.Go(func() error {
				return service{
					name: name, policy: corev1.ServiceExternalTrafficPolicyCluster, pods: s.ready[1], node: "n1",
					annotations: map[string]string{v1alpha1.AnnotationPools: plane + "-others"},
				}.create(ctx, s.Cluster)
			})
		}
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
	const ports = 4
	want := ports * (number + len(variants))
	cluster.Eventually(b, func(context.Context) error {
		n := 0
		for line := range strings.Lines(cluster.Run(b, "n1", "cat", "/proc/net/ip_vs")) {
			if strings.HasPrefix(line, "TCP") ||
				strings.HasPrefix(line, "UDP") { // those by mark are of policy Local besides
				n++
			}
		}
		if want := want + ports; n != want { // and the rack's
			return fmt.Errorf("IPVS has %d virtual servers, want %d", n, want)
		}
		return nil
	})
	external := func(line string) bool {
		fields := strings.Fields(line)
		at, err := netip.ParseAddr(fields[0])
		return err == nil &&
			(netip.MustParsePrefix("198.18.0.0/15").Contains(at) || netip.MustParsePrefix("172.30.0.0/24").Contains(at))
	}
	cluster.Eventually(b, func(context.Context) error {
		out, err := exec.Command(
			"ip", "netns", "exec", "n1", "nft", "list", "map", "ip", "kube-proxy", "service-ips",
		).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		n := 0
		for element := range strings.SplitSeq(strings.NewReplacer("{", ",", "}", ",").Replace(string(out)), ",") {
			if strings.TrimSpace(element) != "" && external(element) {
				n++
			}
		}
		if n != want {
			return fmt.Errorf("kube-proxy's rules have %d external addresses and ports, want %d", n, want)
		}
		return nil
	})
	idle(b)
	b.Logf("%d other Services of each data plane after %s", number, time.Since(begun).Round(time.Second))
}

// idle waits until the machine has little to do.
func idle(b *testing.B) {
	b.Helper()
	var before [2]int64
	cluster.Eventually(b, func(context.Context) error {
		now, err := processor()
		if err != nil {
			return err
		}
		free, all := now[0]-before[0], now[1]-before[1]
		if all < 100 { // hundredths of a second: let some pass
			return errors.New("the processor was not watched yet")
		}
		if before = now; free*100 < all*50 {
			return fmt.Errorf("the processor is idle for %d %% of the time", free*100/all)
		}
		return nil
	})
}

// processor returns the time that the CPUs were idle, and all of it.
func processor() (times [2]int64, err error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return times, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line)[1:] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return times, err
		}
		if times[1] += n; i == 3 {
			times[0] = n
		}
	}
	return times, nil
}
