package controller

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/controller/allocation"
)

// metrics reads how full the pools are from the allocations when it is scraped, so that a pool that
// is gone leaves no series behind and the others have theirs at all times. It counts what the
// controller does.
type metrics struct {
	addresses   *allocation.Allocations
	snapshot    func() *config.Snapshot
	assigned    *prometheus.Desc
	outside     *prometheus.Desc
	allocations prometheus.Counter
	writes      prometheus.Counter
	failures    prometheus.Counter
	overwritten prometheus.Counter
}

func newMetrics(
	r prometheus.Registerer,
	addresses *allocation.Allocations,
	snapshot func() *config.Snapshot,
) (*metrics, error) {
	m := &metrics{
		addresses: addresses,
		snapshot:  snapshot,
		assigned: prometheus.NewDesc("berth_pool_addresses_assigned",
			"Addresses of a pool that Services hold.", []string{"pool", "family"}, nil),
		outside: prometheus.NewDesc("berth_services_outside_pools",
			"Services with addresses that are in no pool any longer.", nil, nil),
		allocations: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "berth_allocations_total", Help: "Times that a Service was given an address.",
		}),
		writes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "berth_service_status_writes_total", Help: "Writes of Services' statuses.",
		}),
		overwritten: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "berth_service_status_overwritten_total", Help: "Statuses of Services that another controller overwrote.",
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "berth_reconcile_failures_total", Help: "Work that failed and was queued again. Conflicts of resourceVersions are not counted.",
		}),
	}
	var failed []error
	all := []prometheus.Collector{m, m.allocations, m.writes, m.failures, m.overwritten}
	for _, c := range all {
		failed = append(failed, r.Register(c))
	}
	return m, errors.Join(failed...)
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	to <- m.assigned
	to <- m.outside
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	for _, pool := range m.snapshot().Pools {
		for family, usage := range m.addresses.Counts(pool.Name) {
			to <- prometheus.MustNewConstMetric(m.assigned, prometheus.GaugeValue, float64(usage.Assigned),
				pool.Name, family.String())
		}
	}
	to <- prometheus.MustNewConstMetric(m.outside, prometheus.GaugeValue, float64(m.addresses.Outside()))
}
