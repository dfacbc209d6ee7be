//go:build root

package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/e2e/host"
)

const echoManifest = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo}
spec:
  replicas: 1
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      containers:
      - name: echo
        image: berth.dev/echo:1
        env:
        - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
        readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  clusterIP: 10.96.0.80
  selector: {app: echo}
  ports: [{port: 80, targetPort: 8080}]
`

// TestLabServesBreaksAndLeavesNothing goes once through a lab's life: bringing one up takes the
// longest, so the steps share it.
func TestLabServesBreaksAndLeavesNothing(t *testing.T) {
	ctx := t.Context()
	l, err := Up(ctx, Options{Name: "labtest", Nodes: 1, Router: "frr", Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if _, err := l.Kubectl(ctx, echoManifest, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Kubectl(ctx, "", "rollout", "status", "deployment/echo", "--timeout=60s"); err != nil {
		t.Fatal(err)
	}
	t.Run("a Service answers on its cluster address", func(t *testing.T) { servesClusterIP(t, l) })
	t.Run("a client in the test process sees the cluster", func(t *testing.T) { clientWorks(t, l) })
	t.Run("the command lab passes kubectl and exec all that is theirs", func(t *testing.T) { passesThrough(t, l) })
	t.Run("the router knows its neighbor", func(t *testing.T) { routerKnows(t, l) })
	t.Run("a cable can be cut and healed", func(t *testing.T) { cutAndHeal(t, l) })
	t.Run("two hosts can be kept apart", func(t *testing.T) { blockAndUnblock(t, l) })
	t.Run("one host can be kept from hearing another that hears it", func(t *testing.T) { blockOneWay(t, l) })
	t.Run("an interface can flap and change its hardware address", func(t *testing.T) { flapAndChangeMAC(t, l) })
	t.Run("a host can be out of reach for many reasons", func(t *testing.T) { loseAndRegain(t, l) })
	t.Run("a node can lose the API server only", func(t *testing.T) { loseAPI(t, l) })
	t.Run("an interface and its port can have other MTUs", func(t *testing.T) { setMTU(t, l) })
	t.Run("a host can have an address more, and announce it", func(t *testing.T) { addAndAnnounce(t, l) })
	t.Run("the router can answer for addresses that no host has", func(t *testing.T) { proxyARP(t, l) })
	t.Run("processes can be paused, killed and started", func(t *testing.T) { killAndStart(t, l) })
	t.Run("down leaves nothing behind", func(t *testing.T) { leavesNothing(t, l) })
}

func servesClusterIP(t *testing.T, l *Lab) {
	var seen struct{ Pod, Node, Protocol string }
	eventually(t, func(ctx context.Context) error {
		body, err := get(ctx, l, "n1", "http://10.96.0.80/")
		if err != nil {
			return err
		}
		return json.Unmarshal(body, &seen)
	})
	if !strings.HasPrefix(seen.Pod, "echo-") || seen.Node != "n1" || seen.Protocol != "http" {
		t.Errorf("answer = %+v", seen)
	}
}

func clientWorks(t *testing.T, l *Lab) {
	client, err := l.client()
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(nodes.Items) != 1 || nodes.Items[0].Name != "n1" || nodes.Items[0].Labels["kubernetes.io/hostname"] != "n1" {
		t.Errorf("nodes = %+v", nodes.Items)
	}
}

func passesThrough(t *testing.T, l *Lab) {
	for want, args := range map[string][]string{
		"node/n1\n": {"kubectl", "--name", "labtest", "--", "get", "nodes", "-o", "name"},
		"n1\n":      {"exec", "--name", "labtest", "--", "n1", "--", "hostname"},
	} {
		out, err := exec.CommandContext(t.Context(), l.folder.Bin("lab"), args...).CombinedOutput()
		if err != nil || string(out) != want {
			t.Errorf("lab %s: %q, %v; want %q", strings.Join(args, " "), out, err, want)
		}
	}
}

func routerKnows(t *testing.T, l *Lab) {
	out, err := l.Vtysh(t.Context(), "show bgp ipv4 unicast summary json")
	if err != nil {
		t.Fatal(err)
	}
	var summary struct {
		AS    int
		Peers map[string]struct{ RemoteAS int }
	}
	if err := json.Unmarshal([]byte(out), &summary); err != nil {
		t.Fatal(err)
	}
	if summary.AS != RouterAS || summary.Peers["172.30.0.11"].RemoteAS != NodeAS {
		t.Errorf("summary = %+v", summary)
	}
}

// nodePort is where n1's kubelet answers every client that reaches it.
const nodePort = "172.30.0.11:10250"

func reach(l *Lab, from string) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		conn, err := l.Dial(ctx, from, "tcp", nodePort)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

func cutAndHeal(t *testing.T, l *Lab) {
	node := netip.MustParseAddr("172.30.0.11")
	eventually(t, reach(l, Client))
	want, err := l.NodeMAC("n1")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := l.Neighbor(Client, node); err != nil || got.String() != want.String() {
		t.Errorf("client's neighbor = %s, %v; want %s", got, err, want)
	}
	if got := l.HostOf(want); got != "n1" {
		t.Errorf("%s is that of %q, want n1", want, got)
	}
	if err := l.Cut("n1"); err != nil {
		t.Fatal(err)
	}
	if err := l.FlushNeighbors(Client); err != nil {
		t.Fatal(err)
	}
	if reach(l, Client)(t.Context()) == nil {
		t.Error("n1 is reached through a cut cable")
	}
	if got, err := l.Neighbor(Client, node); err != nil || got != nil {
		t.Errorf("client's neighbor behind the cut cable = %s, %v", got, err)
	}
	if err := l.Heal("n1"); err != nil {
		t.Fatal(err)
	}
	eventually(t, reach(l, Client))
}

func blockAndUnblock(t *testing.T, l *Lab) {
	ctx := t.Context()
	if err := l.Block(ctx, "n1", Client); err != nil {
		t.Fatal(err)
	}
	if reach(l, Client)(ctx) == nil {
		t.Error("the client reaches n1 in spite of the block")
	}
	eventually(t, reach(l, ControlPlane))
	for range 2 { // a second time changes nothing
		if err := l.Unblock(ctx, Client, "n1"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, reach(l, Client))
	if err := l.Block(ctx, "n1", Remote); err == nil {
		t.Error("the remote client is not on the segment, and can be blocked there")
	}
}

// blockOneWay tells the ways apart by what n1 learns when the client asks for it: who asks is
// noted.
func blockOneWay(t *testing.T, l *Lab) {
	ctx := t.Context()
	client := netip.MustParseAddr("172.30.0.100")
	for _, way := range []struct {
		from, to string
		hears    bool
	}{{"n1", Client, true}, {Client, "n1", false}} {
		if err := l.BlockOneWay(ctx, way.from, way.to); err != nil {
			t.Fatal(err)
		}
		for _, host := range []string{"n1", Client} {
			if err := l.FlushNeighbors(host); err != nil {
				t.Fatal(err)
			}
		}
		if reach(l, Client)(ctx) == nil {
			t.Errorf("the client has answers from n1 while the way from %s to %s is blocked", way.from, way.to)
		}
		if got, err := l.Neighbor("n1", client); err != nil || (got != nil) != way.hears {
			t.Errorf("with the way from %s to %s blocked n1 knows the client as %s (%v), want that it hears it: %v", way.from, way.to, got, err, way.hears)
		}
		if err := l.Unblock(ctx, "n1", Client); err != nil {
			t.Fatal(err)
		}
		eventually(t, reach(l, Client))
	}
}

func flapAndChangeMAC(t *testing.T, l *Lab) {
	before, err := l.NodeMAC("n1")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Flap("n1"); err != nil {
		t.Fatal(err)
	}
	eventually(t, reach(l, Client))
	eventually(t, reach(l, Remote)) // its routes are back
	now, err := l.ChangeMAC("n1")
	if err != nil {
		t.Fatal(err)
	}
	if now.String() == before.String() || l.HostOf(now) != "n1" || l.HostOf(before) != "" {
		t.Errorf("n1 had %s and now has %s; they are those of %q and %q", before, now, l.HostOf(before), l.HostOf(now))
	}
	eventually(t, reach(l, Client))
	if got, err := l.Neighbor(Client, netip.MustParseAddr("172.30.0.11")); err != nil || got.String() != now.String() {
		t.Errorf("the client knows n1 as %s (%v), want %s", got, err, now)
	}
}

// answers asks who has an address and returns the host, "" if nobody says so within the 0.8 s that
// a router with proxy ARP takes at most, and a while.
func answers(t *testing.T, l *Lab, from string, address netip.Addr) string {
	t.Helper()
	if err := l.FlushNeighbors(from); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	// Whatever comes of the connection: the kernel asks for the neighbor.
	if conn, err := l.Dial(ctx, from, "tcp", netip.AddrPortFrom(address, 9).String()); err == nil {
		_ = conn.Close()
	}
	return known(t, l, from, address)
}

// known is the host that another has in its neighbor cache for an address.
func known(t *testing.T, l *Lab, at string, address netip.Addr) string {
	t.Helper()
	mac, err := l.Neighbor(at, address)
	if err != nil {
		t.Fatal(err)
	}
	if mac == nil {
		return ""
	}
	return l.HostOf(mac)
}

func addAndAnnounce(t *testing.T, l *Lab) {
	address := netip.MustParseAddr("172.30.0.230")
	for _, host := range []string{Client, "n1"} {
		for range 2 { // a second time changes nothing
			if err := l.AddAddress(host, address); err != nil {
				t.Fatal(err)
			}
		}
		if got := answers(t, l, ControlPlane, address); got != host {
			t.Errorf("%q answers for %s, want %s", got, address, host)
		}
		for range 2 {
			if err := l.RemoveAddress(host, address); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := l.AnnounceAddress(Client, address); err != nil { // who has had it from n1
		t.Fatal(err)
	}
	eventually(t, func(context.Context) error {
		if got := known(t, l, ControlPlane, address); got != Client {
			return fmt.Errorf("after the announcement %s knows %q for %s, want the client", ControlPlane, got, address)
		}
		return nil
	})
	if got := answers(t, l, ControlPlane, address); got != "" {
		t.Errorf("%s answers for %s, which no host has", got, address)
	}
	if err := l.AddAddress(Remote, address); err == nil {
		t.Error("the remote client is not on the segment, and can be given an address there")
	}
}

func proxyARP(t *testing.T, l *Lab) {
	prefix := netip.MustParsePrefix("172.30.0.224/28")
	inside, outside := netip.MustParseAddr("172.30.0.230"), netip.MustParseAddr("172.30.0.245")
	for range 2 {
		if err := l.StartProxyARP(prefix); err != nil {
			t.Fatal(err)
		}
	}
	if got := answers(t, l, Client, inside); got != Router {
		t.Errorf("%q answers for %s, want the router", got, inside)
	}
	if got := answers(t, l, Client, outside); got != "" {
		t.Errorf("%q answers for %s, want nobody", got, outside)
	}
	for range 2 {
		if err := l.StopProxyARP(prefix); err != nil {
			t.Fatal(err)
		}
	}
	if got := answers(t, l, Client, inside); got != "" {
		t.Errorf("%q answers for %s, want nobody any more", got, inside)
	}
	if err := l.StartProxyARP(netip.MustParsePrefix("172.30.0.225/28")); err == nil {
		t.Error("a prefix with host bits is taken")
	}
}

func killAndStart(t *testing.T, l *Lab) {
	ctx := t.Context()
	if err := l.Pause(ctx, "echo@n1"); err != nil {
		t.Fatal(err)
	}
	if p, err := l.Process(ctx, "echo@n1"); err != nil || p.State != "paused" {
		t.Errorf("after the pause: %+v, %v", p, err)
	}
	if err := l.Resume(ctx, "echo@n1"); err != nil {
		t.Fatal(err)
	}
	if p, err := l.Process(ctx, "echo@n1"); err != nil || p.State != "running" ||
		!strings.HasPrefix(p.Pod, "default/echo-") {
		t.Errorf("after the resume: %+v, %v", p, err)
	}
	for range 5 { // what is killed is gone: it can be started at once
		if err := l.Kill(ctx, "kube-proxy@n1"); err != nil {
			t.Fatal(err)
		}
		if p, err := l.Process(ctx, "kube-proxy@n1"); err == nil {
			t.Errorf("%+v is killed and there", p)
		}
		if err := l.Start(ctx, "kube-proxy@n1"); err != nil {
			t.Fatal(err)
		}
	}
	if p, err := l.Process(ctx, "kube-proxy@n1"); err != nil || p.State != "running" {
		t.Errorf("after the start: %+v, %v", p, err)
	}
	if err := l.Kill(ctx, "nothing@n1"); err == nil {
		t.Error("a process that is not there can be killed")
	}
}

// leavesNothing compares what the lab made with what is there after Down.
func leavesNothing(t *testing.T, l *Lab) {
	processes := labProcesses(t, l)
	if len(processes) < 10 {
		t.Errorf("found only %d processes of the lab", len(processes))
	}
	// Its mounts are the host's own, and go with it.
	if out, err := l.Exec(t.Context(), "n1", "ip", "netns", "add", "stranger").CombinedOutput(); err != nil {
		t.Errorf("ip netns add on n1: %v\n%s", err, out)
	}
	before := traces(t, l)
	for _, kind := range []string{"mount", "cgroup", "namespace", "file"} {
		if !slices.ContainsFunc(before, func(s string) bool { return strings.HasPrefix(s, kind) }) {
			t.Errorf("found no %s of the running lab: %q", kind, before)
		}
	}
	for range 2 { // down is idempotent
		if err := l.Down(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left := traces(t, l); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
		for pid, begun := range processes {
			if now, err := startTime(pid); err == nil && now == begun {
				t.Errorf("process %d still runs", pid)
			}
		}
	}
	if _, err := Open("labtest"); err == nil {
		t.Error("a lab that is down can be opened")
	}
}

// labProcesses are all processes of the lab's hosts with those of their containers, with their
// start times.
func labProcesses(t *testing.T, l *Lab) map[int]string {
	t.Helper()
	inits, err := l.inits()
	if err != nil {
		t.Fatal(err)
	}
	all, err := allProcesses()
	if err != nil {
		t.Fatal(err)
	}
	found := map[int]string{}
	for _, init := range inits {
		namespace, err := inode(fmt.Sprintf("/proc/%d/ns/pid", init))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range all {
			if begun, err := startTime(p.pid); err == nil && belongs(p, namespace) {
				found[p.pid] = begun
			}
		}
	}
	return found
}

// traces lists mounts, cgroups, network namespaces and files of the lab.
func traces(t *testing.T, l *Lab) []string {
	t.Helper()
	var found []string
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, l.prefix()) || strings.Contains(line, l.dir()) {
			found = append(found, "mount "+strings.TrimSpace(line))
		}
	}
	hierarchies, err := host.Hierarchies(l.prefix() + "*")
	if err != nil {
		t.Fatal(err)
	}
	globs := map[string]string{l.netnsPath("*"): "namespace ", l.dir(): "file "}
	for _, c := range hierarchies {
		globs[c.Dir] = "cgroup "
	}
	for pattern, kind := range globs {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			found = append(found, kind+path)
		}
	}
	return found
}

func get(ctx context.Context, l *Lab, from, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := l.HTTPClient(from).Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}

func eventually(t *testing.T, condition func(context.Context) error) {
	t.Helper()
	if err := until(t.Context(), 20*time.Second, condition); err != nil {
		t.Fatal(err)
	}
}
