// Package helm renders Berth's chart with the libraries of Helm 3 and Helm 4. Its module names
// their versions. `lab build --installers` builds the programs from it, for the tests in
// e2e/release.
package helm

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	loader3 "helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	engine3 "helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	loader4 "helm.sh/helm/v4/pkg/chart/v2/loader"
	engine4 "helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/yaml"
)

const chartFolder = "../../charts/berth"

// A release as users call theirs, and another than the manifests have.
const release, manifestsNamespace = "berth", "berth-system"

type object = map[string]any

// rendered is what Helm makes of the chart: objects by "KIND NAME", in order hooks and CRDs apart.
type rendered struct {
	objects, hooks, crds map[string]object
	notes                string
}

// versions render the chart's files, by path, with values; and return its CRDs beside them.
var versions = map[string]func(values object, namespace string) (files map[string]string, crds []string, err error){
	"Helm 3": func(values object, namespace string) (map[string]string, []string, error) {
		chart, err := loader3.Load(chartFolder)
		if err != nil {
			return nil, nil, err
		}
		options := chartutil.ReleaseOptions{Name: release, Namespace: namespace, IsInstall: true, Revision: 1}
		all, err := chartutil.ToRenderValues(chart, values, options, nil)
		if err != nil {
			return nil, nil, err
		}
		files, err := engine3.Render(chart, all)
		var crds []string
		for _, crd := range chart.CRDObjects() {
			crds = append(crds, string(crd.File.Data))
		}
		return files, crds, err
	},
	"Helm 4": func(values object, namespace string) (map[string]string, []string, error) {
		chart, err := loader4.Load(chartFolder)
		if err != nil {
			return nil, nil, err
		}
		options := common.ReleaseOptions{Name: release, Namespace: namespace, IsInstall: true, Revision: 1}
		all, err := util.ToRenderValues(chart, values, options, nil)
		if err != nil {
			return nil, nil, err
		}
		files, err := engine4.Render(chart, all)
		var crds []string
		for _, crd := range chart.CRDObjects() {
			crds = append(crds, string(crd.File.Data))
		}
		return files, crds, err
	},
}

// each runs the test with each version of Helm.
func each(t *testing.T, test func(t *testing.T, render func(values, namespace string) (rendered, error))) {
	t.Helper()
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			test(t, func(values, namespace string) (rendered, error) {
				given := object{}
				if err := yaml.Unmarshal([]byte(values), &given); err != nil {
					t.Fatal(err)
				}
				files, crds, err := version(given, namespace)
				if err != nil {
					return rendered{}, err
				}
				return sorted(t, files, crds), nil
			})
		})
	}
}

// sorted parses what was rendered.
func sorted(t *testing.T, files map[string]string, crds []string) rendered {
	t.Helper()
	r := rendered{objects: map[string]object{}, hooks: map[string]object{}, crds: map[string]object{}}
	for file, text := range files {
		switch {
		case path.Base(file) == "NOTES.txt":
			r.notes = text
			continue
		case strings.HasPrefix(path.Base(file), "_"):
			continue
		}
		for key, o := range documents(t, text) {
			into := r.objects
			if _, hook := annotations(o)["helm.sh/hook"]; hook {
				into = r.hooks
			}
			if into[key] != nil {
				t.Errorf("%s is rendered twice", key)
			}
			into[key] = o
		}
	}
	for _, text := range crds {
		for key, o := range documents(t, text) {
			r.crds[key] = o
		}
	}
	return r
}

var separator = regexp.MustCompile(`(?m)^---[ \t]*$`)

// documents returns the objects of a YAML file by "KIND NAME".
func documents(t *testing.T, text string) map[string]object {
	t.Helper()
	found := map[string]object{}
	for _, document := range separator.Split(text, -1) {
		o := object{}
		if err := yaml.UnmarshalStrict([]byte(document), &o); err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		if len(o) == 0 {
			continue
		}
		key := fmt.Sprint(o["kind"], " ", metadata(o)["name"])
		if found[key] != nil {
			t.Errorf("%s is there twice", key)
		}
		found[key] = o
	}
	return found
}

func metadata(o object) object {
	m, _ := o["metadata"].(object)
	return m
}

func annotations(o object) object {
	a, _ := metadata(o)["annotations"].(object)
	return a
}

// helmsOwn are the labels that the chart adds to each object.
var helmsOwn = []string{
	"helm.sh/chart", "app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "app.kubernetes.io/version",
}

// withoutHelms removes the labels that the chart adds to each object; it is an error if they are
// not there.
func withoutHelms(t *testing.T, key string, o object) {
	t.Helper()
	labels, _ := metadata(o)["labels"].(object)
	for _, label := range helmsOwn {
		if _, there := labels[label]; !there {
			t.Errorf("%s has no label %s", key, label)
		}
		delete(labels, label)
	}
}

// manifests reads a file of the manifests.
func manifests(t *testing.T, elements ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{"../../manifests"}, elements...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// at returns what is at the path of keys and indices, nil if nothing is.
func at(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(object)
			v = m[p]
		case int:
			l, _ := v.([]any)
			if p >= len(l) {
				return nil
			}
			v = l[p]
		}
	}
	return v
}
