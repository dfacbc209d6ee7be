//go:build qemu

package life_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/e2e/vm/cluster"
)

// The router has the segment on one side and a client on the other.
const (
	router, far  = "router", "far"
	routerOnRack = "172.30.0.50"
	farIPv4      = "198.18.0.2"
	routed       = "192.0.2.1" // of IPVS
	plain        = "198.51.100.1"
)

// routedTo shows that IPVS forwards what a router sends.
func (l *life) routedTo(t, _ *testing.T) {
	l.startRouter(t)
	l.Apply(t, announced)
	defer l.Kubectl(t, announced, "delete", "-f", "-")
	l.awaitRoute(t, plain)
	l.awaitModeOf(t, "routed", corev1.LoadBalancerIPModeProxy)
	l.awaitRoute(t, routed)
	_, before := l.servers(t)
	cluster.Eventually(t, func(context.Context) error {
		conn, err := cluster.Dial(far, "tcp", routed, port)
		if err != nil {
			return err
		}
		defer conn.Close()
		answer, err := cluster.Say(conn)
		if err != nil {
			return err
		}
		if answer.ClientAddress().String() != farIPv4 {
			return fmt.Errorf("%s saw %s, want the client", answer.Pod, answer.Client)
		}
		if l.since(t, before)["TCP "+routed+":7000"] <= 0 { // by counters that lag by 2 s
			return fmt.Errorf("IPVS has counted no connection since %v", before)
		}
		return nil
	})
}

// startRouter starts FRR between the segment and the far client.
func (l *life) startRouter(t *testing.T) {
	t.Helper()
	for _, line := range []string{
		"ip netns add " + router, "ip netns add " + far,
		"ip link add eth0 netns " + router + " type veth peer name " + router, "ip link set " + router + " master rack up",
		"ip link add eth1 netns " + router + " type veth peer name eth0 netns " + far,
		"ip -n " + router + " link set lo up", "ip -n " + router + " link set eth0 up",
		"ip -n " + router + " link set eth1 up",
		"ip -n " + router + " addr add " + routerOnRack + "/24 dev eth0",
		"ip -n " + router + " addr add 198.18.0.1/24 dev eth1",
		"ip -n " + far + " link set eth0 up", "ip -n " + far + " addr add " + farIPv4 + "/24 dev eth0",
		"ip -n " + far + " route add default via 198.18.0.1",
		"ip netns exec " + router + " sysctl -qw net.ipv4.ip_forward=1",
		"ip -n " + l.node.Name + " route add 198.18.0.0/24 via " + routerOnRack,
	} {
		f := strings.Fields(line)
		cluster.Run(t, cluster.Host, f[0], f[1:]...)
	}
	dir, err := os.MkdirTemp("", "frr-") //nolint:usetesting // a short name, for sockets are in it
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	// FRR wants its groups to exist.
	groups := write("group", "root:x:0:\nfrr:x:999:root\nfrrvty:x:998:root\n")
	if err := syscall.Mount(groups, "/etc/group", "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	write("zebra.conf", "")
	write("bgpd.conf", `
router bgp 64513
 bgp router-id `+routerOnRack+`
 no bgp ebgp-requires-policy
 neighbor `+l.node.IPv4+` remote-as 64512
 neighbor `+l.node.IPv4+` timers 1 3
 neighbor `+l.node.IPv4+` timers connect 1
`)
	t.Cleanup(func() {
		if err := syscall.Unmount("/etc/group", syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
		for _, line := range []string{
			"ip link del " + router, "ip netns del " + router, "ip netns del " + far,
			"ip -n " + l.node.Name + " route del 198.18.0.0/24",
		} {
			f := strings.Fields(line)
			cluster.Run(t, cluster.Host, f[0], f[1:]...)
		}
		_ = os.RemoveAll(dir) // the guest ends soon
	})
	for _, name := range []string{"zebra", "bgpd"} {
		l.Start(
			t, router, name, nil, "/usr/lib/frr/"+name, "-u", "root", "-g", "root", "-A", "127.0.0.1", "-f",
			filepath.Join(dir, name+".conf"), "-i", filepath.Join(dir, name+".pid"), "-z",
			filepath.Join(dir, "zserv.api"), "--vty_socket", dir, "--log", "stdout",
		)
	}
}

// routes are those that the router's kernel has by BGP.
func (l *life) routes(t *testing.T) string {
	t.Helper()
	return cluster.Run(t, router, "ip", "route", "show", "proto", "bgp")
}

func (l *life) awaitRoute(t *testing.T, to string) {
	t.Helper()
	cluster.Eventually(t, func(context.Context) error {
		found := l.routes(t)
		for line := range strings.Lines(found) {
			if strings.HasPrefix(line, to+" ") && strings.Contains(line, " via "+l.node.IPv4+" ") {
				return nil
			}
		}
		return fmt.Errorf("the router has no route to %s: %q", to, found)
	})
}

// announced are two addresses for the router, that of a Service of IPVS and that of one of
// kube-proxy.
var announced = `
apiVersion: berth.dev/v1alpha1
kind: BGPNeighbor
metadata: {name: router}
spec: {localASN: 64512, remoteASN: 64513, address: 172.30.0.50, nodeSelector: {}}
---
apiVersion: berth.dev/v1alpha1
kind: RouteAnnouncement
metadata: {name: router}
spec: {poolNames: [routed, plain], neighborSelector: {}, nodeSelector: {}, serviceSelector: {}}
---
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: routed}
spec: {addresses: [192.0.2.1], dataplane: IPVS, allocation: OnRequest, scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: plain}
spec: {addresses: [198.51.100.1], allocation: OnRequest, scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
` + single("routed", routed) + single("plain", plain)

func single(name, address string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {name: %[1]s, annotations: {berth.dev/load-balancer-ips: "%[2]s"}}
spec:
  type: LoadBalancer
  allocateLoadBalancerNodePorts: false
  externalTrafficPolicy: Local
  ports: [{name: tcp, port: 7000}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s4, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
ports: [{name: tcp, port: 7000}]
endpoints: [{addresses: [10.244.1.1], nodeName: n1}]
`, name, address)
}
