//go:build qemu

// Package life_test tests the life of Berth's own data plane on a node: restarts, endpoints that
// change while it is down, handover to kube-proxy and back, and its removal. API server, kube-proxy
// and router are real and run in the same guest: see package cluster.
//
//	BERTH_VM_KIND=qemu go test -tags qemu -exec .cache/bin/vm-exec ./vm/life
package life_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	lib "github.com/cloudflare/ipvs"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/stage"
	"github.com/berth-lb/berth/e2e/vm/cluster"
)

// Addresses of the Services, of policy Cluster and Local; all of them are answered on port 7000 by
// TCP and UDP.
const (
	web4, web6   = "172.30.0.200", "fd00:30::200"
	near4, near6 = "172.30.0.201", "fd00:30::201"
	port         = 7000
)

var addresses = []string{web4, web6, near4, near6}

// life is a node with three pods, of which the Services have the first two, beside a kube-proxy in
// mode nftables.
type life struct {
	*cluster.Cluster
	node    *cluster.Node
	pods    []cluster.Pod
	proxy   *os.Process
	speaker *os.Process
}

func TestTheLifeOfADataPlane(t *testing.T) {
	l := &life{Cluster: cluster.New(t)}
	l.node = l.AddNode(t, 1)
	for range 3 {
		l.pods = append(l.pods, l.AddPod(t, l.node))
	}
	l.Apply(t, objects)
	l.install(t)
	l.Controller(t)
	l.proxy = l.startProxy(t, "nftables")
	// This test does not cover ARP and NDP.
	for _, a := range addresses {
		cluster.Run(
			t, cluster.Client, "ip", "neigh", "replace", a, "lladdr", l.node.MAC(t), "dev", "eth0", "nud", "permanent",
		)
	}
	l.awaitMode(t, corev1.LoadBalancerIPModeVIP) // there is no speaker
	l.answered(t)
	l.start(t, "--ipvs")
	l.awaitMode(t, corev1.LoadBalancerIPModeProxy)
	l.answered(t)
	l.awaitIPVS(t)
	parent := t
	for _, part := range []part{
		{"a restart breaks no connection", l.restarts, false},
		{"endpoints change while the speaker is away", l.endpointsChange, false},
		// before others have the node tell of what it lacks
		{"kube-proxy in mode ipvs comes first", l.besideIPVS, false},
		{"a router's packets are forwarded by IPVS", l.routedTo, false},
		{"kube-proxy takes over and hands back", l.switches, false},
		{"kube-proxy serves while sysctls cannot be written", l.failing, true},
		{"a speaker without --ipvs removes what one with it left", l.switchedOff, false},
		{"a node that the DaemonSet does not select any more is left", l.deselected, false},
		{"an uninstall leaves what is not ours", l.uninstalled, false},
		{"a kube-proxy that starts deletes all virtual servers", l.flushed, true},
	} {
		if part.long && !long {
			continue
		}
		if !t.Run(part.name, func(t *testing.T) { part.test(t, parent) }) {
			for _, name := range []string{"controller", "speaker-n1"} {
				text := l.Log(t, name)
				t.Logf("the log of %s then:\n%s", name, text[max(0, len(text)-2000):])
			}
		}
	}
}

type part struct {
	name string
	test func(t, parent *testing.T)
	long bool // it waits for a minute or more
}

// install creates the DaemonSet; as long as it exists, a speaker that is told to end is being
// replaced.
func (l *life) install(t *testing.T) {
	t.Helper()
	labels := map[string]string{"app": "berth-speaker"}
	set := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "berth-speaker"},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "speaker", Image: "berth"}}},
			},
		},
	}
	if _, err := l.Kubernetes.AppsV1().DaemonSets(stage.Namespace).Create(
		t.Context(), set, metav1.CreateOptions{},
	); err != nil {
		t.Fatal(err)
	}
}

func (l *life) uninstall(t *testing.T) {
	t.Helper()
	if err := l.Kubernetes.AppsV1().DaemonSets(stage.Namespace).Delete(
		t.Context(), "berth-speaker", metav1.DeleteOptions{},
	); err != nil {
		t.Fatal(err)
	}
}

// start starts the speaker, which lasts as long as t, and waits until it has taken over what the
// kernel has.
func (l *life) start(t *testing.T, args ...string) {
	t.Helper()
	const log, ready = "speaker-n1", `"msg":"speaker state changed","state":"Announcing"`
	before := 0
	if l.speaker != nil {
		before = strings.Count(l.Log(t, log), ready)
	}
	l.speaker = l.Speaker(t, l.node.Name, args...)
	cluster.Eventually(t, func(context.Context) error {
		if strings.Count(l.Log(t, log), ready) == before {
			return errors.New("the speaker is not ready")
		}
		return nil
	})
}

// stop sends the signal, and waits until the process has ended.
func stop(t *testing.T, p *os.Process, signal os.Signal) {
	t.Helper()
	if err := p.Signal(signal); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(); err != nil {
		t.Fatal(err)
	}
}

// startProxy starts kube-proxy, and waits until it says in which mode it runs.
func (l *life) startProxy(t *testing.T, mode string, env ...string) *os.Process {
	t.Helper()
	proxy := l.Start(t, l.node.Name, "kube-proxy", env, l.Kube(), "kube-proxy", "--kubeconfig="+l.Kubeconfig(),
		"--proxy-mode="+mode, "--hostname-override="+l.node.Name, "--cluster-cidr=10.244.0.0/16,fd00:244::/48",
		"--nodeport-addresses=primary", "--conntrack-max-per-core=0", "--conntrack-min=0")
	cluster.Eventually(t, func(ctx context.Context) error {
		said, err := cluster.Get(ctx, l.node.Name, "http://127.0.0.1:10249/proxyMode")
		if err == nil && said != mode {
			err = fmt.Errorf("kube-proxy runs in mode %q", said)
		}
		return err
	})
	return proxy
}

// awaitMode waits until the statuses of all Services have this mode.
func (l *life) awaitMode(t *testing.T, mode corev1.LoadBalancerIPMode) {
	t.Helper()
	l.awaitModeOf(t, "web", mode)
	l.awaitModeOf(t, "near", mode)
}

func (l *life) awaitModeOf(t *testing.T, name string, mode corev1.LoadBalancerIPMode) {
	t.Helper()
	cluster.Eventually(t, func(ctx context.Context) error {
		svc, err := l.Kubernetes.CoreV1().Services("default").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		ingress := svc.Status.LoadBalancer.Ingress
		if len(ingress) == 0 || ingress[0].IPMode == nil || *ingress[0].IPMode != mode {
			return fmt.Errorf("Service %s has %+v, want ipMode %s", name, ingress, mode)
		}
		return nil
	})
}

// answered waits until all addresses are answered.
func (l *life) answered(t *testing.T) {
	t.Helper()
	for _, a := range addresses {
		cluster.Eventually(t, func(context.Context) error { return ask(a) })
	}
}

// setDataplane changes the dataplane of the pool.
func (l *life) setDataplane(t *testing.T, to v1alpha1.Dataplane) {
	t.Helper()
	patch := fmt.Sprintf(`{"spec":{"dataplane":%q}}`, to)
	if _, err := l.Berth.LoadBalancerPools.Patch(
		t.Context(), "ours", types.MergePatchType, []byte(patch), metav1.PatchOptions{},
	); err != nil {
		t.Fatal(err)
	}
}

// setPods gives the Services endpoints.
func (l *life) setPods(t *testing.T, pods ...cluster.Pod) {
	t.Helper()
	for _, svc := range []string{"web", "near"} {
		for _, family := range []string{"4", "6"} {
			slices := l.Kubernetes.DiscoveryV1().EndpointSlices("default")
			slice, err := slices.Get(t.Context(), svc+family, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			slice.Endpoints = nil
			for _, p := range pods {
				address := p.IPv4
				if family == "6" {
					address = p.IPv6
				}
				slice.Endpoints = append(
					slice.Endpoints,
					discoveryv1.Endpoint{Addresses: []string{address}, NodeName: &l.node.Name},
				)
			}
			if _, err := slices.Update(t.Context(), slice, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// servers returns the virtual servers of the kernel with their real ones, and how many connections
// each had.
func (l *life) servers(t *testing.T) (real map[string][]string, connections map[string]uint64) {
	t.Helper()
	real, connections = map[string][]string{}, map[string]uint64{}
	if _, err := cluster.In(l.node.Name, func() (any, error) {
		c, err := lib.New()
		if err != nil {
			return nil, err
		}
		defer c.(interface{ Close() error }).Close()
		all, err := c.Services()
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for _, v := range all {
			if v.FWMark != 0 {
				continue
			}
			name := fmt.Sprintf("%s %s", v.Protocol, netip.AddrPortFrom(v.Address, v.Port))
			real[name], connections[name] = nil, v.Stats64.Connections
			servers, err := c.Destinations(v.Service)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, err
			}
			for _, s := range servers {
				real[name] = append(real[name], s.Address.String())
			}
			slices.Sort(real[name])
		}
		return nil, nil
	}); err != nil {
		t.Fatal(err)
	}
	return real, connections
}

// left returns what is Berth's in the node's kernel: virtual servers, rules, routes and tables of
// nftables.
func (l *life) left(t *testing.T) []string {
	t.Helper()
	real, _ := l.servers(t)
	found := slices.DeleteFunc(slices.Sorted(maps.Keys(real)), func(name string) bool {
		return !slices.ContainsFunc(addresses, func(a string) bool { return strings.Contains(name, a) })
	})
	grep := func(pattern string, argv ...string) {
		for line := range strings.Lines(cluster.Run(t, l.node.Name, argv[0], argv[1:]...)) {
			if strings.Contains(line, pattern) {
				found = append(found, strings.TrimSpace(line))
			}
		}
	}
	for _, family := range []string{"-4", "-6"} {
		grep("487:", "ip", family, "rule")
		grep("table 48679", "ip", family, "route", "show", "table", "all")
	}
	grep("berth-ipvs", "nft", "list", "tables")
	return found
}

func (l *life) awaitNothingLeft(t *testing.T) {
	t.Helper()
	cluster.Eventually(t, func(context.Context) error {
		if found := l.left(t); len(found) > 0 {
			return fmt.Errorf("in the kernel there are still %q", found)
		}
		return nil
	})
}

// endpointsChange removes the second pod and adds the third while no speaker runs.
func (l *life) endpointsChange(t, parent *testing.T) {
	before := []string{l.pods[0].IPv4, l.pods[1].IPv4}
	name := "TCP " + web4 + ":7000"
	if real, _ := l.servers(t); !slices.Equal(real[name], before) {
		t.Fatalf("the real servers are %v, want %v", real[name], before)
	}
	talks := l.talk(t, 4)
	stop(t, l.speaker, syscall.SIGKILL)
	l.setPods(t, l.pods[0], l.pods[2])
	l.start(parent, "--ipvs")
	cluster.Eventually(t, func(context.Context) error {
		if real, _ := l.servers(t); !slices.Equal(real[name], []string{l.pods[0].IPv4, l.pods[2].IPv4}) {
			return fmt.Errorf("the real servers are %v", real[name])
		}
		return nil
	})
	stayed, reset := 0, 0
	for _, talk := range talks {
		if talk.pod == l.pods[1].Name {
			if talk.network == "tcp" {
				reset++
				cluster.Eventually(t, func(context.Context) error { return talk.isBroken() })
			}
			continue
		}
		stayed++
	}
	for _, talk := range talks {
		if err := talk.end(); err != nil && talk.pod != l.pods[1].Name {
			t.Errorf("%s: %v", talk, err)
		}
	}
	if stayed == 0 || reset == 0 {
		t.Errorf("%d connections were with the endpoint that stayed, and %d with the one that is gone: nothing is shown", stayed, reset)
	}
	l.setPods(t, l.pods[0], l.pods[1])
	cluster.Eventually(t, func(context.Context) error {
		if real, _ := l.servers(t); !slices.Equal(real[name], before) {
			return fmt.Errorf("the real servers are %v", real[name])
		}
		return nil
	})
}

// objects are the configuration and Services without selectors.
var objects = `
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: ours}
spec: {addresses: [172.30.0.200-172.30.0.210, "fd00:30::200-fd00:30::210"], dataplane: IPVS, scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: SegmentAnnouncement
metadata: {name: ours}
spec: {poolNames: [ours], nodeSelector: {}, serviceSelector: {}}
` + service("web", "Cluster", web4, web6) + service("near", "Local", near4, near6)

func service(name, policy, ipv4, ipv6 string) string {
	text := fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {name: %[1]s, annotations: {berth.dev/load-balancer-ips: "%[3]s,%[4]s"}}
spec:
  type: LoadBalancer
  allocateLoadBalancerNodePorts: false
  externalTrafficPolicy: %[2]s
  ipFamilyPolicy: RequireDualStack
  ports: [{name: tcp, port: 7000}, {name: udp, port: 7000, protocol: UDP}]
`, name, policy, ipv4, ipv6)
	for family, prefix := range map[string]string{"4": "10.244.1.", "6": "fd00:244:1::"} {
		text += fmt.Sprintf(`---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s%[2]s, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv%[2]s
ports: [{name: tcp, port: 7000}, {name: udp, port: 7000, protocol: UDP}]
endpoints:
  - {addresses: ["%[3]s1"], nodeName: n1}
  - {addresses: ["%[3]s2"], nodeName: n1}
`, name, family, prefix)
	}
	return text
}
