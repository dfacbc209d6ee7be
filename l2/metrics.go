package l2

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-lb/berth/l2/election"
)

// metrics are the driver's collectors. All have the interface as a label.
type metrics struct {
	arpRequests, arpReplies             *prometheus.CounterVec
	ndpSolicitations, ndpAdvertisements *prometheus.CounterVec
	gratuitous, probes                  *prometheus.CounterVec
	hellosSent, hellosReceived          *prometheus.CounterVec
	hellosRejected                      *prometheus.CounterVec
	moves, conflicts, overslept         *prometheus.CounterVec
	peers, owned                        *prometheus.GaugeVec
	vacancy                             *prometheus.HistogramVec

	all []interface {
		prometheus.Collector
		DeletePartialMatch(prometheus.Labels) int
	}
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "berth", Subsystem: "l2", Name: name, Help: help,
		}, append([]string{"interface"}, labels...))
		m.all = append(m.all, v)
		return v
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		v := prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "berth", Subsystem: "l2", Name: name, Help: help,
		}, []string{"interface"})
		m.all = append(m.all, v)
		return v
	}
	m.arpRequests = counter("arp_requests_total", "ARP requests received about the announced range of addresses.")
	m.arpReplies = counter("arp_replies_total", "ARP requests answered.")
	m.ndpSolicitations = counter("ndp_solicitations_total", "Neighbor solicitations received.")
	m.ndpAdvertisements = counter("ndp_advertisements_total", "Neighbor solicitations answered.")
	m.gratuitous = counter("gratuitous_total", "Unsolicited announcements sent, by protocol.", "protocol")
	m.probes = counter("probes_total", "Probes sent for other holders of an address, by protocol.", "protocol")
	m.hellosSent = counter("hellos_sent_total", "Hellos sent.")
	m.hellosReceived = counter("hellos_received_total", "Hellos received and accepted.")
	m.hellosRejected = counter("hellos_rejected_total", "Hellos ignored, by reason.", "reason")
	m.moves = counter("moves_total", "Addresses gained and lost, by direction and cause.", "direction", "cause")
	m.conflicts = counter("conflicts_total", "Conflicts reported, by ARP or NDP: at most one in 10 s for an address that the node answers for, "+
		"one for each failed probe of an address that it is about to answer for.")
	m.overslept = counter("overslept_total", "Times that this process stood still for longer than its peers wait.")
	m.peers = gauge("peers", "Other speakers that are alive on the segment.")
	m.owned = gauge("addresses_owned", "Addresses that this node owns on the segment.")
	m.vacancy = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "berth", Subsystem: "l2", Name: "vacancy_seconds",
		Help: "How long nobody answered for an address before this node did, " +
			"from when another node was last known to, by cause.",
		Buckets: []float64{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30},
	}, []string{"interface", "cause"})
	m.all = append(m.all, m.vacancy)
	if r == nil {
		return m, nil
	}
	for _, c := range m.all {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register layer 2 metrics: %w", err)
		}
	}
	return m, nil
}

// segmentCounts are the collectors of one interface, looked up once.
type segmentCounts struct {
	arpRequests, arpReplies             prometheus.Counter
	ndpSolicitations, ndpAdvertisements prometheus.Counter
	gratuitousARP, unsolicitedNA        prometheus.Counter
	arpProbes, ndpProbes                prometheus.Counter
	hellosSent, hellosReceived          prometheus.Counter
	conflicts, overslept                prometheus.Counter
	peers, owned                        prometheus.Gauge

	rejected func(error)
	moved    func(direction string, cause Cause)
	vacant   func(d time.Duration, cause Cause)
}

// usualCauses are why addresses are mostly gained.
var usualCauses = []Cause{
	election.Configured, election.Joined, election.PeerSilent, election.PeerLeft, election.PeerStale, election.LinkUp,
}

func (m *metrics) of(ifname string) *segmentCounts {
	for _, cause := range usualCauses { // a counter that begins with 1 is no increase for Prometheus
		m.vacancy.WithLabelValues(ifname, string(cause))
		m.moves.WithLabelValues(ifname, "gained", string(cause))
	}
	return &segmentCounts{
		arpRequests:       m.arpRequests.WithLabelValues(ifname),
		arpReplies:        m.arpReplies.WithLabelValues(ifname),
		ndpSolicitations:  m.ndpSolicitations.WithLabelValues(ifname),
		ndpAdvertisements: m.ndpAdvertisements.WithLabelValues(ifname),
		gratuitousARP:     m.gratuitous.WithLabelValues(ifname, "arp"),
		unsolicitedNA:     m.gratuitous.WithLabelValues(ifname, "ndp"),
		arpProbes:         m.probes.WithLabelValues(ifname, "arp"),
		ndpProbes:         m.probes.WithLabelValues(ifname, "ndp"),
		hellosSent:        m.hellosSent.WithLabelValues(ifname),
		hellosReceived:    m.hellosReceived.WithLabelValues(ifname),
		conflicts:         m.conflicts.WithLabelValues(ifname),
		overslept:         m.overslept.WithLabelValues(ifname),
		peers:             m.peers.WithLabelValues(ifname),
		owned:             m.owned.WithLabelValues(ifname),
		rejected: func(err error) {
			var r election.Rejection
			if errors.As(err, &r) {
				m.hellosRejected.WithLabelValues(ifname, string(r)).Inc()
			}
		},
		moved: func(direction string, cause Cause) {
			m.moves.WithLabelValues(ifname, direction, string(cause)).Inc()
		},
		vacant: func(d time.Duration, cause Cause) {
			m.vacancy.WithLabelValues(ifname, string(cause)).Observe(max(d, 0).Seconds())
		},
	}
}

// forget removes an interface that is no longer served.
func (m *metrics) forget(ifname string) {
	for _, c := range m.all {
		c.DeletePartialMatch(prometheus.Labels{"interface": ifname})
	}
}
