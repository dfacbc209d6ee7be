package helm

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// The chart and the manifests install the same, object by object.
func TestChartEqualsManifests(t *testing.T) {
	each(t, func(t *testing.T, render func(values, namespace string) (rendered, error)) {
		for _, c := range []struct {
			name, values string
			components   []string
		}{
			{name: "defaults"},
			{name: "IPVS", values: "ipvs: {enabled: true}", components: []string{"ipvs"}},
			{name: "steering", values: "steering: {enabled: true}", components: []string{"steering"}},
			{name: "BGP listener", values: `bgp: {listen: ":179"}`, components: []string{"bgp-passive"}},
			{
				name:       "both",
				values:     `{ipvs: {enabled: true}, bgp: {listen: ":179"}}`,
				components: []string{"ipvs", "bgp-passive"},
			},
			{name: "metrics with tokens", values: "metricsAuth: {enabled: true}", components: []string{"metrics-auth"}},
			{name: "network policy", values: "networkPolicy: {enabled: true}", components: []string{"network-policy"}},
			{name: "restricted", values: "controller: {namespace: berth-controller}", components: []string{"restricted"}},
			{name: "cloud provider", values: "cloudProvider: {enabled: true}", components: []string{"cloud-provider"}},
			{name: "fence", values: "fence: {enabled: true}", components: []string{"fence"}},
			{
				name: "all",
				values: `
ipvs: {enabled: true}
steering: {enabled: true}
bgp: {listen: ":179"}
metricsAuth: {enabled: true}
cloudProvider: {enabled: true}
fence: {enabled: true}
networkPolicy: {enabled: true}
controller: {namespace: berth-controller}
`,
				components: []string{
					"ipvs", "steering", "bgp-passive", "metrics-auth", "cloud-provider", "network-policy", "fence", "restricted",
				},
			},
		} {
			t.Run(c.name, func(t *testing.T) {
				r, err := render(c.values, manifestsNamespace)
				if err != nil {
					t.Fatal(err)
				}
				text := manifests(t, "berth.yaml")
				if len(c.components) > 0 {
					text = kustomized(t, []string{"."}, c.components...)
				}
				equal(t, documents(t, text), r)
			})
		}
	})
}

// equal compares the objects of the manifests with those that the chart brings: from its templates,
// from crds, and by its hook, the labels of the namespace.
func equal(t *testing.T, want map[string]object, r rendered) {
	t.Helper()
	got := maps.Clone(r.crds)
	for key, o := range r.objects {
		withoutHelms(t, key, o)
		got[key] = o
	}
	labels, _ := at(r.hooks["ConfigMap berth-prepare"], "data", "namespace.yaml").(string)
	for key, o := range documents(t, labels) {
		// Kustomize labels all that it makes; this namespace is the user's.
		metadata(o)["labels"].(object)["app.kubernetes.io/part-of"] = "berth"
		got[key] = o
	}
	if len(want) < 20 {
		t.Errorf("the manifests have %d objects, want 20 and more", len(want))
	}
	for key, o := range want {
		if diff := cmp.Diff(o, got[key]); diff != "" {
			t.Errorf("%s (-manifests +chart):\n%s", key, diff)
		}
	}
	for key := range got {
		if want[key] == nil {
			t.Errorf("the chart has %s, the manifests have not", key)
		}
	}
}

// built is what kustomized built, by its arguments: each version of Helm wants the same.
var built = map[string]string{}

// kustomized builds folders of the manifests with components on top of them.
func kustomized(t *testing.T, folders []string, components ...string) string {
	t.Helper()
	key := fmt.Sprint(folders, components)
	if built[key] == "" {
		built[key] = build(t, folders, components)
	}
	return built[key]
}

func build(t *testing.T, folders, components []string) string {
	t.Helper()
	root, err := filepath.Abs("../../manifests")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	relative := func(folder string) string {
		path, err := filepath.Rel(dir, filepath.Join(root, folder))
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	k := types.Kustomization{}
	for _, f := range folders {
		k.Resources = append(k.Resources, relative(f))
	}
	for _, c := range components {
		k.Components = append(k.Components, relative(c))
	}
	text, err := yaml.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	objects, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatal(err)
	}
	out, err := objects.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// All is in the namespace of the release, whatever its name.
func TestNamespace(t *testing.T) {
	each(t, func(t *testing.T, render func(values, namespace string) (rendered, error)) {
		r, err := render(
			"pools: {rack: {addresses: [192.0.2.1], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}}",
			"1234",
		)
		if err != nil {
			t.Fatal(err)
		}
		clusterScoped := []string{
			"ClusterRole",
			"ClusterRoleBinding",
			"ValidatingAdmissionPolicy",
			"ValidatingAdmissionPolicyBinding",
		}
		for _, all := range []map[string]object{r.objects, r.hooks} {
			for key, o := range all {
				kind, _, _ := strings.Cut(key, " ")
				var want any = "1234"
				if slices.Contains(clusterScoped, kind) {
					want = nil
				}
				if got := metadata(o)["namespace"]; got != want {
					t.Errorf("%s is in namespace %v, want %v", key, got, want)
				}
				if subject := at(o, "subjects", 0); subject != nil && at(subject, "namespace") != "1234" {
					t.Errorf("%s binds an account of namespace %v, want 1234", key, at(subject, "namespace"))
				}
			}
		}
	})
}

func TestOptions(t *testing.T) {
	controller := []any{"spec", "template", "spec", "containers", 0}
	for _, c := range []struct {
		name, values, object string
		path                 []any
		want                 any
	}{
		{
			name:   "image by tag",
			values: "image: {repository: registry.example.com/berth, tag: v9}",
			object: "DaemonSet berth-speaker", path: append(slices.Clone(controller), "image"),
			want: "registry.example.com/berth:v9",
		},
		{
			name:   "image by digest",
			values: "image: {repository: r.example/berth, tag: v9, digest: 'sha256:" + strings.Repeat("ab", 32) + "'}",
			object: "Deployment berth-controller", path: append(slices.Clone(controller), "image"),
			want: "r.example/berth@sha256:" + strings.Repeat("ab", 32),
		},
		{
			name:   "image of the hooks",
			values: "image: {repository: r.example/berth, tag: v9}",
			object: "Job berth-prepare", path: append(slices.Clone(controller), "image"),
			want: "r.example/berth:v9",
		},
		{
			name:   "pull secrets",
			values: "imagePullSecrets: [{name: registry}]",
			object: "DaemonSet berth-speaker", path: []any{"spec", "template", "spec", "imagePullSecrets"},
			want: []any{object{"name": "registry"}},
		},
		{
			name:   "classes",
			values: "controller: {classes: [berth.dev/lb, metallb], serveClassless: false, extraArgs: [--rest=10s]}",
			object: "Deployment berth-controller", path: append(slices.Clone(controller), "args"),
			want: []any{"controller", "--classes=berth.dev/lb,metallb", "--serve-classless=false", "--rest=10s"},
		},
		{
			name:   "restarts of speakers",
			values: "speaker: {onRestart: hold, extraArgs: [--drain-time=0s]}",
			object: "DaemonSet berth-speaker", path: append(slices.Clone(controller), "args"),
			want: []any{
				"speaker", "--heart=/run/berth/heart.sock", "--bgp=/run/berth-bgp/bgp.sock", "--on-restart=hold",
				"--drain-time=0s",
			},
		},
		{
			name:   "resources",
			values: "speaker: {resources: {limits: {memory: 1Gi}}}",
			object: "DaemonSet berth-speaker", path: append(slices.Clone(controller), "resources"),
			want: object{"requests": object{"cpu": "100m", "memory": "64Mi"}, "limits": object{"memory": "1Gi"}},
		},
		{
			name:   "who may reach the controller",
			values: "networkPolicy: {enabled: true, from: [{namespaceSelector: {}}]}",
			object: "NetworkPolicy berth-controller", path: []any{"spec", "ingress", 0, "from"},
			want: []any{object{"namespaceSelector": object{}}},
		},
		{
			name:   "where the API server listens",
			values: "networkPolicy: {enabled: true, apiServerPorts: [8443]}",
			object: "NetworkPolicy berth-controller", path: []any{"spec", "egress", 0, "ports"},
			want: []any{object{"protocol": "TCP", "port": float64(8443)}},
		},
		{
			name:   "Secret of the PodMonitor",
			values: "{metricsAuth: {enabled: true, tokenSecret: own}, monitoring: {podMonitor: {enabled: true}}}",
			object: "PodMonitor berth",
			path:   []any{"spec", "podMetricsEndpoints", 0, "authorization", "credentials", "name"},
			want:   "own",
		},
		{
			name:   "somebody else labels the namespace",
			values: "namespace: {labels: null}",
			object: "Job berth-prepare", path: append(slices.Clone(controller), "args"),
			want: []any{"apply", "--owner=berth", "--crds", "--check=/values/objects.yaml"},
		},
		{
			name:   "any operating system",
			values: "speaker: {nodeSelector: null}",
			object: "DaemonSet berth-speaker", path: []any{"spec", "template", "spec", "nodeSelector"},
			want: nil,
		},
		{
			name:   "one controller needs no disruption budget",
			values: "controller: {replicas: 1}",
			object: "PodDisruptionBudget berth-controller",
			want:   nil,
		},
		{
			name:   "labels of Pods do not replace those of the selector",
			values: "controller: {podLabels: {team: net, app.kubernetes.io/name: other}}",
			object: "Deployment berth-controller", path: []any{"spec", "template", "metadata", "labels"},
			want: object{
				"app.kubernetes.io/name": "berth", "app.kubernetes.io/component": "controller", "team": "net",
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			each(t, func(t *testing.T, render func(values, namespace string) (rendered, error)) {
				r, err := render(c.values, manifestsNamespace)
				if err != nil {
					t.Fatal(err)
				}
				var found any
				for _, all := range []map[string]object{r.objects, r.hooks} {
					if o := all[c.object]; o != nil {
						found = at(o, c.path...)
					}
				}
				if diff := cmp.Diff(c.want, found); diff != "" {
					t.Errorf("%s (-want +got):\n%s", c.object, diff)
				}
			})
		})
	}
}

// The values' objects are as they were written, also numbers that YAML may write in another way.
func TestObjects(t *testing.T) {
	each(t, func(t *testing.T, render func(values, namespace string) (rendered, error)) {
		r, err := render(`
pools: {rack: {addresses: [192.0.2.1-192.0.2.9], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}}
bgpNeighbors: {tor: {localASN: 4200000000, remoteASN: 64512, address: 192.0.2.254, nodeSelector: {}}}
`, manifestsNamespace)
		if err != nil {
			t.Fatal(err)
		}
		for _, hook := range []string{"berth-prepare", "berth-configure", "berth-reconfigure"} {
			text, _ := at(r.hooks["ConfigMap "+hook], "data", "objects.yaml").(string)
			got := documents(t, text)
			specs := map[string]any{}
			for key, o := range got {
				specs[key] = o["spec"]
			}
			want := map[string]any{
				"LoadBalancerPool rack": object{
					"addresses": []any{"192.0.2.1-192.0.2.9"},
					"scopes":    []any{object{"namespaceSelector": object{}, "serviceSelector": object{}}},
				},
				"BGPNeighbor tor": object{
					"localASN": float64(
						4200000000,
					), "remoteASN": float64(64512), "address": "192.0.2.254", "nodeSelector": object{},
				},
			}
			if diff := cmp.Diff(want, specs); diff != "" {
				t.Errorf("%s (-want +got):\n%s", hook, diff)
			}
		}
	})
}

// What hooks may do is what they have to, by name.
func TestHookRights(t *testing.T) {
	each(t, func(t *testing.T, render func(values, namespace string) (rendered, error)) {
		r, err := render(
			"pools: {rack: {addresses: [192.0.2.1], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}, b: {addresses: [192.0.2.2], scopes: [{serviceSelector: {}}]}}",
			"lb",
		)
		if err != nil {
			t.Fatal(err)
		}
		const put, crd = "get create patch update", "customresourcedefinitions"
		pools := "loadbalancerpools [b rack] " + put
		for hook, want := range map[string][]string{
			"berth-prepare": {
				crd + " [addressreservations.berth.dev bgpneighbors.berth.dev l2owners.berth.dev loadbalancerpools.berth.dev " +
					"routeannouncements.berth.dev segmentannouncements.berth.dev speakers.berth.dev] " + put,
				"namespaces [lb] patch", pools,
			},
			"berth-configure": {pools},
			"berth-reconfigure": {
				pools, "bgpneighbors loadbalancerpools routeannouncements segmentannouncements [] list delete",
			},
		} {
			if diff := cmp.Diff(want, rights(r.hooks["ClusterRole "+hook])); diff != "" {
				t.Errorf("%s (-want +got):\n%s", hook, diff)
			}
		}
	})
}

// rights writes each rule of a role in a line.
func rights(role object) []string {
	var lines []string
	list := func(rule any, key string) string {
		var words []string
		all, _ := at(rule, key).([]any)
		for _, v := range all {
			words = append(words, v.(string))
		}
		return strings.Join(words, " ")
	}
	rules, _ := role["rules"].([]any)
	for _, rule := range rules {
		lines = append(lines, list(rule, "resources")+" ["+list(rule, "resourceNames")+"] "+list(rule, "verbs"))
	}
	return lines
}

// The objects for monitoring are those of the manifests, and none by default.
func TestMonitoring(t *testing.T) {
	each(t, func(t *testing.T, render func(values, namespace string) (rendered, error)) {
		r, err := render(`
monitoring:
  podMonitor: {enabled: true, labels: {release: prometheus}}
  rules: {enabled: true, labels: {release: prometheus}}
`, manifestsNamespace)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := render("", manifestsNamespace)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]object{}
		for _, file := range []string{"podmonitor.yaml", "prometheusrule.yaml"} {
			if _, err := os.Stat(filepath.Join("../../manifests/monitoring", file)); err == nil {
				maps.Copy(want, documents(t, manifests(t, "monitoring", file)))
			}
		}
		got := map[string]object{}
		for key, o := range r.objects {
			if plain.objects[key] == nil {
				withoutHelms(t, key, o)
				labels := metadata(o)["labels"].(object)
				if labels["release"] != "prometheus" {
					t.Errorf("%s has not the label of the values: %v", key, labels)
				}
				delete(labels, "release")
				got[key] = o
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("objects for monitoring (-manifests +chart):\n%s", diff)
		}
	})
}

// Prometheus finds the Pods in both namespaces and shows its token, as with the components.
func TestPodMonitorOfOptions(t *testing.T) {
	each(t, func(t *testing.T, render func(values, namespace string) (rendered, error)) {
		r, err := render(`
monitoring: {podMonitor: {enabled: true}}
metricsAuth: {enabled: true}
controller: {namespace: berth-controller}
`, manifestsNamespace)
		if err != nil {
			t.Fatal(err)
		}
		const key = "PodMonitor berth"
		withoutHelms(t, key, r.objects[key])
		want := documents(t, kustomized(t, []string{".", "monitoring"}, "metrics-auth", "restricted"))[key]
		if diff := cmp.Diff(want, r.objects[key]); diff != "" || want == nil {
			t.Errorf("%s (-manifests +chart):\n%s", key, diff)
		}
	})
}

// The NetworkPolicy lets through the ports that the controller listens on, and no others. It
// selects the controller's Pods.
func TestNetworkPolicyPorts(t *testing.T) {
	each(t, func(t *testing.T, render func(values, namespace string) (rendered, error)) {
		r, err := render("{networkPolicy: {enabled: true}, metricsAuth: {enabled: true}}", manifestsNamespace)
		if err != nil {
			t.Fatal(err)
		}
		policy, deployment := r.objects["NetworkPolicy berth-controller"], r.objects["Deployment berth-controller"]
		container := at(deployment, "spec", "template", "spec", "containers", 0)
		numbers := func(list any, key string) (all []any) {
			ports, _ := list.([]any)
			for _, port := range ports {
				all = append(all, at(port, key))
			}
			return all
		}
		let := numbers(at(policy, "spec", "ingress", 0, "ports"), "port")
		if diff := cmp.Diff(numbers(at(container, "ports"), "containerPort"), let); diff != "" {
			t.Errorf("ports of ingress (-container +policy):\n%s", diff)
		}
		if len(let) != 2 ||
			!slices.Contains(at(container, "args").([]any), any(fmt.Sprintf("--metrics-listen=:%v", let[1]))) {
			t.Errorf("ports %v, and the controller's arguments are %v", let, at(container, "args"))
		}
		selector := at(policy, "spec", "podSelector", "matchLabels")
		if diff := cmp.Diff(at(deployment, "spec", "template", "metadata", "labels"), selector); diff != "" {
			t.Errorf("labels (-Pods +policy):\n%s", diff)
		}
	})
}

// A controller's own namespace has it alone: speakers could not run in it.
func TestControllersNamespace(t *testing.T) {
	each(t, func(t *testing.T, render func(values, namespace string) (rendered, error)) {
		const values = "controller: {namespace: lb-controller}"
		r, err := render(values, "lb")
		if err != nil {
			t.Fatal(err)
		}
		for key, want := range map[string]string{
			"Deployment berth-controller": "lb-controller", "PodDisruptionBudget berth-controller": "lb-controller",
			"ServiceAccount berth-controller": "lb-controller", "ServiceAccount berth-speaker": "lb",
			"DaemonSet berth-speaker": "lb", "Role berth-controller": "lb", "RoleBinding berth-controller": "lb",
		} {
			if got := metadata(r.objects[key])["namespace"]; got != want {
				t.Errorf("%s is in namespace %v, want %s", key, got, want)
			}
		}
		if r.objects["Namespace lb-controller"] == nil {
			t.Error("the namespace is not made")
		}
		if _, err := render(values, "lb-controller"); err == nil ||
			!strings.Contains(err.Error(), "controller.namespace: ") {
			t.Errorf("for the namespace of the release: %v", err)
		}
	})
}

// Mistakes in values end the installation before it begins, with the field's name.
func TestSchema(t *testing.T) {
	for _, c := range []struct{ name, values, want string }{
		{
			name:   "option",
			values: "contoller: {replicas: 1}",
			want:   "additional properties 'contoller' not allowed",
		},
		{
			name:   "option in an option",
			values: "speaker: {onRestrat: hold}",
			want:   "at '/speaker': additional properties 'onRestrat' not allowed",
		},
		{
			name:   "value",
			values: "speaker: {onRestart: keep}",
			want:   "at '/speaker/onRestart': value must be one of '', 'hand-over', 'hold'",
		},
		{
			name:   "type",
			values: "controller: {replicas: two}",
			want:   "at '/controller/replicas': got string, want integer",
		},
		{
			name:   "field of a pool",
			values: "pools: {rack: {adresses: [192.0.2.1], addresses: [192.0.2.1], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}}",
			want:   "at '/pools/rack': additional properties 'adresses' not allowed",
		},
		{
			name:   "required field of a pool",
			values: "pools: {rack: {scopes: [{namespaceSelector: {}, serviceSelector: {}}]}}",
			want:   "at '/pools/rack': missing property 'addresses'",
		},
		{
			name:   "field of a neighbor",
			values: "bgpNeighbors: {tor: {localASN: -1, remoteASN: 2, address: 192.0.2.1}}",
			want:   "at '/bgpNeighbors/tor/localASN': minimum: got -1, want 1",
		},
		{
			name:   "name of a pool",
			values: "pools: {Rack: {addresses: [192.0.2.1], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}}",
			want:   "at '/pools': additional properties 'Rack' not allowed",
		},
		{
			name:   "digest",
			values: "image: {digest: v1}",
			want:   "at '/image/digest': 'v1' does not match pattern",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			each(t, func(t *testing.T, render func(values, namespace string) (rendered, error)) {
				_, err := render(c.values, manifestsNamespace)
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("says %v, want %q in it", err, c.want)
				}
			})
		})
	}
}

// Every field of values.yaml is in the schema, and what it shows in comments is valid.
func TestValuesFile(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(chartFolder, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(text), "\n# pools:")
	example, _, _ = strings.Cut("# pools:"+example, "\npools: {}")
	example = strings.ReplaceAll(strings.ReplaceAll(example, "\n# ", "\n"), "# pools:", "pools:")
	if !strings.Contains(example, "\nrouteAnnouncements:") {
		t.Fatalf("this is not the example:\n%s", example)
	}
	each(t, func(t *testing.T, render func(values, namespace string) (rendered, error)) {
		r, err := render(example, manifestsNamespace)
		if err != nil {
			t.Fatal(err)
		}
		objects, _ := at(r.hooks["ConfigMap berth-configure"], "data", "objects.yaml").(string)
		if got := len(documents(t, objects)); got != 4 {
			t.Errorf("the example has %d objects, want 4:\n%s", got, objects)
		}
		if _, err := render(string(text), manifestsNamespace); err != nil {
			t.Error(err)
		}
	})
}

func TestNotes(t *testing.T) {
	each(t, func(t *testing.T, render func(values, namespace string) (rendered, error)) {
		for values, want := range map[string]string{
			"": "There is no pool in the values",
			"pools: {a: {addresses: [192.0.2.1], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}}": "Check the pools and announcements that the values made",
			"controller: {serveClassless: false}":  "with spec.loadBalancerClass berth.dev/lb gets an address",
			"image: {repository: r.example/berth}": "r.example/berth:v",
		} {
			r, err := render(values, manifestsNamespace)
			if err != nil {
				t.Fatal(err)
			}
			if text := strings.Join(strings.Fields(r.notes), " "); !strings.Contains(text, want) {
				t.Errorf("the notes for %q do not say %q:\n%s", values, want, r.notes)
			}
		}
	})
}

var update = flag.Bool("update", false, "write testdata/hooks.yaml")

// testdata/hooks.yaml, with which e2e/api tests what the hooks may do, is what the chart renders.
func TestHooksForAPITests(t *testing.T) {
	const file = "testdata/hooks.yaml"
	values, err := os.ReadFile("testdata/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	each(t, func(t *testing.T, render func(values, namespace string) (rendered, error)) {
		r, err := render(string(values), manifestsNamespace)
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		for _, key := range slices.Sorted(maps.Keys(r.hooks)) {
			if strings.HasPrefix(key, "Job ") {
				continue
			}
			withoutHelms(t, key, r.hooks[key])
			document, err := yaml.Marshal(r.hooks[key])
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&text, "---\n%s", document)
		}
		if *update {
			if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		written, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(text.String(), string(written)); diff != "" {
			t.Errorf("%s is not fresh: run `go test . -update` (-chart +file):\n%s", file, diff)
		}
	})
}
