//go:build release

package release

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

const (
	heldOpen = 500                    // connections
	sayEvery = 200 * time.Millisecond // on each of them
	sayLate  = 30 * time.Second       // so long an answer may take until the connection counts as broken
)

// TestSteering has clients of a steered Service keep their connections while the node that answers
// dies, while a node with Pods dies, and while all speakers are replaced.
func TestSteering(t *testing.T) {
	s := raise(t, lab.Options{Name: "steering", Nodes: 4, Router: "frr"})
	t.Cleanup(func() {
		if t.Failed() {
			s.Explain(context.Background(), t.Output())
		}
	})
	must(t, func(ctx context.Context) error { return installSteering(ctx, t, s) })
	app := stage.App{Namespace: "steered", Name: "web", Nodes: []string{"n2", "n3"}}
	must(t, func(ctx context.Context) error { return s.Deploy(ctx, app) }, func(ctx context.Context) error {
		return s.Apply(ctx, `
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: steered}
spec: {addresses: [172.30.0.200/32], dataplane: Steering, scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: SegmentAnnouncement
metadata: {name: steered}
spec: {poolNames: [steered], nodeSelector: {}, serviceSelector: {}, preferredNodes: [{weight: 1, nodeSelector: {matchLabels: {kubernetes.io/hostname: n1}}}]}
`)
	})
	svc := s.Expose(app, "web")
	svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	svc, err := s.Create(t.Context(), svc)
	if err != nil {
		t.Fatal(err)
	}
	address := stage.Addresses(svc)[0]
	owner := func() string {
		t.Helper()
		name, err := s.AwaitOwner(t.Context(), patience, address)
		if err != nil {
			t.Fatal(err)
		}
		return name
	}
	// A node with a Pod may be first, for as long as n1 does not steer it yet.
	eventually(t, func(context.Context) error {
		if got := owner(); got != "n1" {
			return fmt.Errorf("%s owns the address; it goes to n1, which has no Pod, only if n1 steers", got)
		}
		return nil
	})
	held := holdOpen(t, s, address)
	if on := held.nodes(); on["n2"] == 0 || on["n3"] == 0 || len(on) != 2 {
		t.Fatalf("connections are on %v, want some on each of n2 and n3", on)
	}

	t.Run("kubectl berth why says where each client goes", func(t *testing.T) { foretell(t, s, address) })

	t.Run("the owner dies, which has no Pod", func(t *testing.T) {
		lose(t, s, "n1")
		if n := held.broken(t); n > 0 {
			t.Errorf("%d of %d connections broke", n, heldOpen)
		}
		if got := owner(); got == "n1" {
			t.Error("n1 still owns the address")
		}
	})
	must(t, func(context.Context) error { return s.Heal("n1") }, s.AwaitBerth)

	t.Run("all speakers are replaced", func(t *testing.T) {
		must(t, func(ctx context.Context) error {
			_, err := s.Kubectl(ctx, "", "-n", "berth-system", "rollout", "restart", "daemonset/berth-speaker")
			return err
		}, s.AwaitBerth)
		if n := held.broken(t); n > 0 {
			t.Errorf("%d of %d connections broke", n, heldOpen)
		}
	})

	t.Run("a node with Pods dies", func(t *testing.T) {
		lose(t, s, "n3")
		its := held.nodes()["n3"]
		if n := held.broken(t); n > its {
			t.Errorf("%d connections broke, and n3 had %d", n, its)
		}
		for range 100 { // new ones go elsewhere, long before Kubernetes finds out
			if _, err := s.AskLine(t.Context(), lab.Client, "tcp", address); err != nil {
				t.Fatal(err)
			}
		}
	})
	must(t, func(context.Context) error { return s.Heal("n3") })

	t.Run("turned off, nothing is left", func(t *testing.T) {
		must(t, func(ctx context.Context) error {
			_, err := s.Kubectl(
				ctx, "", "-n", "berth-system", "annotate", "secret", "berth-hello", "berth.dev/steering=Disabled",
			)
			return err
		})
		for _, node := range s.Nodes() {
			eventually(t, func(ctx context.Context) error {
				left, err := s.Exec(ctx, node, "ls", "/sys/fs/bpf").Output()
				if err == nil && strings.Contains(string(left), "berth") {
					err = fmt.Errorf("%s has %s", node, left)
				}
				return err
			})
		}
		eventually(t, func(ctx context.Context) error {
			if at, err := s.Owner(ctx, address); err != nil || at != "n2" && at != "n3" {
				return fmt.Errorf("%s owns the address, %w", at, err)
			}
			return nil
		})
	})
}

// foretold is how many connections are compared with what kubectl berth says.
const foretold = 50

// foretell opens connections, and has kubectl berth why say for each where it is.
func foretell(t *testing.T, s *stage.Stage, address netip.Addr) {
	t.Helper()
	on := map[string]int{}
	for range foretold {
		conn, err := s.Dial(t.Context(), lab.Client, "tcp", netip.AddrPortFrom(address, 7000).String())
		if err != nil {
			t.Fatal(err)
		}
		answer, err := stage.Say(conn, time.Now().Add(patience))
		client := conn.LocalAddr().String()
		conn.Close()
		if err != nil {
			t.Fatal(err)
		}
		out, errOut, code := plugin(
			t,
			s,
			"why",
			"web",
			"-n",
			"steered",
			"--client",
			client,
			"--port",
			"7000",
			"--protocol",
			"TCP",
			"-o",
			"json",
		)
		var report struct {
			To    string
			Nodes []struct {
				By    string
				Owner bool
				Node  string
			}
		}
		if err := json.Unmarshal([]byte(out), &report); err != nil || code != 0 {
			t.Fatalf("why --client %s: exit code %d, %v\n%s%s", client, code, err, out, errOut)
		}
		if report.To != answer.Node {
			t.Errorf("%s is on %s, and kubectl berth says %s:\n%s", client, answer.Node, report.To, out)
		}
		if len(report.Nodes) != len(s.Nodes()) {
			t.Errorf("%d nodes say where %s goes, of %d", len(report.Nodes), client, len(s.Nodes()))
		}
		for _, n := range report.Nodes {
			if n.Owner != (n.By == "n1") || n.Node != answer.Node {
				t.Errorf("%s is on %s, and %+v", client, answer.Node, n)
			}
		}
		on[answer.Node]++
	}
	if on["n2"] == 0 || on["n3"] == 0 {
		t.Errorf("the connections are on %v, want some on each of n2 and n3", on)
	}
	out, errOut, code := plugin(
		t, s, "why", "web", "-n", "steered", "--client", "172.30.0.9:40000", "--port", "line")
	if code != 0 || !strings.Contains(out, "\nWhy:  a new connection goes to n") {
		t.Errorf("why --client: exit code %d\n%s%s", code, out, errOut)
	}
	t.Log(out)
}

// installSteering installs Berth with the component manifests/steering.
func installSteering(ctx context.Context, t *testing.T, s *stage.Stage) error {
	manifest, err := stage.Manifest()
	if err != nil {
		return err
	}
	dir := t.TempDir()
	manifests, err := filepath.Rel(dir, filepath.Dir(manifest))
	if err != nil {
		return err
	}
	text := fmt.Sprintf("resources: [%s]\ncomponents: [%s/steering]\n", manifests, manifests)
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		return err
	}
	if _, err := s.Kubectl(ctx, "", "apply", "-k", dir); err != nil {
		return err
	}
	return s.AwaitBerth(ctx)
}

// lose cuts a node's cable, and waits until the others have noticed for long.
func lose(t *testing.T, s *stage.Stage, node string) {
	t.Helper()
	must(t, func(context.Context) error { return s.Cut(node) })
	lasts(t, 4*time.Second)
}

// held are connections of a client on which a line is sent and answered again and again.
type held struct {
	mu     sync.Mutex
	on     map[string]int // connections by the node of their Pod, also those that broke
	failed []error
	asked  map[int]time.Time // when the last line was answered
}

// holdOpen opens them. They end with the test.
func holdOpen(t *testing.T, s *stage.Stage, address netip.Addr) *held {
	t.Helper()
	h := &held{on: map[string]int{}, asked: map[int]time.Time{}}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	t.Cleanup(func() { cancel(); all.Wait() })
	for i := range heldOpen {
		conn, err := s.Dial(t.Context(), lab.Client, "tcp", netip.AddrPortFrom(address, 7000).String())
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() { h.talk(ctx, i, conn) })
	}
	eventually(t, func(context.Context) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if len(h.asked)+len(h.failed) < heldOpen {
			return fmt.Errorf("%d of %d connections are answered", len(h.asked), heldOpen)
		}
		return nil
	})
	return h
}

func (h *held) talk(ctx context.Context, i int, conn net.Conn) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	answers := bufio.NewReader(conn)
	again := time.NewTicker(sayEvery)
	defer again.Stop()
	for first := true; ; first = false {
		err := conn.SetDeadline(time.Now().Add(sayLate))
		if err == nil {
			_, err = fmt.Fprintln(conn, i)
		}
		var line []byte
		if err == nil {
			line, err = answers.ReadBytes('\n')
		}
		var a stage.Answer
		if err == nil {
			err = json.Unmarshal(line, &a)
		}
		if ctx.Err() != nil {
			return
		}
		h.mu.Lock()
		switch {
		case err != nil:
			h.failed = append(h.failed, fmt.Errorf("connection %d: %w", i, err))
		case first:
			h.on[a.Node]++
			fallthrough
		default:
			h.asked[i] = time.Now()
		}
		h.mu.Unlock()
		if err != nil {
			return
		}
		<-again.C
	}
}

// nodes returns on which nodes the connections are, or were.
func (h *held) nodes() map[string]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	on := map[string]int{}
	for node, n := range h.on {
		on[node] = n
	}
	return on
}

// broken returns how many broke since it was asked last. It waits until all others are answered
// after it is asked.
func (h *held) broken(t *testing.T) int {
	t.Helper()
	since := time.Now()
	err := stage.Eventually(t.Context(), 2*sayLate, func(context.Context) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		late := 0
		for _, at := range h.asked {
			if at.Before(since) {
				late++
			}
		}
		if late > len(h.failed) {
			return fmt.Errorf("%d connections have no answer, and %d broke", late, len(h.failed))
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, err := range h.failed[:min(3, len(h.failed))] {
		t.Log(err)
	}
	n := len(h.failed)
	h.failed = nil
	for i, at := range h.asked {
		if at.Before(since) {
			delete(h.asked, i)
		}
	}
	return n
}
