//go:build root

package api

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/stage"
	berthapply "github.com/berth-lb/berth/internal/apply"
	"github.com/berth-lb/berth/manifests/crds"
)

// applied are the accounts of the chart's hooks, with the rights that Helm gives them for
// e2e/helm/testdata/values.yaml.
type applied struct {
	prepare, configure, reconfigure *berthapply.Applier
	objects                         []*unstructured.Unstructured
}

func newApplied(t *testing.T) applied {
	t.Helper()
	manifest, err := stage.Manifest()
	must(t, err)
	file := filepath.Join(filepath.Dir(manifest), "..", "e2e", "helm", "testdata", "hooks.yaml")
	text, err := os.ReadFile(file)
	must(t, err)
	must(t, scene.Apply(t.Context(), string(text)))
	t.Cleanup(func() {
		if _, err := scene.Kubectl(context.Background(), "", "delete", "-f", file); err != nil {
			t.Error(err)
		}
	})
	a := applied{prepare: applier(t, "berth-prepare"), configure: applier(t, "berth-configure")}
	a.reconfigure = applier(t, "berth-reconfigure")
	for document := range strings.SplitSeq(string(text), "\n---\n") {
		o := parsed(t, document)
		if o.GetKind() == "ConfigMap" && o.GetName() == "berth-configure" {
			objects, _, err := unstructured.NestedString(o.Object, "data", "objects.yaml")
			must(t, err)
			a.objects, err = berthapply.Read([]byte(objects))
			must(t, err)
		}
	}
	if len(a.objects) != 5 {
		t.Fatalf("the values have %d objects, want 5", len(a.objects))
	}
	return a
}

func applier(t *testing.T, account string) *berthapply.Applier {
	t.Helper()
	client, err := dynamic.NewForConfig(configOf(t, account, nil))
	must(t, err)
	return &berthapply.Applier{
		Client: client, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Owner: "berth", Settle: 5 * time.Second,
	}
}

// The chart's hooks apply what the values have, and only that.
func TestApplyValues(t *testing.T) {
	ns := namespace(t)
	a := newApplied(t)
	pools := resource(t, "LoadBalancerPool", ns)
	t.Cleanup(func() {
		for _, o := range a.objects {
			_ = resource(t, o.GetKind(), ns).Delete(context.Background(), o.GetName(), metav1.DeleteOptions{})
		}
	})

	must(t, a.prepare.Check(t.Context(), a.objects))
	if _, err := pools.Get(t.Context(), "values-a", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after a check the pool is there: %v", err)
	}
	wrong := a.objects[0].DeepCopy()
	must(t, unstructured.SetNestedStringSlice(wrong.Object, []string{"192.0.2.7/24"}, "spec", "addresses"))
	short := *a.prepare
	short.Settle = 0
	err := short.Check(t.Context(), []*unstructured.Unstructured{wrong})
	if err == nil || !strings.Contains(err.Error(), "apply LoadBalancerPool values-a: ") ||
		!strings.Contains(err.Error(), "192.0.2.7/24") {
		t.Errorf("a check of 192.0.2.7/24 says %v, want the pool and the address", err)
	}

	must(t, a.configure.Objects(t.Context(), a.objects))
	pool, err := pools.Get(t.Context(), "values-a", metav1.GetOptions{})
	must(t, err)
	if got := pool.GetLabels()[v1alpha1.ValuesOfLabel]; got != "berth" {
		t.Errorf("label %s is %q, want berth", v1alpha1.ValuesOfLabel, got)
	}
	_, err = pools.Patch(
		t.Context(),
		"values-a",
		types.MergePatchType,
		[]byte(`{"spec":{"priority":7}}`),
		metav1.PatchOptions{},
	)
	must(t, err)

	// A field that is not in the values goes, even if somebody else wrote it; so does an object of the
	// release, and no other.
	create(t, ns, object("LoadBalancerPool", "mine", "{addresses: [192.0.2.96/28]}"))
	other := *a.reconfigure
	other.Owner = "other"
	kept := a.objects[:1]
	must(t, other.Prune(t.Context(), nil))
	must(t, a.reconfigure.Objects(t.Context(), kept))
	must(t, a.reconfigure.Prune(t.Context(), kept))
	pool, err = pools.Get(t.Context(), "values-a", metav1.GetOptions{})
	must(t, err)
	if spec, _, _ := unstructured.NestedMap(pool.Object, "spec"); spec["priority"] == int64(7) {
		t.Errorf("a field is there that the values have not: %v", spec)
	}
	list, err := pools.List(t.Context(), metav1.ListOptions{})
	must(t, err)
	var names []string
	for _, o := range list.Items {
		names = append(names, o.GetName())
	}
	if diff := cmp.Diff([]string{"mine", "values-a"}, names); diff != "" {
		t.Errorf("pools (-want +got):\n%s", diff)
	}
	_, err = resource(t, "SegmentAnnouncement", ns).Get(t.Context(), "values-a", metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("the announcement that the values have no longer is there: %v", err)
	}
}

// From the first installation to the one after an uninstall, hooks need all rights that they have:
// what none needs fails the package (unusedRights).
func TestApplyAgain(t *testing.T) {
	a := newApplied(t)
	installed := func() {
		must(t, a.prepare.Check(t.Context(), a.objects))
		must(t, a.configure.Objects(t.Context(), a.objects))
	}
	upgraded := func(objects []*unstructured.Unstructured) {
		must(t, a.prepare.Check(t.Context(), objects))
		must(t, a.reconfigure.Objects(t.Context(), objects))
		must(t, a.reconfigure.Prune(t.Context(), objects))
	}
	installed()
	installed() // an uninstall leaves the objects
	upgraded(nil)
	for _, of := range []string{"LoadBalancerPool", "BGPNeighbor", "SegmentAnnouncement", "RouteAnnouncement"} {
		_, err := resource(t, of, "").Get(t.Context(), "values-a", metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			t.Errorf("%s values-a is there after values without it: %v", of, err)
		}
	}
	upgraded(a.objects)
	upgraded(a.objects)
	upgraded(nil)
}

// What the hooks have not made they leave alone, and what they may not write they cannot.
func TestApplyLeavesOthersAlone(t *testing.T) {
	ns := namespace(t)
	a := newApplied(t)
	create(t, ns, object("LoadBalancerPool", "values-a", "{addresses: [198.51.100.0/28]}"))
	for _, run := range []func(context.Context, []*unstructured.Unstructured) error{a.prepare.Check, a.configure.Objects} {
		err := run(t.Context(), a.objects[:1])
		want := "loadbalancerpools.berth.dev values-a exists and is not from the values of a release"
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("says %v, want %q in it", err, want)
		}
	}
	renamed := a.objects[0].DeepCopy()
	renamed.SetName("values-c")
	if err := a.configure.Objects(t.Context(), []*unstructured.Unstructured{renamed}); !apierrors.IsForbidden(err) {
		t.Errorf("a pool that is not in the values: %v, want forbidden", err)
	}
	if err := a.configure.Definitions(t.Context()); !apierrors.IsForbidden(err) {
		t.Errorf("CRDs after the installation: %v, want forbidden", err)
	}
	if err := a.configure.Prune(t.Context(), nil); !apierrors.IsForbidden(err) {
		t.Errorf("deletion after the first installation: %v, want forbidden", err)
	}
}

// CRDs of an earlier version become those of this one: what is no longer in them goes.
func TestApplyCRDs(t *testing.T) {
	a := newApplied(t)
	config, err := scene.RESTConfig()
	must(t, err)
	admin, err := dynamic.NewForConfig(config)
	must(t, err)
	of := admin.Resource(schema.GroupVersionResource{
		Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions",
	})
	const name = "loadbalancerpools.berth.dev"
	spec := []string{"schema", "openAPIV3Schema", "properties", "spec", "properties"}
	_, err = of.Patch(t.Context(), name, types.JSONPatchType, []byte(`[
		{"op": "remove", "path": "/spec/versions/0/`+strings.Join(spec, "/")+`/priority"},
		{"op": "add", "path": "/spec/versions/0/`+strings.Join(spec, "/")+`/former", "value": {"type": "string"}}
	]`), metav1.PatchOptions{FieldManager: "helm"})
	must(t, err)

	must(t, a.prepare.Definitions(t.Context()))
	withPriority := a.objects[0].DeepCopy()
	must(t, unstructured.SetNestedField(withPriority.Object, int64(5), "spec", "priority"))
	must(t, a.prepare.Check(t.Context(), []*unstructured.Unstructured{withPriority}))

	got, err := of.Get(t.Context(), name, metav1.GetOptions{})
	must(t, err)
	all, err := crds.All()
	must(t, err)
	for _, want := range all {
		if want.GetName() != name {
			continue
		}
		if diff := cmp.Diff(properties(t, want, spec), properties(t, got, spec)); diff != "" {
			t.Errorf("fields of a pool (-this version +cluster):\n%s", diff)
		}
	}
	const missing = "routeannouncements.berth.dev"
	must(t, of.Delete(t.Context(), missing, metav1.DeleteOptions{}))
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		_, err := of.Get(ctx, missing, metav1.GetOptions{})
		if err == nil {
			return fmt.Errorf("CRD %s is there after its deletion", missing)
		}
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}))
	must(t, a.prepare.Definitions(t.Context()))
	again, err := of.Get(t.Context(), name, metav1.GetOptions{})
	must(t, err)
	if got.GetResourceVersion() != again.GetResourceVersion() {
		t.Error("the same CRD, applied again, is another")
	}
}

// properties are those of a field of the CRD's first version, by the path of the schema.
func properties(t *testing.T, crd *unstructured.Unstructured, path []string) map[string]any {
	t.Helper()
	versions, _, err := unstructured.NestedSlice(crd.Object, "spec", "versions")
	must(t, err)
	found, there, err := unstructured.NestedMap(versions[0].(map[string]any), path...)
	if err != nil || !there {
		t.Fatalf("%s has no %v: %v", crd.GetName(), path, err)
	}
	return found
}

// A namespace gets labels, unless they are somebody else's.
func TestApplyNamespaceLabels(t *testing.T) {
	a := newApplied(t)
	const label = "pod-security.kubernetes.io/audit"
	labels := func(value string) []*unstructured.Unstructured {
		return []*unstructured.Unstructured{parsed(
			t,
			"{apiVersion: v1, kind: Namespace, metadata: {name: "+stage.Namespace+", labels: {"+label+": "+value+"}}}",
		)}
	}
	must(t, a.prepare.Objects(t.Context(), labels("privileged"))) // as kubectl has it
	err := a.prepare.Objects(t.Context(), labels("baseline"))
	if err == nil || !strings.Contains(err.Error(), "somebody else labels it otherwise") ||
		!strings.Contains(err.Error(), label) {
		t.Errorf("says %v, want the label, and that it is somebody else's", err)
	}
	found, err := scene.Kubernetes.CoreV1().Namespaces().Get(t.Context(), stage.Namespace, metav1.GetOptions{})
	must(t, err)
	if got := found.Labels[label]; got != "privileged" {
		t.Errorf("label %s is %s, want privileged", label, got)
	}
}
