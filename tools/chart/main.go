// Command chart writes the parts of the Helm chart that follow from other files:
//
//	crds/                  manifests/crds
//	templates/rbac.yaml    of manifests/berth.yaml, what has no options; likewise admission.yaml and
//	                       others.yaml
//	templates/monitoring-* manifests/monitoring, each with a switch
//	dashboards/            manifests/monitoring/dashboards
//	values.schema.json     schema.json here, with the schemas of the kinds from their CRDs
//	Chart.yaml             the version, from internal/version/VERSION
//
// Usage: chart ROOT
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: chart ROOT")
		os.Exit(2)
	}
	r := repository{root: os.Args[1]}
	for _, write := range []func() error{r.crds, r.objects, r.monitoring, r.schema, r.version} {
		if err := write(); err != nil {
			fmt.Fprintln(os.Stderr, "chart:", err)
			os.Exit(1)
		}
	}
}

type repository struct{ root string }

func (r repository) manifests(path ...string) string {
	return filepath.Join(append([]string{r.root, "manifests"}, path...)...)
}

func (r repository) chart(path ...string) string {
	return filepath.Join(append([]string{r.root, "charts", "berth"}, path...)...)
}

// crds copies the CRDs. What is no longer in manifests goes.
func (r repository) crds() error { return copyFiles(r.manifests("crds"), r.chart("crds"), "*.yaml") }

func copyFiles(from, to, pattern string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(from, pattern))
	if err != nil || len(files) == 0 {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, filepath.Base(file)), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// templates are the files for kinds of objects that have no options. Kinds of "" are left to the
// templates that are written by hand, or are no templates; all others go to others.yaml.
var templates = map[string]string{
	"CustomResourceDefinition": "", "Namespace": "", "Deployment": "", "DaemonSet": "", "PodDisruptionBudget": "",
	"ServiceAccount": "rbac.yaml", "Role": "rbac.yaml", "RoleBinding": "rbac.yaml",
	"ClusterRole": "rbac.yaml", "ClusterRoleBinding": "rbac.yaml",
	"ValidatingAdmissionPolicy": "admission.yaml", "ValidatingAdmissionPolicyBinding": "admission.yaml",
}

const generated = "# Generated from %s (make generate).\n"

func (r repository) objects() error {
	text, err := os.ReadFile(r.manifests("berth.yaml"))
	if err != nil {
		return err
	}
	written := map[string]*strings.Builder{"rbac.yaml": {}, "admission.yaml": {}, "others.yaml": {}}
	for _, document := range strings.Split(string(text), "\n---\n") {
		kind, template, err := templateOf(document)
		if err != nil {
			return err
		}
		file, known := templates[kind]
		if !known {
			file = "others.yaml"
		}
		if file != "" {
			fmt.Fprintf(written[file], "---\n%s", template)
		}
	}
	head := fmt.Sprintf(generated, "manifests/berth.yaml")
	for file, text := range written {
		if err := writeTemplate(r.chart("templates", file), head, text.String()); err != nil {
			return err
		}
	}
	return nil
}

// writeTemplate writes a template, or removes it if it has nothing.
func writeTemplate(path, head, text string) error {
	if text == "" {
		return os.RemoveAll(path)
	}
	return os.WriteFile(path, []byte(head+text), 0o644)
}

const (
	namespace = "berth-system"
	// What stands for text that is not YAML, while the template is.
	releaseNamespace = "RELEASE-NAMESPACE"
	chartLabels      = "CHART-LABELS"
)

var chartLabelsLine = regexp.MustCompile(`(?m)^ +` + chartLabels + `: ""\n`)

// templateOf returns the kind of an object, and its template: its namespace is the release's, and
// it has the chart's labels beside its own.
func templateOf(document string) (kind, template string, err error) {
	if strings.Contains(document, releaseNamespace) || strings.Contains(document, chartLabels) {
		return "", "", fmt.Errorf("an object has %s or %s in it", releaseNamespace, chartLabels)
	}
	var object map[string]any
	if err := yaml.Unmarshal([]byte(document), &object); err != nil {
		return "", "", err
	}
	kind, _ = object["kind"].(string)
	metadata, ok := object["metadata"].(map[string]any)
	if !ok {
		return "", "", fmt.Errorf("a %s has no metadata", kind)
	}
	labels, ok := metadata["labels"].(map[string]any)
	if !ok {
		return "", "", fmt.Errorf("%s %s has no labels", kind, metadata["name"])
	}
	labels[chartLabels] = ""
	if metadata["namespace"] == namespace {
		metadata["namespace"] = releaseNamespace
	}
	subjects, _ := object["subjects"].([]any)
	for _, s := range subjects {
		if subject, ok := s.(map[string]any); ok && subject["namespace"] == namespace {
			subject["namespace"] = releaseNamespace
		}
	}
	text, err := yaml.Marshal(object)
	if err != nil {
		return "", "", err
	}
	template = strings.ReplaceAll(string(text), "{{", `{{ "{{" }}`)
	template = chartLabelsLine.ReplaceAllString(template, "    {{- include \"berth.labels\" . | nindent 4 }}\n")
	return kind, strings.ReplaceAll(template, releaseNamespace, "{{ .Release.Namespace | quote }}"), nil
}

// monitored are the objects of the Prometheus operator, and the options that switch them on. The
// labels are for the selectors of a Prometheus.
var monitored = map[string]string{"podmonitor.yaml": "podMonitor", "prometheusrule.yaml": "rules"}

func (r repository) monitoring() error {
	for file, option := range monitored {
		text, err := os.ReadFile(r.manifests("monitoring", file))
		if os.IsNotExist(err) {
			continue
		} else if err != nil {
			return err
		}
		_, template, err := templateOf(string(text))
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		template = strings.Replace(template, "    {{- include", fmt.Sprintf(
			"    {{- with .Values.monitoring.%s.labels }}{{ toYaml . | nindent 4 }}{{ end }}\n    {{- include", option,
		), 1)
		template = fmt.Sprintf("{{- if .Values.monitoring.%s.enabled }}\n%s{{- end }}\n", option, template)
		head := fmt.Sprintf(generated, "manifests/monitoring/"+file)
		if err := writeTemplate(r.chart("templates", "monitoring-"+file), head, template); err != nil {
			return err
		}
	}
	return copyFiles(r.manifests("monitoring", "dashboards"), r.chart("dashboards"), "*.json")
}

var versionLine = regexp.MustCompile(`(?m)^(version|appVersion): .*$`)

// version writes the version of the source into Chart.yaml; a chart's own has no "v".
func (r repository) version() error {
	text, err := os.ReadFile(filepath.Join(r.root, "internal", "version", "VERSION"))
	if err != nil {
		return err
	}
	version := strings.TrimSpace(string(text))
	chart, err := os.ReadFile(r.chart("Chart.yaml"))
	if err != nil {
		return err
	}
	chart = versionLine.ReplaceAllFunc(chart, func(line []byte) []byte {
		if strings.HasPrefix(string(line), "appVersion") {
			return []byte("appVersion: " + version)
		}
		return []byte("version: " + strings.TrimPrefix(version, "v"))
	})
	return os.WriteFile(r.chart("Chart.yaml"), chart, 0o644)
}
