package migrate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/berth-lb/berth/kubectl/lint"
)

// sources are what From converts from, by name. Each converts the objects that it knows.
var sources = map[string]func(*converter){
	"metallb":      fromMetalLB,
	"kube-vip":     fromKubeVIP,
	"cilium":       fromCilium,
	"purelb":       fromPureLB,
	"external-ips": fromExternalIPs,
}

// Sources returns the names of what From converts from, sorted.
func Sources() []string { return slices.Sorted(maps.Keys(sources)) }

// ErrNothing says that there is nothing to convert.
var ErrNothing = errors.New("there is nothing to convert in these files; is --from right?")

// Result is what became of the objects of a source.
type Result struct {
	// Objects are Berth's, the Secrets that they name, and the Services that had to change.
	Objects []*unstructured.Unstructured `json:"-"`
	// Report says what became of each object and field.
	Report []Line `json:"report"`
}

// Complete reports whether everything has a counterpart.
func (r Result) Complete() bool {
	return !slices.ContainsFunc(r.Report, func(l Line) bool { return l.Outcome == NoCounterpart })
}

// From converts the objects of a source. The Secrets that it makes are in the namespace, which is
// Berth's. Lint has nothing against the objects of the result, but for what they name and is
// missing in them; that is reported.
func From(
	ctx context.Context, schemas *lint.Schemas, source, namespace string, objects []*unstructured.Unstructured,
) (Result, error) {
	convert, known := sources[source]
	if !known {
		return Result{}, fmt.Errorf("%q is not a source; write one of %s", source, strings.Join(Sources(), ", "))
	}
	c := newConverter(namespace, objects)
	convert(c)
	if len(c.report) == 0 {
		return Result{}, ErrNothing
	}
	if err := c.judge(ctx, schemas); err != nil {
		return Result{}, err
	}
	return Result{Objects: c.objects(), Report: c.report}, nil
}

// Read returns the objects of a file in YAML or JSON. Those in lists are among them, the lists are
// not.
func Read(file lint.File) ([]*unstructured.Unstructured, error) {
	var all []*unstructured.Unstructured
	documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(file.Text), 4096)
	for {
		var document json.RawMessage
		err := documents.Decode(&document)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: it is not YAML: %w", file.Name, err)
		}
		if len(document) == 0 || string(document) == "null" {
			continue
		}
		o := &unstructured.Unstructured{}
		if err := o.UnmarshalJSON(document); err != nil {
			return nil, fmt.Errorf("%s: it is not an object of Kubernetes: %w", file.Name, err)
		}
		if !o.IsList() {
			all = append(all, o)
			continue
		}
		err = o.EachListItem(func(item runtime.Object) error {
			all = append(all, item.(*unstructured.Unstructured))
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("%s: an item of the list is not an object of Kubernetes: %w", file.Name, err)
		}
	}
}
