package steer

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
)

// mostSeries bounds the series of single Services that one node has. Those with most packets get in
// first, and what is in stays.
const mostSeries = 20000

var (
	steers = prometheus.NewDesc(
		"berth_steering_up",
		"1 while this node steers.",
		nil, nil,
	)
	syncedAt = prometheus.NewDesc(
		"berth_steering_synced_timestamp_seconds",
		"When the kernel was last known to have all that is to be steered, in seconds since 1970.",
		nil, nil,
	)
	syncFailures = prometheus.NewDesc(
		"berth_steering_sync_failures_total",
		"Times that the kernel could not be brought up to date, or not in full.",
		nil, nil,
	)
	steeredServices = prometheus.NewDesc("berth_steering_services", "Services that this node steers.", nil, nil)
	steeredPorts    = prometheus.NewDesc(
		"berth_steering_ports",
		"Addresses with a port and a protocol that this node steers.",
		nil, nil,
	)
	steeringTables = prometheus.NewDesc(
		"berth_steering_tables",
		"Tables of nodes. Services whose endpoints are on the same nodes share one.",
		nil, nil,
	)
	suspectedNodes = prometheus.NewDesc(
		"berth_steering_nodes_suspected",
		"Nodes that this one thinks dead, and steers no new connections to.",
		nil, nil,
	)
	steeredPackets = prometheus.NewDesc(
		"berth_steering_packets_total",
		"Packets for Services that are steered, by what was done with them.",
		[]string{"reason"}, nil,
	)
	servicePackets = prometheus.NewDesc(
		"berth_steering_service_packets_total",
		"Packets of a Service that is steered, by the node that they went to and by what was done with them.",
		[]string{"namespace", "service", "target", "reason"}, nil,
	)
	seriesOmitted = prometheus.NewDesc(
		"berth_steering_series_omitted",
		"Series of berth_steering_service_packets_total that are left out, since the node has 20000 of them.",
		nil, nil,
	)
)

// Register registers the metrics of a Steerer. PerService adds those with series for each Service.
func (s *Steerer) Register(r prometheus.Registerer, perService bool) error {
	c := collector{steerer: s}
	if perService {
		c.of = newSeries()
	}
	s.tally.of = c.of
	if err := r.Register(c); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	return nil
}

// collector reads the counters when it is asked.
type collector struct {
	steerer *Steerer
	of      *series // nil: no series for single Services
}

// Describe implements prometheus.Collector.
func (c collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		steers, syncedAt, syncFailures, steeredServices, steeredPorts, steeringTables, suspectedNodes,
		steeredPackets, servicePackets, seriesOmitted,
	} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, n float64) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, n)
	}
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	s := c.steerer
	driver := s.driver.Load()
	if up, wanted := s.up(); wanted {
		gauge(steers, up)
	}
	now := s.progress.read()
	count(syncFailures, now.failures)
	if driver != nil {
		services, ports := s.size()
		gauge(steeredServices, float64(services))
		gauge(steeredPorts, float64(ports))
		gauge(steeringTables, float64(now.tables))
		gauge(suspectedNodes, float64(len(driver.Suspected())))
		if !now.at.IsZero() {
			gauge(syncedAt, float64(now.at.UnixMilli())/1000)
		}
	}
	s.tally.read(driver, func(byReason map[decide.Reason]uint64) {
		for reason, n := range byReason {
			count(steeredPackets, n, reason.String())
		}
		if c.of == nil {
			return
		}
		for of, n := range c.of.packets {
			count(servicePackets, n, of.namespace, of.service, of.target, of.reason.String())
		}
		gauge(seriesOmitted, float64(c.of.omitted))
	})
}

// up is 1 if this node steers. Not wanted: it was turned off.
func (s *Steerer) up() (up float64, wanted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.report.Lacking == "" {
		up = 1
	}
	return up, s.enabled && !s.removed
}

// size returns how many Services, and ports of theirs, the kernel has.
func (s *Steerer) size() (services, ports int) {
	s.mu.Lock()
	groups := maps.Clone(s.steered)
	s.mu.Unlock()
	named := map[string]bool{}
	for _, all := range groups {
		ports += len(all)
		for _, p := range all {
			named[p.Service] = true
		}
	}
	return len(named), ports
}

// progress is how the kernel follows what is desired.
type progress struct {
	mu     sync.Mutex
	state  state                        // guarded by mu
	failed struct{ sync, refresh bool } // guarded by mu; the last time
}

type state struct {
	tables   int
	at       time.Time // the kernel had all that was desired
	failures uint64
}

func (p *progress) read() state {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// synced notes how a Sync ended, refreshed how a Refresh did. The kernel has all if neither failed.
func (p *progress) synced(err error, now time.Time)    { p.note(&p.failed.sync, err, now) }
func (p *progress) refreshed(err error, now time.Time) { p.note(&p.failed.refresh, err, now) }

func (p *progress) note(failed *bool, err error, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if *failed = err != nil; err != nil {
		p.state.failures++
	}
	if !p.failed.sync && !p.failed.refresh {
		p.state.at = now
	}
}

func (p *progress) holds(tables int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.tables = tables
}

// serviceOf splits a name that services gives: namespace/name, a space, and the address.
func serviceOf(name string) (namespace, service string) {
	name, _, _ = strings.Cut(name, " ")
	namespace, service, _ = strings.Cut(name, "/")
	return namespace, service
}
