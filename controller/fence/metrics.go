package fence

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count what a Fencer does.
type metrics struct {
	nodes, pods, failures prometheus.Counter
	spared                *prometheus.CounterVec
	unwatched             prometheus.GaugeFunc
}

func newMetrics(r prometheus.Registerer, unwatched func() float64) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &metrics{
		nodes: counter(
			"berth_fence_nodes_total",
			"Dead nodes that were fenced, or would be without --fence-dry-run.",
		),
		pods: counter("berth_fence_pods_total", "Pods of dead nodes that were called not ready."),
		failures: counter(
			"berth_fence_failures_total",
			"Writes to pods of dead nodes that failed. Conflicts are not counted.",
		),
		spared: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_fence_spared_total",
			Help: "Times that a node which speakers reported silent was not fenced, by reason.",
		}, []string{"reason"}),
		unwatched: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "berth_fence_unwatched_nodes",
			Help: "Nodes that are never fenced, since they do not share a segment with two other speakers.",
		}, unwatched),
	}
	for _, reason := range Reasons() {
		m.spared.WithLabelValues(string(reason))
	}
	if r == nil {
		return m, nil
	}
	if err := errors.Join(
		r.Register(m.nodes), r.Register(m.pods), r.Register(m.failures), r.Register(m.spared), r.Register(m.unwatched),
	); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return m, nil
}
