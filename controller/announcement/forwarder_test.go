package announcement

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/config/v1alpha1/v1alpha1test"
	"github.com/berth-lb/berth/controller/condition"
)

// forwarded returns the configuration for the tests of what forwards.
func forwarded() *config.Snapshot {
	ipvs := func(scheduler v1alpha1.IPVSScheduler, addresses ...v1alpha1.AddressRange) v1alpha1.LoadBalancerPoolSpec {
		return v1alpha1.LoadBalancerPoolSpec{
			Addresses: addresses,
			Dataplane: v1alpha1.DataplaneIPVS,
			IPVS:      &v1alpha1.IPVSSettings{Scheduler: scheduler},
		}
	}
	snapshot, _ := config.Compile(config.Objects{
		Pools: v1alpha1test.SelectAll([]*v1alpha1.LoadBalancerPool{
			{ObjectMeta: named("rack"), Spec: ipvs("rr", "192.0.2.0/24")},
			{ObjectMeta: named("routed"), Spec: ipvs("mh", "198.51.100.0/24")},
			{ObjectMeta: named("silent"), Spec: ipvs("rr", "203.0.113.0/24")},
			{
				ObjectMeta: named("plain"),
				Spec:       v1alpha1.LoadBalancerPoolSpec{Addresses: []v1alpha1.AddressRange{"10.0.0.0/24", "2001:db8::/64"}},
			},
		}),
		SegmentAnnouncements: v1alpha1test.SelectAll(
			[]*v1alpha1.SegmentAnnouncement{{
				ObjectMeta: named("l2"),
				Spec: v1alpha1.SegmentAnnouncementSpec{
					PoolNames:    []string{"rack", "plain"},
					NodeSelector: &v1alpha1.Selector{MatchLabels: map[string]string{"rack": "a"}},
				},
			}},
		),
		RouteAnnouncements: v1alpha1test.SelectAll(
			[]*v1alpha1.RouteAnnouncement{
				{ObjectMeta: named("bgp"), Spec: v1alpha1.RouteAnnouncementSpec{PoolNames: []string{"routed"}}},
			},
		),
		BGPNeighbors: v1alpha1test.SelectAll(
			[]*v1alpha1.BGPNeighbor{
				{ObjectMeta: named("tor"), Spec: v1alpha1.BGPNeighborSpec{Address: "192.0.2.254", LocalASN: 1, RemoteASN: 2}},
			},
		),
	})
	return snapshot
}

// capable returns a node that forwards by IPVS, with a change.
func capable(change func(*Node)) Node {
	n := Node{
		Labels: map[string]string{"rack": "a"}, Alive: true, Speaker: v1alpha1.SpeakerAnnouncing,
		segments: []string{"eth0"}, sessions: []session{{"tor", true, true}}, schedulers: []string{"mh", "rr"},
	}
	if change != nil {
		change(&n)
	}
	return n
}

// IPVS forwards if one selected node can.
func TestServiceForwarding(t *testing.T) {
	in := func(state v1alpha1.SpeakerState) Node { return capable(func(n *Node) { n.Speaker = state }) }
	unasked := capable(func(n *Node) { n.reportIPVS(v1alpha1.SpeakerStatus{}); n.schedulers = nil })
	const nobody = "kube-proxy forwards, since no node can by IPVS: "
	for _, c := range []struct {
		name      string
		addresses []netip.Addr
		asked     string
		nodes     map[string]Node
		want      Forwarder
	}{
		{
			name:      "a pool of kube-proxy's",
			addresses: addresses("10.0.0.1"),
			nodes:     map[string]Node{"n1": capable(nil)},
			want:      Forwarder{},
		},
		{
			name:      "a node can",
			addresses: addresses("192.0.2.1"),
			nodes:     map[string]Node{"n1": unasked, "n2": capable(nil)},
			want:      Forwarder{scheduler: "rr"},
		},
		{
			name:      "a node starts",
			addresses: addresses("192.0.2.1"),
			nodes:     map[string]Node{"n1": in(v1alpha1.SpeakerStarting)},
			want:      Forwarder{scheduler: "rr"},
		},
		{
			name:      "a node restarts",
			addresses: addresses("192.0.2.1"),
			nodes:     map[string]Node{"n1": in(v1alpha1.SpeakerRestarting)},
			want:      Forwarder{scheduler: "rr"},
		},
		{
			name:      "a speaker is being replaced",
			addresses: addresses("192.0.2.1"),
			nodes:     map[string]Node{"n1": capable(func(n *Node) { n.Speaker, n.Awaited = v1alpha1.SpeakerReplaced, true })},
			want:      Forwarder{scheduler: "rr"},
		},
		{
			name:      "a node can, but without a scheduler that is asked for",
			addresses: addresses("192.0.2.1"),
			asked:     "wlc",
			nodes:     map[string]Node{"n1": capable(nil)},
			want:      Forwarder{Fallback: nobody + "n1 cannot forward by IPVS (its kernel did not show scheduler wlc)"},
		},
		{
			name:      "another scheduler is asked for",
			addresses: addresses("192.0.2.1"),
			asked:     "mh",
			nodes:     map[string]Node{"n1": capable(nil)},
			want:      Forwarder{scheduler: "mh"},
		},
		{
			name:      "no such scheduler",
			addresses: addresses("192.0.2.1"),
			asked:     "best",
			nodes:     map[string]Node{"n1": capable(nil)},
			want: Forwarder{scheduler: "rr",
				complaint: `annotation berth.dev/ipvs-scheduler: "best" is not a valid scheduler, so rr of LoadBalancerPool rack serves; write one of rr, wrr, lc, wlc, dh, sh, sed, nq, mh`},
		},
		{
			name:      "two dataplanes",
			addresses: addresses("192.0.2.1", "2001:db8::1"),
			nodes:     map[string]Node{"n1": capable(nil)},
			want: Forwarder{
				complaint: "kube-proxy forwards, since a Service has one dataplane: 192.0.2.1 is of LoadBalancerPool rack (dataplane IPVS), 2001:db8::1 is of LoadBalancerPool plain (dataplane KubeProxy); give these pools the same spec.dataplane, or ask for others with annotation berth.dev/pools",
			},
		},
		{
			name:      "only a node that is not selected can",
			addresses: addresses("192.0.2.1"),
			nodes:     map[string]Node{"n1": unasked, "n2": capable(func(n *Node) { n.Labels = nil })},
			want:      Forwarder{Fallback: nobody + "n1 cannot forward by IPVS (its speaker was not asked to)"},
		},
		{
			name:      "a node is selected for one of two addresses",
			addresses: addresses("192.0.2.1", "198.51.100.1"),
			nodes:     map[string]Node{"n2": capable(func(n *Node) { n.Labels = nil })},
			want:      Forwarder{scheduler: "rr"},
		},
		{
			name:      "nothing selects a node",
			addresses: addresses("203.0.113.1"),
			nodes:     map[string]Node{"n1": capable(nil)},
			want:      Forwarder{Fallback: nobody + "no announcement selects a node"},
		},
		{
			name:      "every node is kept from it",
			addresses: addresses("192.0.2.1"),
			nodes: map[string]Node{
				"n1": in(""), "n2": in(v1alpha1.SpeakerStopped),
				"n3": capable(func(n *Node) { n.Speaker, n.leaves = v1alpha1.SpeakerLeaving, "kube-proxy is unhealthy" }),
				"n4": capable(func(n *Node) { n.Excluded = "has the label exclude" }),
				"n5": capable(func(n *Node) { n.Alive = false }),
			},
			want: Forwarder{Fallback: nobody + "n1 has no speaker, n2 has a speaker that is Stopped, n3 leaves: kube-proxy is unhealthy, n4 has the label exclude, n5 is not ready"},
		},
		{
			name:      "the speaker says why",
			addresses: addresses("192.0.2.1"),
			nodes:     map[string]Node{"n1": capable(func(n *Node) { n.schedulers, n.noIPVS = nil, "the kernel has no IPVS" })},
			want:      Forwarder{Fallback: nobody + "n1 cannot forward by IPVS (the kernel has no IPVS)"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := Service{Addresses: c.addresses, Snapshot: forwarded(), Nodes: c.nodes}
			if diff := cmp.Diff(c.want, o.Forwarding(c.asked), cmp.AllowUnexported(Forwarder{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The condition Announced says what forwards, if that is not what was asked for.
func TestServiceConditionForwarder(t *testing.T) {
	cannot := capable(func(n *Node) { n.schedulers, n.noIPVS = nil, "the kernel has no IPVS" })
	restarting := capable(func(n *Node) { n.Speaker = v1alpha1.SpeakerRestarting })
	const fallback = "; kube-proxy forwards, since no node can by IPVS: "
	for _, c := range []struct {
		name    string
		address string
		asked   string
		nodes   map[string]Node
		ok      bool
		reason  string
		message string
	}{
		{
			name:    "IPVS",
			address: "192.0.2.1",
			nodes:   map[string]Node{"n1": cannot, "n2": capable(nil)},
			ok:      true,
			reason:  "Announced",
			message: "by SegmentAnnouncement l2",
		},
		{
			name:    "nodes that cannot are no carriers",
			address: "198.51.100.1",
			nodes: map[string]Node{
				"n1": cannot, "n2": capable(nil), "n3": capable(func(n *Node) { n.schedulers = []string{"rr"} }),
			},
			ok:      true,
			reason:  "Announced",
			message: "by RouteAnnouncement bgp",
		},
		{
			name:    "nodes that cannot are no candidates",
			address: "192.0.2.1",
			nodes:   map[string]Node{"n1": cannot, "n2": restarting},
			reason:  "NoSpeaker",
			message: "192.0.2.1 is selected by SegmentAnnouncement l2, but no speaker on a selected node announces: n1 cannot forward by IPVS (the kernel has no IPVS), n2 has a speaker that is Restarting; see kubectl get speakers.berth.dev",
		},
		{
			name:    "kube-proxy, since no node can",
			address: "198.51.100.1",
			nodes:   map[string]Node{"n1": cannot, "n2": cannot},
			ok:      true,
			reason:  "Announced",
			message: "by RouteAnnouncement bgp" + fallback + "n1 cannot forward by IPVS (the kernel has no IPVS), n2 cannot forward by IPVS (the kernel has no IPVS)",
		},
		{
			name:    "a bad annotation",
			address: "192.0.2.1",
			asked:   "best",
			nodes:   map[string]Node{"n1": capable(nil)},
			ok:      true,
			reason:  "Announced",
			message: `by SegmentAnnouncement l2; annotation berth.dev/ipvs-scheduler: "best" is not a valid scheduler, so rr of LoadBalancerPool rack serves; write one of rr, wrr, lc, wlc, dh, sh, sed, nq, mh`,
		},
		{
			name:    "a bad annotation, and nobody announces",
			address: "203.0.113.1",
			asked:   "best",
			reason:  "NoAnnouncement",
			message: `203.0.113.1 answers nowhere: no SegmentAnnouncement or RouteAnnouncement selects LoadBalancerPool silent; create one, or have one select it; annotation berth.dev/ipvs-scheduler: "best" is not a valid scheduler, so rr of LoadBalancerPool silent serves; write one of rr, wrr, lc, wlc, dh, sh, sed, nq, mh`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := Service{
				Addresses: addresses(c.address),
				Snapshot:  forwarded(),
				Nodes:     c.nodes,
				Endpoints: candidate.Endpoints{Some: true},
			}
			o.Forwarder = o.Forwarding(c.asked)
			want := condition.Condition{
				Kind:    v1alpha1.ServiceAnnounced,
				OK:      c.ok,
				Reason:  c.reason,
				Message: c.message,
				Warns:   o.Forwarder.complaint != "",
			}
			if diff := cmp.Diff(want, o.Condition(), cmp.AllowUnexported(condition.Condition{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The number of virtual servers does not change a Node, so it requeues no Service.
func TestNodeReportVirtualServers(t *testing.T) {
	var before, after Node
	before.Report(
		v1alpha1.SpeakerStatus{IPVS: v1alpha1.IPVSReport{Schedulers: []string{"rr", "mh"}, VirtualServers: new(int32(1))}},
	)
	after.Report(
		v1alpha1.SpeakerStatus{IPVS: v1alpha1.IPVSReport{Schedulers: []string{"mh", "rr"}, VirtualServers: new(int32(2))}},
	)
	if diff := cmp.Diff(before, after, cmp.AllowUnexported(Node{}, session{})); diff != "" {
		t.Error(diff)
	}
}
