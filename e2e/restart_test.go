//go:build root

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/record"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// probeTimeout is for requests that must not fail: one may take long on a busy machine.
const probeTimeout = 3 * time.Second

// unfailing sends requests to two addresses until stop: one on the segment from the client, whose
// neighbor cache is flushed before each request, and a routed one from the remote client.
func (r *rack) unfailing(t *testing.T) (l2, bgp *corev1.Service, stop func()) {
	t.Helper()
	l2 = r.serve(t)
	bgp = r.serve(t, only(corev1.IPv4Protocol), pinned("198.51.100.20"))
	near, far := r.address(t, l2, corev1.IPv4Protocol), soleAddress(bgp)
	r.owner(t, near)
	r.routes(t, far, r.Nodes()...)
	r.answers(t, lab.Client, near)
	r.answers(t, lab.Remote, far)
	probes := map[string]func() probe{
		"on the segment": r.probe(t, lab.Client, near, probeTimeout, true),
		"by BGP":         r.probe(t, lab.Remote, far, probeTimeout, false),
	}
	return l2, bgp, func() {
		t.Helper()
		for what, stop := range probes {
			r.unfailed(t, "new connections "+what, stop())
		}
	}
}

// unfailed checks that no new connection failed. Some established ones may break, when their
// packets take another path. There is one at a time, so their number is limited by the number of
// times that nodes leave and return.
func (r *rack) unfailed(t *testing.T, what string, seen probe) {
	t.Helper()
	t.Logf("%s: %s", what, seen)
	if len(seen.failed) > 0 || len(seen.broken) > 2*len(r.Nodes()) || seen.asked == 0 {
		t.Errorf("%s: %s", what, seen)
	}
}

// versions returns the resourceVersions of all Services with an address.
func (r *rack) versions(t *testing.T) map[string]string {
	t.Helper()
	list, err := r.Kubernetes.CoreV1().Services("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, svc := range list.Items {
		if len(svc.Status.LoadBalancer.Ingress) > 0 {
			found[svc.Namespace+"/"+svc.Name] = svc.ResourceVersion
		}
	}
	return found
}

// unwritten waits until the new leader has processed every Service, and checks that it wrote none
// of those that existed before. They are in the queue before a Service that is created now.
func (r *rack) unwritten(t *testing.T, before map[string]string) {
	t.Helper()
	r.announced(t, r.serve(t))
	after := r.versions(t)
	for name, version := range before {
		if after[name] != version {
			t.Errorf("Service %s was written: resourceVersion %s, before %s", name, after[name], version)
		}
	}
}

// some makes Services of all kinds, and returns their resourceVersions when nothing more is
// written.
func (r *rack) some(t *testing.T) map[string]string {
	t.Helper()
	for _, svc := range []*corev1.Service{
		r.serve(t), r.serve(t), r.serve(t, only(corev1.IPv6Protocol)), r.serve(t, local),
		r.serve(t, pinned("172.30.0.246")), r.serve(t, only(corev1.IPv4Protocol), pinned("198.51.100.30")),
	} {
		r.announced(t, svc)
	}
	return r.versions(t)
}

// awaitLeader waits until a Pod other than the given one leads.
func (r *rack) awaitLeader(t *testing.T, not string) string {
	t.Helper()
	var leader string
	eventually(t, func(ctx context.Context) error {
		var err error
		if leader, err = r.Leader(ctx); err == nil && leader == not {
			err = fmt.Errorf("%s still leads", leader)
		}
		return err
	})
	return leader
}

func testControllerRestart(t *testing.T, r *rack) {
	before := r.some(t)
	remove := func(which ...string) {
		t.Helper()
		if _, err := r.Kubectl(t.Context(), "", append([]string{"-n", stage.Namespace, "delete"}, which...)...); err != nil {
			t.Fatal(err)
		}
	}
	old := r.awaitLeader(t, "")
	remove("pod", old) // the other one takes over
	next := r.awaitLeader(t, old)
	r.unwritten(t, before)
	remove("pods", "-l", "app.kubernetes.io/component=controller")
	r.awaitLeader(t, next)
	r.unwritten(t, before)
}

func testLeaderKilled(t *testing.T, r *rack) {
	before := r.some(t)
	r.kill(t, r.awaitLeader(t, ""))()
	r.unwritten(t, before)
}

// kill ends the process of one of Berth's Pods with SIGKILL. The returned function waits until the
// kubelet has restarted it and it is ready.
func (r *rack) kill(t *testing.T, name string) (back func()) {
	t.Helper()
	pods := r.Kubernetes.CoreV1().Pods(stage.Namespace)
	pod, err := pods.Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Kill(t.Context(), name+"@"+pod.Spec.NodeName); err != nil {
		t.Fatal(err)
	}
	before := pod.Status.ContainerStatuses[0].RestartCount
	return func() {
		t.Helper()
		eventually(t, func(ctx context.Context) error {
			pod, err := pods.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if now := pod.Status.ContainerStatuses[0]; now.RestartCount == before || !now.Ready {
				return fmt.Errorf("Pod %s is not back: %d restarts, %d before; ready %v", name, now.RestartCount, before, now.Ready)
			}
			return nil
		})
	}
}

func testNoController(t *testing.T, r *rack) {
	before := r.some(t)
	scale := func(replicas string) {
		t.Helper()
		if _, err := r.Kubectl(
			t.Context(), "", "-n", stage.Namespace, "scale", "deployment/berth-controller", "--replicas="+replicas,
		); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := r.AwaitBerth(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	scale("0")
	eventually(t, func(ctx context.Context) error {
		pods, err := r.Kubernetes.CoreV1().Pods(
			stage.Namespace,
		).List(
			ctx,
			metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=controller"},
		)
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("%d controllers still run", len(pods.Items))
		}
		return err
	})
	svc := r.ask(t)
	scale("2")
	svc, _ = r.awaitCondition(t, svc, v1alpha1.ServiceAllocated, metav1.ConditionTrue, "Allocated")
	r.answers(t, lab.Client, r.address(t, svc, corev1.IPv4Protocol))
	r.unwritten(t, before)
}

// testTwoOwners creates the worst result of two leaders, while both are frozen: an address in two
// statuses, and in their records.
func testTwoOwners(t *testing.T, r *rack) {
	for _, node := range []string{"n2", "n3"} {
		r.turn(t, node, false)
		defer r.turn(t, node, true)
	}
	// Its pod is on one node only; all nodes would announce the younger Service.
	older := r.serve(t, only(corev1.IPv4Protocol), pinned("198.51.100.40"), local)
	younger := r.serve(t, only(corev1.IPv4Protocol), pinned("198.51.100.41"))
	r.routes(t, soleAddress(older), "n1")
	r.routes(t, soleAddress(younger), r.Nodes()...)
	r.announced(t, older)
	r.announced(t, younger)
	resume := r.freezeControllers(t)
	r.give(t, younger, "198.51.100.40")
	// The speakers have processed it: no node has the address that it had.
	r.routes(t, soleAddress(younger))
	r.routes(t, soleAddress(older), "n1")
	resume()
	younger, _ = r.awaitCondition(t, younger, v1alpha1.ServiceAllocated, metav1.ConditionTrue, "Allocated")
	eventually(t, func(context.Context) error {
		younger = r.get(t, younger)
		if got := soleAddress(younger).String(); got != "198.51.100.41" {
			return fmt.Errorf("the younger Service has %s, want 198.51.100.41 back", got)
		}
		return nil
	})
	r.routes(t, soleAddress(younger), r.Nodes()...)
	r.routes(t, soleAddress(older), "n1")
	if got := soleAddress(r.get(t, older)).String(); got != "198.51.100.40" {
		t.Errorf("the older Service has %s, want 198.51.100.40 still", got)
	}
}

// give writes an address into the status of a Service as the controller would, with a record that
// is signed with the key of this installation.
func (r *rack) give(t *testing.T, svc *corev1.Service, address string) {
	t.Helper()
	secret, err := r.Kubernetes.CoreV1().Secrets(stage.Namespace).Get(t.Context(), "berth-hello", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	key := secret.Data["record"]
	svc = r.get(t, svc)
	given, err := record.Of(svc, key)
	if err != nil {
		t.Fatal(err)
	}
	given.Addresses = []netip.Addr{netip.MustParseAddr(address)}
	svc.Status.LoadBalancer.Ingress[0].IP = address
	meta.SetStatusCondition(&svc.Status.Conditions, given.Condition(key, metav1.Now()))
	if _, err := r.Kubernetes.CoreV1().Services(svc.Namespace).UpdateStatus(
		t.Context(), svc, metav1.UpdateOptions{},
	); err != nil {
		t.Fatal(err)
	}
}

// freezeControllers pauses the processes of both controllers until resume, or the end of the test.
func (r *rack) freezeControllers(t *testing.T) (resume func()) {
	t.Helper()
	pods, err := r.Kubernetes.CoreV1().Pods(
		stage.Namespace,
	).List(
		t.Context(),
		metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=controller"},
	)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.WithoutCancel(t.Context())
	wakes := []func() error{}
	resume = sync.OnceFunc(func() {
		t.Helper()
		for _, wake := range wakes {
			if err := wake(); err != nil {
				t.Error(err)
			}
		}
	})
	t.Cleanup(resume)
	for _, pod := range pods.Items {
		process := pod.Name + "@" + pod.Spec.NodeName
		if err := r.Pause(ctx, process); err != nil {
			t.Fatal(err)
		}
		wakes = append(wakes, func() error { return r.Resume(ctx, process) })
	}
	return resume
}

// testSpeakerRestart restarts the speakers without streamed lists, as with an older API server.
func testSpeakerRestart(t *testing.T, r *rack) {
	l2, _, stop := r.unfailing(t)
	seen := r.capture(t, l2)
	begun := time.Now()
	if _, err := r.Kubectl(
		t.Context(), "", "-n", stage.Namespace, "set", "env", "daemonset/berth-speaker",
		"KUBE_FEATURE_WatchListClient=false",
	); err != nil {
		t.Fatal(err)
	}
	if err := r.AwaitBerth(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.settle(t)
	r.whole(t)
	for _, c := range seen {
		c.told(t, c.sole(t, time.Now()).Host, begun)
	}
	stop()
}
