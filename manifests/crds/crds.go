// Package crds holds Berth's CustomResourceDefinitions, as `make generate` writes them beside this
// file, for programs that apply them.
package crds

import (
	"embed"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

//go:embed *.yaml
var files embed.FS

// All returns the definitions, in the order of their names.
func All() ([]*unstructured.Unstructured, error) {
	entries, err := files.ReadDir(".")
	if err != nil {
		return nil, fmt.Errorf("list the built-in CRDs: %w", err)
	}
	all := make([]*unstructured.Unstructured, 0, len(entries))
	for _, entry := range entries {
		text, err := files.ReadFile(entry.Name())
		if err != nil {
			return nil, fmt.Errorf("read the built-in CRD %s: %w", entry.Name(), err)
		}
		crd := &unstructured.Unstructured{}
		object, err := yaml.YAMLToJSON(text)
		if err == nil {
			err = crd.UnmarshalJSON(object)
		}
		if err != nil {
			return nil, fmt.Errorf("read the built-in CRD %s: %w", entry.Name(), err)
		}
		all = append(all, crd)
	}
	return all, nil
}
