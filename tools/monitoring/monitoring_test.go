package main

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// row matches a metric in docs/reference/metrics.md, alone or in a table.
var row = regexp.MustCompile("`((?:berth|workqueue|rest_client)_[a-z0-9_]+)(?:[{]([a-z_,]+)[}])?`")

// ofTargets are the labels of every series, which the scrape configuration sets; see the guide.
var ofTargets = []string{"job", "instance", "node", "pod"}

// published returns the labels of each metric in the reference; of a histogram, those of its
// series.
func published(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/reference/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]string{
		"up": ofTargets, "process_resident_memory_bytes": ofTargets, "process_cpu_seconds_total": ofTargets,
	}
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		name, own := m[1], append(strings.Split(m[2], ","), ofTargets...)
		if strings.HasPrefix(name, "workqueue_") {
			own = append(own, "name")
		}
		if len(own) < len(found[name]) {
			continue // it is mentioned once more
		}
		found[name] = own
		if strings.HasSuffix(name, "_seconds") {
			found[name+"_bucket"] = append(slices.Clone(own), "le")
		}
	}
	return found
}

// queries returns each query with where it is.
func queries() map[string]string {
	all := map[string]string{}
	for _, a := range alerts() {
		all["alert "+a.name] = a.expr
	}
	for _, b := range boards() {
		for _, p := range b.panels {
			for _, q := range p.queries {
				all[b.title+", "+p.title+", "+q.legend] = strings.ReplaceAll(q.expr, "$__rate_interval", "5m")
			}
		}
	}
	return all
}

// Queries are about metrics that exist, by labels that they have.
func TestQueries(t *testing.T) {
	exists := published(t)
	for where, text := range queries() {
		expr, err := parser.NewParser(parser.Options{}).ParseExpr(text)
		if err != nil {
			t.Errorf("%s: %v", where, err)
			continue
		}
		var has []string // by any metric of the expression
		parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
			selector, ok := node.(*parser.VectorSelector)
			if !ok {
				return nil
			}
			own, known := exists[selector.Name]
			if !known {
				t.Errorf("%s: docs/reference/metrics.md has no %s", where, selector.Name)
			}
			for _, m := range selector.LabelMatchers {
				if m.Name != labels.MetricName && !slices.Contains(own, m.Name) {
					t.Errorf("%s: %s has no label %s", where, selector.Name, m.Name)
				}
			}
			has = append(has, own...)
			return nil
		})
		parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
			var by []string
			switch n := node.(type) {
			case *parser.AggregateExpr:
				by = n.Grouping
			case *parser.BinaryExpr:
				if n.VectorMatching != nil {
					by = n.VectorMatching.MatchingLabels
				}
			}
			for _, label := range by {
				if !slices.Contains(has, label) {
					t.Errorf("%s: no metric there has a label %s", where, label)
				}
			}
			return nil
		})
	}
}

// mentioned matches a label in a summary or in a legend.
var mentioned = regexp.MustCompile(`{{ ?(?:\$labels\.)?([a-z_]+) ?}}`)

// Summaries name labels that the alert has.
func TestSummaries(t *testing.T) {
	exists := published(t)
	for _, a := range alerts() {
		expr, err := parser.NewParser(parser.Options{}).ParseExpr(a.expr)
		if err != nil {
			t.Fatal(err)
		}
		has := labelsOf(expr, exists)
		for _, m := range mentioned.FindAllStringSubmatch(a.summary, -1) {
			if !slices.Contains(has, m[1]) {
				t.Errorf("the summary of %s names the label %s, the alert has %v", a.name, m[1], has)
			}
		}
	}
}

// labelsOf returns the labels of what the expression results in.
func labelsOf(expr parser.Expr, exists map[string][]string) []string {
	switch e := expr.(type) {
	case *parser.AggregateExpr:
		return e.Grouping
	case *parser.BinaryExpr:
		if _, number := e.LHS.(*parser.NumberLiteral); number || labelsOf(e.LHS, exists) == nil {
			return labelsOf(e.RHS, exists)
		}
		return labelsOf(e.LHS, exists)
	case *parser.ParenExpr:
		return labelsOf(e.Expr, exists)
	case *parser.Call:
		if e.Func.Name == "absent" || e.Func.Name == "time" {
			return nil
		}
		return labelsOf(e.Args[len(e.Args)-1], exists)
	case *parser.MatrixSelector:
		return labelsOf(e.VectorSelector, exists)
	case *parser.VectorSelector:
		return exists[e.Name]
	}
	return nil
}

var heading = regexp.MustCompile(`(?m)^## (Berth\w+)$`)

// Each alert has its section in the runbook, and no section is left over.
func TestRunbook(t *testing.T) {
	text, err := os.ReadFile("../../docs/guides/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	var sections []string
	for _, m := range heading.FindAllStringSubmatch(string(text), -1) {
		sections = append(sections, m[1])
	}
	var names []string
	for _, a := range alerts() {
		names = append(names, "Berth"+a.name)
	}
	if !slices.Equal(names, sections) {
		t.Errorf("docs/guides/runbook.md has the sections\n%v\nwant those of the alerts, in their order:\n%v", sections, names)
	}
}

// The guide has a row for each alert, and says which of them the lab fires.
func TestGuide(t *testing.T) {
	guide, err := os.ReadFile("../../docs/guides/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	lab, err := os.ReadFile("../../e2e/release/alerts_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, a := range alerts() {
		name, fired := "Berth"+a.name, "no"
		if strings.Contains(string(lab), `alert: "`+name+`"`) {
			fired = "yes"
		}
		want = append(want, fmt.Sprintf("| [%s](runbook.md#%s) | %s | %s | %s |",
			name, strings.ToLower(name), cmp.Or(a.duration, "0m"), a.severity, fired))
	}
	if table := strings.Join(want, "\n"); !strings.Contains(string(guide), table+"\n\n") {
		t.Errorf("docs/guides/monitoring.md is to have the table\n%s", table)
	}
}

// whole matches the durations that a test of the alerts can shorten; see e2e/release.
var whole = regexp.MustCompile(`^[1-9][0-9]*[mh]$`)

func TestAlerts(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range alerts() {
		if seen[a.name] {
			t.Errorf("two alerts are called %s", a.name)
		}
		seen[a.name] = true
		if a.severity != critical && a.severity != warning {
			t.Errorf("%s has the severity %q", a.name, a.severity)
		}
		if a.duration != "" && !whole.MatchString(a.duration) {
			t.Errorf("%s holds for %s, want whole minutes or hours", a.name, a.duration)
		}
	}
}

// promtool's cases in rules.test.yaml have each alert.
func TestEachAlertHasACase(t *testing.T) {
	text, err := os.ReadFile("rules.test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	missing := map[string]bool{}
	for _, a := range alerts() {
		if !strings.Contains(string(text), "alertname: Berth"+a.name+"\n") {
			missing[a.name] = true
		}
	}
	if len(missing) > 0 {
		t.Errorf("rules.test.yaml has no case for %v", slices.Sorted(maps.Keys(missing)))
	}
}
