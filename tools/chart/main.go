// Command chart writes the parts of the Helm chart that follow from other files:
//
//	crds/                  manifests/crds
//	templates/rbac.yaml    of manifests/berth.yaml, what has no options; likewise admission.yaml and
//	                       others.yaml
//	templates/metrics-auth.yaml, cloud-provider.yaml, fence.yaml
//	                       the rights of these components of the manifests, each with a switch
//	templates/monitoring-* manifests/monitoring, each with a switch
//	dashboards/            manifests/monitoring/dashboards
//	values.schema.json     schema.json here, with the schemas of the kinds from their CRDs
//	Chart.yaml             the version, from internal/version/VERSION
//
// Usage: chart ROOT
package main

import (
	"errors"
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
	for _, write := range []func() error{r.crds, r.objects, r.components, r.monitoring, r.schema, r.version} {
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

// components are those of the manifests that bring rights, and the options that switch them on. The
// templates that are written by hand have the rest of them.
var components = map[string]string{"metrics-auth": "metricsAuth", "cloud-provider": "cloudProvider", "fence": "fence"}

func (r repository) components() error {
	for component, option := range components {
		text, err := os.ReadFile(r.manifests(component, "rbac.yaml"))
		if err != nil {
			return err
		}
		var all strings.Builder
		for _, document := range strings.Split(string(text), "\n---\n") {
			_, template, err := templateOf(document)
			if err != nil {
				return fmt.Errorf("%s: %w", component, err)
			}
			fmt.Fprintf(&all, "---\n%s", template)
		}
		head := fmt.Sprintf(generated, "manifests/"+component+"/rbac.yaml")
		template := fmt.Sprintf("{{- if .Values.%s.enabled }}\n%s{{- end }}\n", option, all.String())
		if err := writeTemplate(r.chart("templates", component+".yaml"), head, template); err != nil {
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
	namespace  = "berth-system"
	controller = "berth-controller"
	// What stands for text that is not YAML, while the template is.
	releaseNamespace    = "RELEASE-NAMESPACE"
	controllerNamespace = "CONTROLLER-NAMESPACE"
	chartLabels         = "CHART-LABELS"
)

var chartLabelsLine = regexp.MustCompile(`(?m)^ +` + chartLabels + `: ""\n`)

// templateOf returns the kind of an object, and its template: its namespace is the release's (that
// of the controller's account may be another), and it has the chart's labels beside its own.
func templateOf(document string) (kind, template string, err error) {
	for _, word := range []string{releaseNamespace, controllerNamespace, chartLabels} {
		if strings.Contains(document, word) {
			return "", "", fmt.Errorf("an object has %s in it", word)
		}
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
		metadata["namespace"] = namespaceOf(kind == "ServiceAccount" && metadata["name"] == controller)
	}
	subjects, _ := object["subjects"].([]any)
	for _, s := range subjects {
		if subject, ok := s.(map[string]any); ok && subject["namespace"] == namespace {
			subject["namespace"] = namespaceOf(subject["name"] == controller)
		}
	}
	text, err := yaml.Marshal(object)
	if err != nil {
		return "", "", err
	}
	template = strings.ReplaceAll(string(text), "{{", `{{ "{{" }}`)
	template = chartLabelsLine.ReplaceAllString(template, "    {{- include \"berth.labels\" . | nindent 4 }}\n")
	return kind, strings.NewReplacer(
		releaseNamespace, "{{ .Release.Namespace | quote }}",
		controllerNamespace, `{{ include "berth.controllerNamespace" . | quote }}`,
	).Replace(template), nil
}

func namespaceOf(controllersAccount bool) string {
	if controllersAccount {
		return controllerNamespace
	}
	return releaseNamespace
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
		if file == "podmonitor.yaml" {
			template, err = followPods(template)
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
		}
		template = fmt.Sprintf("{{- if .Values.monitoring.%s.enabled }}\n%s{{- end }}\n", option, template)
		head := fmt.Sprintf(generated, "manifests/monitoring/"+file)
		if err := writeTemplate(r.chart("templates", "monitoring-"+file), head, template); err != nil {
			return err
		}
	}
	return copyFiles(r.manifests("monitoring", "dashboards"), r.chart("dashboards"), "*.json")
}

// followPods has the PodMonitor find Pods in both namespaces, and ask with a token where that is
// needed.
func followPods(template string) (string, error) {
	const port, selector = "    port: http\n", "  selector:\n"
	if strings.Count(template, port) != 1 || strings.Count(template, selector) != 1 {
		return "", errors.New("want one port and one selector")
	}
	return strings.NewReplacer(port, `    {{- if .Values.metricsAuth.enabled }}
    port: metrics
    scheme: https
    tlsConfig: {insecureSkipVerify: true}
    authorization:
      credentials: {name: {{ .Values.metricsAuth.tokenSecret | quote }}, key: token}
    {{- else }}
    port: http
    {{- end }}
`, selector, `  {{- with .Values.controller.namespace }}
  namespaceSelector:
    matchNames: [{{ $.Release.Namespace | quote }}, {{ . | quote }}]
  {{- end }}
  selector:
`).Replace(template), nil
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
