package bgp

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics reads the state of the sessions from what is published when it is scraped, so that a peer
// that is gone leaves no series behind, and counts what the loop does.
type metrics struct {
	published *published
	sessionUp *prometheus.Desc
	prefixes  *prometheus.Desc
	failed    *prometheus.Desc
	updates   *prometheus.CounterVec
	errors    prometheus.Counter
	downs     *prometheus.CounterVec
}

func newMetrics(b *published) *metrics {
	return &metrics{
		published: b,
		sessionUp: prometheus.NewDesc("berth_bgp_session_up",
			"1 while the session is established.", []string{"peer"}, nil),
		prefixes: prometheus.NewDesc("berth_bgp_prefixes_announced",
			"Prefixes announced to the neighbor.", []string{"peer", "family"}, nil),
		failed: prometheus.NewDesc("berth_bgp_prefixes_failed",
			"Prefixes that should be announced and cannot be.", nil, nil),
		updates: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_bgp_updates_total",
			Help: "Changes of prefixes handed to BGP, by operation: announce or withdraw.",
		}, []string{"operation"}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "berth_bgp_update_errors_total",
			Help: "Changes of prefixes that BGP refused. They are tried again.",
		}),
		downs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_bgp_session_downs_total",
			Help: "Established sessions that ended.",
		}, []string{"peer"}),
	}
}

func (m *metrics) register(r prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{m, m.updates, m.errors, m.downs} {
		if err := r.Register(c); err != nil {
			return fmt.Errorf("register BGP metrics: %w", err)
		}
	}
	return nil
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(c chan<- *prometheus.Desc) {
	c <- m.sessionUp
	c <- m.prefixes
	c <- m.failed
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(c chan<- prometheus.Metric) {
	st := m.published.status()
	for _, p := range st.Peers {
		up := 0.0
		if p.Established() {
			up = 1
		}
		c <- prometheus.MustNewConstMetric(m.sessionUp, prometheus.GaugeValue, up, p.label())
		c <- prometheus.MustNewConstMetric(m.prefixes, prometheus.GaugeValue, float64(p.IPv4), p.label(), "ipv4")
		c <- prometheus.MustNewConstMetric(m.prefixes, prometheus.GaugeValue, float64(p.IPv6), p.label(), "ipv6")
	}
	c <- prometheus.MustNewConstMetric(m.failed, prometheus.GaugeValue, float64(st.UnannouncedTotal))
}
