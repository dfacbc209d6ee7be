//go:build root

package api

import (
	"context"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// namespaced are the kinds of Berth's that are.
var namespaced = map[string]bool{"AddressReservation": true}

// resource gives access to the objects of a kind of Berth's, as the API server has them, defaults
// included.
func resource(t *testing.T, kind, ns string) dynamic.ResourceInterface {
	t.Helper()
	config, err := scene.RESTConfig()
	must(t, err)
	config.QPS, config.Burst = 500, 1000
	client, err := dynamic.NewForConfig(config)
	must(t, err)
	of := client.Resource(v1alpha1.GroupVersion.WithResource(strings.ToLower(kind) + "s"))
	if namespaced[kind] {
		return of.Namespace(ns)
	}
	return of
}

// parsed is the object that a YAML document holds.
func parsed(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	must(t, yaml.Unmarshal([]byte(text), &o.Object))
	return o
}

// create creates the object that a YAML document holds, and deletes it when the test ends.
func create(t *testing.T, ns, text string) *unstructured.Unstructured {
	t.Helper()
	o := parsed(t, text)
	of := resource(t, o.GetKind(), ns)
	made, err := of.Create(t.Context(), o, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
	must(t, err)
	t.Cleanup(func() { _ = of.Delete(context.Background(), o.GetName(), metav1.DeleteOptions{}) })
	return made
}
