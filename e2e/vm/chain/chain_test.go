//go:build qemu

// Package chain_test tests the whole of Berth's own data plane, on a kernel that has IPVS and
// nftables: a Service object, the controller, the speaker, ARP, IPVS, a pod, and the client's
// answer. The API server is real and runs in the same guest: see package cluster.
//
//	BERTH_VM_KIND=qemu go test -tags qemu -exec .cache/bin/vm-exec ./vm/chain
package chain_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cloudflare/ipvs"

	"github.com/berth-lb/berth/e2e/vm/cluster"
)

const address = "172.30.0.200"

func TestAServiceIsServedByIPVSFromObjectToAnswer(t *testing.T) {
	c := cluster.New(t)
	n1 := c.AddNode(t, 1)
	c.AddPod(t, n1)
	c.AddPod(t, n1)
	c.Apply(t, objects)
	// Something that listens on all addresses of the node, as many of its own services do.
	host, err := cluster.In(n1.Name, func() (net.Listener, error) { return net.Listen("tcp", ":9999") })
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	go func() { _ = http.Serve(host, http.NotFoundHandler()) }() // ends with the listener
	c.Controller(t)
	c.Speaker(t, n1.Name, "--ipvs", "--kube-proxy-mode=")

	// The node can forward, so the status tells kube-proxy to leave the address alone.
	cluster.Eventually(t, func(context.Context) error {
		out := c.Kubectl(t, "", "get", "service", "web", "-o", "jsonpath={.status.loadBalancer.ingress[0].ip} {.status.loadBalancer.ingress[0].ipMode}")
		if out != address+" Proxy" {
			return fmt.Errorf("the Service's address and mode are %q", out)
		}
		return nil
	})
	// Answers come from both pods, which see the node as their client under policy Cluster.
	masqueraded(t, cluster.Client, address, n1)
	// The client has learned the node's MAC address, and no interface has the address.
	if got, want := cluster.Neighbor(t, address), n1.MAC(t); got != want {
		t.Errorf("the client's neighbor is %s, want %s", got, want)
	}
	if held := cluster.Run(t, n1.Name, "ip", "-o", "addr", "show", "to", address); held != "" {
		t.Errorf("an interface holds the address: %s", held)
	}
	// A port that no Service exposes does not lead to the node's listener, which answers on the node's
	// own address.
	if err := reach(n1.IPv4, 9999); err != nil {
		t.Errorf("the node's listener on its own address: %v", err)
	}
	if err := reach(address, 9999); err == nil {
		t.Error("a port that no Service exposes reached the node's listener")
	}

	// Policy Local keeps the client's address.
	c.Kubectl(t, "", "patch", "service", "web", "-p", `{"spec":{"externalTrafficPolicy":"Local"}}`)
	cluster.Eventually(t, func(ctx context.Context) error {
		answer, err := cluster.Ask(ctx, cluster.Client, address, 80)
		if err == nil && answer.ClientAddress().String() != cluster.ClientIPv4 {
			err = fmt.Errorf("%s saw %s, want the client", answer.Pod, answer.Client)
		}
		return err
	})
	// The node's own pods and processes are masqueraded: a pod that is sent to itself would not know
	// its own answer.
	for _, from := range []string{"pod-1-1", n1.Name} {
		masqueraded(t, from, address, n1)
	}
	// Only permitted clients can connect.
	c.Kubectl(t, "", "patch", "service", "web", "-p", `{"spec":{"loadBalancerSourceRanges":["10.0.0.0/8"]}}`)
	cluster.Eventually(t, func(ctx context.Context) error {
		if _, err := cluster.Ask(ctx, cluster.Client, address, 80); err == nil {
			return errors.New("a client outside of the source ranges has an answer")
		}
		return nil
	})
	c.Kubectl(t, "", "patch", "service", "web", "--type=json", "-p", `[{"op":"remove","path":"/spec/loadBalancerSourceRanges"}]`)
	answered(t)

	// An endpoint that is gone has its connections reset.
	established := connect(t, "tcp", line, "")
	c.Kubectl(t, "", "delete", "endpointslice", "web-1")
	reset(t, established)
	c.Apply(t, endpoints)
	answered(t)

	draining(t, c)
	deadNode(t, c)

	// Somebody empties IPVS, as kube-proxy does when it starts: connections outlive it.
	established = connect(t, "tcp", line, "")
	if _, err := cluster.In(n1.Name, func() (struct{}, error) { return struct{}{}, flush() }); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := saidBy(established, ""); err != nil {
			t.Errorf("a connection when IPVS was emptied: %v", err)
		}
	}
	answered(t)
	// Somebody empties the kernel's other tables.
	cluster.Run(t, n1.Name, "ip", "route", "flush", "table", "48679")
	cluster.Run(t, n1.Name, "nft", "delete", "table", "inet", "berth-ipvs")
	cluster.Eventually(t, func(context.Context) error {
		out, err := exec.Command(
			"ip", "netns", "exec", n1.Name, "nft", "list", "table", "inet", "berth-ipvs",
		).CombinedOutput()
		if err == nil && !strings.Contains(string(out), address) {
			err = errors.New("the rules do not have the address")
		}
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
	answered(t)

	// When the Service is deleted, its address and everything in the kernel are removed.
	c.Kubectl(t, "", "delete", "service", "web")
	cluster.Eventually(t, func(context.Context) error {
		if table := cluster.Run(t, n1.Name, "cat", "/proc/net/ip_vs"); strings.Contains(table, "TCP ") {
			return fmt.Errorf("virtual servers are left: %s", table)
		}
		return nil
	})
	if err := reach(address, 80); err == nil {
		t.Error("the address of a deleted Service answers")
	}
}

// flush deletes all virtual servers.
func flush() error {
	c, err := ipvs.New()
	if err != nil {
		return err
	}
	all, err := c.Services()
	for _, s := range all {
		err = errors.Join(err, c.RemoveService(s.Service))
	}
	return err
}

// answered waits for an answer to the client.
func answered(t *testing.T) {
	t.Helper()
	cluster.Eventually(
		t,
		func(ctx context.Context) error { _, err := cluster.Ask(ctx, cluster.Client, address, 80); return err },
	)
}

// draining has an endpoint terminate: it keeps its connections until drainTimeout, and no longer.
func draining(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	const one, other = "10.244.1.1:", "10.244.1.2:"
	terminating := strings.Replace(endpoints, "ready: true", "ready: false, serving: true, terminating: true", 1)
	over := func(connection, flow net.Conn) {
		t.Helper()
		reset(t, connection)
		cluster.Eventually(t, func(context.Context) error { return saidBy(flow, other) })
	}
	c.Kubectl(t, "", "patch", "service", "web", "-p", `{"spec":{"externalTrafficPolicy":"Cluster"}}`)
	connection, flow := connect(t, "tcp", line, one), connect(t, "udp", datagrams, one)
	c.Apply(t, terminating)
	cluster.Eventually(t, func(ctx context.Context) error {
		for range 4 {
			answer, err := cluster.Ask(ctx, cluster.Client, address, 80)
			if err != nil {
				return err
			}
			if !strings.HasPrefix(answer.Address, other) {
				return fmt.Errorf("a new connection went to %s", answer.Address)
			}
		}
		return nil
	})
	for _, conn := range []net.Conn{connection, flow} {
		if err := saidBy(conn, one); err != nil {
			t.Errorf("while its endpoint terminates: %v", err)
		}
	}
	// A new limit also applies to endpoints that are already draining.
	c.Kubectl(t, "", "patch", "loadbalancerpool", "ours", "--type=merge", "-p", `{"spec":{"ipvs":{"drainTimeout":"1s"}}}`)
	over(connection, flow)
	// Nothing but time ends these.
	c.Apply(t, endpoints)
	connection, flow = connect(t, "tcp", line, one), connect(t, "udp", datagrams, one)
	c.Apply(t, terminating)
	over(connection, flow)
	c.Apply(t, endpoints)
}

// Ports that answer each line, and each datagram.
const line, datagrams = 7000, 7001

// connect connects the client to the endpoint whose address begins so.
func connect(t *testing.T, network string, port int, endpoint string) net.Conn {
	t.Helper()
	var conn net.Conn
	cluster.Eventually(t, func(context.Context) error {
		var err error
		if conn, err = cluster.Dial(cluster.Client, network, address, port); err != nil {
			return err
		}
		if err = saidBy(conn, endpoint); err != nil {
			conn.Close()
		}
		return err
	})
	t.Cleanup(func() { conn.Close() })
	return conn
}

// saidBy says a line, or sends it as a datagram, and expects the answer of an endpoint whose
// address begins so.
func saidBy(conn net.Conn, endpoint string) error {
	answer, err := cluster.Say(conn)
	if err == nil && !strings.HasPrefix(answer.Address, endpoint) {
		err = fmt.Errorf("%s answered, want %s", answer.Address, endpoint)
	}
	return err
}

// reset waits until the connection is reset.
func reset(t *testing.T, conn net.Conn) {
	t.Helper()
	cluster.Eventually(t, func(context.Context) error {
		switch _, err := cluster.Say(conn); {
		case err == nil:
			return errors.New("it is answered still")
		case !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE):
			return err
		}
		return nil
	})
}

// deadNode adds a node, stops its speaker, and then removes the node: only the latter ends new
// connections to its pod.
func deadNode(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	n2 := c.AddNode(t, 2)
	pod := c.AddPod(t, n2)
	c.Apply(t, strings.NewReplacer("web-1", "web-2", "nodeName: n1", "nodeName: n2", "10.244.1.1", pod.IPv4,
		"  - {addresses: [10.244.1.2], nodeName: n1, conditions: {ready: true}}\n", "").Replace(endpoints))
	c.Kubectl(t, "", "patch", "service", "web", "-p", `{"spec":{"externalTrafficPolicy":"Cluster"}}`)
	speaker := c.Speaker(t, n2.Name)
	c.AwaitLog(t, "speaker-n1", `"node":"n2","state":"ready"`)
	weight := func(want string) {
		t.Helper()
		cluster.Eventually(t, func(context.Context) error {
			for line := range strings.Lines(cluster.Run(t, "n1", "cat", "/proc/net/ip_vs")) {
				// -> address:port forward weight active inactive, in hexadecimal
				if f := strings.Fields(line); len(f) > 3 && f[1] == "0AF40201:1F90" {
					if f[3] != want {
						return fmt.Errorf("the endpoint of n2 has weight %s, want %s", f[3], want)
					}
					return nil
				}
			}
			return errors.New("the endpoint of n2 is no real server")
		})
	}
	weight("1")
	byPod := func() {
		t.Helper()
		cluster.Eventually(t, func(ctx context.Context) error {
			answer, err := cluster.Ask(ctx, cluster.Client, address, 80)
			if err == nil && answer.Pod != pod.Name {
				err = fmt.Errorf("%s answered", answer.Pod)
			}
			return err
		})
	}
	byPod()

	if err := speaker.Kill(); err != nil {
		t.Fatal(err)
	}
	c.AwaitLog(t, "speaker-n1", `"msg":"peer down","driver":"l2","interface":"eth0","node":"n2"`)
	byPod()
	weight("1")

	begun := time.Now()
	n2.Cut(t)
	weight("0")
	t.Logf("%s after the other node was gone its endpoint gets no new connections", time.Since(begun))
	n2.Connect(t)
	weight("1")
	c.Kubectl(t, "", "delete", "endpointslice", "web-2")
}

// objects are the configuration, a Service without a selector and its endpoints.
const objects = `
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: ours}
spec: {addresses: [172.30.0.200-172.30.0.210], dataplane: IPVS, scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: SegmentAnnouncement
metadata: {name: ours}
spec: {poolNames: [ours], nodeSelector: {}, serviceSelector: {}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  allocateLoadBalancerNodePorts: false
  ports: [{name: http, port: 80}, {name: line, port: 7000}, {name: datagrams, port: 7001, protocol: UDP}]
---
` + endpoints

const endpoints = `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: line, port: 7000}, {name: datagrams, port: 7000, protocol: UDP}]
endpoints:
  - {addresses: [10.244.1.1], nodeName: n1, conditions: {ready: true}}
  - {addresses: [10.244.1.2], nodeName: n1, conditions: {ready: true}}
`

// reach returns nil if something answers the client over HTTP, whatever it says.
func reach(address string, port int) error {
	out, err := exec.Command(
		"ip",
		"netns",
		"exec",
		cluster.Client,
		"curl",
		"-sS",
		"--max-time",
		"3",
		fmt.Sprintf("http://%s:%d/", address, port),
	).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// masqueraded waits until both pods have answered a client in a namespace, and checks that they see
// the node as their client.
func masqueraded(t *testing.T, from, address string, n *cluster.Node) {
	t.Helper()
	seen := map[string]bool{}
	cluster.Eventually(t, func(ctx context.Context) error {
		answer, err := cluster.Ask(ctx, from, address, 80)
		if err != nil {
			return err
		}
		seen[answer.Pod] = true
		if got := answer.ClientAddress().String(); got != n.Gateway4() {
			return fmt.Errorf("%s saw %s, want the node", answer.Pod, got)
		}
		if len(seen) < 2 {
			return fmt.Errorf("only %v answered %s", seen, from)
		}
		return nil
	})
}
