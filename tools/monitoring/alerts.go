package main

// Severities of alerts.
const (
	critical = "critical" // clients notice, or will at the next failure
	warning  = "warning"  // something is not as it was asked for
)

// alert is one alert. Its windows and its duration are whole minutes or hours.
type alert struct {
	name     string // without "Berth"; "Berth" and the name is the heading in docs/guides/runbook.md
	expr     string
	duration string // for which the expression must hold; empty: not at all
	severity string
	summary  string
}

// alerts are those that Berth comes with, the gravest first. Each has one cause: where a fault
// shows in several metrics, the alert that is nearest to the cause has them.
//
// Thresholds of increases are halves, since increase() extrapolates: 3 in 9 minutes are 3.3 in 10.
func alerts() []alert {
	return []alert{
		{
			name: "NoLeader", severity: critical, duration: "1m",
			expr:    `absent(berth_leader == 1)`,
			summary: "No controller of Berth leads: no Service gets an address.",
		},
		{
			name: "Down", severity: critical, duration: "5m",
			expr:    `up{job="berth"} == 0`,
			summary: "{{ $labels.pod }} on node {{ $labels.node }} cannot be scraped.",
		},
		{
			name: "AddressConflict", severity: critical,
			expr:    `sum by (node, interface) (increase(berth_l2_conflicts_total[10m])) > 0`,
			summary: "Another host uses an address of a Service, seen on {{ $labels.interface }} of node {{ $labels.node }}.",
		},
		{
			name: "BGPSessionDown", severity: critical, duration: "5m",
			expr:    `berth_bgp_session_up == 0`,
			summary: "Node {{ $labels.node }} has no session with BGPNeighbor {{ $labels.peer }}.",
		},
		{
			name: "ServiceNotAnnounced", severity: critical, duration: "5m",
			expr: `sum by (reason) (berth_services{condition="berth.dev/Announced", status="False", ` +
				`reason!~"NoAddress|NoSession|AddressConflict"}) > 0`,
			summary: "{{ $value }} Services have an address that is not announced: {{ $labels.reason }}.",
		},
		{
			name: "PoolExhausted", severity: critical, duration: "5m",
			expr:    `sum by (pool, family) (berth_pool_exhausted) > 0`,
			summary: "LoadBalancerPool {{ $labels.pool }} has no {{ $labels.family }} address left.",
		},
		{
			name: "SteeringStale", severity: critical,
			expr: `time() - berth_steering_synced_timestamp_seconds > 120` +
				` and on (instance) berth_steering_up == 1`,
			summary: "On node {{ $labels.node }} not all that it steers is up to date, " +
				"perhaps a single Service that is refused; " +
				"only if nothing can be written for 10 minutes, it stops steering.",
		},
		{
			name: "PoolNearlyFull", severity: warning, duration: "15m",
			expr: `sum by (pool, family) (berth_pool_addresses{state="free"})` +
				` / sum by (pool, family) (berth_pool_addresses{state!="excluded"}) < 0.1` +
				` unless on (pool, family) berth_pool_exhausted == 1`,
			summary: "Of LoadBalancerPool {{ $labels.pool }} only {{ $value | humanizePercentage }} of {{ $labels.family }} are free.",
		},
		{
			name: "ServiceWithoutAddress", severity: warning, duration: "5m",
			expr: `sum by (reason) (berth_services{condition="berth.dev/Allocated", status="False", ` +
				`reason!="PoolExhausted"}) > 0`,
			summary: "{{ $value }} Services have no address: {{ $labels.reason }}.",
		},
		{
			name: "StatusContested", severity: warning,
			expr:    `sum(increase(berth_service_status_overwritten_total[10m])) > 3.5`,
			summary: "Another controller overwrites the statuses of Services.",
		},
		{
			name: "ConfigurationNotInEffect", severity: warning, duration: "10m",
			expr:    `sum by (kind) (berth_configuration_objects{state=~"partial|rejected"}) > 0`,
			summary: "{{ $value }} objects of kind {{ $labels.kind }} are not in effect, or not in full.",
		},
		{
			name: "ReconcileFailing", severity: warning, duration: "15m",
			expr:    `sum(rate(berth_reconcile_failures_total[5m])) > 0`,
			summary: "The controller fails again and again.",
		},
		{
			name: "SpeakerNotReady", severity: warning, duration: "15m",
			expr:    `sum by (state) (berth_speakers{state=~"Pending|Starting|Restarting|Replaced"}) > 0`,
			summary: "{{ $value }} speakers are {{ $labels.state }}.",
		},
		{
			name: "APIContactLost", severity: warning, duration: "1m",
			expr:    `time() - berth_api_confirmed_timestamp_seconds > 60`,
			summary: "The speaker of node {{ $labels.node }} does not hear from the API server.",
		},
		{
			name: "SegmentAlone", severity: warning, duration: "5m",
			expr:    `berth_l2_peers == 0 and max_over_time(berth_l2_peers[1h]) > 0`,
			summary: "Node {{ $labels.node }} no longer hears another speaker on {{ $labels.interface }}.",
		},
		{
			name: "HellosRejected", severity: warning, duration: "15m",
			expr:    `sum by (node, interface, reason) (rate(berth_l2_hellos_rejected_total{reason=~"hmac|no_key"}[5m])) > 0`,
			summary: "Node {{ $labels.node }} hears hellos on {{ $labels.interface }} that it cannot trust: {{ $labels.reason }}.",
		},
		{
			name: "Overslept", severity: warning,
			expr:    `sum by (node) (increase(berth_l2_overslept_total[1h])) > 0`,
			summary: "The speaker of node {{ $labels.node }} stood still for so long that others took over.",
		},
		{
			name: "SteeringDown", severity: warning, duration: "5m",
			expr:    `berth_steering_up == 0`,
			summary: "Node {{ $labels.node }} does not steer.",
		},
		{
			name: "SteeringDrops", severity: warning, duration: "10m",
			expr:    `sum by (node) (rate(berth_steering_packets_total{reason="unsettled"}[5m])) > 1`,
			summary: "Node {{ $labels.node }} drops packets of connections that no node knows.",
		},
		{
			name: "FenceFailing", severity: warning,
			expr:    `sum(increase(berth_fence_failures_total[10m])) > 0`,
			summary: "Pods of a dead node could not be called not ready: requests to them fail until Kubernetes does it.",
		},
		{
			name: "NodesUnwatched", severity: warning, duration: "15m",
			expr:    `max(berth_fence_unwatched_nodes) > 0`,
			summary: "{{ $value }} nodes are not fenced when they die: fewer than two other speakers hear them.",
		},
		{
			name: "BGPSessionFlapping", severity: warning,
			expr:    `increase(berth_bgp_session_downs_total[30m]) > 2.5`,
			summary: "The session of node {{ $labels.node }} with BGPNeighbor {{ $labels.peer }} comes and goes.",
		},
		{
			name: "BGPCrashed", severity: warning,
			expr:    `sum by (node) (increase(berth_bgp_crashes_total[1h])) > 0`,
			summary: "The process that speaks BGP on node {{ $labels.node }} crashed.",
		},
		{
			name: "PrefixesNotAnnounced", severity: warning, duration: "5m",
			expr:    `berth_bgp_prefixes_failed > 0`,
			summary: "Node {{ $labels.node }} cannot announce {{ $value }} prefixes.",
		},
		{
			name: "BFDDown", severity: warning, duration: "5m",
			expr:    `berth_bfd_session_up == 0 and on (instance, peer) berth_bgp_session_up == 1`,
			summary: "BGP between node {{ $labels.node }} and {{ $labels.peer }} is up, and BFD is not.",
		},
	}
}
