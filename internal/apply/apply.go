// Package apply brings objects into a cluster for installers that cannot do it themselves, as Helm
// cannot upgrade CRDs: Berth's CustomResourceDefinitions, the objects of its configuration, and the
// labels of its namespace. An object whose name is in the cluster already gets the spec that is
// applied; its status, finalizers and annotations stay.
//
// It never creates an object by POST: a right to do that cannot be restricted to names, and a right
// to apply can.
package apply

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/yaml"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/manifests/crds"
)

const fieldManager = "berth-apply"

var (
	definitions = schema.GroupVersionResource{
		Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions",
	}
	namespaces = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
)

// resources are those of the kinds that are applied. Objects are pruned in this order: a pool goes
// after what announces it.
var resources = []struct {
	kind string
	of   schema.GroupVersionResource
}{
	{"SegmentAnnouncement", v1alpha1.GroupVersion.WithResource("segmentannouncements")},
	{"RouteAnnouncement", v1alpha1.GroupVersion.WithResource("routeannouncements")},
	{"BGPNeighbor", v1alpha1.GroupVersion.WithResource("bgpneighbors")},
	{"LoadBalancerPool", v1alpha1.GroupVersion.WithResource("loadbalancerpools")},
}

// Applier applies objects.
type Applier struct {
	Client dynamic.Interface
	Log    *slog.Logger
	// Owner is the value of label berth.dev/values-of that objects get, if it is not empty. Objects
	// without it are then somebody else's, and left alone.
	Owner string
	// Settle is how long an object that the API server refuses is tried again: it may know the kind,
	// or a field, a moment after the CRD only.
	Settle time.Duration
}

// Definitions applies the built-in CRDs, and waits until their kinds are served.
func (a *Applier) Definitions(ctx context.Context) error {
	all, err := crds.All()
	if err != nil {
		return err
	}
	for _, crd := range all {
		if err := a.put(ctx, definitions, crd, false); err != nil {
			return fmt.Errorf("apply CRD %s: %w", crd.GetName(), err)
		}
		a.Log.Info("applied CRD", "name", crd.GetName())
	}
	for _, crd := range all {
		if err := a.awaitEstablished(ctx, crd.GetName()); err != nil {
			return fmt.Errorf("wait for CRD %s to be established: %w", crd.GetName(), err)
		}
	}
	return nil
}

func (a *Applier) awaitEstablished(ctx context.Context, name string) error {
	for {
		crd, err := a.Client.Resource(definitions).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if established(crd) {
			return nil
		}
		if err := async.Sleep(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("%w; its conditions: %v", err, conditions(crd))
		}
	}
}

func established(crd *unstructured.Unstructured) bool {
	return slices.ContainsFunc(conditions(crd), func(c any) bool {
		condition, _ := c.(map[string]any)
		return condition["type"] == "Established" && condition["status"] == "True"
	})
}

func conditions(crd *unstructured.Unstructured) []any {
	list, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions")
	return list
}

// Objects applies the objects. The error has all that were refused.
func (a *Applier) Objects(ctx context.Context, objects []*unstructured.Unstructured) error {
	return a.all(ctx, objects, false)
}

// Check has the API server check the objects, and changes nothing.
func (a *Applier) Check(ctx context.Context, objects []*unstructured.Unstructured) error {
	return a.all(ctx, objects, true)
}

func (a *Applier) all(ctx context.Context, objects []*unstructured.Unstructured, dry bool) error {
	deadline := time.Now().Add(a.Settle)
	for {
		var refused []*unstructured.Unstructured
		var errs []error
		again := false
		for _, o := range objects {
			err := a.one(ctx, o, dry)
			if err == nil {
				continue
			}
			refused = append(refused, o)
			errs = append(errs, fmt.Errorf("apply %s %s: %w", o.GetKind(), o.GetName(), err))
			again = again || apierrors.IsNotFound(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err)
		}
		if !again || time.Now().After(deadline) || async.Sleep(ctx, 250*time.Millisecond) != nil {
			return errors.Join(errs...)
		}
		objects = refused
	}
}

func (a *Applier) one(ctx context.Context, o *unstructured.Unstructured, dry bool) error {
	if o.GetKind() == "Namespace" {
		return a.label(ctx, o, dry)
	}
	of, err := resourceOf(o)
	if err != nil {
		return err
	}
	o = o.DeepCopy()
	if a.Owner != "" {
		o.SetLabels(with(o.GetLabels(), map[string]string{v1alpha1.ValuesOfLabel: a.Owner}))
	}
	if err := a.put(ctx, of, o, dry); err != nil {
		return err
	}
	if dry {
		a.Log.Info("checked", "kind", o.GetKind(), "name", o.GetName())
	} else {
		a.Log.Info("applied", "kind", o.GetKind(), "name", o.GetName())
	}
	return nil
}

// put creates the object, or replaces the spec of the one that is there.
func (a *Applier) put(
	ctx context.Context,
	of schema.GroupVersionResource,
	o *unstructured.Unstructured,
	dry bool,
) error {
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		old, err := a.Client.Resource(of).Get(ctx, o.GetName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return a.patch(ctx, of, o, true, dry)
		} else if err != nil {
			return err
		}
		if owner := old.GetLabels()[v1alpha1.ValuesOfLabel]; of != definitions && a.Owner != "" && owner != a.Owner {
			return &foreignError{object: of.GroupResource().String() + " " + o.GetName(), owner: owner, wanted: a.Owner}
		}
		old.Object["spec"] = o.Object["spec"]
		old.SetLabels(with(old.GetLabels(), o.GetLabels()))
		old.SetAnnotations(with(old.GetAnnotations(), o.GetAnnotations()))
		_, err = a.Client.Resource(of).Update(ctx, old, metav1.UpdateOptions{
			FieldManager: fieldManager, FieldValidation: metav1.FieldValidationStrict, DryRun: dryRun(dry),
		})
		return err
	})
}

// label gives the namespace its labels, unless somebody else has set them to something else.
func (a *Applier) label(ctx context.Context, o *unstructured.Unstructured, dry bool) error {
	err := a.patch(ctx, namespaces, o, false, dry)
	if apierrors.IsConflict(err) {
		return fmt.Errorf(
			"somebody else labels it otherwise: remove these labels, or leave them to others (namespace.labels of the chart's values): %w",
			err,
		)
	}
	return err
}

func (a *Applier) patch(
	ctx context.Context,
	of schema.GroupVersionResource,
	o *unstructured.Unstructured,
	force, dry bool,
) error {
	body, err := o.MarshalJSON()
	if err != nil {
		return fmt.Errorf("write as JSON: %w", err)
	}
	_, err = a.Client.Resource(of).Patch(ctx, o.GetName(), types.ApplyPatchType, body, metav1.PatchOptions{
		FieldManager: fieldManager, FieldValidation: metav1.FieldValidationStrict, Force: &force, DryRun: dryRun(dry),
	})
	return err
}

func dryRun(dry bool) []string {
	if dry {
		return []string{metav1.DryRunAll}
	}
	return nil
}

// Prune deletes the objects of the owner that are not among these.
func (a *Applier) Prune(ctx context.Context, keep []*unstructured.Unstructured) error {
	if a.Owner == "" {
		return errors.New("nothing is pruned without an owner")
	}
	for _, r := range resources {
		found, err := a.Client.Resource(r.of).
			List(ctx, metav1.ListOptions{LabelSelector: v1alpha1.ValuesOfLabel + "=" + a.Owner})
		if err != nil {
			return fmt.Errorf("list %s: %w", r.of.Resource, err)
		}
		for _, o := range found.Items {
			if slices.ContainsFunc(keep, func(k *unstructured.Unstructured) bool {
				return k.GetKind() == r.kind && k.GetName() == o.GetName()
			}) {
				continue
			}
			uid := o.GetUID()
			err := a.Client.Resource(r.of).Delete(ctx, o.GetName(), metav1.DeleteOptions{
				Preconditions: &metav1.Preconditions{UID: &uid},
			})
			if err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("delete %s %s: %w", r.kind, o.GetName(), err)
			}
			a.Log.Info("deleted, since the values have it no longer", "kind", r.kind, "name", o.GetName())
		}
	}
	return nil
}

// foreignError is returned for an object that another owner's values, or nobody's, have made.
type foreignError struct {
	object, owner, wanted string
}

func (e *foreignError) Error() string {
	of := "is not from the values of a release"
	if e.owner != "" {
		of = "is from the values of release " + e.owner
	}
	return fmt.Sprintf(
		"%s exists and %s: delete it, give it another name in the values, or hand it over with `kubectl label --overwrite %s %s=%s`",
		e.object,
		of,
		e.object,
		v1alpha1.ValuesOfLabel,
		e.wanted,
	)
}

// Read reads the objects of a file with YAML documents.
func Read(text []byte) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for i := 1; ; i++ {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		} else if err != nil {
			return nil, fmt.Errorf("document %d: %w", i, err)
		}
		object, err := yaml.YAMLToJSONStrict(document)
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", i, err)
		}
		if string(object) == "null" { // comments
			continue
		}
		o := &unstructured.Unstructured{}
		if err := o.UnmarshalJSON(object); err != nil {
			return nil, fmt.Errorf("document %d: %w", i, err)
		}
		if o.GetName() == "" {
			return nil, fmt.Errorf("document %d: metadata.name is missing", i)
		}
		if o.GroupVersionKind() != (schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}) {
			if _, err := resourceOf(o); err != nil {
				return nil, fmt.Errorf("document %d: %w", i, err)
			}
		}
		objects = append(objects, o)
	}
}

func resourceOf(o *unstructured.Unstructured) (schema.GroupVersionResource, error) {
	for _, r := range resources {
		if o.GroupVersionKind() == v1alpha1.GroupVersion.WithKind(r.kind) {
			return r.of, nil
		}
	}
	return schema.GroupVersionResource{}, fmt.Errorf(
		"%s of %s is not applied: write a LoadBalancerPool, BGPNeighbor, SegmentAnnouncement or RouteAnnouncement of %s, or a Namespace of v1",
		o.GetKind(),
		o.GetAPIVersion(),
		v1alpha1.GroupVersion,
	)
}

// with returns the map with the entries of more.
func with(of, more map[string]string) map[string]string {
	if len(of)+len(more) == 0 {
		return nil
	}
	all := make(map[string]string, len(of)+len(more))
	for _, m := range []map[string]string{of, more} {
		for key, value := range m {
			all[key] = value
		}
	}
	return all
}
