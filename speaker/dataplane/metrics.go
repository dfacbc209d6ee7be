package dataplane

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
)

// forwarded reads the counters of virtual and real servers when it is asked.
type forwarded struct {
	*Driver
	perService bool
}

var (
	virtualServers = prometheus.NewDesc(
		"berth_ipvs_virtual_servers",
		"Virtual servers, one for each address and port.",
		nil,
		nil,
	)
	realServers = prometheus.NewDesc(
		"berth_ipvs_real_servers",
		"Real servers of all virtual servers, by whether they get new connections.",
		[]string{"accepting"},
		nil,
	)
	activeConnections = prometheus.NewDesc(
		"berth_ipvs_active_connections",
		"Established connections to all real servers.",
		nil,
		nil,
	)

	ofVirtualServer = []string{"address", "port", "protocol"}
	ofRealServer    = append(append([]string(nil), ofVirtualServer...), "endpoint")

	servedConnections = prometheus.NewDesc(
		"berth_ipvs_connections_total",
		"Connections to the virtual server since it was created.",
		ofVirtualServer,
		nil,
	)
	servedPackets = prometheus.NewDesc(
		"berth_ipvs_packets_total",
		"Packets of the virtual server since it was created, by direction: in or out.",
		append(append([]string(nil), ofVirtualServer...), "direction"),
		nil,
	)
	servedBytes = prometheus.NewDesc(
		"berth_ipvs_bytes_total",
		"Bytes of the virtual server since it was created, by direction: in or out.",
		append(append([]string(nil), ofVirtualServer...), "direction"),
		nil,
	)
	serverWeight = prometheus.NewDesc(
		"berth_ipvs_real_server_weight",
		"Weight of the endpoint. 0: it gets no new connections.",
		ofRealServer,
		nil,
	)
	serverActive = prometheus.NewDesc(
		"berth_ipvs_real_server_active_connections",
		"Established connections to the endpoint.",
		ofRealServer,
		nil,
	)
)

func (f forwarded) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		virtualServers, realServers, activeConnections,
		servedConnections, servedPackets, servedBytes, serverWeight, serverActive,
	} {
		to <- d
	}
}

// Collect implements prometheus.Collector. Series of single Services are there only on demand: a
// cluster may have ten thousands of endpoints.
func (f forwarded) Collect(to chan<- prometheus.Metric) {
	all, err := f.statistics()
	if err != nil {
		return // the speaker's status says why
	}
	var accepting, draining, active float64
	for _, s := range all {
		for _, r := range s.RealServers {
			active += float64(r.Active)
			if r.Weight > 0 {
				accepting++
			} else {
				draining++
			}
		}
		if f.perService {
			collectFrontend(to, s)
		}
	}
	gauge := func(d *prometheus.Desc, n float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, n, labels...)
	}
	gauge(virtualServers, float64(len(all)))
	gauge(realServers, accepting, "true")
	gauge(realServers, draining, "false")
	gauge(activeConnections, active)
}

func collectFrontend(to chan<- prometheus.Metric, s ipvs.FrontendStatistics) {
	labels := []string{s.Address.String(), fmt.Sprint(s.Port), s.Protocol.String()}
	counter := func(d *prometheus.Desc, n uint64, more ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), append(labels[:3:3], more...)...)
	}
	counter(servedConnections, s.Connections)
	counter(servedPackets, s.PacketsIn, "in")
	counter(servedPackets, s.PacketsOut, "out")
	counter(servedBytes, s.BytesIn, "in")
	counter(servedBytes, s.BytesOut, "out")
	for _, r := range s.RealServers {
		endpoint := netip.AddrPortFrom(r.Address, r.Port).String()
		gauge := func(d *prometheus.Desc, n uint32) {
			to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), append(labels[:3:3], endpoint)...)
		}
		gauge(serverWeight, r.Weight)
		gauge(serverActive, r.Active)
	}
}

// statistics has one entry for each frontend: what came from this node's own pods and processes is
// counted with the rest.
func (d *Driver) statistics() ([]ipvs.FrontendStatistics, error) {
	all, err := d.ipvs.Statistics()
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return merge(all, d.own), nil
}

// merge adds up the statistics of virtual servers that are one frontend's.
func merge(all []ipvs.FrontendStatistics, own map[ipvs.Frontend]owner) []ipvs.FrontendStatistics {
	var merged []ipvs.FrontendStatistics
	at := map[ipvs.Frontend]int{}
	for _, s := range all {
		if s.Mark != 0 {
			by, known := own[s.Frontend]
			if !known {
				continue // it is going
			}
			s.Frontend = by.frontend
		}
		i, double := at[s.Frontend]
		if !double {
			at[s.Frontend] = len(merged)
			merged = append(merged, s)
			continue
		}
		sum := &merged[i]
		sum.Statistics = sum.Add(s.Statistics)
		for _, r := range s.RealServers {
			j := slices.IndexFunc(
				sum.RealServers,
				func(o ipvs.RealServerStatistics) bool { return o.Address == r.Address && o.Port == r.Port },
			)
			if j < 0 {
				sum.RealServers = append(sum.RealServers, r)
				continue
			}
			o := &sum.RealServers[j]
			o.Statistics = o.Add(r.Statistics)
			o.Active, o.Inactive, o.Weight = o.Active+r.Active, o.Inactive+r.Inactive, max(o.Weight, r.Weight)
		}
	}
	return merged
}
