//go:build root

package plugin

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/berth-lb/berth/kubectl/lint"
)

// TestLintAgainstTheAPIServer changes the examples of the documentation at random, and has both
// judge what comes out: lint must be content if and only if the API server is. With
// BERTH_LINT_OBJECTS it tries so many.
func TestLintAgainstTheAPIServer(t *testing.T) {
	tries := 2000
	if text := os.Getenv("BERTH_LINT_OBJECTS"); text != "" {
		var err error
		if tries, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	config, err := scene.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = 5000, 5000
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	schemas, err := lint.NewSchemas()
	if err != nil {
		t.Fatal(err)
	}
	examples := examples(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	work := make(chan *unstructured.Unstructured)
	var workers sync.WaitGroup
	var refusals, content int
	var mu sync.Mutex
	for range 8 {
		workers.Go(func() {
			for o := range work {
				refused, err := refusal(t, client, o)
				if err != nil {
					t.Errorf("%s: %v", text(o), err)
					continue
				}
				found := schemas.Check(t.Context(), o.DeepCopy())
				mu.Lock()
				if refused == "" {
					content++
				} else {
					refusals++
				}
				mu.Unlock()
				if (refused == "") != (len(found) == 0) {
					t.Errorf("seed %d: of %s\nthe API server says %q\nlint says %q", seed, text(o), refused, found)
				}
			}
		})
	}
	random := rand.New(rand.NewPCG(seed, 0))
	for range tries {
		o := examples[random.IntN(len(examples))].DeepCopy()
		for range 1 + random.IntN(5)/4 {
			mutate(random, o.Object["spec"])
		}
		if random.IntN(20) == 0 {
			mutate(random, o.Object["metadata"])
		}
		if o.GetKind() == "AddressReservation" && o.GetNamespace() != "" {
			o.SetNamespace(metav1.NamespaceDefault) // the one that the request names
		}
		work <- o
	}
	close(work)
	workers.Wait()
	t.Logf("the API server refused %d objects and took %d", refusals, content)
	if refusals < tries/10 || content < tries/20 {
		t.Errorf(
			"of %d objects %d were refused and %d taken: the changes are too wild, or too tame",
			tries,
			refusals,
			content,
		)
	}
}

// refusal returns what the API server says against the creation of the object; empty: nothing.
func refusal(t *testing.T, client dynamic.Interface, o *unstructured.Unstructured) (string, error) {
	t.Helper()
	gvk := o.GroupVersionKind()
	resource, _ := meta.UnsafeGuessKindToResource(gvk)
	var to dynamic.ResourceInterface = client.Resource(resource)
	if gvk.Kind == "AddressReservation" {
		to = client.Resource(resource).Namespace("default")
	}
	_, err := to.Create(
		t.Context(),
		o,
		metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict},
	)
	switch {
	case err == nil, apierrors.IsAlreadyExists(err):
		return "", nil
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsRequestEntityTooLargeError(err):
		return err.Error(), nil
	}
	return "", err
}

func text(o *unstructured.Unstructured) string {
	line, err := json.Marshal(o.Object)
	if err != nil {
		return err.Error()
	}
	if len(line) > 1500 {
		line = append(line[:1500], "..."...)
	}
	return string(line)
}

// examples returns the objects of the documentation's examples.
func examples(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	names, err := filepath.Glob("../../docs/reference/examples/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var all []*unstructured.Unstructured
	for _, name := range names {
		body, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, document := range strings.Split("\n"+string(body), "\n---") {
			object := &unstructured.Unstructured{}
			line, err := yaml.YAMLToJSON([]byte(document))
			if err != nil {
				t.Fatal(err)
			}
			if string(line) == "null" || object.UnmarshalJSON(line) != nil ||
				object.GroupVersionKind().Group != "berth.dev" {
				continue
			}
			object.SetName(fmt.Sprintf("lint-%d", len(all)))
			all = append(all, object)
		}
	}
	if len(all) < 5 {
		t.Fatalf("there are %d examples", len(all))
	}
	return all
}

// odd are values that somebody may write anywhere.
func odd(random *rand.Rand) any {
	all := []any{
		nil, "", " ", "x", "192.0.2.1", "192.0.2.0/24", "2001:db8::/64", "192.0.2.9-192.0.2.1", "::ffff:192.0.2.1", "0", "-1",
		"1s", "90s", "1h30m", "-5s", "Automatic", "IPVS", "é", strings.Repeat("a", 300),
		strings.Repeat("b", 70), "a/b", "A.B",
		int64(0), int64(1), int64(-1), int64(255), int64(65535), int64(65536), int64(4294967295), int64(4294967296),
		int64(1 << 62), 1.5, true, false, []any{}, []any{"x"}, []any{int64(1)}, []any{nil}, map[string]any{},
		map[string]any{"x": "y"}, map[string]any{"matchLabels": map[string]any{"a": "b"}}, []any{map[string]any{}},
	}
	return all[random.IntN(len(all))]
}

// mutate changes one place in a value that holds others.
func mutate(random *rand.Rand, value any) {
	switch v := value.(type) {
	case map[string]any:
		var keys []string
		for key := range v {
			keys = append(keys, key)
		}
		if len(keys) == 0 {
			v["x"] = odd(random)
			return
		}
		slices.Sort(keys)
		key := keys[random.IntN(len(keys))]
		switch random.IntN(7) {
		case 0:
			delete(v, key)
		case 1:
			v[key+"s"] = v[key]
		case 2, 3:
			v[key] = odd(random)
		default:
			switch v[key].(type) {
			case map[string]any, []any:
				mutate(random, v[key])
			default:
				v[key] = odd(random)
			}
		}
	case []any:
		if len(v) == 0 {
			return
		}
		i := random.IntN(len(v))
		switch v[i].(type) {
		case map[string]any, []any:
			mutate(random, v[i])
		default:
			v[i] = odd(random)
		}
		if random.IntN(5) == 0 {
			v[random.IntN(len(v))] = v[i]
		}
	}
}

// TestLint: the command reads folders, and needs no cluster.
func TestLint(t *testing.T) {
	folder := t.TempDir()
	const pool = "apiVersion: berth.dev/v1alpha1\nkind: LoadBalancerPool\nmetadata: {name: office}\n" +
		"spec: {addresses: [192.0.2.20-192.0.2.10], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}\n"
	for name, body := range map[string]string{"pool.yaml": pool, "notes.txt": "a: ["} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var found lint.Result
	if r := berthJSON(t, &found, "lint", folder); r.code != 1 || len(found.Findings) != 1 ||
		!strings.Contains(found.Findings[0].Message, "is reversed; write 192.0.2.10-192.0.2.20") {
		t.Errorf("exit code %d, %+v", r.code, found)
	}
	if r := berthWith(t, "/dev/null", "lint", "../../docs/reference/examples"); r.code != 0 {
		t.Errorf("the examples: exit code %d, %s%s", r.code, r.out, r.err)
	}
	if r := berth(t, "lint", filepath.Join(folder, "none.yaml")); r.code != 2 ||
		!strings.Contains(r.err, "no such file") {
		t.Errorf("no file: %+v", r)
	}
}
