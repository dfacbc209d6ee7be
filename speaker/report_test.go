package speaker

import (
	"context"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/bgp/bfd"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/l2"
	"github.com/berth-lb/berth/speaker/plan"
	"github.com/berth-lb/berth/speaker/rival"
)

// eventsSoFar returns the events that were made.
func (n node) eventsSoFar() []string {
	var got []string
	for len(n.events.Events) > 0 {
		got = append(got, <-n.events.Events)
	}
	return got
}

// An event says which node owns an address once the node has owned it for a moment.
func TestReporter_observe_owner(t *testing.T) {
	for _, c := range []struct {
		name  string
		holds []string // then
		want  []string
	}{
		{
			name:  "still owned",
			holds: []string{"eth0"},
			want:  []string{"Normal Owner 192.0.2.1 is answered for by node n1 on eth0 (PeerSilent)"},
		},
		{
			name: "owned for a moment only",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, _ := servingNode(t)
				n.begin()
				n.l2.holds = c.holds
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() { n.reporter.observe(ctx); close(done) }()
				n.l2.observed <- l2.Observation{
					Kind: l2.AddressGained, Address: webAddress, Interface: "eth0", Cause: l2.PeerSilent,
				}
				<-time.After(eventAfter - 1)
				synctest.Wait()
				if got := n.eventsSoFar(); len(got) > 0 {
					t.Errorf("too early: %v", got)
				}
				<-time.After(1)
				synctest.Wait()
				if got := n.eventsSoFar(); !slices.Equal(got, c.want) {
					t.Errorf("events %q, want %q", got, c.want)
				}
				cancel()
				<-done
				n.tasks.ShutDown()
			})
		})
	}
}

func TestReporter_observe(t *testing.T) {
	n := idleNode(t)
	peer := &v1alpha1.BGPNeighbor{ObjectMeta: named("tor")}
	if err := n.sources.peer.GetStore().Add(peer); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { n.reporter.observe(ctx); close(done) }()
	address := netip.MustParseAddr("192.0.2.1")
	for _, name := range []string{"n2", "n3", "n4"} {
		n.l2.observed <- l2.Observation{Kind: l2.PeerUp, Node: name, Interface: "eth0"}
	}
	n.l2.observed <- l2.Observation{Kind: l2.PeerDown, Node: "n2", Interface: "eth0", State: l2.Ready}
	n.l2.observed <- l2.Observation{Kind: l2.PeerDown, Node: "n3", Interface: "eth0", State: l2.Restarting}
	n.l2.observed <- l2.Observation{Kind: l2.Conflict, Address: address, Interface: "eth0", MAC: []byte{2, 0, 0, 0, 0, 1}}
	n.rivals.begun <- rival.HeldPeer{Peer: bgp.Peer{Name: "tor", Address: netip.MustParseAddr("172.30.0.1")}}
	n.bgp.observed <- bgp.Observation{Kind: bgp.SessionUp, Peer: "tor"}
	n.bgp.observed <- bgp.Observation{Kind: bgp.SessionDown, Peer: "tor", Reason: "peer changed", Intended: true}
	n.bgp.observed <- bgp.Observation{Kind: bgp.SessionDown, Peer: "tor", Reason: "hold timer expired"}
	cancel()
	<-done
	if got := n.dead.Suspects(); !maps.Equal(got, map[string]bool{"n2": true}) {
		t.Errorf("%v are suspected, want n2, which fell silent without a word", got)
	}
	if !slices.Equal(n.unserved.conflicts, []netip.Addr{address}) {
		t.Errorf("not dropped: %v", n.unserved.conflicts)
	}
	if got := n.reporter.compose(nil, 1).Conflicts; len(got) != 1 || got[0].Address != "192.0.2.1" {
		t.Errorf("conflicts %v", got)
	}
	got := n.eventsSoFar()
	want := []string{
		"Normal SessionUp node n1: established",
		"Normal SessionDown node n1: peer changed",
		"Warning SessionDown node n1: hold timer expired",
	}
	if !strings.HasPrefix(got[0], "Warning SessionFailed node n1: another BGP speaker on this node") ||
		!slices.Equal(got[1:], want) {
		t.Errorf("events %q", got)
	}
	n.reporter.foreign.forget(address)
	if len(n.reporter.foreign.forgot) == 0 || len(n.reporter.compose(nil, 1).Conflicts) > 0 {
		t.Error("a conflict that ended is reported still")
	}
}

// When many sessions go down at once, some make events, and others later: the log has them all.
func TestReporter_observe_many(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := idleNode(t)
		if err := n.sources.peer.GetStore().Add(&v1alpha1.BGPNeighbor{ObjectMeta: named("tor")}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { n.reporter.observe(ctx); close(done) }()
		for _, step := range []struct {
			after time.Duration
			want  int
		}{{0, 5 + 5}, {9 * time.Second, 0}, {time.Second, 1 + 1}, {time.Hour, 5 + 5}} {
			<-time.After(step.after)
			for range 8 {
				n.bgp.observed <- bgp.Observation{Kind: bgp.SessionDown, Peer: "tor", Reason: "hold timer expired"}
				n.bgp.observed <- bgp.Observation{Kind: bgp.SessionUp, Peer: "tor"}
				n.rivals.begun <- rival.HeldPeer{Peer: bgp.Peer{Name: "tor", Address: netip.MustParseAddr("172.30.0.1")}}
			}
			synctest.Wait()
			if got := n.eventsSoFar(); len(got) != step.want {
				t.Errorf("%s later there are %d events of 24, want %d", step.after, len(got), step.want)
			}
		}
		cancel()
		<-done
		n.tasks.ShutDown()
	})
}

func TestReporter_compose(t *testing.T) {
	n := idleNode(t)
	n.l2.paths = []bfd.Status{{Peer: "tor", Err: "no route"}}
	n.reporter.complain(reasonIPVS, "d/web", "IPVS: no memory")
	n.rivals.held = []rival.HeldPeer{{Peer: bgp.Peer{Name: "spine", Interface: "eth1"}, Since: time.Unix(1000, 5)}}
	n.bgp.status.Err = "the process that speaks BGP is away"
	n.bgp.status.Peers = []bgp.PeerStatus{
		{Name: "tor", Address: netip.MustParseAddr("172.30.0.1"), LastError: "refused"},
	}
	n.l2.status = l2.Status{
		Segments: []l2.Segment{{
			Interface: "none0",
			Up:        true,
			Claiming:  true,
			Owned:     2,
			Unheard:   []string{"n2", "n3", "n4", "n5", "n6", "n7", "n8", "n9", "n10"},
			Peers:     make([]l2.Peer, 768),
		}},
		Err: "no raw sockets",
	}
	got := n.reporter.compose(nil, 7)
	wantProblems := []v1alpha1.SpeakerProblem{
		{Reason: "IPVSFailed", Message: "IPVS: no memory"},
		{
			Reason:  "HellosFiltered",
			Message: "interface none0: n2, n3, n4, n5, n6, n7, n8, n9 and 1 more own addresses on this segment, but were never heard there: a switch, a hypervisor or a private VLAN filters EtherType 0x88b5, or the group address 03:62:65:72:74:68. Let both pass. Until then speakers agree by the API alone, and the addresses of a node that fails are silent until Kubernetes calls it not ready",
		},
		{
			Reason:  "SegmentCrowded",
			Message: "interface none0: 768 other speakers are on this segment, and at most 1024 can be; announce on fewer nodes there, or divide the segment",
		},
		{Reason: "Layer2Failed", Message: "layer 2: no raw sockets"},
		{Reason: "BFDFailed", Message: "BFD with BGPNeighbor tor: no route"},
		{Reason: "BGPFailed", Message: "BGP: the process that speaks BGP is away"},
	}
	if diff := cmp.Diff(wantProblems, got.Problems); diff != "" {
		t.Error(diff)
	}
	if len(got.Sessions) != 2 || got.Sessions[0].LastError != "refused" ||
		!strings.HasPrefix(got.Sessions[1].LastError, "another BGP speaker on this node") ||
		got.Sessions[1].LastTransitionTime.Unix() != 1000 {
		t.Errorf("sessions %+v", got.Sessions)
	}
	if *got.AddressesOwned != 2 || len(got.Segments) != 1 || got.Segments[0].State != v1alpha1.SegmentAnnouncing ||
		got.ObservedGeneration != 7 {
		t.Errorf("%d addresses owned on %+v, generation %d", *got.AddressesOwned, got.Segments, got.ObservedGeneration)
	}
	if ready := meta.FindStatusCondition(got.Conditions, v1alpha1.ConditionReady); ready == nil ||
		ready.Status != metav1.ConditionFalse ||
		ready.Reason != "Starting" {
		t.Errorf("ready: %+v", ready)
	}
	n.reporter.complain(reasonIPVS, "d/web", "")
	if got := n.reporter.compose(nil, 7).Problems; len(got) != len(wantProblems)-1 {
		t.Errorf("what is over is reported still: %v", got)
	}
}

func TestReporter_ability(t *testing.T) {
	node := newFakeNodes()
	if err := node.store.Add(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}); err != nil {
		t.Fatal(err)
	}
	recorder := events.NewFakeRecorder(8)
	r := &reporter{Options: Options{Node: "n1", Events: recorder}, sources: &sources{node: node}}
	for _, lacking := range []string{"", "no scheduler mh", "no scheduler mh", "100% of nothing", "", ""} {
		r.ability(lacking)
	}
	close(recorder.Events)
	var got []string
	for e := range recorder.Events {
		got = append(got, e)
	}
	want := []string{
		"Warning IPVSLacking no scheduler mh",
		"Warning IPVSLacking 100% of nothing",
		"Normal IPVSReady can forward by IPVS with all schedulers",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
}

// Each report tells whom this node hears: a heart that goes on while the speaker is restarted does
// not say again who is there.
func TestReporter_see(t *testing.T) {
	n := idleNode(t)
	n.l2.status.Segments = []l2.Segment{{Interface: "eth0", Peers: []l2.Peer{{Node: "n2", State: l2.Ready}, {Node: "n3"}}}}
	n.reporter.compose(nil, 1)
	n.dead.Silent("n2", "eth0", false)
	if got := n.dead.Suspects(); !maps.Equal(got, map[string]bool{"n2": true}) {
		t.Errorf("%v are suspected, want n2, which fell silent", got)
	}
	n.l2.status.Segments[0].Peers = append(n.l2.status.Segments[0].Peers, l2.Peer{Node: "n4", State: l2.Ready})
	n.l2.status.Err = "the heart is away"
	n.reporter.compose(nil, 1)
	if n.dead.Silent("n4", "eth0", false); n.dead.Suspects()["n4"] {
		t.Error("what a heart said last that is away counts")
	}
}

// A heart that was restarted does not say who fell silent before: whom it does not hear soon is
// looked for.
func TestReporter_miss(t *testing.T) {
	n := idleNode(t)
	synctest.Test(t, func(t *testing.T) {
		n.dead.Heard("n2", "eth0")
		n.dead.Heard("n3", "eth0")
		n.l2.status.Segments = []l2.Segment{{Interface: "eth0", Peers: []l2.Peer{{Node: "n2", State: l2.Ready}}}}
		n.reporter.observedL2(l2.Observation{Kind: l2.Restarted})
		<-time.After(rehearWithin)
		synctest.Wait()
		n.dead.Silent("n2", "eth0", false)
		if !n.dead.Alone() {
			t.Error("a node that a new heart does not hear counts as heard")
		}
	})
}

// Which nodes fell silent is reported where that is asked for, until they are heard.
func TestReporter_composeSilentNodes(t *testing.T) {
	n := idleNode(t)
	for _, node := range []string{"n2", "n3"} {
		n.dead.Heard(node, "eth0")
	}
	n.dead.Silent("n2", "eth0", false)
	if got := n.reporter.compose(nil, 1).SilentNodes; len(got) > 0 {
		t.Errorf("reported without being asked to: %+v", got)
	}
	n.reporter.ReportSilent = true
	got := n.reporter.compose(nil, 1).SilentNodes
	if len(got) != 1 || got[0].Since.IsZero() {
		t.Fatalf("%+v are silent, want n2", got)
	}
	want := []v1alpha1.SilentNodeReport{
		{NodeName: "n2", Since: got[0].Since, Interfaces: []string{"eth0"}, Probe: v1alpha1.ProbePending},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	n.dead.Heard("n2", "eth0")
	if got := n.reporter.compose(nil, 1).SilentNodes; len(got) > 0 {
		t.Errorf("%+v are silent, which are heard again", got)
	}
}

// A node that was dead has a program again when its speaker says that it steers: not before, where
// this node steers.
func TestReporter_serves(t *testing.T) {
	for _, c := range []struct {
		state    l2.State
		can      l2.Capabilities
		steering bool // here
		want     bool
	}{
		{state: l2.Ready, want: true},
		{state: l2.Leaving, want: true},
		{state: l2.Starting},
		{state: l2.Ready, steering: true},
		{state: l2.Ready, can: plan.Steers, steering: true, want: true},
		{state: l2.Starting, can: plan.Steers, steering: true},
	} {
		n := idleNode(t)
		n.reporter.Steering = c.steering
		if got := n.reporter.serves(c.state, c.can); got != c.want {
			t.Errorf("state %v, capabilities %b, steering here %t: %t, want %t", c.state, c.can, c.steering, got, c.want)
		}
	}
}

// What other nodes and Services do changes numbers in the reports of all nodes. They are not
// written for that, unless the numbers are far off or stay so.
func TestLag_due(t *testing.T) {
	report := func(peers, owned, prefixes int32, state v1alpha1.SegmentState) v1alpha1.SpeakerStatus {
		return v1alpha1.SpeakerStatus{
			AddressesOwned: &owned, PrefixesAnnounced: &prefixes,
			Segments: []v1alpha1.SegmentReport{
				{Interface: "eth0", State: state, PeersAlive: &peers, AddressesOwned: &owned},
			},
			Sessions: []v1alpha1.SessionReport{{NeighborName: "tor", Prefixes: &prefixes}},
		}
	}
	written := report(499, 20, 10_000, v1alpha1.SegmentAnnouncing)
	alone := report(499, 0, 10_000, v1alpha1.SegmentAnnouncing)
	more := report(499, 20, 10_000, v1alpha1.SegmentAnnouncing)
	more.Sessions = append(more.Sessions, v1alpha1.SessionReport{NeighborName: "spine"})
	begun := time.Unix(1000, 0)
	for _, c := range []struct {
		name    string
		written v1alpha1.SpeakerStatus
		now     v1alpha1.SpeakerStatus
		want    bool // at once
		later   bool
	}{
		{"nothing new", written, report(499, 20, 10_000, v1alpha1.SegmentAnnouncing), false, false},
		{"a peer restarts", written, report(498, 20, 10_000, v1alpha1.SegmentAnnouncing), false, true},
		{"an address more", written, report(499, 21, 10_000, v1alpha1.SegmentAnnouncing), false, true},
		{"a Service more by BGP", written, report(499, 20, 10_001, v1alpha1.SegmentAnnouncing), false, true},
		{"many addresses more", written, report(499, 30, 10_000, v1alpha1.SegmentAnnouncing), true, true},
		{"no address is left", written, alone, true, true},
		{"the first address", alone, written, true, true},
		{"no peer is left", written, report(0, 20, 10_000, v1alpha1.SegmentAnnouncing), true, true},
		{"the segment waits", written, report(498, 20, 10_000, v1alpha1.SegmentWaiting), true, true},
		{"a session more", written, more, true, true},
		{"the first report", v1alpha1.SpeakerStatus{}, written, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var l lag
			if got := l.due(c.written, c.now, begun); got != c.want {
				t.Errorf("written at once: %t, want %t", got, c.want)
			}
			if c.want {
				return
			}
			if l.due(c.written, c.now, begun.Add(lagAtMost-1)) {
				t.Error("written too early")
			}
			if got := l.due(c.written, c.now, begun.Add(lagAtMost)); got != c.later {
				t.Errorf("written after a while: %t, want %t", got, c.later)
			}
		})
	}
	var l lag
	l.due(written, report(498, 20, 10_000, v1alpha1.SegmentAnnouncing), begun)
	l.due(written, written, begun.Add(time.Minute)) // the peer is back
	if l.due(written, report(498, 20, 10_000, v1alpha1.SegmentAnnouncing), begun.Add(lagAtMost)) {
		t.Error("a restart of the past has the next one written")
	}
}

// statusAPI takes statuses of Speakers, or refuses them, and has the times when it did.
type statusAPI struct {
	mu      sync.Mutex
	refuses bool        // guarded by mu
	asked   []time.Time // guarded by mu
}

// since forgets the times, and returns them.
func (a *statusAPI) since(refuses bool) []time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	asked := a.asked
	a.asked, a.refuses = nil, refuses
	return asked
}

func (a *statusAPI) RoundTrip(r *http.Request) (*http.Response, error) {
	answer := &http.Response{
		StatusCode: http.StatusOK, Request: r, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(`{"kind":"Speaker","apiVersion":"berth.dev/v1alpha1","metadata":{"name":"n1"}}`)),
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.refuses:
		a.asked = append(a.asked, time.Now())
		answer.StatusCode = http.StatusInternalServerError
	case r.Method == http.MethodPut:
		a.asked = append(a.asked, time.Now())
		answer.Body = r.Body
	}
	return answer, nil
}

// A change is reported at once. While more of them go on, reports come less and less often, and
// where they are refused, too; in small clusters they need not.
func TestReporter_publish_pace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &statusAPI{}
		n := nodeAt(t, &rest.Config{Transport: api, QPS: -1}, false)
		n.reporter.ReportSilent = true
		n.dead.Heard("n3", "eth0")
		have := nodesOf(n.reporter.sources)
		named := func(i int) *corev1.Node {
			return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n" + strconv.Itoa(i)}}
		}
		for i := range 500 {
			if err := have.Add(named(i)); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { n.reporter.publish(ctx); close(done) }()
		changes := 0
		during := func(d time.Duration, refuses bool) (pauses []time.Duration) {
			api.since(refuses)
			begun := time.Now()
			for time.Since(begun) < d {
				changes++
				n.reporter.complain(reasonIPVS, "d/web", strconv.Itoa(changes))
				<-time.After(150 * time.Millisecond)
				synctest.Wait()
			}
			for _, at := range api.since(refuses) {
				pauses = append(pauses, at.Sub(begun))
				begun = at
			}
			return pauses
		}
		start := time.Now()
		quiet := func() { // and then not at a time when it looks without a change
			<-time.After(time.Minute + reportAtLeast/2 - time.Since(start)%reportAtLeast)
			synctest.Wait()
		}
		quiet()
		ms := time.Millisecond
		want := []time.Duration{0, 300 * ms, 600 * ms, 1200 * ms, 2400 * ms, 4800 * ms, 5000 * ms, 5000 * ms}
		for range 2 {
			if got := during(20*time.Second, false); !slices.Equal(got, want) {
				t.Errorf("pauses %v, want %v", got, want)
			}
			api.since(false)
			n.dead.Heard("n2", "eth0")
			n.dead.Silent("n2", "eth0", false)
			<-time.After(shortestPause)
			synctest.Wait()
			if asked := api.since(false); len(asked) != 1 {
				t.Errorf("who is silent was written %d times within %s", len(asked), shortestPause)
			}
			n.dead.Heard("n2", "eth0")
			quiet()
		}
		got := during(time.Minute, true)
		least := []time.Duration{0, 1, 2, 4, 8, 10, 10}
		if len(got) < len(least) || len(got) > len(least)+3 {
			t.Errorf("pauses between failures: %v", got)
		}
		for i, pause := range got {
			atLeast := least[min(i, len(least)-1)] * time.Second
			if pause < atLeast || pause > atLeast*3/2 {
				t.Errorf("pause %d is %v, want from %v up to half more", i, pause, atLeast)
			}
		}
		api.since(false)
		quiet()
		if got := during(time.Second, false); !slices.Equal(got, want[:3]) {
			t.Errorf("pauses %v afterwards", got)
		}
		for i := 3; i < 500; i++ {
			if err := have.Delete(named(i)); err != nil {
				t.Fatal(err)
			}
		}
		quiet()
		if got := during(20*time.Second, false); len(got) < 60 || slices.Max(got) > shortestPause {
			t.Errorf("pauses in a cluster of three: %v", got)
		}
		if got := during(20*time.Second, true); len(got) < 13 || slices.Max(got) > 2*time.Second {
			t.Errorf("pauses between failures in a cluster of three: %v", got)
		}
		cancel()
		<-done
		n.tasks.ShutDown()
	})
}
