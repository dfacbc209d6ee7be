//go:build release

package release

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
	"github.com/berth-lb/berth/e2e/stock"
)

const hooksSelector = "app.kubernetes.io/component=hook"

// helmValues are values with a pool for the segment and one for the router, and more.
func helmValues(more string) string {
	return fmt.Sprintf(`
pools:
  rack: {addresses: [172.30.0.200-172.30.0.219], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
  routed: {allocation: OnRequest, addresses: [198.51.100.0/25], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
  %s
segmentAnnouncements:
  rack: {poolNames: [rack], nodeSelector: {}, serviceSelector: {}}
bgpNeighbors:
  tor: {localASN: %d, remoteASN: %d, address: 172.30.0.1, holdTime: 3s, connectRetryTime: 1s, nodeSelector: {}}
routeAnnouncements:
  tor: {poolNames: [routed], neighborNames: [tor], nodeSelector: {}, serviceSelector: {}}
`, more, lab.NodeAS, lab.RouterAS)
}

// released makes Pods of another revision, as another image does.
const released = `
controller: {podAnnotations: {revision: "2"}}
speaker: {podAnnotations: {revision: "2"}}
`

// longDrain changes a field that kubectl has set, too.
const longDrain = `
speaker: {extraArgs: [--drain-time=3s]}
`

// TestHelm installs, upgrades, rolls back and uninstalls the chart with Helm 3 and with Helm 4,
// while clients use the Services.
func TestHelm(t *testing.T) {
	for _, version := range stock.HelmVersions() {
		t.Run(version, func(t *testing.T) {
			h := &charted{
				Stage:   raise(t, lab.Options{Name: "helm" + version, Nodes: 2, Router: "frr"}),
				version: version,
			}
			t.Cleanup(func() {
				if t.Failed() {
					h.Explain(context.Background(), t.Output())
				}
			})
			var err error
			if h.helm, err = h.Helm(version, t.TempDir()); err != nil {
				t.Fatal(err)
			}
			must(t, func(ctx context.Context) error { return h.Deploy(ctx, berthApp) })
			for _, step := range []struct {
				name string
				run  func(*testing.T)
			}{
				{"one install serves Services", h.testInstall},
				{"a pool that the API server refuses changes nothing", h.testRefused},
				{"an upgrade brings CRDs and pools, and no request fails", h.testUpgrade},
				{"a rollback brings back the pools, and no request fails", h.testRollback},
				{"an uninstall leaves the pools, and a reinstall the addresses", h.testUninstall},
				{"what kubectl installed becomes a release, and no request fails", h.testTakeOwnership},
			} {
				if !t.Run(step.name, step.run) {
					t.FailNow() // the next begins where it ends
				}
			}
		})
	}
}

// charted is a lab in which Helm installs Berth.
type charted struct {
	*stage.Stage
	helm      *stage.Helm
	version   string
	near, far *corev1.Service
}

func (h *charted) run(t *testing.T, values string, args ...string) string {
	t.Helper()
	out, err := h.helm.Run(t.Context(), values, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// install are the arguments of an installation. Helm 4 installs without crds/, as Flux may: then
// the hook creates the CRDs.
func (h *charted) install(more ...string) []string {
	args := append(
		[]string{"install", "berth", h.helm.Chart, "-f", "-", "--create-namespace", "--wait", "--timeout", "2m"},
		more...)
	if h.version == "4" {
		args = append(args, "--skip-crds")
	}
	return args
}

func (h *charted) upgrade(t *testing.T, values string, more ...string) (string, error) {
	t.Helper()
	args := append([]string{"upgrade", "berth", h.helm.Chart, "-f", "-", "--wait", "--timeout", "2m"}, more...)
	return h.helm.Run(t.Context(), values, args...)
}

func (h *charted) testInstall(t *testing.T) {
	began := time.Now()
	notes := h.run(t, helmValues(""), h.install()...)
	measured("helm"+h.version+"_install", time.Since(began))
	if !strings.Contains(notes, "kubectl get speakers.berth.dev") {
		t.Errorf("Helm does not print what to check:\n%s", notes)
	}
	must(t, func(ctx context.Context) error { return h.AwaitSpeakers(ctx, true) })
	far := h.Expose(berthApp, "far")
	far.Annotations = map[string]string{v1alpha1.AnnotationPools: "routed"}
	for svc, into := range map[*corev1.Service]**corev1.Service{h.Expose(berthApp, "near"): &h.near, far: &h.far} {
		made, err := h.Create(t.Context(), svc)
		if err != nil {
			t.Fatal(err)
		}
		*into = made
	}
	h.answers(t)
	measured("helm"+h.version+"_install_to_answer", time.Since(began))
	h.hooksAreGone(t)
	ns, err := h.Kubernetes.CoreV1().Namespaces().Get(t.Context(), stage.Namespace, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := ns.Labels["pod-security.kubernetes.io/enforce"]; got != "privileged" {
		t.Errorf("Pod Security of the namespace is %q, want privileged", got)
	}
}

// answers waits until clients on the segment and behind the router are answered.
func (h *charted) answers(t *testing.T) {
	t.Helper()
	for host, svc := range map[string]*corev1.Service{lab.Client: h.near, lab.Remote: h.far} {
		eventually(t, func(ctx context.Context) error {
			_, err := h.AskHTTP(ctx, host, addressOf(svc))
			return err
		})
	}
	must(t, func(ctx context.Context) error { return h.AwaitRoutes(ctx, patience, addressOf(h.far), h.Nodes()...) })
}

// hooksAreGone checks that nothing of the hooks is left, above all none of their rights.
func (h *charted) hooksAreGone(t *testing.T) {
	t.Helper()
	left, err := h.Kubectl(
		t.Context(),
		"",
		"get",
		"clusterroles,clusterrolebindings,serviceaccounts,configmaps,jobs",
		"-A",
		"-l",
		hooksSelector,
		"-o",
		"name",
	)
	if err != nil {
		t.Fatal(err)
	}
	if left != "" {
		t.Errorf("hooks leave %s", strings.Fields(left))
	}
}

// unfailing has clients ask both Services while the test does something, one request after the
// other, each on a new connection. None may fail. The few that are open just when an address moves
// may be reset.
func (h *charted) unfailing(t *testing.T, do func()) {
	t.Helper()
	near := h.StartProbe(t.Context(), lab.Client, addressOf(h.near), probeEvery, 3*time.Second, true)
	far := h.StartProbe(t.Context(), lab.Remote, addressOf(h.far), probeEvery, 3*time.Second, false)
	do()
	for host, gap := range map[string]stage.Gap{lab.Client: near.Stop(), lab.Remote: far.Stop()} {
		t.Logf("%s: %s", host, gap)
		if gap.Asked == 0 || gap.Failed > gap.Broken || gap.Broken > 2*len(h.Nodes()) {
			t.Errorf("%s: %s", host, gap)
		}
	}
}

func (h *charted) pools(t *testing.T) string {
	t.Helper()
	list, err := h.Berth.LoadBalancerPools.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, pool := range list.Items {
		names = append(names, pool.Name)
	}
	return strings.Join(names, " ")
}

// outdated takes a field out of the CRD of pools, as if it were of an earlier version.
func (h *charted) outdated(t *testing.T) {
	t.Helper()
	_, err := h.Kubectl(t.Context(), "", "patch", "crd", "loadbalancerpools.berth.dev", "--type=json", "-p",
		`[{"op": "remove", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/priority"}]`)
	if err != nil {
		t.Fatal(err)
	}
}

func (h *charted) testRefused(t *testing.T) {
	before, err := h.Kubernetes.AppsV1().
		DaemonSets(stage.Namespace).
		Get(t.Context(), "berth-speaker", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.upgrade(t, helmValues(
		"other: {addresses: [172.30.0.231/24], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}",
	)+released)
	if err == nil || !strings.Contains(err.Error(), "LoadBalancerPool other") ||
		!strings.Contains(err.Error(), "172.30.0.231/24") {
		t.Errorf("Helm says %v, want the pool and the address", err)
	}
	if got := h.pools(t); got != "rack routed" {
		t.Errorf("pools are %s, want rack and routed", got)
	}
	after, err := h.Kubernetes.AppsV1().
		DaemonSets(stage.Namespace).
		Get(t.Context(), "berth-speaker", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if before.Generation != after.Generation {
		t.Error("the speakers changed")
	}
}

func (h *charted) testUpgrade(t *testing.T) {
	h.outdated(t)
	h.unfailing(t, func() {
		out, err := h.upgrade(t, helmValues(
			"more: {addresses: [172.30.0.230], priority: 7, scopes: [{namespaceSelector: {}, serviceSelector: {}}]}",
		)+released)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	})
	h.revision(t, "2")
	pool, err := h.Berth.LoadBalancerPools.Get(t.Context(), "more", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if pool.Spec.Priority == nil || *pool.Spec.Priority != 7 {
		t.Errorf("the pool has priority %v, want 7", pool.Spec.Priority)
	}
	h.hooksAreGone(t)
}

// revision checks that all Pods are of the revision of the values.
func (h *charted) revision(t *testing.T, want string) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		pods, err := h.Kubernetes.CoreV1().Pods(stage.Namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if len(pods.Items) != 2+len(h.Nodes()) {
			return fmt.Errorf("%d Pods are there, want two controllers and a speaker on each node", len(pods.Items))
		}
		for _, pod := range pods.Items {
			if got := pod.Annotations["revision"]; got != want {
				return fmt.Errorf("pod %s is of revision %q, want %q", pod.Name, got, want)
			}
		}
		return nil
	})
}

func (h *charted) testRollback(t *testing.T) {
	h.unfailing(t, func() { h.run(t, "", "rollback", "berth", "1", "--wait", "--timeout", "2m") })
	h.revision(t, "")
	if got := h.pools(t); got != "rack routed" {
		t.Errorf("pools are %s, want rack and routed", got)
	}
	h.hooksAreGone(t)
}

func (h *charted) testUninstall(t *testing.T) {
	h.run(t, "", "uninstall", "berth", "--wait", "--timeout", "2m")
	if got := h.pools(t); got != "rack routed" {
		t.Errorf("pools are %s, want rack and routed", got)
	}
	eventually(t, func(ctx context.Context) error {
		pods, err := h.Kubernetes.CoreV1().Pods(stage.Namespace).List(ctx, metav1.ListOptions{})
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("%d Pods are left", len(pods.Items))
		}
		return err
	})
	for _, node := range h.Nodes() {
		if out, err := h.Exec(t.Context(), node, "nft", "list", "tables").Output(); err != nil ||
			strings.Contains(string(out), "berth") {
			t.Errorf("tables of %s: %s (%v), want none of Berth's", node, out, err)
		}
	}
	left, err := h.Kubectl(
		t.Context(),
		"",
		"get",
		"clusterroles,clusterrolebindings,validatingadmissionpolicies",
		"-o",
		"name",
	)
	if err != nil || strings.Contains(left, "berth") {
		t.Errorf("left: %s (%v), want none of Berth's", strings.Fields(left), err)
	}
	h.run(t, helmValues(""), h.install()...)
	h.keeps(t)
	h.answers(t)
}

// keeps checks that the Services have the addresses that they had.
func (h *charted) keeps(t *testing.T) {
	t.Helper()
	for _, svc := range []*corev1.Service{h.near, h.far} {
		now, err := h.Kubernetes.CoreV1().Services(svc.Namespace).Get(t.Context(), svc.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := addressOf(now), addressOf(svc); got != want {
			t.Errorf("Service %s has %s, want %s as before", svc.Name, got, want)
		}
	}
}

func (h *charted) testTakeOwnership(t *testing.T) {
	h.run(t, "", "uninstall", "berth", "--wait", "--timeout", "2m")
	must(t, h.Install, func(ctx context.Context) error { return h.AwaitSpeakers(ctx, true) })
	h.answers(t)
	// With Helm 4 kubectl stays the manager of fields that both have set to the same value.
	var force []string
	if h.version == "4" {
		force = []string{"--force-conflicts"}
	}
	h.unfailing(t, func() { h.run(t, helmValues(""), h.install(append(force, "--take-ownership")...)...) })
	h.keeps(t)
	h.unfailing(t, func() {
		if _, err := h.upgrade(t, helmValues("")+longDrain, force...); err != nil {
			t.Fatal(err)
		}
	})
	h.hooksAreGone(t)
}
