//go:build release

package release

import (
	"context"
	"os"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// TestFlux applies Berth and its configuration in one pass, as a Kustomization of Flux does, which
// waits for all of it. The same again finds nothing to change.
func TestFlux(t *testing.T) {
	s := raise(t, lab.Options{Name: "flux", Nodes: 1, Router: "none"})
	file, err := stage.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	manifests := string(text) + `
---
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: rack}
spec: {addresses: [172.30.0.200-172.30.0.219], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: SegmentAnnouncement
metadata: {name: rack}
spec: {poolNames: [rack], nodeSelector: {}, serviceSelector: {}}
`
	apply := func() string {
		t.Helper()
		out, err := s.FluxApply(t.Context(), manifests)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for line := range strings.Lines(apply()) {
		if !strings.HasPrefix(line, "created ") {
			t.Errorf("at first: %s", line)
		}
	}
	// It waited: nothing is left to wait for.
	pool, err := s.Berth.LoadBalancerPools.Get(t.Context(), "rack", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	announcement, err := s.Berth.SegmentAnnouncements.Get(t.Context(), "rack", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for what, conditions := range map[string][]metav1.Condition{
		"pool": pool.Status.Conditions, "announcement": announcement.Status.Conditions,
	} {
		if !meta.IsStatusConditionTrue(conditions, "Ready") {
			t.Errorf("Flux did not wait for the %s: %v", what, conditions)
		}
	}
	must(t, func(ctx context.Context) error { return s.AwaitSpeakers(ctx, false) })
	for line := range strings.Lines(apply()) {
		if !strings.HasPrefix(line, "unchanged ") {
			t.Errorf("the second time: %s", line)
		}
	}
}
