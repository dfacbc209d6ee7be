package controller

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/config/v1alpha1/v1alpha1test"
)

// forwarded is the configuration of the tests of who forwards.
func forwarded() *config.Snapshot {
	ipvs := func(scheduler v1alpha1.IPVSScheduler, addresses ...v1alpha1.AddressRange) v1alpha1.LoadBalancerPoolSpec {
		return v1alpha1.LoadBalancerPoolSpec{Addresses: addresses, Dataplane: v1alpha1.DataplaneIPVS, IPVS: &v1alpha1.IPVSSettings{Scheduler: scheduler}}
	}
	snapshot, _ := config.Compile(config.Objects{
		Pools: v1alpha1test.SelectAll([]*v1alpha1.LoadBalancerPool{
			{ObjectMeta: named("rack"), Spec: ipvs("rr", "192.0.2.0/24")},
			{ObjectMeta: named("routed"), Spec: ipvs("mh", "198.51.100.0/24")},
			{ObjectMeta: named("silent"), Spec: ipvs("rr", "203.0.113.0/24")},
			{ObjectMeta: named("plain"), Spec: v1alpha1.LoadBalancerPoolSpec{Addresses: []v1alpha1.AddressRange{"10.0.0.0/24", "2001:db8::/64"}}},
		}),
		SegmentAnnouncements: v1alpha1test.SelectAll([]*v1alpha1.SegmentAnnouncement{{ObjectMeta: named("l2"), Spec: v1alpha1.SegmentAnnouncementSpec{
			PoolNames: []string{"rack", "plain"}, NodeSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"rack": "a"}}}}}),
		RouteAnnouncements: v1alpha1test.SelectAll([]*v1alpha1.RouteAnnouncement{{ObjectMeta: named("bgp"), Spec: v1alpha1.RouteAnnouncementSpec{PoolNames: []string{"routed"}}}}),
		BGPNeighbors:       v1alpha1test.SelectAll([]*v1alpha1.BGPNeighbor{{ObjectMeta: named("tor"), Spec: v1alpha1.BGPNeighborSpec{Address: "192.0.2.254", LocalASN: 1, RemoteASN: 2}}}),
	})
	return snapshot
}

// capable is a node that forwards by IPVS, with a change.
func capable(change func(*nodeView)) nodeView {
	n := nodeView{
		labels: map[string]string{"rack": "a"}, alive: true, speaker: v1alpha1.SpeakerAnnouncing,
		segments: []string{"eth0"}, sessions: []session{{"tor", true, true}}, schedulers: []string{"mh", "rr"},
	}
	if change != nil {
		change(&n)
	}
	return n
}

func TestIPVSForwardsWhenOneSelectedNodeCan(t *testing.T) {
	in := func(state v1alpha1.SpeakerState) nodeView { return capable(func(n *nodeView) { n.speaker = state }) }
	unasked := capable(func(n *nodeView) { n.reportIPVS(v1alpha1.SpeakerStatus{}); n.schedulers = nil })
	const nobody = "kube-proxy forwards, since no node can by IPVS: "
	for _, c := range []struct {
		name      string
		addresses []netip.Addr
		asked     string
		nodes     map[string]nodeView
		want      forwarder
	}{
		{"a pool of kube-proxy's", addresses("10.0.0.1"), "", map[string]nodeView{"n1": capable(nil)}, forwarder{}},
		{"a node can", addresses("192.0.2.1"), "", map[string]nodeView{"n1": unasked, "n2": capable(nil)}, forwarder{scheduler: "rr"}},
		{"a node starts", addresses("192.0.2.1"), "", map[string]nodeView{"n1": in(v1alpha1.SpeakerStarting)}, forwarder{scheduler: "rr"}},
		{"a node restarts", addresses("192.0.2.1"), "", map[string]nodeView{"n1": in(v1alpha1.SpeakerRestarting)}, forwarder{scheduler: "rr"}},
		{"a speaker is being replaced", addresses("192.0.2.1"), "", map[string]nodeView{"n1": capable(func(n *nodeView) { n.speaker, n.awaited = v1alpha1.SpeakerReplaced, true })},
			forwarder{scheduler: "rr"}},
		{"a node can, but without a scheduler that is asked for", addresses("192.0.2.1"), "wlc", map[string]nodeView{"n1": capable(nil)},
			forwarder{fallback: nobody + "n1 cannot forward by IPVS (its kernel did not show scheduler wlc)"}},
		{"another scheduler is asked for", addresses("192.0.2.1"), "mh", map[string]nodeView{"n1": capable(nil)}, forwarder{scheduler: "mh"}},
		{"no such scheduler", addresses("192.0.2.1"), "best", map[string]nodeView{"n1": capable(nil)}, forwarder{scheduler: "rr",
			complaint: `annotation berth.dev/ipvs-scheduler: "best" is no scheduler, so rr of LoadBalancerPool rack serves; write one of rr, wrr, lc, wlc, dh, sh, sed, nq, mh`}},
		{"two dataplanes", addresses("192.0.2.1", "2001:db8::1"), "", map[string]nodeView{"n1": capable(nil)}, forwarder{
			complaint: "kube-proxy forwards, since a Service has one dataplane: 192.0.2.1 is of LoadBalancerPool rack (dataplane IPVS), 2001:db8::1 is of LoadBalancerPool plain (dataplane KubeProxy); give these pools the same spec.dataplane, or ask for others with annotation berth.dev/pools"}},
		{"only a node that is not selected can", addresses("192.0.2.1"), "", map[string]nodeView{"n1": unasked, "n2": capable(func(n *nodeView) { n.labels = nil })},
			forwarder{fallback: nobody + "n1 cannot forward by IPVS (its speaker was not asked to)"}},
		{"a node is selected for one of two addresses", addresses("192.0.2.1", "198.51.100.1"), "", map[string]nodeView{"n2": capable(func(n *nodeView) { n.labels = nil })}, forwarder{scheduler: "rr"}},
		{"nothing selects a node", addresses("203.0.113.1"), "", map[string]nodeView{"n1": capable(nil)}, forwarder{fallback: nobody + "no announcement selects a node"}},
		{"every node is kept from it", addresses("192.0.2.1"), "", map[string]nodeView{
			"n1": in(""), "n2": in(v1alpha1.SpeakerStopped), "n3": capable(func(n *nodeView) { n.speaker, n.leaves = v1alpha1.SpeakerLeaving, "kube-proxy is unhealthy" }),
			"n4": capable(func(n *nodeView) { n.excluded = "has the label exclude" }), "n5": capable(func(n *nodeView) { n.alive = false })},
			forwarder{fallback: nobody + "n1 has no speaker, n2 has a speaker that is Stopped, n3 leaves: kube-proxy is unhealthy, n4 has the label exclude, n5 is not ready"}},
		{"the speaker says why", addresses("192.0.2.1"), "", map[string]nodeView{"n1": capable(func(n *nodeView) { n.schedulers, n.noIPVS = nil, "the kernel has no IPVS" })},
			forwarder{fallback: nobody + "n1 cannot forward by IPVS (the kernel has no IPVS)"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := outlook{addresses: c.addresses, snapshot: forwarded(), nodes: c.nodes}
			if diff := cmp.Diff(c.want, o.forwarding(c.asked), cmp.AllowUnexported(forwarder{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTheNextProcessOfASpeakerIsExpectedForAWhile(t *testing.T) {
	report := func(state v1alpha1.SpeakerState) v1alpha1.SpeakerStatus {
		return v1alpha1.SpeakerStatus{Conditions: v1alpha1test.InState(state), IPVS: v1alpha1.IPVSReport{Schedulers: []string{"rr"}, VirtualServers: new(int32)}}
	}
	s, begun := successors{}, time.Now()
	for _, c := range []struct {
		after  time.Duration
		report v1alpha1.SpeakerStatus
		want   time.Duration
	}{
		{0, report(v1alpha1.SpeakerRestarting), 0},
		{time.Second, report(v1alpha1.SpeakerStopped), 0},
		{2 * time.Second, v1alpha1.SpeakerStatus{Conditions: v1alpha1test.InState(v1alpha1.SpeakerReplaced)}, 0},
		{3 * time.Second, report(v1alpha1.SpeakerReplaced), successorWithin},
		{13 * time.Second, report(v1alpha1.SpeakerReplaced), successorWithin - 10*time.Second},
		{time.Hour, report(v1alpha1.SpeakerReplaced), 0},
		{2 * time.Hour, report(v1alpha1.SpeakerStarting), 0},
		{3 * time.Hour, report(v1alpha1.SpeakerReplaced), successorWithin},
	} {
		if got := s.expected("n1", c.report, begun.Add(c.after)); got != c.want {
			t.Errorf("after %s, %s: the next process is expected for %s, want %s", c.after, c.report.Conditions[0].Reason, got, c.want)
		}
	}
}

func TestTheAnnouncedConditionSaysWhoForwards(t *testing.T) {
	cannot := capable(func(n *nodeView) { n.schedulers, n.noIPVS = nil, "the kernel has no IPVS" })
	restarting := capable(func(n *nodeView) { n.speaker = v1alpha1.SpeakerRestarting })
	const fallback = "; kube-proxy forwards, since no node can by IPVS: "
	for _, c := range []struct {
		name    string
		address string
		asked   string
		nodes   map[string]nodeView
		ok      bool
		reason  string
		message string
	}{
		{"IPVS", "192.0.2.1", "", map[string]nodeView{"n1": cannot, "n2": capable(nil)}, true, "Announced", "by SegmentAnnouncement l2"},
		{"nodes that cannot are no carriers", "198.51.100.1", "", map[string]nodeView{"n1": cannot, "n2": capable(nil), "n3": capable(func(n *nodeView) { n.schedulers = []string{"rr"} })},
			true, "Announced", "by RouteAnnouncement bgp"},
		{"nodes that cannot are no candidates", "192.0.2.1", "", map[string]nodeView{"n1": cannot, "n2": restarting}, false, "NoSpeaker",
			"192.0.2.1 is selected by SegmentAnnouncement l2, but no speaker on a selected node announces: n1 cannot forward by IPVS (the kernel has no IPVS), n2 has a speaker that is Restarting; see kubectl get speakers.berth.dev"},
		{"kube-proxy, since no node can", "198.51.100.1", "", map[string]nodeView{"n1": cannot, "n2": cannot}, true, "Announced",
			"by RouteAnnouncement bgp" + fallback + "n1 cannot forward by IPVS (the kernel has no IPVS), n2 cannot forward by IPVS (the kernel has no IPVS)"},
		{"a bad annotation", "192.0.2.1", "best", map[string]nodeView{"n1": capable(nil)}, true, "Announced",
			`by SegmentAnnouncement l2; annotation berth.dev/ipvs-scheduler: "best" is no scheduler, so rr of LoadBalancerPool rack serves; write one of rr, wrr, lc, wlc, dh, sh, sed, nq, mh`},
		{"a bad annotation, and nobody announces", "203.0.113.1", "best", nil, false, "NoAnnouncement",
			`203.0.113.1 answers nowhere: no SegmentAnnouncement or RouteAnnouncement selects LoadBalancerPool silent; create one; annotation berth.dev/ipvs-scheduler: "best" is no scheduler, so rr of LoadBalancerPool silent serves; write one of rr, wrr, lc, wlc, dh, sh, sed, nq, mh`},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := outlook{addresses: addresses(c.address), snapshot: forwarded(), nodes: c.nodes, endpoints: candidate.Endpoints{Some: true}}
			o.forwarder = o.forwarding(c.asked)
			want := condition{v1alpha1.ServiceAnnounced, c.ok, c.reason, c.message, o.forwarder.complaint != ""}
			if diff := cmp.Diff(want, o.condition(), cmp.AllowUnexported(condition{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTheNumberOfVirtualServersConcernsNoService(t *testing.T) {
	var before, after nodeView
	before.report(v1alpha1.SpeakerStatus{IPVS: v1alpha1.IPVSReport{Schedulers: []string{"rr", "mh"}, VirtualServers: new(int32(1))}})
	after.report(v1alpha1.SpeakerStatus{IPVS: v1alpha1.IPVSReport{Schedulers: []string{"mh", "rr"}, VirtualServers: new(int32(2))}})
	if diff := cmp.Diff(before, after, cmp.AllowUnexported(nodeView{}, session{})); diff != "" {
		t.Error(diff)
	}
}
