package speaker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/speaker/dataplane/guard"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
	"github.com/berth-lb/berth/speaker/plan"
)

// Modules come and go without a word, and kube-proxy is configured anew.
const (
	probeEvery   = 30 * time.Second // between questions to the kernel, what it can do
	askModeEvery = 5 * time.Second  // between questions to kube-proxy, in which mode it runs
)

// forwarder is Berth's own data plane on this node: virtual servers of IPVS, and the rules around them. A nil one does
// nothing and can do nothing.
type forwarder struct {
	ipvs      *ipvs.Driver
	guard     *guard.Driver
	log       *slog.Logger
	proxyMode string // URL that says in which mode kube-proxy runs; empty: nobody is asked
	probe     func(scheduler string) error
	changed   func(netip.Addr) // what is forwarded for an address; the zero one: of all

	mu      sync.Mutex
	able    []string                   // schedulers
	lacking string                     // why not all of them
	yields  bool                       // to kube-proxy, which would delete our virtual servers, and we its
	own     map[ipvs.Frontend]owner    // whose the virtual servers by mark are
	marked  map[string][]ipvs.Frontend // those by mark, by group

	soon    chan struct{} // has look called
	worked  bool          // IPVS did, once
	failing time.Time     // since when it does not; zero: it does, or was not tried yet

	told string // what look told last
}

// owner is what a virtual server by mark serves.
type owner struct {
	group    string
	frontend ipvs.Frontend
}

func newForwarder(o Options, sources []netip.Addr, changed func(netip.Addr)) (*forwarder, error) {
	if !o.IPVS {
		return nil, nil
	}
	logger := o.Logger.With("driver", "ipvs")
	rules, err := guard.New(logger, o.Metrics)
	if err != nil {
		return nil, err
	}
	f := &forwarder{
		ipvs: ipvs.New(ipvs.Config{Logger: logger, Sources: sources, Sysctls: o.IPVSSysctls}), guard: rules,
		log: logger, proxyMode: o.ProxyMode, probe: ipvs.Probe, changed: changed,
		own: map[ipvs.Frontend]owner{}, marked: map[string][]ipvs.Frontend{}, soon: make(chan struct{}, 1),
	}
	if o.Metrics != nil {
		if err := o.Metrics.Register(forwarded{f}); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return f, nil
}

// sync replaces what is forwarded for a group. The rules come first: until they are there a port that no Service
// exposes would reach the node's own listeners.
func (f *forwarder) sync(group string, desired plan.Forwarding) {
	if f == nil {
		return
	}
	f.mu.Lock()
	if f.yields {
		desired = plan.Forwarding{}
	}
	f.mu.Unlock()
	f.guard.Sync(group, desired.Guards)
	f.ipvs.Sync(group, desired.Table)
	f.note(group, desired.Guards)
}

// note keeps whose the virtual servers by mark are.
func (f *forwarder) note(group string, guards []guard.Frontend) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, gone := range f.marked[group] {
		if f.own[gone].group == group { // else another has it by now
			delete(f.own, gone)
		}
	}
	delete(f.marked, group)
	for _, g := range guards {
		if g.Mark != 0 {
			by := ipvs.Marked(g.Mark, g.Address)
			f.own[by] = owner{group, ipvs.Frontend{Address: g.Address, Port: g.Port, Protocol: ipvs.Protocol(g.Protocol)}}
			f.marked[group] = append(f.marked[group], by)
		}
	}
}

// setPods replaces the ranges of the addresses of this node's pods.
func (f *forwarder) setPods(prefixes []netip.Prefix) { f.guard.SetPods(prefixes) }

// run keeps the kernel as desired until the context ends. What is there then stays, for the next process.
func (f *forwarder) run(ctx context.Context) error {
	if f == nil {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return f.guard.Run(ctx) })
	group.Go(func() error { return f.ipvs.Run(ctx) })
	group.Go(func() error { f.observe(ctx); return nil })
	return group.Wait()
}

func (f *forwarder) observe(ctx context.Context) {
	again := time.NewTicker(probeEvery)
	defer again.Stop()
	ask := time.NewTicker(askModeEvery)
	defer ask.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ask.C:
			if f.beside() {
				f.look()
			}
		case o := <-f.ipvs.Observed():
			if o.Err != nil {
				f.log.Warn("IPVS", "observation", o.String())
			}
			if o.Frontend == (ipvs.Frontend{}) {
				f.judge(o.Err)
				f.changed(netip.Addr{})
			} else if address := f.addressOf(o.Frontend); address.IsValid() {
				f.changed(address)
			}
		case <-again.C:
			f.look()
		case <-f.soon:
			f.look()
		}
	}
}

// judge takes in whether IPVS works as a whole. A failure counts at once if it never did, and else when it lasts.
func (f *forwarder) judge(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err == nil:
		f.worked, f.failing = true, time.Time{}
	case f.failing.IsZero():
		f.failing = time.Now()
		var after time.Duration
		if f.worked {
			after = plan.FailureGrace
		}
		time.AfterFunc(after, func() {
			select {
			case f.soon <- struct{}{}:
			default:
			}
		})
	}
}

// addressOf returns the address that a virtual server serves, also one by mark; the zero one if it serves nobody any more.
func (f *forwarder) addressOf(frontend ipvs.Frontend) netip.Addr {
	if frontend.Mark == 0 {
		return frontend.Address
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.own[frontend].frontend.Address
}

// beside tells whether kube-proxy began to write virtual servers, or ceased to.
func (f *forwarder) beside() bool {
	now := askProxyMode(f.proxyMode) == "ipvs"
	f.mu.Lock()
	defer f.mu.Unlock()
	return now != f.yields
}

// look finds out what the node can do.
func (f *forwarder) look() {
	if f == nil {
		return
	}
	able, lacking, yields := f.ability()
	f.mu.Lock()
	f.able, f.lacking, f.yields = able, lacking, yields
	f.mu.Unlock()
	able, lacking = f.schedulers()
	if now := fmt.Sprint(able, lacking); now != f.told {
		f.told = now
		f.log.Info("can forward by IPVS", "schedulers", able, "lacking", lacking)
		f.changed(netip.Addr{})
	}
}

func (f *forwarder) ability() (able []string, lacking string, yields bool) {
	if mode := askProxyMode(f.proxyMode); mode == "ipvs" {
		return nil, "kube-proxy on this node runs in mode ipvs, and deletes virtual servers that it did not make: have it use another mode", true
	}
	var missing []string
	var why error
	for _, scheduler := range ipvs.Schedulers {
		if err := f.probe(scheduler); err != nil {
			missing, why = append(missing, scheduler), err
			continue
		}
		able = append(able, scheduler)
	}
	switch {
	case len(able) == 0:
		return nil, why.Error(), false
	case len(missing) > 0:
		return able, fmt.Sprintf("no scheduler %s: %v", strings.Join(missing, ", "), why), false
	}
	return able, "", false
}

// askProxyMode returns in which mode kube-proxy says that it runs; "" if it does not say.
func askProxyMode(url string) string {
	if url == "" {
		return ""
	}
	transport := &http.Transport{DisableKeepAlives: true} // by way of no HTTP proxy
	client := &http.Client{Timeout: time.Second, Transport: transport}
	response, err := client.Get(url)
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 64))
	if err != nil || response.StatusCode != http.StatusOK {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// schedulers returns with which this node can forward; none while IPVS or the rules around it do not work.
func (f *forwarder) schedulers() (able []string, lacking string) {
	if f == nil {
		return nil, ""
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.guard.Err(); err != nil {
		return nil, err.Error()
	}
	if err := f.ipvs.Err(); err != nil && !f.failing.IsZero() && (!f.worked || time.Since(f.failing) >= plan.FailureGrace) {
		return nil, err.Error()
	}
	return f.able, f.lacking
}

// report is the part of the Speaker's status, with what the node lacks, if it was asked to forward.
func (f *forwarder) report() (report v1alpha1.IPVSReport, lacking string, asked bool) {
	if f == nil {
		return report, "", false
	}
	able, lacking := f.schedulers()
	return v1alpha1.IPVSReport{Schedulers: able, VirtualServers: new(int32(f.ipvs.Served()))}, lacking, true
}

// fails tells whether IPVS does as a whole, or was not tried yet: then it says nothing of one frontend.
func (f *forwarder) fails() bool { return f.ipvs.Err() != nil }

// serves returns nil if the kernel showed all of this as desired, or what it did not.
func (f *forwarder) serves(desired plan.Forwarding) error {
	for frontend := range desired.Table {
		if err := f.ipvs.Serves(frontend); err != nil {
			return fmt.Errorf("%s: %w", frontend, err)
		}
	}
	return nil
}

// remove takes everything out of the kernel.
func (f *forwarder) remove() error {
	if f == nil {
		return findLeft(slog.New(slog.DiscardHandler)).remove()
	}
	// The one does not wait for the other: rules that stay would go on dropping.
	return errors.Join(f.ipvs.Remove(), f.guard.Remove())
}

// forwarded reads the counters of virtual and real servers when it is asked.
type forwarded struct{ *forwarder }

var (
	ofVirtualServer = []string{"address", "port", "protocol"}
	ofRealServer    = append(append([]string(nil), ofVirtualServer...), "endpoint")

	servedConnections = prometheus.NewDesc("berth_ipvs_connections_total", "Connections to the virtual server since it was made.", ofVirtualServer, nil)
	servedPackets     = prometheus.NewDesc("berth_ipvs_packets_total", "Packets of the virtual server since it was made, by direction: in or out.", append(append([]string(nil), ofVirtualServer...), "direction"), nil)
	servedBytes       = prometheus.NewDesc("berth_ipvs_bytes_total", "Bytes of the virtual server since it was made, by direction: in or out.", append(append([]string(nil), ofVirtualServer...), "direction"), nil)
	serverWeight      = prometheus.NewDesc("berth_ipvs_real_server_weight", "Weight of the endpoint; 0: it gets no new connections.", ofRealServer, nil)
	serverActive      = prometheus.NewDesc("berth_ipvs_real_server_active_connections", "Established connections to the endpoint.", ofRealServer, nil)
)

func (f forwarded) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{servedConnections, servedPackets, servedBytes, serverWeight, serverActive} {
		to <- d
	}
}

func (f forwarded) Collect(to chan<- prometheus.Metric) {
	all, err := f.statistics()
	if err != nil {
		return // why is in the speaker's status
	}
	for _, s := range all {
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
			to <- prometheus.MustNewConstMetric(serverWeight, prometheus.GaugeValue, float64(r.Weight), append(labels[:3:3], endpoint)...)
			to <- prometheus.MustNewConstMetric(serverActive, prometheus.GaugeValue, float64(r.Active), append(labels[:3:3], endpoint)...)
		}
	}
}

// statistics has one entry for each frontend: what came from this node's own pods and processes is counted with the rest.
func (f *forwarder) statistics() ([]ipvs.FrontendStatistics, error) {
	all, err := f.ipvs.Statistics()
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return merge(all, f.own), nil
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
			j := slices.IndexFunc(sum.RealServers, func(o ipvs.RealServerStatistics) bool { return o.Address == r.Address && o.Port == r.Port })
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
