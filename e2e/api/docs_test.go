//go:build root

package api

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/berth-lb/berth/e2e/stage"
)

// notServed are API groups that the docs may show and this suite's API server lacks, and why.
// Their objects only have to be YAML.
var notServed = map[string]string{
	"argoproj.io":                 "Argo CD's",
	"helm.toolkit.fluxcd.io":      "Flux's",
	"kustomize.config.k8s.io":     "kustomize reads them from files",
	"kustomize.toolkit.fluxcd.io": "Flux's",
	"metallb.io":                  "MetalLB's",
	"monitoring.coreos.com":       "the Prometheus operator's",
	"source.toolkit.fluxcd.io":    "Flux's",
}

// block is a fenced block of YAML in a page.
type block struct {
	line int
	text string
}

var (
	blockBegins       = regexp.MustCompile("^( *)(`{3,}) *(.*)$")
	documentSeparator = regexp.MustCompile(`(?m)^---[ \t]*$`)
)

// yamlBlocks returns the blocks of a page that are marked as yaml and nothing else. One that is not
// an object by itself is marked as "yaml fragment": it looks the same to a reader.
func yamlBlocks(page string) []block {
	var found []block
	var open *block
	var fence, indent, language string
	for i, line := range strings.Split(page, "\n") {
		m := blockBegins.FindStringSubmatch(line)
		switch {
		case open == nil && m != nil:
			indent, fence, language = m[1], m[2], strings.TrimSpace(m[3])
			open = &block{line: i + 2}
		case open != nil && m != nil && m[3] == "" && len(m[2]) >= len(fence):
			if language == "yaml" {
				found = append(found, *open)
			}
			open = nil
		case open != nil:
			open.text += strings.TrimPrefix(line, indent) + "\n"
		}
	}
	return found
}

// The API server accepts each block of YAML in the repository's pages.
func TestDocsYAML(t *testing.T) {
	manifest, err := stage.Manifest()
	must(t, err)
	root := filepath.Dir(filepath.Dir(manifest))
	blocks, outer := 0, t
	for _, page := range files(t, root, ".md", ".") {
		text, err := os.ReadFile(filepath.Join(root, page))
		must(t, err)
		for _, b := range yamlBlocks(string(text)) {
			blocks++
			t.Run(fmt.Sprintf("%s:%d", page, b.line), func(t *testing.T) { accepts(t, outer, b.text) })
		}
	}
	if blocks < 10 {
		t.Errorf("%d blocks of YAML were found, want 10 or more", blocks)
	}
}

// accepts applies the objects of a block, by a dry run. Their namespaces stay until the outer test
// ends: one that is being deleted accepts nothing.
func accepts(t, outer *testing.T, block string) {
	t.Helper()
	var objects []string
	for _, document := range documentSeparator.Split(block, -1) {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(document), &o.Object); err != nil {
			t.Fatal(err)
		}
		switch {
		case len(o.Object) == 0: // only comments
			continue
		case o.GetAPIVersion() == "" || o.GetKind() == "":
			t.Fatalf("this is not an object: mark the block as ```yaml fragment\n%s", document)
		case notServed[o.GroupVersionKind().Group] != "":
			continue
		}
		ensureNamespace(outer, o.GetNamespace())
		objects = append(objects, document)
	}
	if len(objects) == 0 {
		return
	}
	if _, err := scene.Kubectl(
		t.Context(), strings.Join(objects, "---\n"), "apply", "--dry-run=server", "-f", "-",
	); err != nil {
		t.Error(err)
	}
}

// ensureNamespace makes the namespace, if there is none, until the test ends: a dry run needs it.
func ensureNamespace(t *testing.T, name string) {
	t.Helper()
	if name == "" {
		return
	}
	namespaces := scene.Kubernetes.CoreV1().Namespaces()
	_, err := namespaces.Create(
		t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{},
	)
	if apierrors.IsAlreadyExists(err) {
		return
	}
	must(t, err)
	t.Cleanup(func() { must(t, namespaces.Delete(context.Background(), name, metav1.DeleteOptions{})) })
}

func TestYAMLBlocks(t *testing.T) {
	page := "```yaml\na: 1\n```\n" +
		"text\n- item\n\n  ```yaml\n  b:\n    c: 2\n  ```\n" +
		"```yaml fragment\nd: 3\n```\n" +
		"```\n```yaml\n```\n" +
		"````yaml\ne: |\n```\n````\n" +
		"```yaml\nnever closed\n"
	want := []block{{2, "a: 1\n"}, {8, "b:\n  c: 2\n"}, {18, "e: |\n```\n"}}
	if diff := cmp.Diff(want, yamlBlocks(page), cmp.AllowUnexported(block{})); diff != "" {
		t.Error(diff)
	}
}
