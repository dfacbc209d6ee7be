//go:build root

// Package e2e tests Berth end to end, on the lab: a real control plane, kubelets, kube-proxies, a
// real router, and clients beside and behind it.
package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// patience is the limit for what takes a moment on an idle machine, and much longer on a busy one.
const patience = 60 * time.Second

// failed are the parts that failed.
var failed []string

// TestMain ends with the names of the parts that failed: what the racks looked like then is long.
func TestMain(m *testing.M) {
	code := m.Run()
	for _, name := range failed {
		fmt.Println("failed:", name)
	}
	os.Exit(code)
}

// TestBerthOnARack covers Berth's life on one rack of three nodes and a router that speaks BGP,
// from installation to removal. Each subtest leaves the rack as it found it; the last one
// uninstalls Berth.
func TestBerthOnARack(t *testing.T) {
	r := raise(t, lab.Options{Name: "e2e", Nodes: 3, Router: "frr", DualStack: true})
	r.rest = time.Second // many of its tests pin an address that another one had
	r.install(t)
	for _, part := range []struct {
		name string
		run  func(*testing.T, *rack)
	}{
		{"the manifest alone installs Berth, with no more rights than it names", testInstalled},
		{"every process tells its health and its metrics", testEndpoints},
		{"kubectl explains and lists the objects", testKubectl},
		{"a speaker may not write Services", testSpeakerRights},

		{"Services get addresses of the families they ask for", testAllocate},
		{"a Service gets the address it asks for", testPin},
		{"an address taken is given once it is free and has rested", testPinTaken},
		{"a deleted or retyped Service gives its address back", testFree},
		{"an address without an announcement says so, and answers once it has one", testNoAnnouncement},
		{"an invalid object is refused or says why, and harms no other", testInvalidObjects},

		{"on the segment every node's clients are served under policy Cluster", testL2Cluster},
		{"on the segment under policy Local pods see the client, from a node of theirs", testL2Local},
		{"by BGP every node is a next hop under policy Cluster", testBGPCluster},
		{"by BGP only nodes with ready pods are next hops under policy Local", testBGPLocal},
		{"the routers' tables show what the objects say", testTables},

		{"a restart of the controllers changes nothing", testControllerRestart},
		{"a killed leader leaves no trace on Services", testLeaderKilled},
		{"a Service made while no controller runs gets its address afterwards", testNoController},
		{"an address in two statuses is announced for the older Service only", testTwoOwners},
		{"a restart of the speakers fails no new connection", testSpeakerRestart},

		{"when the owner's node is cut off another node answers", testNodeCut},
		{"with BFD the router drops the routes of a node that is cut off at once", testPathsWatched},
		{"a router that is killed delays no other, and gets all routes back", testRouterKilled},
		{"a router that is silent delays no other neighbor, route or answer", testBlackHole},
		{"a killed speaker's sessions go on", testSpeakerKilled},
		{"BGP that is killed comes back", testBGPKilled},
		{"a password that changes resets its own session only", testPasswordRotated},
		{"a node's router ID can be another", testRouterID},
		{"connections follow the weights of the nodes", testWeights},
		{"after every fault of the segment one node owns an address", testFaults},
		{"after every fault while the API server is away too", testFaultsAlone},
		{"after random faults in a row", testRandomFaults},
		{"a heart that wakes from a long sleep disturbs no new client", testHeartFrozen},
		{"a session that the router ends is back at once, and its events are counted", testSessionReset},
		{"failover goes on while the API server is away", testAPIServerAway},
		{"a node that is excluded leaves without a failed connection", testLeave},

		{"owners stay when a node comes back, until they are rebalanced", testRebalance},
		{"each right of the speakers was needed", testRightsUsed},
		{"speakers that are replaced and hold keep what they answer for", testHold},
		{"routers connect to speakers that listen", testRoutersConnect},
		{"where no node has IPVS kube-proxy serves, and the Service says why", testWithoutIPVS},
		{"uninstalling withdraws, keeps the statuses, and a new installation adopts them", testUninstall},
	} {
		if !r.part(t, part.name, func(t *testing.T) { r.settle(t); part.run(t, r) }) && t.Context().Err() != nil {
			return
		}
	}
}

// TestKubeProxyInModeIPTables is a smoke test: Berth does not know how kube-proxy forwards.
func TestKubeProxyInModeIPTables(t *testing.T) {
	r := raise(t, lab.Options{Name: "e2eiptables", Nodes: 1, ProxyMode: "iptables"})
	r.install(t)
	svc := r.serve(t)
	address := r.address(t, svc, corev1.IPv4Protocol)
	r.answers(t, lab.Client, address)
	r.answers(t, lab.Remote, address)
}

// rack is a lab with Berth on it, for tests.
type rack struct {
	*stage.Stage
	web      stage.App // one Pod on every node
	router   bool      // speaks BGP
	iptables bool      // is what kube-proxy uses
	// rest is for how long freed addresses rest; 0: the default.
	rest    time.Duration
	created atomic.Int32
}

// raise brings up a lab for the test. With BERTH_LAB it uses a running lab and leaves it running,
// which is faster while a test is being written.
func raise(t *testing.T, options lab.Options) *rack {
	t.Helper()
	var l *lab.Lab
	var err error
	if name := os.Getenv("BERTH_LAB"); name != "" {
		l, err = lab.Open(name)
	} else {
		options.Log = t.Output()
		l, err = lab.Up(t.Context(), options)
	}
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("BERTH_LAB") == "" {
		t.Cleanup(func() {
			if err := l.Down(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	s, err := stage.New(l, options.DualStack)
	if err != nil {
		t.Fatal(err)
	}
	return &rack{
		Stage:    s,
		web:      stage.App{Namespace: "e2e", Name: "web"},
		router:   options.Router == "frr",
		iptables: options.ProxyMode == "iptables",
	}
}

// install installs Berth, configures it, and runs the application.
func (r *rack) install(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	for _, step := range []func() error{
		func() error { return r.Install(ctx) },
		func() error { return r.shorten(ctx) },
		func() error { return r.Configure(ctx) },
		func() error { return r.Deploy(ctx, r.web) },
		func() error { return r.AwaitSpeakers(ctx, r.router) },
	} {
		if err := step(); err != nil {
			r.describe(t)
			t.Fatal(err)
		}
	}
}

// shorten sets for how long the controllers let freed addresses rest.
func (r *rack) shorten(ctx context.Context) error {
	if r.rest == 0 {
		return nil
	}
	patch := fmt.Sprintf(`[{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--rest=%s"}]`, r.rest)
	if _, err := r.Kubectl(
		ctx, "", "-n", stage.Namespace, "patch", "deployment/berth-controller", "--type=json", "-p", patch,
	); err != nil {
		return err
	}
	return r.AwaitBerth(ctx)
}

// settle waits until everything that an earlier test broke works again.
func (r *rack) settle(t *testing.T) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		nodes, err := r.Kubernetes.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, n := range nodes.Items {
			if !slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
				return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
			}) {
				return fmt.Errorf("node %s is not Ready", n.Name)
			}
		}
		return r.podsReady(ctx)
	})
	if err := r.AwaitSpeakers(t.Context(), r.router); err != nil {
		t.Fatal(err)
	}
}

// podsReady returns an error that names the Pods of Berth and of the application that are not
// ready.
func (r *rack) podsReady(ctx context.Context) error {
	for namespace, want := range map[string]int{stage.Namespace: len(r.Nodes()) + 2, r.web.Namespace: len(r.Nodes())} {
		pods, err := r.Kubernetes.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		ready := 0
		for _, p := range pods.Items {
			if p.DeletionTimestamp != nil {
				return fmt.Errorf("Pod %s/%s is still ending", namespace, p.Name)
			}
			if slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
				return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
			}) {
				ready++
			}
		}
		if ready != want || len(pods.Items) != want {
			return fmt.Errorf("%d of %d Pods in %s are ready, want %d", ready, len(pods.Items), namespace, want)
		}
	}
	return nil
}

// part runs a part of a test, and says what the rack looks like if it fails.
func (r *rack) part(t *testing.T, name string, run func(t *testing.T)) bool {
	return t.Run(name, func(t *testing.T) {
		t.Cleanup(func() {
			if t.Failed() {
				failed = append(failed, t.Name())
				r.describe(t)
			}
		})
		run(t)
	})
}

// describe writes what one needs to see first when a test failed.
func (r *rack) describe(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, args := range []string{
		"get nodes,pods,services -A -o wide",
		"get berth -o wide",
		"-n berth-system logs -l app.kubernetes.io/component=controller --prefix --tail=30",
		"-n berth-system logs -l app.kubernetes.io/component=speaker --prefix --tail=40",
	} {
		out, err := r.Kubectl(ctx, "", strings.Fields(args)...)
		t.Logf("kubectl %s (%v)\n%s", args, err, out)
	}
}

// eventually fails the test unless the condition holds within patience.
func eventually(t *testing.T, condition func(context.Context) error) {
	t.Helper()
	if err := stage.Eventually(t.Context(), patience, condition); err != nil {
		t.Fatal(err)
	}
}
