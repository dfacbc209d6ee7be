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
	state     *prometheus.Desc
	prefixes  *prometheus.Desc
	failed    *prometheus.Desc
	updates   *prometheus.CounterVec
	errors    prometheus.Counter
	downs     *prometheus.CounterVec
	outages   prometheus.Histogram
}

func newMetrics(b *published) *metrics {
	return &metrics{
		published: b,
		sessionUp: prometheus.NewDesc("berth_bgp_session_up",
			"1 while the session is established.", []string{"peer"}, nil),
		state: prometheus.NewDesc("berth_bgp_session_state",
			"1 for the state that the session is in, 0 for the others.", []string{"peer", "state"}, nil),
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
		outages: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "berth_bgp_session_outage_seconds",
			Help:    "From the end of an established session until it was established again.",
			Buckets: []float64{0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800},
		}),
	}
}

func (m *metrics) register(r prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{m, m.updates, m.errors, m.downs, m.outages} {
		if err := r.Register(c); err != nil {
			return fmt.Errorf("register BGP metrics: %w", err)
		}
	}
	return nil
}

// sessionStates are those of PeerStatus.State.
var sessionStates = []string{"idle", "active", "connect", "opensent", "openconfirm", "established"}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(c chan<- *prometheus.Desc) {
	c <- m.sessionUp
	c <- m.state
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
		for _, state := range sessionStates {
			is := 0.0
			if p.State == state {
				is = 1
			}
			c <- prometheus.MustNewConstMetric(m.state, prometheus.GaugeValue, is, p.label(), state)
		}
		c <- prometheus.MustNewConstMetric(m.prefixes, prometheus.GaugeValue, float64(p.IPv4), p.label(), "IPv4")
		c <- prometheus.MustNewConstMetric(m.prefixes, prometheus.GaugeValue, float64(p.IPv6), p.label(), "IPv6")
	}
	c <- prometheus.MustNewConstMetric(m.failed, prometheus.GaugeValue, float64(st.UnannouncedTotal))
}
