package announcement

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/condition"
)

// drawNode draws a node that may lack anything.
func drawNode(t *rapid.T) Node {
	some := func(of ...string) []string {
		return rapid.SliceOfDistinct(rapid.SampledFrom(of), rapid.ID).Draw(t, "some")
	}
	n := Node{
		Labels:   map[string]string{"rack": rapid.SampledFrom([]string{"near", "far"}).Draw(t, "rack")},
		Excluded: rapid.SampledFrom([]string{"", "", "", "has a label"}).Draw(t, "excluded"),
		Alive:    rapid.IntRange(0, 3).Draw(t, "alive") > 0,
		Speaker: rapid.SampledFrom([]v1alpha1.SpeakerState{
			v1alpha1.SpeakerAnnouncing, v1alpha1.SpeakerAnnouncing, v1alpha1.SpeakerLeaving, "",
		}).Draw(t, "speaker"),
		segments: some("eth0", "eth1"),
		oneWay:   some("eth0", "eth1"),
		Failing:  some("tor", "tor"),
		steers:   rapid.Bool().Draw(t, "steers"),
	}
	if rapid.Bool().Draw(t, "session") {
		n.sessions = []session{{"tor", rapid.Bool().Draw(t, "IPv4"), rapid.Bool().Draw(t, "IPv6")}}
	}
	if rapid.Bool().Draw(t, "proxy") {
		n.proxies = map[string]string{"eth0": "02:00:00:00:00:01"}
	}
	return n
}

// drawService draws a Service without what is known of nodes.
func drawService(t *rapid.T) Service {
	pools := []string{"192.0.2.%d", "2001:db8::%d", "198.51.100.%d", "10.0.1.%d", "10.0.2.%d", "203.0.113.%d"}
	s := Service{
		Local: rapid.Bool().Draw(t, "local"),
		Endpoints: candidate.Endpoints{Some: true, Ready: map[string]bool{
			"n1": rapid.Bool().Draw(t, "ready"), "n3": rapid.Bool().Draw(t, "ready on n3"),
		}},
		Conflicts: map[netip.Addr]Holder{netip.MustParseAddr("192.0.2.1"): {MAC: "02:00:00:00:00:02"}},
	}
	for _, p := range rapid.SliceOfNDistinct(rapid.SampledFrom(pools), 1, 2, rapid.ID).Draw(t, "pools") {
		s.Addresses = append(s.Addresses, netip.MustParseAddr(fmt.Sprintf(p, rapid.IntRange(1, 3).Draw(t, "address"))))
	}
	return s
}

// What was found for one Service and holds for another is what would be found for that.
func TestFindings(t *testing.T) {
	snapshots := []*config.Snapshot{announced(), forwarded(), announced()}
	rapid.Check(t, func(t *rapid.T) {
		nodes := map[string]Node{}
		for i := range rapid.IntRange(0, 3).Draw(t, "nodes") {
			nodes[fmt.Sprintf("n%d", i+1)] = drawNode(t)
		}
		errors := SessionErrors{}
		errors.Note("tor", "n1", "refused")
		var findings Findings
		for range 8 {
			alone := drawService(t)
			alone.Snapshot = rapid.SampledFrom(snapshots).Draw(t, "snapshot")
			alone.Nodes, alone.Errors = nodes, errors
			beside := alone
			beside.Findings = &findings
			scheduler := rapid.SampledFrom([]string{"", "rr", "sh"}).Draw(t, "scheduler")
			alone.Forwarder, beside.Forwarder = alone.Forwarding(scheduler), beside.Forwarding(scheduler)
			if diff := cmp.Diff(alone.Condition(), beside.Condition()); diff != "" || alone.Forwarder != beside.Forwarder {
				t.Fatalf("(-alone +beside others): %s, forwarder %+v and %+v", diff, alone.Forwarder, beside.Forwarder)
			}
		}
	})
}

// Under policy Local nodes without endpoints are not looked at, and the answer is the same as if
// all were.
func TestLocalLooksAtNodesWithEndpoints(t *testing.T) {
	snapshots := []*config.Snapshot{announced(), forwarded()}
	rapid.Check(t, func(t *rapid.T) {
		s := drawService(t)
		s.Local, s.Addresses, s.Conflicts, s.Nodes = true, s.Addresses[:1], nil, map[string]Node{}
		s.Snapshot = rapid.SampledFrom(snapshots).Draw(t, "snapshot")
		for i := range rapid.IntRange(0, 5).Draw(t, "nodes") {
			s.Nodes[fmt.Sprintf("n%d", i+1)] = drawNode(t)
		}
		s.Forwarder = s.Forwarding("")
		got := s.Condition()
		all := s.Prospects(s.Addresses[0])
		if len(all) == 0 || got.Reason == ReasonNoEndpoints {
			return
		}
		may := slices.ContainsFunc(all, func(p Prospect) bool { return p.Obstacle == "" })
		if may != got.OK {
			t.Fatalf("%+v of %+v", got, all)
		}
		names := map[string][]string{} // by what keeps them from it
		for _, p := range all {
			if !strings.Contains(p.Obstacle, "nodeSelector") {
				names[p.Obstacle] = append(names[p.Obstacle], p.Node)
			}
		}
		for text, of := range names {
			want := of[0] + " " + text
			if len(of) > 1 {
				want = "each of " + condition.Few(of) + " " + text
			}
			if !got.OK && !strings.Contains(got.Message, want) {
				t.Fatalf("%q does not say %q", got.Message, want)
			}
		}
	})
}

// among returns a Service by BGP in a cluster of that many nodes, two of them with endpoints.
func among(nodes int, local bool, change func(*Node)) Service {
	s := Service{
		Addresses: addresses("198.51.100.1"), Snapshot: announced(), Findings: &Findings{},
		Nodes: map[string]Node{}, Errors: SessionErrors{}, Local: local,
		Endpoints: candidate.Endpoints{Some: true, Ready: map[string]bool{"n0": true, "n2": true}},
	}
	for i := range nodes {
		name := fmt.Sprintf("n%d", i)
		node := Node{Alive: true, Speaker: v1alpha1.SpeakerAnnouncing, sessions: []session{{"tor", true, true}}}
		change(&node)
		s.Nodes[name] = node
		s.Errors.Note("tor", name, "refused")
	}
	return s
}

func lost(n *Node) { n.sessions, n.Failing = nil, []string{"tor"} }

// While no session is up, the nodes of a large cluster are not gone through for each Service of
// policy Local.
func TestLocalInALargeCluster(t *testing.T) {
	allocations := func(nodes int) float64 {
		s := among(nodes, true, lost)
		return testing.AllocsPerRun(20, func() { s.Condition() })
	}
	if small, large := allocations(20), allocations(500); large > small+2 {
		t.Errorf("%v allocations with 20 nodes, and %v with 500", small, large)
	}
}

// Where no node can announce, a Service costs the same in a cluster of many nodes.
func BenchmarkCondition(b *testing.B) {
	for _, of := range []struct {
		name   string
		local  bool
		change func(*Node)
	}{
		{"announced", false, func(*Node) {}},
		{"no session", false, lost},
		{"Local, announced", true, func(*Node) {}},
		{"Local, no session", true, lost},
	} {
		for _, n := range []int{3, 50, 500} {
			b.Run(fmt.Sprintf("%s/%d nodes", of.name, n), func(b *testing.B) {
				s := among(n, of.local, of.change)
				for b.Loop() {
					s.Condition()
				}
			})
		}
	}
}
