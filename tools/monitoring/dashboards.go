package main

import (
	"fmt"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
	"github.com/grafana/grafana-foundation-sdk/go/units"
)

// board is a dashboard.
type board struct {
	name, title, about string
	panels             []panel
}

// panel is a picture of one or more queries.
type panel struct {
	title, about string
	unit         string
	number       bool // the latest value as a number, not a curve
	queries      []query
}

// query is a query and how its series are called.
type query struct{ expr, legend string }

// build returns the dashboard as Grafana has it: the numbers in one row, below them two curves
// beside each other.
func (b board) build() (dashboard.Dashboard, error) {
	source := common.DataSourceRef{Type: cog.ToPtr("prometheus"), Uid: cog.ToPtr("${datasource}")}
	d := dashboard.NewDashboardBuilder(b.title).
		Uid(b.name).
		Description(b.about).
		Tags([]string{"berth"}).
		Refresh("30s").
		Time("now-3h", "now").
		Tooltip(dashboard.DashboardCursorSyncCrosshair).
		WithVariable(dashboard.NewDatasourceVariableBuilder("datasource").Label("Data source").Type("prometheus")).
		WithVariable(dashboard.NewQueryVariableBuilder("node").
			Label("Node").
			Datasource(source).
			Query(dashboard.StringOrMap{String: cog.ToPtr("label_values(berth_api_confirmed_timestamp_seconds, node)")}).
			Refresh(dashboard.VariableRefreshOnTimeRangeChanged).
			Multi(true).
			IncludeAll(true).
			AllValue(".*"))
	numbers := uint32(0)
	for _, p := range b.panels {
		if p.number {
			numbers++
		}
	}
	for _, p := range b.panels {
		if p.number {
			d.WithPanel(p.stat(source).Span(24 / numbers))
		} else {
			d.WithPanel(p.curves(source))
		}
	}
	return d.Build()
}

func (p panel) stat(source common.DataSourceRef) *stat.PanelBuilder {
	s := stat.NewPanelBuilder().
		Title(p.title).Description(p.about).Datasource(source).Unit(p.unit).Height(4).
		ReduceOptions(common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"}))
	for i, q := range p.queries {
		s.WithTarget(q.target(i, source))
	}
	return s
}

func (p panel) curves(source common.DataSourceRef) *timeseries.PanelBuilder {
	t := timeseries.NewPanelBuilder().
		Title(p.title).Description(p.about).Datasource(source).Unit(p.unit).Height(8).Span(12).
		Min(0).FillOpacity(10).
		Legend(common.NewVizLegendOptionsBuilder().
			DisplayMode(common.LegendDisplayModeList).Placement(common.LegendPlacementBottom).ShowLegend(true)).
		Tooltip(common.NewVizTooltipOptionsBuilder().Mode(common.TooltipDisplayModeMulti))
	for i, q := range p.queries {
		t.WithTarget(q.target(i, source))
	}
	return t
}

func (q query) target(i int, source common.DataSourceRef) *prometheus.DataqueryBuilder {
	return prometheus.NewDataqueryBuilder().
		RefId(string(rune('A' + i))).Datasource(source).Expr(q.expr).LegendFormat(q.legend).Range()
}

// quantiles returns queries for the median and the slowest hundredth of a histogram.
func quantiles(histogram, selector, by, legend string) []query {
	var all []query
	for _, q := range []string{"0.5", "0.99"} {
		all = append(all, query{
			expr: fmt.Sprintf("histogram_quantile(%s, sum by (%s) (rate(%s_bucket%s[$__rate_interval])))",
				q, by, histogram, selector),
			legend: "quantile " + q + legend,
		})
	}
	return all
}

func one(expr, legend string) []query { return []query{{expr, legend}} }

// boards are the dashboards that Berth comes with.
func boards() []board {
	return []board{overview(), segments(), routes(), steering()}
}

func overview() board {
	return board{
		name: "berth-overview", title: "Berth / Overview",
		about: "Pools, Services, and Berth itself.",
		panels: []panel{
			{
				title: "Leader", number: true, unit: units.Short,
				about:   "How many controllers lead: one.",
				queries: one(`sum(berth_leader)`, "leaders"),
			},
			{
				title: "Speakers that announce", number: true, unit: units.Short,
				queries: one(`sum(berth_speakers{state="Announcing"})`, "speakers"),
			},
			{
				title: "Services with an address", number: true, unit: units.Short,
				queries: one(`sum(berth_services{condition="berth.dev/Allocated", status="True"})`, "Services"),
			},
			{
				title: "Services announced", number: true, unit: units.Short,
				queries: one(`sum(berth_services{condition="berth.dev/Announced", status="True"})`, "Services"),
			},
			{
				title: "Pods that cannot be scraped", number: true, unit: units.Short,
				queries: one(`count(up{job="berth"} == 0) or vector(0)`, "Pods"),
			},
			{
				title: "Objects not in effect", number: true, unit: units.Short,
				about:   "Objects of the configuration that are not in effect, or not in full.",
				queries: one(`sum(berth_configuration_objects{state=~"partial|rejected"})`, "objects"),
			},
			{
				title: "Pools: addresses in use", unit: units.PercentUnit,
				about: "The share of a pool's addresses that are not free.",
				queries: one(`1 - sum by (pool, family) (berth_pool_addresses{state="free"})`+
					` / sum by (pool, family) (berth_pool_addresses)`, "{{pool}} {{family}}"),
			},
			{
				title: "Pools: addresses assigned", unit: units.Short,
				queries: one(`sum by (pool, family) (berth_pool_addresses{state="assigned"})`, "{{pool}} {{family}}"),
			},
			{
				title: "Services by condition", unit: units.Short,
				queries: one(`sum by (condition, status, reason) (berth_services)`,
					"{{condition}} {{status}} {{reason}}"),
			},
			{
				title: "Speakers by state", unit: units.Short,
				queries: one(`sum by (state) (berth_speakers)`, "{{state}}"),
			},
			{
				title: "From a new Service to its address", unit: units.Seconds,
				queries: quantiles("berth_service_address_seconds", "", "le", ""),
			},
			{
				title: "From a new Service to its announcement", unit: units.Seconds,
				queries: quantiles("berth_service_announced_seconds", "", "le", ""),
			},
			{
				title: "Statuses written and overwritten", unit: units.OpsPerSecond,
				queries: []query{
					{`sum(rate(berth_service_status_writes_total[$__rate_interval]))`, "written by Berth"},
					{`sum(rate(berth_service_status_overwritten_total[$__rate_interval]))`, "overwritten by others"},
				},
			},
			{
				title: "Work queues", unit: units.Short,
				about: "Keys that wait for the leader. Those of the others wait until they lead.",
				queries: one(`sum by (name) (workqueue_depth{job="berth"} and on (instance) berth_leader == 1)`,
					"{{name}}"),
			},
			{
				title: "Time in work queues", unit: units.Seconds,
				queries: quantiles("workqueue_queue_duration_seconds", `{job="berth"}`, "le, name", " of {{name}}"),
			},
			{
				title: "Work that failed", unit: units.OpsPerSecond,
				queries: one(`sum(rate(berth_reconcile_failures_total[$__rate_interval]))`, "failures"),
			},
			{
				title: "Requests to the API server", unit: units.RequestsPerSecond,
				queries: one(`sum by (code, method) (rate(rest_client_requests_total{job="berth"}[$__rate_interval]))`,
					"{{method}} {{code}}"),
			},
			{
				title: "Age of what speakers know of the API", unit: units.Seconds,
				queries: one(`time() - berth_api_confirmed_timestamp_seconds{node=~"$node"}`, "{{node}}"),
			},
			{
				title: "Memory", unit: units.BytesIEC,
				queries: one(`process_resident_memory_bytes{job="berth"}`, "{{pod}}"),
			},
			{
				title: "Processor time", unit: units.Short,
				about:   "In cores.",
				queries: one(`rate(process_cpu_seconds_total{job="berth"}[$__rate_interval])`, "{{pod}}"),
			},
		},
	}
}

func segments() board {
	const here = `{node=~"$node"}`
	return board{
		name: "berth-segments", title: "Berth / Segments",
		about: "Announcements by ARP and NDP: who answers, what moves, and how long it takes.",
		panels: []panel{
			{
				title: "Addresses answered for", unit: units.Short,
				queries: one(`berth_l2_addresses_owned`+here, "{{node}} {{interface}}"),
			},
			{
				title: "Other speakers heard", unit: units.Short,
				queries: one(`berth_l2_peers`+here, "{{node}} {{interface}}"),
			},
			{
				title: "Addresses gained", unit: units.Short,
				about: "In five minutes, by cause.",
				queries: one(`sum by (node, cause) (increase(berth_l2_moves_total{node=~"$node", direction="gained"}[5m]))`,
					"{{node}} {{cause}}"),
			},
			{
				title: "Vacancy: failovers", unit: units.Seconds,
				about: "How long nobody answered for an address before a node took it over.",
				queries: quantiles("berth_l2_vacancy_seconds", `{node=~"$node", cause!="configured"}`, "le, cause",
					" {{cause}}"),
			},
			{
				title: "Vacancy: new addresses", unit: units.Seconds,
				about:   "From when a node may answer for a new address until one does.",
				queries: quantiles("berth_l2_vacancy_seconds", `{node=~"$node", cause="configured"}`, "le", ""),
			},
			{
				title: "Conflicts", unit: units.Short,
				about:   "In five minutes: other hosts that use an address of a Service.",
				queries: one(`sum by (node, interface) (increase(berth_l2_conflicts_total`+here+`[5m]))`, "{{node}} {{interface}}"),
			},
			{
				title: "ARP requests and replies", unit: units.RequestsPerSecond,
				queries: []query{
					{`sum by (node) (rate(berth_l2_arp_requests_total` + here + `[$__rate_interval]))`, "{{node}} requests"},
					{`sum by (node) (rate(berth_l2_arp_replies_total` + here + `[$__rate_interval]))`, "{{node}} replies"},
				},
			},
			{
				title: "NDP solicitations and advertisements", unit: units.RequestsPerSecond,
				queries: []query{
					{`sum by (node) (rate(berth_l2_ndp_solicitations_total` + here + `[$__rate_interval]))`, "{{node}} solicitations"},
					{`sum by (node) (rate(berth_l2_ndp_advertisements_total` + here + `[$__rate_interval]))`, "{{node}} advertisements"},
				},
			},
			{
				title: "Hellos", unit: units.PacketsPerSecond,
				queries: []query{
					{`sum by (node) (rate(berth_l2_hellos_sent_total` + here + `[$__rate_interval]))`, "{{node}} sent"},
					{`sum by (node) (rate(berth_l2_hellos_received_total` + here + `[$__rate_interval]))`, "{{node}} received"},
				},
			},
			{
				title: "Packets that nothing serves", unit: units.PacketsPerSecond,
				queries: one(`sum by (node, family) (rate(berth_unserved_packets_dropped_total`+here+`[$__rate_interval]))`,
					"{{node}} {{family}}"),
			},
		},
	}
}

func routes() board {
	const here = `{node=~"$node"}`
	return board{
		name: "berth-bgp", title: "Berth / BGP",
		about: "Sessions with routers, prefixes, and BFD.",
		panels: []panel{
			{
				title: "Sessions established", number: true, unit: units.Short,
				queries: one(`sum(berth_bgp_session_up`+here+`)`, "sessions"),
			},
			{
				title: "Sessions down", number: true, unit: units.Short,
				queries: one(`count(berth_bgp_session_up`+here+` == 0) or vector(0)`, "sessions"),
			},
			{
				title: "Prefixes not announced", number: true, unit: units.Short,
				queries: one(`sum(berth_bgp_prefixes_failed`+here+`)`, "prefixes"),
			},
			{
				title: "Sessions", unit: units.Short,
				about:   "1 while the session is established.",
				queries: one(`berth_bgp_session_up`+here, "{{node}} {{peer}}"),
			},
			{
				title: "Sessions by state", unit: units.Short,
				queries: one(`sum by (state) (berth_bgp_session_state`+here+`)`, "{{state}}"),
			},
			{
				title: "Prefixes announced", unit: units.Short,
				queries: one(`sum by (node, peer, family) (berth_bgp_prefixes_announced`+here+`)`, "{{node}} {{peer}} {{family}}"),
			},
			{
				title: "Changes of prefixes", unit: units.OpsPerSecond,
				queries: one(`sum by (operation) (rate(berth_bgp_updates_total`+here+`[$__rate_interval]))`, "{{operation}}"),
			},
			{
				title: "Sessions that ended", unit: units.Short,
				about:   "In five minutes.",
				queries: one(`sum by (node, peer) (increase(berth_bgp_session_downs_total`+here+`[5m]))`, "{{node}} {{peer}}"),
			},
			{
				title: "Outages of sessions", unit: units.Seconds,
				about:   "From the end of a session until it was established again.",
				queries: quantiles("berth_bgp_session_outage_seconds", here, "le", ""),
			},
			{
				title: "BFD sessions", unit: units.Short,
				about:   "1 while the path to the router is Up.",
				queries: one(`berth_bfd_session_up`+here, "{{node}} {{peer}}"),
			},
			{
				title: "BFD packets", unit: units.PacketsPerSecond,
				queries: one(`sum by (node, direction) (rate(berth_bfd_packets_total`+here+`[$__rate_interval]))`,
					"{{node}} {{direction}}"),
			},
		},
	}
}

func steering() board {
	const here = `{node=~"$node"}`
	return board{
		name: "berth-steering", title: "Berth / Steering",
		about: "What nodes do with packets of Services that are steered, and whether their tables are up to date.",
		panels: []panel{
			{
				title: "Nodes that steer", number: true, unit: units.Short,
				queries: one(`sum(berth_steering_up`+here+`)`, "nodes"),
			},
			{
				title: "Nodes that do not", number: true, unit: units.Short,
				about:   "Of those that are asked to, and where it is not turned off.",
				queries: one(`count(berth_steering_up`+here+` == 0) or vector(0)`, "nodes"),
			},
			{
				title: "Services steered", number: true, unit: units.Short,
				queries: one(`max(berth_steering_services`+here+`)`, "Services"),
			},
			{
				title: "Addresses with ports", number: true, unit: units.Short,
				queries: one(`max(berth_steering_ports`+here+`)`, "ports"),
			},
			{
				title: "Packets sent to other nodes", unit: units.PacketsPerSecond,
				queries: one(`sum by (node) (rate(berth_steering_packets_total{node=~"$node", `+
					`reason=~"first|corrected|second_chance|returned"}[$__rate_interval]))`, "{{node}}"),
			},
			{
				title: "Packets by what was done", unit: units.PacketsPerSecond,
				queries: one(
					`sum by (reason) (rate(berth_steering_packets_total`+here+`[$__rate_interval]))`,
					"{{reason}}",
				),
			},
			{
				title: "Second chances", unit: units.PacketsPerSecond,
				about: "Packets that were sent to a node that may know their connection.",
				queries: one(
					`sum by (node) (rate(berth_steering_packets_total{node=~"$node", reason="second_chance"}`+
						`[$__rate_interval]))`,
					"{{node}}",
				),
			},
			{
				title: "Packets that nobody knows", unit: units.PacketsPerSecond,
				about: "Dropped, so that clients try again, or answered by a reset.",
				queries: one(`sum by (node, reason) (rate(berth_steering_packets_total{node=~"$node", `+
					`reason=~"unsettled|unknown"}[$__rate_interval]))`, "{{node}} {{reason}}"),
			},
			{
				title: "Age of tables", unit: units.Seconds,
				about:   "Since when the kernel may lack something. After 300 s the program lets everything pass.",
				queries: one(`time() - berth_steering_synced_timestamp_seconds`+here, "{{node}}"),
			},
			{
				title: "Updates that failed", unit: units.Short,
				about:   "In five minutes.",
				queries: one(`sum by (node) (increase(berth_steering_sync_failures_total`+here+`[5m]))`, "{{node}}"),
			},
			{
				title: "Nodes thought dead", unit: units.Short,
				queries: one(`berth_steering_nodes_suspected`+here, "{{node}}"),
			},
			{
				title: "Tables", unit: units.Short,
				about:   "Of 32 KiB each. Services whose endpoints are on the same nodes share one.",
				queries: one(`berth_steering_tables`+here, "{{node}}"),
			},
		},
	}
}
