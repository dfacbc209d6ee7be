package main

import (
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/bgp/bfd"
	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/controller"
	deadfence "github.com/berth-lb/berth/controller/fence"
	"github.com/berth-lb/berth/internal/version"
	"github.com/berth-lb/berth/l2"
	"github.com/berth-lb/berth/speaker/bgpd"
	"github.com/berth-lb/berth/speaker/contact"
	"github.com/berth-lb/berth/speaker/dataplane"
	"github.com/berth-lb/berth/speaker/dataplane/guard"
	"github.com/berth-lb/berth/speaker/dataplane/unserved"
	"github.com/berth-lb/berth/speaker/steer"
)

// metric is what a row of the reference and a registered metric have in common.
type metric struct {
	labels string // sorted
	text   string // the help, or a meaning that begins with it
}

// registrations register the metrics of a package, by its folder.
var registrations = map[string]func(*testing.T, prometheus.Registerer) error{
	"cmd/berth": func(_ *testing.T, r prometheus.Registerer) error {
		return errors.Join(r.Register(buildInfo(version.Get())), r.Register(eventsLost()))
	},
	"controller": func(t *testing.T, r prometheus.Registerer) error {
		set, err := kubernetes.NewForConfig(&rest.Config{})
		if err != nil {
			t.Fatal(err)
		}
		own, err := client.New(&rest.Config{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = controller.New(controller.Options{
			Kubernetes: set,
			Berth:      own,
			Logger:     slog.New(slog.DiscardHandler),
			Metrics:    r,
			Namespace:  "berth-system",
		})
		return err
	},
	"controller/fence": func(_ *testing.T, r prometheus.Registerer) error {
		informer := func() cache.SharedIndexInformer { return cache.NewSharedIndexInformer(nil, &corev1.Node{}, 0, nil) }
		_, err := deadfence.New(deadfence.Config{
			Kubernetes: fake.NewClientset(), Nodes: informer(), Speakers: informer(), Services: informer(), Metrics: r,
		})
		return err
	},
	"speaker/bgpd": func(_ *testing.T, r prometheus.Registerer) error {
		return bgpd.Register(r, func() int { return 0 })
	},
	"l2": func(_ *testing.T, r prometheus.Registerer) error {
		_, err := l2.New(l2.Config{
			Node:          "n1",
			NodeAddresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
			Logger:        slog.New(slog.DiscardHandler),
			Metrics:       r,
		})
		return err
	},
	"bgp": func(_ *testing.T, r prometheus.Registerer) error {
		_, err := bgp.New(bgp.Config{RouterID: netip.MustParseAddr("192.0.2.1"), Metrics: r})
		return err
	},
	"bgp/bfd": func(_ *testing.T, r prometheus.Registerer) error {
		_, err := bfd.New(slog.New(slog.DiscardHandler), r)
		return err
	},
	"speaker/contact": func(_ *testing.T, r prometheus.Registerer) error {
		_, err := contact.New(r)
		return err
	},
	// It registers those of guard, too.
	"speaker/dataplane": func(_ *testing.T, r prometheus.Registerer) error {
		_, err := dataplane.New(dataplane.Config{Logger: slog.New(slog.DiscardHandler), Metrics: r})
		return err
	},
	"speaker/dataplane/guard": func(_ *testing.T, r prometheus.Registerer) error {
		_, err := guard.New(slog.New(slog.DiscardHandler), r)
		return err
	},
	"speaker/dataplane/unserved": func(_ *testing.T, r prometheus.Registerer) error {
		_, err := unserved.New(slog.New(slog.DiscardHandler), r)
		return err
	},
	"speaker/steer": func(t *testing.T, r prometheus.Registerer) error {
		return steer.New(steer.Config{Logger: slog.New(slog.DiscardHandler), Pins: t.TempDir()}).Register(r, true)
	},
}

// metricsRecorder is a Registerer that notes what is registered.
type metricsRecorder struct {
	t     *testing.T
	found map[string]metric
}

// descText matches what Desc.String returns, the only way to read a Desc.
var descText = regexp.MustCompile(
	`^Desc\{fqName: "([a-z0-9_]+)", help: ("(?:[^"\\]|\\.)*"), unit: "", constLabels: \{\}, variableLabels: \{([a-z_,]*)\}\}$`)

// Register implements prometheus.Registerer.
func (m metricsRecorder) Register(c prometheus.Collector) error {
	all := make(chan *prometheus.Desc, 64)
	c.Describe(all)
	close(all)
	for d := range all {
		parts := descText.FindStringSubmatch(d.String())
		if parts == nil {
			m.t.Fatalf("cannot read %s", d)
		}
		help, err := strconv.Unquote(parts[2])
		if err != nil {
			m.t.Fatal(err)
		}
		m.found[parts[1]] = metric{labels: sortedLabels(parts[3]), text: help}
	}
	return nil
}

// MustRegister implements prometheus.Registerer.
func (m metricsRecorder) MustRegister(all ...prometheus.Collector) {
	for _, c := range all {
		_ = m.Register(c)
	}
}

// Unregister implements prometheus.Registerer.
func (metricsRecorder) Unregister(prometheus.Collector) bool { return false }

func sortedLabels(list string) string {
	labels := strings.Split(list, ",")
	slices.Sort(labels)
	return strings.Join(labels, ",")
}

var (
	// metricInReference matches a row of a table of docs/reference/metrics.md.
	metricInReference = regexp.MustCompile("(?m)^[|] `(berth_[a-z0-9_]+)(?:[{]([a-z_,]+)[}])?` [|] (counter|gauge|histogram) [|] (.*) [|]$")
	metricName        = regexp.MustCompile(`berth_[a-z0-9_]*[a-z0-9]`)
	link              = regexp.MustCompile(`\[([^\]]+)\]\([^)]+\)`)
)

func TestMetrics(t *testing.T) {
	text, err := os.ReadFile("../../docs/reference/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	published := map[string]metric{}
	for _, row := range metricInReference.FindAllStringSubmatch(string(text), -1) {
		name, kind := row[1], row[3]
		meaning := strings.ReplaceAll(link.ReplaceAllString(row[4], "$1"), "`", "")
		published[name] = metric{labels: sortedLabels(row[2]), text: meaning}
		if counts := strings.HasSuffix(name, "_total"); counts != (kind == "counter") {
			t.Errorf("docs/reference/metrics.md: %s is a %s; the names of counters, and only theirs, end in _total", name, kind)
		}
		if kind == "histogram" && !strings.HasSuffix(name, "_seconds") {
			t.Errorf("docs/reference/metrics.md: %s is a histogram; their names end in _seconds", name)
		}
	}
	registered := map[string]metric{}
	for folder, register := range registrations {
		found := map[string]metric{}
		if err := register(t, metricsRecorder{t: t, found: found}); err != nil {
			t.Errorf("%s: %v", folder, err)
		}
		if len(found) == 0 {
			t.Errorf("%s registers nothing", folder)
		}
		maps.Copy(registered, found)
	}
	for name, m := range registered {
		row, exists := published[name]
		switch {
		case !exists:
			t.Errorf("docs/reference/metrics.md has no row for %s", name)
		case row.labels != m.labels:
			t.Errorf("docs/reference/metrics.md: %s has labels %q, registered are %q", name, row.labels, m.labels)
		case !strings.HasPrefix(row.text, strings.TrimSuffix(m.text, ".")):
			t.Errorf("docs/reference/metrics.md: the meaning of %s does not begin with its help:\n%s\n%s", name, row.text, m.text)
		}
	}
	checkLabels(t, string(text), registered)
	// Not only rows have names: the alerts have, too.
	for _, name := range metricName.FindAllString(string(text), -1) {
		if _, exists := registered[name]; !exists && name != "berth_ipvs" { // berth_ipvs_* stands for several
			t.Errorf("docs/reference/metrics.md names %s, which does not exist", name)
		}
	}
}

// labelInReference matches a row of the table of labels.
var labelInReference = regexp.MustCompile("(?m)^[|] `([a-z_]+)` [|] [^|]+ [|] [^|]+ [|]$")

// checkLabels checks that each label has one meaning: a row in the table of labels.
func checkLabels(t *testing.T, reference string, registered map[string]metric) {
	t.Helper()
	used := map[string]bool{}
	for _, m := range registered {
		for label := range strings.SplitSeq(m.labels, ",") {
			if label != "" {
				used[label] = true
			}
		}
	}
	_, section, found := strings.Cut(reference, "\n## Labels\n")
	if !found {
		t.Fatal("docs/reference/metrics.md has no section Labels")
	}
	for _, row := range labelInReference.FindAllStringSubmatch(section, -1) {
		if !used[row[1]] {
			t.Errorf("docs/reference/metrics.md has a row for the label %s, which no metric has", row[1])
		}
		delete(used, row[1])
	}
	for label := range used {
		t.Errorf("docs/reference/metrics.md has no row for the label %s", label)
	}
}

// makesMetric matches code that makes a metric.
var makesMetric = regexp.MustCompile(`prometheus\.New(Desc|Counter|Gauge|Histogram|Summary|Untyped)`)

// TestRegistrations fails if a package makes metrics that TestMetrics does not see.
func TestRegistrations(t *testing.T) {
	root := "../.."
	found := map[string]bool{}
	for _, top := range []string{"bgp", "cmd", "config", "controller", "internal", "ipam", "l2", "speaker"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			code, err := os.ReadFile(path)
			if makesMetric.Match(code) {
				folder, err := filepath.Rel(root, filepath.Dir(path))
				if err != nil {
					return err
				}
				found[folder] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for folder := range found {
		if registrations[folder] == nil {
			t.Errorf("%s makes metrics that TestMetrics does not know; add it to registrations", folder)
		}
	}
	for folder := range registrations {
		if !found[folder] {
			t.Errorf("%s makes no metrics; take it out of registrations", folder)
		}
	}
}
