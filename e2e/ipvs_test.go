//go:build root

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// testWithoutIPVS installs the component manifests/ipvs, on a kernel that has no IPVS.
func testWithoutIPVS(t *testing.T, r *rack) {
	if _, err := os.Stat("/proc/net/ip_vs"); err == nil {
		t.Fatal("this kernel has IPVS; the test is about one that has not")
	}
	manifest, err := stage.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	manifests, err := filepath.Rel(dir, filepath.Dir(manifest))
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("resources: [%s]\ncomponents: [%s/ipvs]\n", manifests, manifests)
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Kubectl(t.Context(), "", "apply", "-k", dir); err != nil {
		t.Fatal(err)
	}
	if err := r.AwaitBerth(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, node := range r.Nodes() {
		eventually(t, func(ctx context.Context) error {
			report, err := r.speaker(ctx, node)
			if err != nil {
				return err
			}
			ready := meta.FindStatusCondition(report.Conditions, v1alpha1.ConditionIPVSReady)
			if !report.IPVS.Asked() || len(report.IPVS.Schedulers) > 0 || ready == nil ||
				ready.Status != metav1.ConditionFalse ||
				!strings.Contains(ready.Message, "the kernel has no IPVS") {
				return fmt.Errorf("the speaker of %s reports %+v, %+v", node, report.IPVS, ready)
			}
			return nil
		})
		eventually(t, func(ctx context.Context) error {
			events, err := r.Kubernetes.EventsV1().Events(
				metav1.NamespaceDefault,
			).List(
				ctx,
				metav1.ListOptions{FieldSelector: "reason=IPVSLacking"},
			)
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(
				events.Items,
				func(e eventsv1.Event) bool { return e.Regarding.Kind == "Node" && e.Regarding.Name == node },
			) {
				return fmt.Errorf("no event says that node %s cannot forward", node)
			}
			return nil
		})
	}
	r.apply(t, `
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: ours}
spec: {allocation: OnRequest, addresses: [172.30.0.160-172.30.0.164], dataplane: IPVS, scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: SegmentAnnouncement
metadata: {name: ours}
spec: {poolNames: [ours], nodeSelector: {}, serviceSelector: {}}
`)
	svc := r.serve(t, only(corev1.IPv4Protocol), pinned("172.30.0.161"))
	_, message := r.awaitCondition(t, svc, v1alpha1.ServiceAnnounced, metav1.ConditionTrue, "Announced")
	if !strings.Contains(message, "kube-proxy forwards") || !strings.Contains(message, "the kernel has no IPVS") {
		t.Errorf("the condition says %q, want who forwards and why", message)
	}
	if mode := r.get(t, svc).Status.LoadBalancer.Ingress[0].IPMode; mode == nil || *mode != corev1.LoadBalancerIPModeVIP {
		t.Errorf("ipMode is %v, want VIP", mode)
	}
	r.answers(t, lab.Client, soleAddress(svc))
}
