package main

import (
	"strings"
)

// runbook is where people read on who get an alert.
const runbook = "https://github.com/berth-lb/berth/blob/main/docs/guides/runbook.md"

// ruleFile is a file of rules as Prometheus reads it, and the spec of a PrometheusRule.
type ruleFile struct {
	Groups []ruleGroup `json:"groups"`
}

type ruleGroup struct {
	Name  string `json:"name"`
	Rules []rule `json:"rules"`
}

type rule struct {
	Alert       string            `json:"alert"`
	Annotations map[string]string `json:"annotations"`
	Expr        string            `json:"expr"`
	For         string            `json:"for,omitempty"`
	Labels      map[string]string `json:"labels"`
}

// rules returns the alerts as Prometheus has them.
func rules() ruleFile {
	group := ruleGroup{Name: "berth"}
	for _, a := range alerts() {
		name := "Berth" + a.name
		group.Rules = append(group.Rules, rule{
			Alert: name,
			Annotations: map[string]string{
				"summary":     a.summary,
				"runbook_url": runbook + "#" + strings.ToLower(name),
			},
			Expr:   a.expr,
			For:    a.duration,
			Labels: map[string]string{"severity": a.severity},
		})
	}
	return ruleFile{Groups: []ruleGroup{group}}
}

// object is a Kubernetes object.
type object struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Metadata   map[string]any `json:"metadata"`
	Spec       any            `json:"spec"`
}

func metadata() map[string]any {
	return map[string]any{
		"name":      "berth",
		"namespace": "berth-system",
		"labels":    map[string]string{"app.kubernetes.io/name": "berth", "app.kubernetes.io/part-of": "berth"},
	}
}

// prometheusRule returns the same rules for the Prometheus Operator.
func prometheusRule() object {
	return object{
		APIVersion: "monitoring.coreos.com/v1", Kind: "PrometheusRule", Metadata: metadata(), Spec: rules(),
	}
}

// podMonitor has the Prometheus Operator scrape every Pod of Berth. Rules and dashboards need the
// labels job and node.
func podMonitor() object {
	return object{
		APIVersion: "monitoring.coreos.com/v1", Kind: "PodMonitor", Metadata: metadata(),
		Spec: map[string]any{
			"selector": map[string]any{"matchLabels": map[string]string{"app.kubernetes.io/name": "berth"}},
			"podMetricsEndpoints": []any{map[string]any{
				"port": "http",
				// Metrics of a Service have its namespace.
				"honorLabels": true,
				"relabelings": []any{
					map[string]any{"targetLabel": "job", "replacement": "berth"},
					map[string]any{"sourceLabels": []string{"__meta_kubernetes_pod_node_name"}, "targetLabel": "node"},
				},
			}},
		},
	}
}
