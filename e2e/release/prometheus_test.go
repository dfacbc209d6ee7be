//go:build release

package release

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
	"github.com/berth-lb/berth/e2e/stock"
)

// monitored is a file of manifests/monitoring.
func monitored(name string) string { return filepath.Join("..", "..", "manifests", "monitoring", name) }

// promtool runs the real promtool.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	folder, err := stock.Find()
	if err != nil {
		t.Fatal(err)
	}
	if err := folder.FetchPrometheus(t.Context(), t.Output()); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), folder.Prometheus("promtool"), args...).CombinedOutput()
	if err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestRules(t *testing.T) {
	promtool(t, "check", "rules", "--lint-fatal", monitored("rules.yaml"))
	promtool(t, "test", "rules", filepath.Join("..", "..", "tools", "monitoring", "rules.test.yaml"))
	var operator struct{ Spec any }
	var plain any
	for file, into := range map[string]any{"prometheusrule.yaml": &operator, "rules.yaml": &plain} {
		text, err := os.ReadFile(monitored(file))
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(text, into); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := fmt.Sprint(operator.Spec), fmt.Sprint(plain); got != want {
		t.Errorf("prometheusrule.yaml has other rules than rules.yaml:\n%s\n%s", got, want)
	}
}

var (
	minutes = regexp.MustCompile(`(for: |\[)(\d+)m\b`)
	hours   = regexp.MustCompile(`(for: |\[)(\d+)h\b`)
)

// shortened returns the rules with seconds for minutes, and minutes for hours, in windows and in
// how long something must hold. Thresholds stay.
func shortened(rules []byte) []byte {
	rules = minutes.ReplaceAll(rules, []byte("${1}${2}s"))
	return hours.ReplaceAll(rules, []byte("${1}${2}m"))
}

// scrapeConfig translates the PodMonitor as the Prometheus Operator does, but that the Pods come
// from discovery: Debian builds Prometheus without the API of Kubernetes.
func scrapeConfig() (map[string]any, error) {
	text, err := os.ReadFile(monitored("podmonitor.yaml"))
	if err != nil {
		return nil, err
	}
	var monitor struct {
		Metadata struct{ Namespace string }
		Spec     struct {
			Selector            struct{ MatchLabels map[string]string }
			PodMetricsEndpoints []struct {
				Port        string
				HonorLabels bool
				Relabelings []struct {
					TargetLabel, Replacement string
					SourceLabels             []string
				}
			}
		}
	}
	if err := yaml.Unmarshal(text, &monitor); err != nil {
		return nil, err
	}
	endpoint := monitor.Spec.PodMetricsEndpoints[0]
	var relabel []map[string]any
	keep := func(label, value string) {
		relabel = append(relabel, map[string]any{"source_labels": []string{label}, "regex": value, "action": "keep"})
	}
	for name, value := range monitor.Spec.Selector.MatchLabels {
		keep("__meta_kubernetes_pod_label_"+labelName(name), value)
	}
	keep("__meta_kubernetes_pod_container_port_name", endpoint.Port)
	for target, source := range map[string]string{
		"namespace": "__meta_kubernetes_namespace", "pod": "__meta_kubernetes_pod_name",
		"container": "__meta_kubernetes_pod_container_name",
	} {
		relabel = append(relabel, map[string]any{"source_labels": []string{source}, "target_label": target})
	}
	for _, r := range endpoint.Relabelings {
		one := map[string]any{"target_label": r.TargetLabel}
		if len(r.SourceLabels) > 0 {
			one["source_labels"] = r.SourceLabels
		}
		if r.Replacement != "" {
			one["replacement"] = r.Replacement
		}
		relabel = append(relabel, one)
	}
	return map[string]any{
		"job_name":     "podmonitor",
		"honor_labels": endpoint.HonorLabels,
		"http_sd_configs": []any{map[string]any{
			"url": "http://" + discoveryAt + "/?namespace=" + monitor.Metadata.Namespace, "refresh_interval": "1s",
		}},
		"relabel_configs": relabel,
	}, nil
}

// labelName returns a name with what Prometheus puts for characters that its names cannot have.
func labelName(name string) string {
	return regexp.MustCompile(`[^a-zA-Z0-9_]`).ReplaceAllString(name, "_")
}

const (
	prometheusAt = "127.0.0.1:9090"
	discoveryAt  = "127.0.0.1:9091"
)

// discovery tells Prometheus the ports of a namespace's Pods, with the labels that it knows from
// the API of Kubernetes.
type discovery struct{ *stage.Stage }

// ServeHTTP implements http.Handler.
func (d discovery) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	pods, err := d.Kubernetes.CoreV1().Pods(r.FormValue("namespace")).List(r.Context(), metav1.ListOptions{})
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	type group struct {
		Targets []string          `json:"targets"`
		Labels  map[string]string `json:"labels"`
	}
	groups := []group{}
	for _, pod := range pods.Items {
		if pod.Status.PodIP == "" || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		for _, c := range pod.Spec.Containers {
			for _, port := range c.Ports {
				labels := map[string]string{
					"__meta_kubernetes_namespace":               pod.Namespace,
					"__meta_kubernetes_pod_name":                pod.Name,
					"__meta_kubernetes_pod_node_name":           pod.Spec.NodeName,
					"__meta_kubernetes_pod_container_name":      c.Name,
					"__meta_kubernetes_pod_container_port_name": port.Name,
				}
				for name, value := range pod.Labels {
					labels["__meta_kubernetes_pod_label_"+labelName(name)] = value
				}
				address := net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(int(port.ContainerPort)))
				groups = append(groups, group{[]string{address}, labels})
			}
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(groups) // Prometheus keeps what it knows
}

// serve serves discovery on the lab's client until the test ends.
func (d discovery) serve(t *testing.T) {
	t.Helper()
	var listener net.Listener
	if err := d.In(lab.Client, func() (err error) {
		listener, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", discoveryAt)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: d, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }() // ends when the server is closed
	t.Cleanup(func() {
		server.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// watched is a lab with Berth in it and Debian's Prometheus on its client, which scrapes Berth each
// second.
type watched struct {
	*stage.Stage
	began    time.Time
	clearing map[string]bool // alerts whose faults are over
}

// startPrometheus starts Prometheus, and waits until it scrapes all of Berth.
func startPrometheus(t *testing.T, s *stage.Stage) *watched {
	t.Helper()
	folder, err := stock.Find()
	if err != nil {
		t.Fatal(err)
	}
	if err := folder.FetchPrometheus(t.Context(), t.Output()); err != nil {
		t.Fatal(err)
	}
	scrape, err := scrapeConfig()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config, err := yaml.Marshal(map[string]any{
		"global":         map[string]any{"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
		"rule_files":     []string{filepath.Join(dir, "rules.yaml")},
		"scrape_configs": []any{scrape},
	})
	if err != nil {
		t.Fatal(err)
	}
	rules, err := os.ReadFile(monitored("rules.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"prometheus.yaml": config, "rules.yaml": shortened(rules)} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	promtool(t, "check", "config", filepath.Join(dir, "prometheus.yaml"))
	discovery{s}.serve(t)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	cmd := s.Exec(ctx, lab.Client, folder.Prometheus("prometheus"),
		"--config.file="+filepath.Join(dir, "prometheus.yaml"), "--storage.tsdb.path=/run/prometheus",
		"--web.listen-address="+prometheusAt, "--log.level=warn")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		stop()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Logf("Prometheus says:\n%s", said.Bytes())
		}
	})
	w := &watched{Stage: s, began: time.Now(), clearing: map[string]bool{}}
	eventually(t, func(ctx context.Context) error {
		up, err := w.instant(ctx, `sum(up{job="berth"})`)
		if want := float64(len(s.Nodes()) + 2); err == nil && up != want {
			err = fmt.Errorf("Prometheus scrapes %v Pods of Berth, want %v", up, want)
		}
		return err
	})
	return w
}

// ask asks Prometheus' API.
func (w *watched) ask(ctx context.Context, path string, parameters url.Values, into any) error {
	request, err := http.NewRequestWithContext(
		ctx, http.MethodGet, "http://"+prometheusAt+"/api/v1/"+path+"?"+parameters.Encode(), nil,
	)
	if err != nil {
		return err
	}
	response, err := w.HTTPClient(lab.Client).Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("Prometheus answers %s: %s", response.Status, text)
	}
	answer := struct{ Data any }{into}
	return json.Unmarshal(text, &answer)
}

// instant returns the value of an expression that has one.
func (w *watched) instant(ctx context.Context, expr string) (float64, error) {
	var data struct{ Result []struct{ Value [2]any } }
	if err := w.ask(ctx, "query", url.Values{"query": {expr}}, &data); err != nil {
		return 0, err
	}
	if len(data.Result) != 1 {
		return 0, fmt.Errorf("%s has %d values", expr, len(data.Result))
	}
	return strconv.ParseFloat(fmt.Sprint(data.Result[0].Value[1]), 64)
}

// firing returns the alerts that fire, each once.
func (w *watched) firing(ctx context.Context) (map[string]bool, error) {
	var data struct {
		Alerts []struct {
			Labels map[string]string
			State  string
		}
	}
	if err := w.ask(ctx, "alerts", nil, &data); err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for _, a := range data.Alerts {
		if a.State == "firing" {
			found[a.Labels["alertname"]] = true
		}
	}
	return found, nil
}

var errWrongAlert = errors.New("another alert fires")

// fires waits until the alert fires, and no other does until then but those whose faults are over.
func (w *watched) fires(t *testing.T, alert string) {
	t.Helper()
	begun := time.Now()
	w.until(t, alert, func(found map[string]bool) error {
		if !found[alert] {
			return fmt.Errorf("%s does not fire", alert)
		}
		return nil
	})
	t.Logf("%s fires after %.1f s", alert, time.Since(begun).Seconds())
}

// clears waits until no alert fires.
func (w *watched) clears(t *testing.T) {
	t.Helper()
	begun := time.Now()
	w.until(t, "", func(found map[string]bool) error {
		if len(found) > 0 {
			return fmt.Errorf("%v fire", slices.Sorted(maps.Keys(found)))
		}
		return nil
	})
	t.Logf("nothing fires any more after %.1f s", time.Since(begun).Seconds())
	clear(w.clearing)
}

// until waits for a condition of the alerts that fire. It fails when one fires that is neither
// expected nor clearing.
func (w *watched) until(t *testing.T, expected string, condition func(map[string]bool) error) {
	t.Helper()
	var wrong error
	err := stage.Eventually(t.Context(), 90*time.Second, func(ctx context.Context) error {
		found, err := w.firing(ctx)
		if err != nil {
			return err
		}
		for name := range found {
			if name != expected && !w.clearing[name] {
				wrong = fmt.Errorf("%w: %s, want %q", errWrongAlert, name, expected)
				return nil
			}
		}
		return condition(found)
	})
	if err = errors.Join(wrong, err); err != nil {
		t.Fatal(err)
	}
}

// alarm is something that goes wrong, and its alert.
type alarm struct {
	alert string
	begin func(*testing.T)
	end   func(*testing.T)
	// slow: the alert looks back for long. The next fault does not wait until it clears.
	slow bool
}

// suffer has the faults one after the other. Each must raise its alert and no other, and the alert
// must clear once the fault is over.
func (w *watched) suffer(t *testing.T, faults ...alarm) {
	t.Helper()
	w.clears(t)
	for _, f := range faults {
		ok := t.Run(f.alert, func(t *testing.T) {
			f.begin(t)
			w.fires(t, f.alert)
			w.clearing[f.alert] = true
			if f.end != nil {
				f.end(t)
			}
			if !f.slow {
				w.onlySlow(t, f.alert)
			}
		})
		if !ok {
			t.FailNow() // the next one would not begin with a healthy cluster
		}
	}
	w.clears(t)
}

// onlySlow waits until the alert has cleared.
func (w *watched) onlySlow(t *testing.T, alert string) {
	t.Helper()
	w.until(t, "", func(found map[string]bool) error {
		if found[alert] {
			return fmt.Errorf("%s still fires", alert)
		}
		return nil
	})
	delete(w.clearing, alert)
}

// dashboardFile is what the test reads of a dashboard.
type dashboardFile struct {
	Panels []struct {
		Title       string
		FieldConfig struct{ Defaults struct{ Unit string } }
		Targets     []struct{ Expr, LegendFormat string }
	}
}

// drawnPanel is what tools/monitoring draws.
type drawnPanel struct {
	Title, Unit string
	Series      []drawnSeries
}

type drawnSeries struct {
	Name   string
	Points [][2]any
}

var legendLabel = regexp.MustCompile(`{{([a-z_]+)}}`)

// checkPanels has every query of every dashboard return data of this lab, but for that of steering,
// which nothing does here. With BERTH_PANELS the data is written to that folder.
func (w *watched) checkPanels(t *testing.T) {
	files, err := filepath.Glob(monitored("dashboards/*.json"))
	if err != nil || len(files) != 4 {
		t.Fatalf("there are the dashboards %v (%v), want 4", files, err)
	}
	files = slices.DeleteFunc(files, func(f string) bool { return filepath.Base(f) == "berth-steering.json" })
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var d dashboardFile
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatal(err)
		}
		var drawn []drawnPanel
		for _, p := range d.Panels {
			panel := drawnPanel{Title: p.Title, Unit: p.FieldConfig.Defaults.Unit}
			for _, target := range p.Targets {
				series, err := w.over(t.Context(), target.Expr, target.LegendFormat)
				if err == nil && !hasNumber(series) {
					err = errors.New("no data")
				}
				if err != nil {
					t.Errorf("%s, %s: %s: %v", filepath.Base(file), p.Title, target.Expr, err)
				}
				panel.Series = append(panel.Series, series...)
			}
			drawn = append(drawn, panel)
		}
		if dir := os.Getenv("BERTH_PANELS"); dir != "" {
			text, err := json.Marshal(drawn)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, filepath.Base(file)), text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// over returns the series of a panel's query since Prometheus was started.
func (w *watched) over(ctx context.Context, expr, legend string) ([]drawnSeries, error) {
	expr = strings.NewReplacer("$node", ".*", "$__rate_interval", "10s").Replace(expr)
	var data struct {
		Result []struct {
			Metric map[string]string
			Values [][2]any
		}
	}
	err := w.ask(ctx, "query_range", url.Values{
		"query": {expr}, "step": {"1"},
		"start": {strconv.FormatInt(w.began.Unix(), 10)}, "end": {strconv.FormatInt(time.Now().Unix(), 10)},
	}, &data)
	var all []drawnSeries
	for _, r := range data.Result {
		name := legendLabel.ReplaceAllStringFunc(
			legend,
			func(label string) string { return r.Metric[strings.Trim(label, "{}")] },
		)
		all = append(all, drawnSeries{Name: name, Points: r.Values})
	}
	return all, err
}

func hasNumber(all []drawnSeries) bool {
	return slices.ContainsFunc(all, func(s drawnSeries) bool {
		return slices.ContainsFunc(s.Points, func(p [2]any) bool {
			value, err := strconv.ParseFloat(fmt.Sprint(p[1]), 64)
			return err == nil && !math.IsNaN(value)
		})
	})
}
