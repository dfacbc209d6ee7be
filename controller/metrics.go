package controller

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	assigned    *prometheus.GaugeVec
	allocations prometheus.Counter
	writes      prometheus.Counter
	failures    prometheus.Counter
	overwritten prometheus.Counter
}

func newMetrics(r prometheus.Registerer, outside func() float64) (*metrics, error) {
	m := &metrics{
		assigned: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "berth_pool_addresses_assigned", Help: "Addresses of a pool that Services hold.",
		}, []string{"pool", "family"}),
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
			Name: "berth_reconcile_failures_total", Help: "Work that failed and was put back, conflicts of resourceVersions left out.",
		}),
	}
	var failed []error
	outsidePools := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "berth_services_outside_pools", Help: "Services with addresses that are in no pool any more.",
	}, outside)
	all := []prometheus.Collector{outsidePools, m.assigned, m.allocations, m.writes, m.failures, m.overwritten}
	for _, c := range all {
		failed = append(failed, r.Register(c))
	}
	return m, errors.Join(failed...)
}
