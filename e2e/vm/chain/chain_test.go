//go:build qemu

// Package chain_test goes once through all of Berth's own data plane, on a kernel that has IPVS and nftables: a Service
// object, the controller, the speaker, ARP, IPVS, a pod, and the client's answer. The API server is real and runs in the same
// guest; one node is the guest's own network namespace, another one, the client and the pods have one each.
//
//	BERTH_VM_KIND=qemu go test -tags qemu -exec .cache/bin/vm-exec ./vm/chain
package chain_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"github.com/berth-lb/berth/e2e/stage"
	"github.com/berth-lb/berth/e2e/stock"
)

// patience is for steps on a machine that is emulated.
const patience = 4 * time.Minute

// cluster is an API server, and the node.
type cluster struct {
	folder     stock.Folder
	dir        string
	kubeconfig string
}

func TestAServiceIsServedByIPVSFromObjectToAnswer(t *testing.T) {
	c := begin(t)
	c.apply(t, objects)
	c.status(t, "node", "n1", `{"status":{"addresses":[{"type":"InternalIP","address":"172.30.0.11"},{"type":"InternalIP","address":"fd00:30::11"}],
		"conditions":[{"type":"Ready","status":"True","reason":"Test","lastHeartbeatTime":null,"lastTransitionTime":null}]}}`)
	for i, pod := range []string{"web-1", "web-2"} {
		c.start(t, pod, []string{"POD_NAME=" + pod}, "ip", "netns", "exec", "pods", c.folder.Bin("echo"),
			fmt.Sprintf("-http=10.244.1.%d:8080", i+1), fmt.Sprintf("-tcp=10.244.1.%d:7000", i+1), fmt.Sprintf("-udp=:700%d", i+1))
	}
	// Something that listens on all addresses of the node, as many of its own services do.
	host, err := net.Listen("tcp", ":9999")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	go func() { _ = http.Serve(host, http.NotFoundHandler()) }() // ends with the listener
	c.start(t, "controller", nil, c.folder.Bin("berth"), "controller", "--kubeconfig="+c.kubeconfig, "--listen=")
	c.start(t, "speaker", nil, c.folder.Bin("berth"), "speaker", "--kubeconfig="+c.kubeconfig, "--listen=", "--node=n1",
		"--ipvs", "--kube-proxy-healthz=", "--kube-proxy-mode=")

	// The node can, so the status says that kube-proxy is to leave the address alone.
	c.eventually(t, func() error {
		out := c.kubectl(t, "", "get", "service", "web", "-o", "jsonpath={.status.loadBalancer.ingress[0].ip} {.status.loadBalancer.ingress[0].ipMode}")
		if out != "172.30.0.200 Proxy" {
			return fmt.Errorf("the Service's address and mode are %q", out)
		}
		return nil
	})
	// Answers come from both pods, which see the node as their client under policy Cluster.
	seen := map[string]bool{}
	c.eventually(t, func() error {
		answer, err := ask("172.30.0.200", 80)
		if err != nil {
			return err
		}
		seen[answer.Pod] = true
		if host, _, _ := net.SplitHostPort(answer.Client); host != "10.244.1.254" {
			return fmt.Errorf("%s saw %s, want the node", answer.Pod, answer.Client)
		}
		if len(seen) < 2 {
			return fmt.Errorf("only %v answered", seen)
		}
		return nil
	})
	// It is the node's MAC that the client was told, and the kernel holds the address on no interface.
	mac := strings.TrimSpace(run(t, "cat", "/sys/class/net/eth0/address"))
	if neighbour := run(t, "ip", "-n", "client", "neigh", "show", "172.30.0.200"); !strings.Contains(neighbour, mac) {
		t.Errorf("the client's neighbour entry is %q, want %s", neighbour, mac)
	}
	if held := run(t, "ip", "-o", "addr", "show", "to", "172.30.0.200"); held != "" {
		t.Errorf("an interface holds the address: %s", held)
	}
	// A port that no Service exposes does not reach the listener of the node, though that answers on the node's own.
	if err := reach("172.30.0.11", 9999); err != nil {
		t.Errorf("the node's listener on its own address: %v", err)
	}
	if err := reach("172.30.0.200", 9999); err == nil {
		t.Error("a port that no Service exposes reached the node's listener")
	}

	// Policy Local keeps the client's address.
	c.kubectl(t, "", "patch", "service", "web", "-p", `{"spec":{"externalTrafficPolicy":"Local"}}`)
	c.eventually(t, func() error {
		answer, err := ask("172.30.0.200", 80)
		if err != nil {
			return err
		}
		if host, _, _ := net.SplitHostPort(answer.Client); host != "172.30.0.100" {
			return fmt.Errorf("%s saw %s, want the client", answer.Pod, answer.Client)
		}
		return nil
	})
	// Only who may connect is let in.
	c.kubectl(t, "", "patch", "service", "web", "-p", `{"spec":{"loadBalancerSourceRanges":["10.0.0.0/8"]}}`)
	c.eventually(t, func() error {
		if _, err := ask("172.30.0.200", 80); err == nil {
			return errors.New("a client outside of the source ranges has an answer")
		}
		return nil
	})
	c.kubectl(t, "", "patch", "service", "web", "--type=json", "-p", `[{"op":"remove","path":"/spec/loadBalancerSourceRanges"}]`)
	c.eventually(t, func() error { _, err := ask("172.30.0.200", 80); return err })

	// An endpoint that is gone has its connections reset.
	established := c.connect(t, "tcp", line, "")
	c.kubectl(t, "", "delete", "endpointslice", "web-1")
	c.reset(t, established)
	c.apply(t, endpoints)
	c.eventually(t, func() error { _, err := ask("172.30.0.200", 80); return err })

	c.draining(t)
	c.deadNode(t)

	// Somebody empties the kernel's tables.
	run(t, "ip", "route", "flush", "table", "48679")
	run(t, "nft", "delete", "table", "inet", "berth-ipvs")
	c.eventually(t, func() error {
		out, err := exec.Command("nft", "list", "table", "inet", "berth-ipvs").CombinedOutput()
		if err == nil && !strings.Contains(string(out), "172.30.0.200") {
			err = errors.New("the rules do not have the address")
		}
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
	c.eventually(t, func() error { _, err := ask("172.30.0.200", 80); return err })

	// The address goes with the Service, and with it all in the kernel.
	c.kubectl(t, "", "delete", "service", "web")
	c.eventually(t, func() error {
		if table := run(t, "cat", "/proc/net/ip_vs"); strings.Contains(table, "TCP ") {
			return fmt.Errorf("virtual servers are left: %s", table)
		}
		return nil
	})
	if _, err := ask("172.30.0.200", 80); err == nil {
		t.Error("the address of a deleted Service answers")
	}
}

// draining has an endpoint terminate: it keeps its connections until drainTimeout, and no longer.
func (c *cluster) draining(t *testing.T) {
	t.Helper()
	const one, other = "10.244.1.1:", "10.244.1.2:"
	terminating := strings.Replace(endpoints, "ready: true", "ready: false, serving: true, terminating: true", 1)
	over := func(connection, flow net.Conn) {
		t.Helper()
		c.reset(t, connection)
		c.eventually(t, func() error { return answered(flow, other) })
	}
	c.kubectl(t, "", "patch", "service", "web", "-p", `{"spec":{"externalTrafficPolicy":"Cluster"}}`)
	connection, flow := c.connect(t, "tcp", line, one), c.connect(t, "udp", datagrams, one)
	c.apply(t, terminating)
	c.eventually(t, func() error {
		for range 4 {
			answer, err := ask("172.30.0.200", 80)
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
		if err := answered(conn, one); err != nil {
			t.Errorf("while its endpoint terminates: %v", err)
		}
	}
	// Those that drain already heed a new limit.
	c.kubectl(t, "", "patch", "ippool", "ours", "--type=merge", "-p", `{"spec":{"ipvs":{"drainTimeout":"1s"}}}`)
	over(connection, flow)
	// Nothing but time ends these.
	c.apply(t, endpoints)
	connection, flow = c.connect(t, "tcp", line, one), c.connect(t, "udp", datagrams, one)
	c.apply(t, terminating)
	over(connection, flow)
	c.apply(t, endpoints)
}

// Ports that answer each line, and each datagram.
const line, datagrams = "172.30.0.200:7000", "172.30.0.200:7001"

// connect connects the client to the endpoint whose address begins so.
func (c *cluster) connect(t *testing.T, network, address, endpoint string) net.Conn {
	t.Helper()
	var conn net.Conn
	c.eventually(t, func() error {
		var err error
		if conn, err = dial(network, address); err != nil {
			return err
		}
		if err = answered(conn, endpoint); err != nil {
			conn.Close()
		}
		return err
	})
	t.Cleanup(func() { conn.Close() })
	return conn
}

// reset waits until the connection is.
func (c *cluster) reset(t *testing.T, conn net.Conn) {
	t.Helper()
	c.eventually(t, func() error {
		switch err := answered(conn, ""); {
		case err == nil:
			return errors.New("it is answered still")
		case !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE):
			return err
		}
		return nil
	})
}

// deadNode has another node join, stops its speaker, and then takes the node away: only that ends new connections to its pod.
func (c *cluster) deadNode(t *testing.T) {
	t.Helper()
	c.apply(t, "apiVersion: v1\nkind: Node\nmetadata: {name: n2}\n")
	c.status(t, "node", "n2", `{"status":{"addresses":[{"type":"InternalIP","address":"172.30.0.12"}],
		"conditions":[{"type":"Ready","status":"True","reason":"Test","lastHeartbeatTime":null,"lastTransitionTime":null}]}}`)
	c.start(t, "web-3", []string{"POD_NAME=web-3"}, "ip", "netns", "exec", "pods2", c.folder.Bin("echo"), "-http=10.244.2.1:8080")
	c.apply(t, strings.NewReplacer("web-1", "web-2", "nodeName: n1", "nodeName: n2", "10.244.1.1", "10.244.2.1", "  - {addresses: [10.244.1.2], nodeName: n1, conditions: {ready: true}}\n", "").Replace(endpoints))
	c.kubectl(t, "", "patch", "service", "web", "-p", `{"spec":{"externalTrafficPolicy":"Cluster"}}`)
	speaker := c.start(t, "speaker-2", nil, "ip", "netns", "exec", "n2", c.folder.Bin("berth"), "speaker", "--kubeconfig="+c.kubeconfig, "--listen=", "--node=n2",
		"--kube-proxy-healthz=")
	c.logged(t, "speaker", `"node":"n2","state":"ready"`)
	weight := func(want string) {
		t.Helper()
		c.eventually(t, func() error {
			for line := range strings.Lines(run(t, "cat", "/proc/net/ip_vs")) {
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
	answered := func() {
		t.Helper()
		c.eventually(t, func() error {
			answer, err := ask("172.30.0.200", 80)
			if err == nil && answer.Pod != "web-3" {
				err = fmt.Errorf("%s answered", answer.Pod)
			}
			return err
		})
	}
	answered()

	if err := speaker.Kill(); err != nil {
		t.Fatal(err)
	}
	c.logged(t, "speaker", `"msg":"peer down","driver":"l2","interface":"eth0","node":"n2"`)
	answered()
	weight("1")

	begun := time.Now()
	run(t, "ip", "-n", "n2", "link", "set", "eth0", "down")
	weight("0")
	t.Logf("%s after the other node was gone its endpoint gets no new connections", time.Since(begun))
	run(t, "ip", "-n", "n2", "link", "set", "eth0", "up")
	run(t, "ip", "-n", "n2", "route", "replace", "10.244.1.0/24", "via", "172.30.0.11")
	weight("1")
	c.kubectl(t, "", "delete", "endpointslice", "web-2")
}

// logged waits until a program's log has the text.
func (c *cluster) logged(t *testing.T, name, text string) {
	t.Helper()
	c.eventually(t, func() error {
		log, err := os.ReadFile(filepath.Join(c.dir, name+".log"))
		if err == nil && !strings.Contains(string(log), text) {
			err = fmt.Errorf("the log of %s does not say %s", name, text)
		}
		return err
	})
}

// dial connects from the client.
func dial(network, address string) (net.Conn, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := netns.Get()
	if err != nil {
		return nil, err
	}
	defer here.Close()
	client, err := netns.GetFromName("client")
	if err != nil {
		return nil, err
	}
	defer client.Close()
	if err := netns.Set(client); err != nil {
		return nil, err
	}
	conn, err := net.DialTimeout(network, address, 10*time.Second)
	return conn, errors.Join(err, netns.Set(here))
}

// answered says a line, or sends it as a datagram, and waits for the answer of an endpoint whose address begins so.
func answered(conn net.Conn, endpoint string) error {
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("hello\n")); err != nil {
		return err
	}
	text, err := bufio.NewReader(conn).ReadBytes('\n')
	if err != nil {
		return err
	}
	var a answer
	if err := json.Unmarshal(text, &a); err != nil {
		return err
	}
	if !strings.HasPrefix(a.Address, endpoint) {
		return fmt.Errorf("%s answered, want %s", a.Address, endpoint)
	}
	return nil
}

// objects are the configuration, a Service without a selector and its endpoints.
const objects = `
apiVersion: v1
kind: Namespace
metadata: {name: berth-system}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: berth.dev/v1alpha1
kind: IPPool
metadata: {name: ours}
spec: {addresses: [172.30.0.200-172.30.0.210], dataplane: IPVS}
---
apiVersion: berth.dev/v1alpha1
kind: L2Advertisement
metadata: {name: ours}
spec: {pools: [ours]}
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
ports: [{name: http, port: 8080}, {name: line, port: 7000}, {name: datagrams, port: 7001, protocol: UDP}]
endpoints:
  - {addresses: [10.244.1.1], nodeName: n1, conditions: {ready: true}}
  - {addresses: [10.244.1.2], nodeName: n1, conditions: {ready: true}}
`

// begin starts etcd and the API server.
func begin(t *testing.T) *cluster {
	t.Helper()
	folder, err := stock.Find()
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{folder: folder, dir: t.TempDir()}
	run(t, "ip", "link", "set", "lo", "up")
	c.network(t)
	const token = "test"
	c.write(t, "tokens.csv", token+`,admin,admin,"system:masters"`+"\n")
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	c.write(t, "sa.key", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	c.kubeconfig = c.write(t, "kubeconfig", `
apiVersion: v1
kind: Config
current-context: it
contexts: [{name: it, context: {cluster: it, user: admin}}]
clusters: [{name: it, cluster: {server: "https://172.30.0.11:6443", insecure-skip-tls-verify: true}}]
users: [{name: admin, user: {token: `+token+`}}]
`)
	kube := folder.Bin("kube")
	c.start(t, "etcd", nil, kube, "etcd", "--dir", filepath.Join(c.dir, "etcd"), "--client", "127.0.0.1:2379", "--peer", "127.0.0.1:2380")
	c.start(t, "kube-apiserver", nil, kube, "kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--advertise-address=172.30.0.11",
		"--cert-dir="+filepath.Join(c.dir, "pki"), "--token-auth-file="+filepath.Join(c.dir, "tokens.csv"), "--authorization-mode=RBAC",
		"--service-cluster-ip-range=10.96.0.0/16", "--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+filepath.Join(c.dir, "sa.key"), "--service-account-signing-key-file="+filepath.Join(c.dir, "sa.key"))
	c.eventually(t, func() error {
		_, err := c.try("", "get", "--raw", "/readyz")
		return err
	})
	crds, err := filepath.Glob("../../../manifests/crds/*.yaml")
	if err != nil || len(crds) == 0 {
		t.Fatalf("CRDs: %v, %v", crds, err)
	}
	c.kubectl(t, "", "apply", "--server-side", "-f", "../../../manifests/crds")
	c.kubectl(t, "", "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
	return c
}

// network makes a segment with two nodes and a client, and pods behind each node.
func (c *cluster) network(t *testing.T) {
	t.Helper()
	for _, line := range []string{
		"netns add client", "netns add pods", "netns add n2", "netns add pods2",
		"-n client link add rack type bridge mcast_snooping 0", "-n client link set rack up",
		"link add eth0 type veth peer name n1 netns client", "-n client link set n1 master rack up",
		"-n n2 link add eth0 type veth peer name n2 netns client", "-n client link set n2 master rack up",
		"link add pods0 type veth peer name eth0 netns pods", "-n n2 link add pods0 type veth peer name eth0 netns pods2",
		"-n n2 addr add 172.30.0.12/24 dev eth0", "-n n2 link set eth0 up", "-n n2 link set lo up",
		"-n n2 addr add 10.244.2.254/24 dev pods0", "-n n2 link set pods0 up", "-n n2 route add 10.244.1.0/24 via 172.30.0.11",
		"-n pods2 addr add 10.244.2.1/24 dev eth0", "-n pods2 link set eth0 up", "-n pods2 link set lo up", "-n pods2 route add default via 10.244.2.254",
		"addr add 172.30.0.11/24 dev eth0", "addr add fd00:30::11/64 dev eth0 nodad", "link set eth0 up",
		"addr add 10.244.1.254/24 dev pods0", "link set pods0 up",
		"route add 10.244.2.0/24 via 172.30.0.12",
		"-n client addr add 172.30.0.100/24 dev rack", "-n client link set lo up",
		"-n pods addr add 10.244.1.1/24 dev eth0", "-n pods addr add 10.244.1.2/24 dev eth0", "-n pods link set eth0 up", "-n pods link set lo up",
		"-n pods route add default via 10.244.1.254",
	} {
		run(t, "ip", strings.Fields(line)...)
	}
	run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	run(t, "ip", "netns", "exec", "n2", "sysctl", "-qw", "net.ipv4.ip_forward=1")
}

// answer is what a pod says.
type answer = stage.Answer

// ask asks from the client.
func ask(address string, port int) (answer, error) {
	var a answer
	out, err := fromClient("curl", "-sS", "--max-time", "3", fmt.Sprintf("http://%s:%d/", address, port))
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(out, &a)
}

// reach returns nil if something answers the client over HTTP, whatever it says.
func reach(address string, port int) error {
	_, err := fromClient("curl", "-sS", "--max-time", "3", fmt.Sprintf("http://%s:%d/", address, port))
	return err
}

func fromClient(argv ...string) ([]byte, error) {
	cmd := exec.Command("ip", append([]string{"netns", "exec", "client"}, argv...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// start starts a program that lasts as long as the test. Its output is shown if that fails.
func (c *cluster) start(t *testing.T, name string, env []string, argv ...string) *os.Process {
	t.Helper()
	log, err := os.Create(filepath.Join(c.dir, name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		text, err := os.ReadFile(log.Name())
		if t.Failed() && err == nil {
			t.Logf("the end of the log of %s:\n%s", name, text[max(0, len(text)-4000):])
		}
	})
	return cmd.Process
}

func (c *cluster) write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(c.dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func (c *cluster) apply(t *testing.T, yaml string) {
	t.Helper()
	c.kubectl(t, yaml, "apply", "-f", "-")
}

// status writes a part of an object's status.
func (c *cluster) status(t *testing.T, kind, name, patch string) {
	t.Helper()
	c.kubectl(t, "", "patch", kind, name, "--subresource=status", "-p", patch)
}

func (c *cluster) kubectl(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := c.try(stdin, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (c *cluster) try(stdin string, args ...string) (string, error) {
	cmd := exec.Command(c.folder.Bin("kube"), append([]string{"kubectl", "--kubeconfig=" + c.kubeconfig, "--cache-dir=" + filepath.Join(c.dir, "cache")}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return string(out), nil
}

func (c *cluster) eventually(t *testing.T, condition func() error) {
	t.Helper()
	err := stage.Eventually(t.Context(), patience, func(context.Context) error { return condition() })
	if err != nil {
		t.Fatal(err)
	}
}
