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
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/vm/cluster"
)

// site is a cluster in which node 1 has both data planes, and node 2 none.
type site struct {
	*cluster.Cluster
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
	for number := 1; number <= 2; number++ {
		n := s.AddNode(b, number)
		for i := range 2 {
			p := s.AddPod(b, n)
			serve(b, p.Name)
			if s.ready[number] = append(s.ready[number], p.IPv4); i == 0 {
				s.pods[number] = p
			}
		}
		// The client reaches pods through their node.
		cluster.Run(b, cluster.Client, "ip", "route", "add", n.PodCIDRs()[0], "via", n.IPv4)
		// Packets that come from the segment and return to it are normal here.
		cluster.Run(b, n.Name, "sysctl", "-qw", "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.eth0.send_redirects=0")
	}
	for i, path := range []string{byIPVS, byKubeProxy, routed, bare} {
		s.ports[path] = &ports{first: 1024 + i*portsOfAPath}
	}
	// Other programs there do not connect from these ports.
	cluster.Run(
		b, cluster.Client, "sysctl", "-qw",
		fmt.Sprintf("net.ipv4.ip_local_port_range=%d %d", 1024+4*portsOfAPath, 65535),
	)
	s.Apply(b, objects)
	s.Start(
		b, "n1", "kube-proxy", nil, s.Kube(), "kube-proxy", "--kubeconfig="+s.Kubeconfig(), "--proxy-mode=nftables",
		"--hostname-override=n1", "--cluster-cidr=10.244.0.0/16", "--nodeport-addresses=primary",
		"--healthz-bind-address=127.0.0.1:10256", "--metrics-bind-address=127.0.0.1:10249",
		"--conntrack-max-per-core=0", "--conntrack-min=0",
	)
	// It ends when it cannot renew its lease in time, which may happen on a busy machine; a kubelet
	// would restart it.
	s.Start(b, cluster.Host, "controller", nil, "sh", "-c", `while :; do "$@"; sleep 1; done`, "sh",
		filepath.Join(filepath.Dir(s.Kube()), "berth"), "controller", "--kubeconfig="+s.Kubeconfig(), "--listen=")
	s.Speaker(b, "n1", "--ipvs")
	for i, v := range variants {
		for j, plane := range []string{byIPVS, byKubeProxy} {
			name, address := plane+"-"+v.name, fmt.Sprintf("172.30.0.2%d%d", j, i)
			if err := s.create(
				b.Context(), name, v.policy, s.ready[v.node], fmt.Sprint("n", v.node),
				map[string]string{v1alpha1.AnnotationAddresses: address},
			); err != nil {
				b.Fatal(err)
			}
			answers(b, address, v.client)
			s.address[name] = address
		}
	}
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

// create makes a Service and its endpoints.
func (s *site) create(
	ctx context.Context,
	name string,
	policy corev1.ServiceExternalTrafficPolicy,
	pods []string,
	node string,
	annotations map[string]string,
) error {
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations}}
	service.Spec = corev1.ServiceSpec{
		Type:                          corev1.ServiceTypeLoadBalancer,
		ExternalTrafficPolicy:         policy,
		AllocateLoadBalancerNodePorts: new(bool),
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for port, protocol := range map[int32]corev1.Protocol{
		connectPort: corev1.ProtocolTCP, bulkPort: corev1.ProtocolTCP, datagramPort: corev1.ProtocolUDP,
		linePort: corev1.ProtocolTCP,
	} {
		title := fmt.Sprint("p", port)
		service.Spec.Ports = append(service.Spec.Ports, corev1.ServicePort{Name: title, Port: port, Protocol: protocol})
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &title, Port: &port, Protocol: &protocol})
	}
	ready := true
	for _, pod := range pods {
		slice.Endpoints = append(
			slice.Endpoints,
			discoveryv1.Endpoint{
				Addresses:  []string{pod},
				NodeName:   &node,
				Conditions: discoveryv1.EndpointConditions{Ready: &ready},
			},
		)
	}
	_, err := s.Kubernetes.CoreV1().Services(metav1.NamespaceDefault).Create(ctx, service, metav1.CreateOptions{})
	if err == nil {
		_, err = s.Kubernetes.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Create(ctx, slice, metav1.CreateOptions{})
	}
	return err
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
				return s.create(
					ctx, name, corev1.ServiceExternalTrafficPolicyCluster, s.ready[1], "n1",
					map[string]string{v1alpha1.AnnotationPools: plane + "-others"},
				)
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
			if strings.HasPrefix(line, "TCP") || strings.HasPrefix(line, "UDP") { // those by mark are of policy Local besides
				n++
			}
		}
		if n != want {
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
