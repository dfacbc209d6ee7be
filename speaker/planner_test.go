package speaker

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/record"
	"github.com/berth-lb/berth/config/retain"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/config/v1alpha1/v1alpha1test"
	"github.com/berth-lb/berth/internal/liveness"
	"github.com/berth-lb/berth/l2"
	"github.com/berth-lb/berth/speaker/dataplane"
	"github.com/berth-lb/berth/speaker/plan"
)

var recordKey = []byte("0123456789abcdef0123456789abcdef")

// sign records in the status of the Service that the controller gave these addresses.
func sign(p *planner, svc *corev1.Service, addresses ...string) {
	p.recordKeys = [][]byte{recordKey}
	given := record.Record{UID: svc.UID, Request: record.RequestOf(nil)}
	for _, a := range addresses {
		given.Addresses = append(given.Addresses, netip.MustParseAddr(a))
	}
	svc.Status.Conditions = []metav1.Condition{given.Condition(recordKey, metav1.Time{})}
}

var webAddress = netip.MustParseAddr("192.0.2.1")

// webService returns a Service with address 192.0.2.1 that Berth is to forward for, and its
// EndpointSlice.
func webService(p *planner) (*corev1.Service, *discoveryv1.EndpointSlice) {
	proxy, name, port := corev1.LoadBalancerIPModeProxy, "http", int32(8080)
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "web", UID: "1"},
		Spec: corev1.ServiceSpec{
			Type:  corev1.ServiceTypeLoadBalancer,
			Ports: []corev1.ServicePort{{Name: name, Port: 80}},
		},
		Status: corev1.ServiceStatus{
			LoadBalancer: corev1.LoadBalancerStatus{
				Ingress: []corev1.LoadBalancerIngress{{IP: "192.0.2.1", IPMode: &proxy}},
			},
		},
	}
	sign(p, service, "192.0.2.1")
	return service, &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "d",
			Name:      "web-1",
			Labels:    map[string]string{discoveryv1.LabelServiceName: "web"},
		},
		Ports:     []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.1.1"}}},
	}
}

// servingNode returns a node with that Service, which is announced on segments and by BGP.
func servingNode(t *testing.T) (node, *corev1.Service) {
	t.Helper()
	n := idleNode(t)
	service, slice := webService(n.planner)
	if err := errors.Join(
		nodesOf(n.sources).Add(&corev1.Node{ObjectMeta: named("n1")}),
		nodesOf(n.sources).Add(&corev1.Node{ObjectMeta: named("n2")}),
		n.sources.service.GetStore().Add(kept(service)),
		n.sources.slice.GetStore().Add(kept(slice)),
		n.sources.pool.GetStore().Add(v1alpha1test.SelectsAll(&v1alpha1.LoadBalancerPool{
			ObjectMeta: named("ours"), Spec: v1alpha1.LoadBalancerPoolSpec{
				Addresses: []v1alpha1.AddressRange{"192.0.2.0/24"}, Dataplane: v1alpha1.DataplaneIPVS, IPVS: &v1alpha1.IPVSSettings{
					Scheduler: "wlc",
				},
			}})),
		n.sources.segments.GetStore().Add(v1alpha1test.SelectsAll(&v1alpha1.SegmentAnnouncement{ObjectMeta: named("all")})),
		n.sources.routes.GetStore().Add(v1alpha1test.SelectsAll(&v1alpha1.RouteAnnouncement{ObjectMeta: named("all")})),
	); err != nil {
		t.Fatal(err)
	}
	return n, service
}

// announced returns the candidates of the Service on the segment, how many routes it has, and how
// many prefixes of it are dropped where nothing serves them.
func (n node) announced() (candidates []string, routes, dropped int) {
	return n.l2.synced[webAddress].Candidates, len(n.bgp.synced["d/web"].Routes), len(n.unserved.synced["d/web"])
}

func TestPlanner_begin(t *testing.T) {
	n, _ := servingNode(t)
	n.begin()
	candidates, routes, dropped := n.announced()
	if !slices.Equal(candidates, []string{"n1", "n2"}) || routes != 1 || dropped != 1 {
		t.Errorf("candidates %v, %d routes, %d prefixes", candidates, routes, dropped)
	}
	if len(n.dataplane.synced["d/web"].Table) != 1 {
		t.Errorf("forwards %v", n.dataplane.synced)
	}
	if want := plan.Capability("rr", "wlc"); n.l2.capabilities != want {
		t.Errorf("layer 2 has capabilities %b, want %b", n.l2.capabilities, want)
	}
	if got := n.mirror.shown[webAddress]; !slices.Equal(got, []string{"d/web"}) {
		t.Errorf("the mirror shows %v", got)
	}
}

// A node that may announce again takes part in a rebalancing that was asked for just before this
// one heard of it.
func TestPlanner_rebalance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := servingNode(t)
		n.begin()
		exclude := func(excluded string) {
			t.Helper()
			o := &corev1.Node{ObjectMeta: named("n2")}
			o.Labels = map[string]string{"a": excluded}
			if err := nodesOf(n.sources).Update(candidate.SlimNode(o)); err != nil {
				t.Fatal(err)
			}
			n.do(task{kind: nodesChanged})
		}
		exclude("yes")
		if len(n.l2.rebalanced) > 0 {
			t.Fatalf("%v were rebalanced", n.l2.rebalanced)
		}
		for _, o := range n.sources.segments.GetStore().List() {
			asking := o.(*v1alpha1.SegmentAnnouncement).DeepCopy()
			asking.Annotations = map[string]string{v1alpha1.AnnotationRebalance: "once"}
			if err := n.sources.segments.GetStore().Update(asking); err != nil {
				t.Fatal(err)
			}
		}
		n.do(task{kind: settingsChanged})
		asked := len(n.l2.rebalanced)
		if asked == 0 {
			t.Fatal("nothing was rebalanced")
		}
		exclude("no")
		if again := len(n.l2.rebalanced); again != 2*asked {
			t.Errorf("%d addresses were rebalanced, then %d", asked, again-asked)
		}
		<-time.After(alsoFor)
		exclude("yes")
		if later := len(n.l2.rebalanced); later != 2*asked {
			t.Errorf("%d addresses were rebalanced long after that was asked for", later-2*asked)
		}
	})
}

// Hints of EndpointSlices count by the zone that the node's own object says, as it changes.
func TestPlanner_nodesChanged_zone(t *testing.T) {
	n, _ := servingNode(t)
	name, port := "http", int32(8080)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "d", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
	}
	for address, zone := range map[string]string{"10.0.1.1": "a", "10.0.2.1": "b"} {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{address},
			Hints:     &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: zone}}},
		})
	}
	if err := n.sources.slice.GetStore().Update(kept(slice)); err != nil {
		t.Fatal(err)
	}
	n.begin()
	for _, step := range []struct {
		labels map[string]string
		want   []string
	}{
		{nil, []string{"10.0.1.1", "10.0.2.1"}},
		{map[string]string{corev1.LabelTopologyZone: "b"}, []string{"10.0.2.1"}},
		{map[string]string{corev1.LabelTopologyZone: "a"}, []string{"10.0.1.1"}},
		{map[string]string{corev1.LabelTopologyZone: "c"}, []string{"10.0.1.1", "10.0.2.1"}},
	} {
		o := &corev1.Node{ObjectMeta: named("n1")}
		o.Labels = step.labels
		if err := nodesOf(n.sources).Update(candidate.SlimNode(o)); err != nil {
			t.Fatal(err)
		}
		n.do(task{kind: nodesChanged})
		var got []string
		for _, server := range n.dataplane.synced["d/web"].Table {
			for _, r := range server.RealServers {
				if r.Weight > 0 {
					got = append(got, r.Address.String())
				}
			}
		}
		if slices.Sort(got); !slices.Equal(got, step.want) {
			t.Errorf("with labels %v new connections go to %v, want %v", step.labels, got, step.want)
		}
	}
}

// What the kernel shows decides what the node announces, each time that it shows something else.
func TestPlanner_plan_readiness(t *testing.T) {
	n, _ := servingNode(t)
	for _, step := range []struct {
		name       string
		status     dataplane.Status
		candidates []string
		routes     int
		complaint  string
	}{
		{
			name:       "not shown yet",
			status:     dataplane.Status{},
			candidates: []string{"n2"},
		},
		{
			name:       "ready",
			status:     dataplane.Status{Readiness: plan.Readiness{Shown: true}},
			candidates: []string{"n1", "n2"},
			routes:     1,
		},
		{
			name:       "failing",
			status:     dataplane.Status{Readiness: plan.Readiness{Shown: true}, Err: errors.New("TCP 192.0.2.1:80: no memory")},
			candidates: []string{"n1", "n2"},
			routes:     1,
			complaint:  "IPVS: TCP 192.0.2.1:80: no memory",
		},
		{
			name: "failing for too long",
			status: dataplane.Status{
				Readiness: plan.Readiness{Shown: true, Failing: plan.FailureGrace},
				Err:       errors.New("TCP 192.0.2.1:80: no memory"),
			},
			candidates: []string{"n2"},
			complaint:  "IPVS: TCP 192.0.2.1:80: no memory",
		},
		{
			name:       "fixed",
			status:     dataplane.Status{Readiness: plan.Readiness{Shown: true}},
			candidates: []string{"n1", "n2"},
			routes:     1,
		},
	} {
		n.dataplane.status = step.status
		if step.name == "not shown yet" {
			n.begin()
		} else {
			n.do(task{kind: forwardedChanged, address: netip.MustParseAddr("192.0.2.1")})
		}
		candidates, routes, dropped := n.announced()
		if !slices.Equal(candidates, step.candidates) || routes != step.routes || dropped != routes {
			t.Errorf(
				"%s: candidates %v, %d routes, %d prefixes; want %v, %d",
				step.name,
				candidates,
				routes,
				dropped,
				step.candidates,
				step.routes,
			)
		}
		if got := n.reporter.complaints["IPVSFailed d/web"].Message; got != step.complaint {
			t.Errorf("%s: it says %q, want %q", step.name, got, step.complaint)
		}
	}
}

func TestPlanner_plan_again(t *testing.T) {
	for name, set := range map[string]func(*fakeDataplane){
		"when an endpoint has terminated for too long": func(d *fakeDataplane) { d.overdue = time.Minute },
		"when the status changes by time alone":        func(d *fakeDataplane) { d.status.Again = time.Minute },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, _ := servingNode(t)
				n.begin()
				set(n.dataplane)
				n.reviewService("d/web")
				begun := time.Now()
				for n.tasks.Len() == 0 {
					<-time.After(time.Second)
				}
				if got, _ := n.tasks.Get(); got != (task{kind: serviceChanged, service: "d/web"}) ||
					time.Since(begun) < time.Minute {
					t.Errorf("to do after %s: %v", time.Since(begun), got)
				}
				n.tasks.ShutDown()
			})
		})
	}
}

// Another Service that shares the address, another announcement, or the end of one of them leaves
// an address as it is, if its candidates are the same.
func TestPlanner_reviewService_sharers(t *testing.T) {
	n, web := servingNode(t)
	web.Annotations = map[string]string{v1alpha1.AnnotationSharingKey: "web"}
	n.begin()
	before := n.l2.synced[webAddress]
	store := func(o *corev1.Service, there bool) {
		t.Helper()
		change := n.sources.service.GetStore().Add
		if !there {
			change = n.sources.service.GetStore().Delete
		}
		if err := change(kept(o)); err != nil {
			t.Fatal(err)
		}
		n.do(task{kind: serviceChanged, service: o.Namespace + "/" + o.Name})
	}
	also := web.DeepCopy() // its name comes first
	also.Name, also.UID, also.Spec.Ports = "also", "2", []corev1.ServicePort{{Name: "dns", Port: 53}}
	sign(n.planner, also, "192.0.2.1")
	another := v1alpha1test.SelectsAll(&v1alpha1.SegmentAnnouncement{ObjectMeta: named("a-second")})
	for _, step := range []struct {
		name    string
		do      func()
		sharers []string
	}{
		{
			name:    "a second Service shares it",
			do:      func() { store(also, true) },
			sharers: []string{"d/also", "d/web"},
		},
		{
			name: "a second announcement selects it",
			do: func() {
				if err := n.sources.segments.GetStore().Add(another); err != nil {
					t.Fatal(err)
				}
				n.do(task{kind: settingsChanged})
			},
			sharers: []string{"d/also", "d/web"},
		},
		{
			name: "the second announcement is deleted",
			do: func() {
				if err := n.sources.segments.GetStore().Delete(another); err != nil {
					t.Fatal(err)
				}
				n.do(task{kind: settingsChanged})
			},
			sharers: []string{"d/also", "d/web"},
		},
		{
			name:    "the Service of the first name is deleted",
			do:      func() { store(also, false) },
			sharers: []string{"d/web"},
		},
	} {
		step.do()
		after := n.l2.synced[webAddress]
		if !after.Announced || !slices.Equal(after.Candidates, before.Candidates) || after.Rank != before.Rank {
			t.Errorf("%s: %+v, want %+v", step.name, after, before)
		}
		if got := n.mirror.shown[webAddress]; !slices.Equal(got, step.sharers) {
			t.Errorf("%s: the mirror shows %v, want %v", step.name, got, step.sharers)
		}
	}
	if len(n.l2.withdrawn) > 0 {
		t.Errorf("withdrawn: %v, want nothing", n.l2.withdrawn)
	}
	store(web, false)
	if !slices.Equal(n.l2.withdrawn, []netip.Addr{webAddress}) {
		t.Errorf("withdrawn with the last Service: %v", n.l2.withdrawn)
	}
}

// While the API has no address of this node, its last ones count.
func TestPlanner_reviewAddresses(t *testing.T) {
	n, _ := servingNode(t)
	address := func(texts ...string) {
		t.Helper()
		o := &corev1.Node{ObjectMeta: named("n1")}
		for _, text := range texts {
			o.Status.Addresses = append(
				o.Status.Addresses,
				corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: text},
			)
		}
		if err := nodesOf(n.sources).Update(o); err != nil {
			t.Fatal(err)
		}
		n.do(task{kind: nodesChanged})
	}
	expect := func(when string, want ...netip.Addr) {
		t.Helper()
		if !slices.Equal(n.l2.nodes["n1"], want) || !slices.Equal(n.bgp.hops, want) ||
			!slices.Equal(n.dataplane.sources, want) {
			t.Errorf("%s: layer 2 has %v, BGP %v and the data plane %v, want %v",
				when, n.l2.nodes["n1"], n.bgp.hops, n.dataplane.sources, want)
		}
	}
	n.begin()
	first, second := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	address("10.0.0.1")
	expect("an address", first)
	address()
	expect("none", first)
	address("10.0.0.2")
	expect("another", second)
	if err := nodesOf(n.sources).Delete(&corev1.Node{ObjectMeta: named("n1")}); err != nil {
		t.Fatal(err)
	}
	n.do(task{kind: nodesChanged})
	expect("no Node", second)
}

func TestPlanner_reviewService_gone(t *testing.T) {
	n, service := servingNode(t)
	n.begin()
	if err := n.sources.service.GetStore().Delete(kept(service)); err != nil {
		t.Fatal(err)
	}
	n.do(task{kind: serviceChanged, service: "d/web"})
	left := len(n.l2.synced) + len(n.bgp.synced) + len(n.unserved.synced) + len(n.dataplane.synced)
	if left += len(n.mirror.shown) + len(n.wanted) + len(n.holders); left != 0 {
		t.Errorf("%d things are left of a Service that is gone", left)
	}
	if !slices.Equal(n.dataplane.forgotten, []string{"d/web"}) {
		t.Errorf("forgotten: %v", n.dataplane.forgotten)
	}
}

// What drivers see becomes a task of the planner.
func TestPlanner_follow(t *testing.T) {
	n := idleNode(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { n.follow(ctx); close(done) }()
	address := netip.MustParseAddr("192.0.2.1")
	for _, step := range []struct {
		see  func()
		want task
	}{
		{
			func() { n.dataplane.observed <- dataplane.Observation{Kind: dataplane.AbilityChanged} },
			task{kind: abilityChanged},
		},
		{func() {
			n.dataplane.observed <- dataplane.Observation{Kind: dataplane.AddressChanged, Address: address}
		}, task{kind: forwardedChanged, address: address}},
		{func() { n.dead.Suspect("n2") }, task{kind: deadNodesChanged}},
		{func() { n.localnet.changed <- struct{}{} }, task{kind: networkChanged}},
		{func() { n.reporter.freshness.Notify() }, task{kind: freshnessChanged}},
		{func() { n.rivals.changed <- struct{}{} }, task{kind: rivalsChanged}},
		{func() { n.kubeProxy <- true }, task{kind: proxyHealthChanged, unhealthy: true}},
	} {
		step.see()
		if got, _ := n.tasks.Get(); got != step.want {
			t.Errorf("to do: %+v, want %+v", got, step.want)
		}
		n.tasks.Done(step.want)
	}
	cancel()
	<-done
	if !n.steering.suspect["n2"] {
		t.Error("what steers is not told of a node that is suspected")
	}
}

// A node that hears nobody says that others may think it dead.
func TestPlanner_suspects(t *testing.T) {
	n := idleNode(t)
	n.dead.Heard("n2", "eth0")
	n.dead.Heard("n3", "eth0")
	if got := n.suspects(); len(got) > 0 {
		t.Errorf("%v are suspected, and all are heard", got)
	}
	n.dead.Silent("n2", "eth0", false)
	n.dead.Silent("n3", "eth0", false)
	if got := n.suspects(); !maps.Equal(got, map[string]bool{n.Node: true}) {
		t.Errorf("%v are suspected, want %s alone, which hears nobody", got, n.Node)
	}
}

func TestPlanner_reviewState(t *testing.T) {
	n, _ := servingNode(t)
	n.begin()
	expect := func(when string, state v1alpha1.SpeakerState, layer2 l2.State, calls ...string) {
		t.Helper()
		if got, _ := n.reporter.state(); got != state || n.l2.state != layer2 || !slices.Equal(n.bgp.calls, calls) {
			t.Errorf(
				"%s: %s, layer 2 %v, BGP %v; want %s, %v, %v",
				when,
				got,
				n.l2.state,
				n.bgp.calls,
				state,
				layer2,
				calls,
			)
		}
		n.bgp.calls = nil
	}
	n.bgp.calls = nil
	n.keyed = true
	n.reviewState()
	expect("with a key", v1alpha1.SpeakerAnnouncing, l2.Ready, "resume")
	n.reviewState()
	expect("the same again", v1alpha1.SpeakerAnnouncing, l2.Ready)
	n.do(task{kind: proxyHealthChanged, unhealthy: true})
	expect("kube-proxy is unhealthy", v1alpha1.SpeakerLeaving, l2.Leaving, "last resort")
	if _, routes, _ := n.announced(); routes == 0 {
		t.Error("while kube-proxy is unhealthy there are no routes; all nodes can be so at once")
	}
	n.do(task{kind: proxyHealthChanged})
	expect("kube-proxy is healthy", v1alpha1.SpeakerAnnouncing, l2.Ready, "resume")
	n.l2.status.Segments = []l2.Segment{{}, {Outdated: true}}
	n.do(task{kind: freshnessChanged})
	expect("another node knows better", v1alpha1.SpeakerAnnouncing, l2.Ready, "last resort")
	n.do(task{kind: freshnessChanged})
	expect("and still does", v1alpha1.SpeakerAnnouncing, l2.Ready)
	n.l2.status.Segments = nil
	n.do(task{kind: freshnessChanged})
	expect("no node knows better", v1alpha1.SpeakerAnnouncing, l2.Ready, "resume")
	n.depart(v1alpha1.SpeakerRestarting, "the process is being replaced", true, false)
	expect("it departs and holds", v1alpha1.SpeakerRestarting, l2.Holding, "drain")
	n.do(task{kind: proxyHealthChanged, unhealthy: true})
	expect("departed, for good", v1alpha1.SpeakerRestarting, l2.Holding)
}

func TestPlanner_settled(t *testing.T) {
	n := idleNode(t)
	n.ordered.Store(1)
	up := bgp.PeerStatus{Name: "tor", State: "established"}
	for _, c := range []struct {
		name     string
		segments []l2.Segment
		peers    []bgp.PeerStatus
		want     bool
	}{
		{
			name: "nothing yet",
		},
		{
			name:     "one segment listens still",
			segments: []l2.Segment{{Up: true, Claiming: true}, {Up: true}},
			peers:    []bgp.PeerStatus{up},
		},
		{
			name:     "a session is missing",
			segments: []l2.Segment{{Up: true, Claiming: true}},
		},
		{
			name:     "all but a segment that is down",
			segments: []l2.Segment{{Up: true, Claiming: true}, {}},
			peers:    []bgp.PeerStatus{up},
			want:     true,
		},
	} {
		n.l2.status.Segments, n.bgp.status.Peers = c.segments, c.peers
		if got := n.settled(); got != c.want {
			t.Errorf("%s: settled %v, want %v", c.name, got, c.want)
		}
	}
}

// What pools give next is expected as long as it is planned that way, and a pool's status has only
// that pool planned again.
func TestPlanner_reviewNext(t *testing.T) {
	n, _ := servingNode(t)
	ours := n.sources.objects().Pools[0].DeepCopy()
	other := v1alpha1test.SelectsAll(&v1alpha1.LoadBalancerPool{
		ObjectMeta: named("other"),
		Spec: v1alpha1.LoadBalancerPoolSpec{
			Addresses: []v1alpha1.AddressRange{"198.51.100.0/24", "2001:db8::/64"},
		},
	})
	expect := func(when string, want map[string]l2.Capabilities) {
		t.Helper()
		got := map[string]l2.Capabilities{}
		for address, d := range n.l2.next {
			got[address.String()] = d.Needs
			if !slices.Equal(d.Candidates, []string{"n1", "n2"}) || !d.Announced || d.Rank != address.String() {
				t.Errorf("%s: %s is expected as %+v", when, address, d)
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: expected are %v, want %v", when, got, want)
		}
	}
	store := func(o *v1alpha1.LoadBalancerPool) {
		t.Helper()
		if err := n.sources.pool.GetStore().Update(o.DeepCopy()); err != nil {
			t.Fatal(err)
		}
	}
	ours.Status.IPv4.Next = "192.0.2.2"
	store(ours)
	store(other)
	n.begin()
	wlc := plan.Capability("wlc")
	expect("at first", map[string]l2.Capabilities{"192.0.2.2": wlc})

	before := n.l2.anticipated
	other.Status.IPv4.Next, other.Status.IPv6.Next = "198.51.100.1", "2001:db8::1"
	store(other)
	ours.Status.IPv4.Next = "192.0.2.3"
	store(ours)
	n.do(task{kind: nextChanged, pool: "other"})
	expect("after one pool changed", map[string]l2.Capabilities{"192.0.2.2": wlc, "198.51.100.1": 0, "2001:db8::1": 0})
	if n.l2.anticipated != before+1 {
		t.Errorf("layer 2 was told %d times, want once", n.l2.anticipated-before)
	}
	n.do(task{kind: nextChanged, pool: "ours"})
	expect("after the other one did", map[string]l2.Capabilities{"192.0.2.3": wlc, "198.51.100.1": 0, "2001:db8::1": 0})

	ours.Spec.Addresses = []v1alpha1.AddressRange{"192.0.2.100-192.0.2.110"}
	store(ours)
	n.do(task{kind: settingsChanged})
	expect(
		"when the address is not the pool's any more",
		map[string]l2.Capabilities{"198.51.100.1": 0, "2001:db8::1": 0},
	)
	if err := n.sources.segments.GetStore().Replace(nil, ""); err != nil {
		t.Fatal(err)
	}
	n.do(task{kind: settingsChanged})
	expect("without announcements", map[string]l2.Capabilities{})
}

// While it looks why an object is gone, it plans again only once it knows.
func TestPlanner_lookAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := servingNode(t)
		n.served = func(string) (bool, error) { return true, nil }
		n.begin()
		if !n.l2.synced[webAddress].Announced {
			t.Error("the Service is not announced")
		}
		before := n.l2.anticipated
		if err := n.sources.segments.GetStore().Replace(nil, ""); err != nil {
			t.Fatal(err)
		}
		for range 9 {
			<-time.After(retain.AskEvery)
			n.do(task{kind: settingsGone})
		}
		if n.l2.anticipated > before+1 {
			t.Errorf("it planned %d times within a second", n.l2.anticipated-before)
		}
		<-time.After(2 * retain.AskEvery)
		n.do(task{kind: settingsGone})
		if n.l2.synced[webAddress].Announced {
			t.Error("what was deleted is still in effect")
		}
	})
}

// Only a status with other next addresses is a reason to plan.
func TestNextOf(t *testing.T) {
	one, two := &v1alpha1.LoadBalancerPool{}, &v1alpha1.LoadBalancerPool{}
	two.Status.IPv4.Assigned = "1"
	if !slices.Equal(nextOf(one), nextOf(two)) {
		t.Error("a count counts")
	}
	two.Status.IPv6.Next = "2001:db8::1"
	if slices.Equal(nextOf(one), nextOf(two)) {
		t.Error("the next address does not count")
	}
}

// stuckUnserved does not come back from Sync until it is released.
type stuckUnserved struct {
	*fakeUnserved
	released chan struct{}
}

func (s stuckUnserved) Sync(string, []netip.Prefix) { <-s.released }

// A driver that does not come back is noticed, and an idle planner is not taken for a stuck one.
func TestPlanner_run_stuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := servingNode(t)
		n.begin()
		released := make(chan struct{})
		n.drivers.unserved = stuckUnserved{n.unserved, released}
		loops := liveness.New()
		ctx, cancel := context.WithCancel(loops.Context(t.Context()))
		var running sync.WaitGroup
		running.Go(func() { n.run(ctx) })
		<-time.After(time.Hour)
		if stuck := loops.Stuck(); len(stuck) > 0 {
			t.Errorf("stuck while there is nothing to do: %v", stuck)
		}
		begun := time.Now()
		n.tasks.Add(task{kind: serviceChanged, service: "d/web"})
		<-time.After(liveness.Limit + time.Second)
		if stuck := loops.Stuck(); len(stuck) != 1 || stuck[0] != (liveness.Stuck{Loop: "planner", Since: begun}) {
			t.Errorf("stuck: %v, want the planner since %s", stuck, begun)
		}
		close(released)
		synctest.Wait()
		if stuck := loops.Stuck(); len(stuck) > 0 {
			t.Errorf("stuck after it came back: %v", stuck)
		}
		cancel()
		running.Wait()
	})
}

// The router ID that a Speaker asked for stays when the CustomResourceDefinition is deleted with
// all Speakers: another one would end all sessions. If it is taken out, it is no longer used.
func TestPlanner_reviewRouterID_kind_gone(t *testing.T) {
	asked, own := netip.MustParseAddr("192.0.2.99"), netip.MustParseAddr("192.0.2.11")
	with := &v1alpha1.Speaker{ObjectMeta: named("n1")}
	with.Spec.BGP.RouterID = asked.String()
	synctest.Test(t, func(t *testing.T) {
		n, _ := servingNode(t)
		defer n.tasks.ShutDown()
		whole := true
		n.served = func(string) (bool, error) { return whole, nil }
		review := func(when string, want netip.Addr) {
			t.Helper()
			n.reviewRouterID()
			if n.bgp.id != want {
				t.Errorf("%s: router ID %s, want %s", when, n.bgp.id, want)
			}
		}
		store := n.sources.status.GetStore()
		change := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		change(store.Add(with))
		review("asked for", asked)
		whole = false
		change(store.Delete(with))
		review("the kind is gone", asked)
		<-time.After(time.Hour)
		review("for long", asked)
		whole = true
		change(store.Add(&v1alpha1.Speaker{ObjectMeta: named("n1")})) // the reporter makes it again
		<-time.After(time.Minute)
		review("the kind is back", asked)
		change(store.Update(with))
		review("and so is what it said", asked)
		<-time.After(time.Hour)
		change(store.Update(&v1alpha1.Speaker{ObjectMeta: named("n1")}))
		review("it is taken out", asked)
		<-time.After(time.Second)
		review("a second ago", own)
	})
}
