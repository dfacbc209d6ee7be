//go:build root

package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"sigs.k8s.io/yaml"

	"github.com/berth-lb/berth/e2e/stage"
)

const (
	foreignLabel = "test=foreign-names"
	atOnce       = 8 // requests
)

var definitions = schema.GroupVersionResource{
	Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions",
}

// readForeign returns the names of other projects, by group.
func readForeign(t *testing.T) map[string][]names {
	t.Helper()
	text, err := os.ReadFile("testdata/foreign-names.yaml")
	must(t, err)
	var projects []struct {
		Project string             `json:"project"`
		Groups  map[string][]names `json:"groups"`
	}
	must(t, yaml.UnmarshalStrict(text, &projects))
	groups := map[string][]names{}
	for _, p := range projects {
		for group, kinds := range p.Groups {
			groups[group] = append(groups[group], kinds...)
		}
	}
	return groups
}

// installForeign creates a CustomResourceDefinition for each of the names, until the test ends.
// It takes one watch for all of them: kubectl asks for each alone, ten in a second.
func installForeign(t *testing.T, foreign map[string][]names) {
	t.Helper()
	config, err := scene.RESTConfig()
	must(t, err)
	client, err := dynamic.NewForConfig(config)
	must(t, err)
	crds := client.Resource(definitions)
	t.Cleanup(func() { removeForeign(t, client, foreign) })
	waiting := map[string]bool{}
	var creations errgroup.Group
	creations.SetLimit(atOnce)
	for group, kinds := range foreign {
		for _, n := range kinds {
			crd := definition(group, n)
			waiting[crd.GetName()] = true
			creations.Go(func() error {
				_, err := crds.Create(t.Context(), crd, metav1.CreateOptions{})
				return err
			})
		}
	}
	must(t, creations.Wait())
	must(t, follow(t.Context(), crds, waiting, func(_ watch.Event, crd *unstructured.Unstructured) bool {
		conditions, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions")
		return slices.ContainsFunc(conditions, func(c any) bool {
			condition, _ := c.(map[string]any)
			return condition["type"] == "Established" && condition["status"] == "True"
		})
	}))
}

// removeForeign deletes what installForeign created, and waits until nothing of it is served.
func removeForeign(t *testing.T, client dynamic.Interface, foreign map[string][]names) {
	t.Helper()
	crds := client.Resource(definitions)
	ctx := context.WithoutCancel(t.Context())
	list, err := crds.List(ctx, metav1.ListOptions{LabelSelector: foreignLabel})
	must(t, err)
	waiting := map[string]bool{}
	var deletions errgroup.Group
	deletions.SetLimit(atOnce)
	for _, crd := range list.Items {
		waiting[crd.GetName()] = true
		deletions.Go(func() error {
			if err := untilListed(ctx, client, &crd); err != nil {
				return err
			}
			return crds.Delete(ctx, crd.GetName(), metav1.DeleteOptions{})
		})
	}
	must(t, deletions.Wait())
	must(
		t,
		follow(ctx, crds, waiting, func(e watch.Event, _ *unstructured.Unstructured) bool { return e.Type == watch.Deleted }),
	)
	must(t, stage.Eventually(ctx, patience, func(context.Context) error {
		groups, err := scene.Kubernetes.Discovery().ServerGroups()
		if err != nil {
			return err
		}
		for _, g := range groups.Groups {
			if foreign[g.Name] != nil {
				return errors.New(g.Name + " is still discovered")
			}
		}
		return nil
	}))
}

// untilListed waits until the storage of a kind has begun: an API server that cannot list the
// objects of a kind that it shall forget tries again later and later, for minutes.
func untilListed(ctx context.Context, client dynamic.Interface, crd *unstructured.Unstructured) error {
	group, _, _ := unstructured.NestedString(crd.Object, "spec", "group")
	plural, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "plural")
	kind := client.Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: plural})
	return stage.Eventually(ctx, patience, func(ctx context.Context) error {
		_, err := kind.List(ctx, metav1.ListOptions{})
		if apierrors.IsNotFound(err) {
			return nil // it is not served
		}
		return err
	})
}

// follow watches the foreign definitions until each of those waited for was done, or is gone.
func follow(
	ctx context.Context,
	crds dynamic.ResourceInterface,
	waiting map[string]bool,
	done func(watch.Event, *unstructured.Unstructured) bool,
) error {
	ctx, cancel := context.WithTimeout(ctx, 2*patience) // two hundred of them
	defer cancel()
	options := func(o metav1.ListOptions) metav1.ListOptions {
		o.LabelSelector = foreignLabel
		return o
	}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return crds.List(ctx, options(o))
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return crds.Watch(ctx, options(o))
		},
	}
	there := func(store cache.Store) (bool, error) {
		maps.DeleteFunc(waiting, func(name string, _ bool) bool { return !slices.Contains(store.ListKeys(), name) })
		return len(waiting) == 0, nil
	}
	_, err := watchtools.UntilWithSync(ctx, lw, &unstructured.Unstructured{}, there, func(e watch.Event) (bool, error) {
		if crd := e.Object.(*unstructured.Unstructured); done(e, crd) {
			delete(waiting, crd.GetName())
		}
		return len(waiting) == 0, nil
	})
	if err != nil {
		for _, name := range slices.Sorted(maps.Keys(waiting)) {
			crd, asked := crds.Get(context.WithoutCancel(ctx), name, metav1.GetOptions{})
			if asked != nil {
				err = fmt.Errorf("%w; not done: %s (%w)", err, name, asked)
				continue
			}
			status := crd.Object["status"]
			err = fmt.Errorf("%w; not done: %s, deleted at %v, status %v", err, name, crd.GetDeletionTimestamp(), status)
		}
	}
	return err
}

// definition returns the least CustomResourceDefinition that has the names.
func definition(group string, n names) *unstructured.Unstructured {
	list := func(of []string) []any {
		var all []any
		for _, s := range of {
			all = append(all, s)
		}
		return all
	}
	label, value, _ := strings.Cut(foreignLabel, "=")
	metadata := map[string]any{"name": n.Plural + "." + group, "labels": map[string]any{label: value}}
	if strings.HasSuffix(group, ".k8s.io") {
		metadata["annotations"] = map[string]any{"api-approved.kubernetes.io": "unapproved, the names only"}
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": metadata,
		"spec": map[string]any{
			"group": group, "scope": n.Scope,
			"names": map[string]any{
				"kind":       n.Kind,
				"plural":     n.Plural,
				"singular":   n.Singular,
				"shortNames": list(n.ShortNames),
				"categories": list(n.Categories),
			},
			"versions": []any{map[string]any{
				"name": "v1", "served": true, "storage": true,
				"schema": map[string]any{
					"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true},
				},
			}},
		},
	}}
}

// discover returns what the API server serves once all foreign kinds are among it.
func discover(t *testing.T, foreign map[string][]names) (groups []*metav1.APIGroup, lists []*metav1.APIResourceList) {
	t.Helper()
	must(t, stage.Eventually(t.Context(), patience, func(context.Context) error {
		var err error
		if groups, lists, err = scene.Kubernetes.Discovery().ServerGroupsAndResources(); err != nil {
			return err
		}
		served := map[string]bool{}
		for _, list := range lists {
			gv, err := schema.ParseGroupVersion(list.GroupVersion)
			if err != nil {
				return err
			}
			for _, r := range list.APIResources {
				served[r.Name+"."+gv.Group] = true
			}
		}
		for group, kinds := range foreign {
			for _, n := range kinds {
				if resource := n.Plural + "." + group; !served[resource] {
					return errors.New(resource + " is not discovered")
				}
			}
		}
		return nil
	}))
	return groups, lists
}
