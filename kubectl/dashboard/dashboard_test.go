package dashboard

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/why"
)

var noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// rack is a cluster of nodes n1, n2 and n10 with a router. The owner answers for two addresses.
func rack(owner string) *cluster.State {
	s := &cluster.State{Taken: noon, Namespace: "berth-system"}
	for _, name := range []string{"n10", "n2", "n1"} {
		s.Nodes = append(s.Nodes, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Status: corev1.NodeStatus{
				Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
			},
		})
		peers, address := int32(2), "172.30.0.1"
		s.Speakers = append(s.Speakers, &v1alpha1.Speaker{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Status: v1alpha1.SpeakerStatus{
				Conditions: []metav1.Condition{{Type: "Ready", Status: metav1.ConditionTrue, Reason: "Announcing"}},
				Segments: []v1alpha1.SegmentReport{{
					Interface: "eth0", State: v1alpha1.SegmentAnnouncing, Subnets: []string{"172.30.0.0/24"}, PeersAlive: &peers,
				}},
				Sessions: []v1alpha1.SessionReport{{
					NeighborName: "tor", Address: &address, State: v1alpha1.SessionEstablished,
				}},
			},
		})
	}
	s.BGPNeighbors = []*v1alpha1.BGPNeighbor{{
		ObjectMeta: metav1.ObjectMeta{Name: "tor"},
		Spec:       v1alpha1.BGPNeighborSpec{LocalASN: 64513, RemoteASN: 64512, Address: "172.30.0.1"},
	}}
	s.Pools = []*v1alpha1.LoadBalancerPool{{
		ObjectMeta: metav1.ObjectMeta{Name: "rack"},
		Spec:       v1alpha1.LoadBalancerPoolSpec{Addresses: []v1alpha1.AddressRange{"172.30.0.200-172.30.0.250"}},
		Status:     v1alpha1.LoadBalancerPoolStatus{IPv4: v1alpha1.AddressUsage{Total: "51", Assigned: "2", Free: "49"}},
	}}
	for _, address := range []string{"172.30.0.200", "172.30.0.201"} {
		s.Owners = append(s.Owners, &v1alpha1.L2Owner{Status: v1alpha1.L2OwnerStatus{
			Address: address, NodeName: owner, Segment: "172.30.0.0/24", Reason: "PeerSilent",
		}})
	}
	s.Services = []*corev1.Service{{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Selector: map[string]string{"app": "web"}},
	}}
	return s
}

func noPods(string) why.Pods { return why.Pods{} }

func TestSnapshot(t *testing.T) {
	s := Of(rack("n2"), noPods)
	var nodes []string
	for _, n := range s.Nodes {
		nodes = append(nodes, fmt.Sprintf("%s %s %t %d %s", n.Name, n.State, n.Healthy, n.Owned, n.Sessions))
	}
	want := []string{"n1 Announcing true 0 1 of 1", "n2 Announcing true 2 1 of 1", "n10 Announcing true 0 1 of 1"}
	if !slices.Equal(nodes, want) {
		t.Errorf("nodes %q, want %q", nodes, want)
	}
	if got := s.Pools[0]; got.PercentIPv4 != 4 || got.PercentIPv6 != -1 {
		t.Errorf("pool rack: %d%% of IPv4, %d%% of IPv6, want 4 and -1 (none)", got.PercentIPv4, got.PercentIPv6)
	}
	if got := s.Routers[0]; got.Address != "172.30.0.1" || got.ASN != 64512 || got.Sessions.Are != 3 {
		t.Errorf("router: %+v", got)
	}
	if got := s.Services[0]; got.Health != why.Failure || got.Problem == "" || got.Next == "" {
		t.Errorf("a Service that no controller has looked at: %+v", got)
	}
}

// What is wrong with a node is said of it, whatever its speaker reported last.
func TestNodes(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*cluster.State)
		want   string
	}{
		"not ready": {
			func(s *cluster.State) { s.Nodes[2].Status.Conditions[0].Status = corev1.ConditionUnknown },
			"NotReady false the node is not ready",
		},
		"excluded": {
			func(s *cluster.State) {
				s.Nodes[2].Labels = map[string]string{"node.kubernetes.io/exclude-from-external-load-balancers": ""}
			},
			"Excluded true it is taken out of load balancing",
		},
		"without a speaker": {
			func(s *cluster.State) { s.Speakers = s.Speakers[:2] },
			"None false it has no speaker",
		},
		"without a link": {
			func(s *cluster.State) { s.Speakers[2].Status.Segments[0].State = v1alpha1.SegmentWaiting },
			"Announcing false eth0: the link is down, or the speaker listens still",
		},
		"with a problem": {
			func(s *cluster.State) {
				s.Speakers[2].Status.Problems = []v1alpha1.SpeakerProblem{{Reason: "X", Message: "the clock is wrong"}}
			},
			"Announcing false the clock is wrong",
		},
		"unread": {func(s *cluster.State) { s.Nodes = nil }, "Announcing true "},
	} {
		t.Run(name, func(t *testing.T) {
			s := rack("n2")
			c.change(s)
			n := Of(s, noPods).Nodes[0]
			if got := fmt.Sprintf("%s %t %s", n.State, n.Healthy, n.Problem); n.Name != "n1" || got != c.want {
				t.Errorf("%s: %q, want %q", n.Name, got, c.want)
			}
		})
	}
}

func TestPercent(t *testing.T) {
	for _, c := range []struct {
		total, used string
		want        int
	}{
		{"256", "0", 0}, {"256", "1", 1}, {"256", "128", 50}, {"256", "256", 100}, {"18446744073709551616", "1", 1},
	} {
		u := Of(&cluster.State{Pools: []*v1alpha1.LoadBalancerPool{{
			Status: v1alpha1.LoadBalancerPoolStatus{IPv4: v1alpha1.AddressUsage{
				Total: v1alpha1.Count(c.total), Assigned: v1alpha1.Count(c.used),
			}},
		}}}, noPods).Pools[0].PercentIPv4
		if u != c.want {
			t.Errorf("%s of %s: %d%%, want %d%%", c.used, c.total, u, c.want)
		}
	}
}

// texts returns entries without their times.
func texts(entries []Entry) string {
	var lines []string
	for _, e := range entries {
		lines = append(lines, fmt.Sprintf("%s %s %s: %s", e.Kind, e.Grade, e.Object, e.Text))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestTimeline(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*cluster.State)
		want   string
	}{
		"nothing": {func(*cluster.State) {}, ""},
		"a failover": {
			func(s *cluster.State) {
				for _, o := range s.Owners {
					o.Status.NodeName = "n1"
				}
			},
			"owner ok 172.30.0.200 and 1 more: moved from node n2 to node n1 on 172.30.0.0/24 (PeerSilent)",
		},
		"an address that is given up": {
			func(s *cluster.State) { s.Owners = s.Owners[:1] },
			"owner note 172.30.0.201: nobody answers anymore; node n2 did on 172.30.0.0/24",
		},
		"a session that is lost": {
			func(s *cluster.State) {
				s.Speakers[2].Status.Sessions[0].State = v1alpha1.SessionDown
				s.Speakers[2].Status.Sessions[0].LastError = "hold timer expired"
			},
			"session warning session of n1 with tor: down: hold timer expired",
		},
		"a neighbor that is deleted": {
			func(s *cluster.State) { s.Speakers[2].Status.Sessions = nil },
			"session note session of n1 with tor: is not wanted anymore",
		},
		"a node that fails": {
			func(s *cluster.State) { s.Nodes[2].Status.Conditions[0].Status = corev1.ConditionFalse },
			"node warning node n1: the node is not ready",
		},
		"a Service that is deleted": {
			func(s *cluster.State) { s.Services = nil },
			"service note Service shop/web: is gone",
		},
		"an event, and one that the owners tell of": {
			func(s *cluster.State) {
				about := corev1.ObjectReference{Kind: "Service", Namespace: "shop", Name: "web"}
				s.Events = []*corev1.Event{
					{InvolvedObject: about, Type: "Warning", Reason: "NoPool", Message: "no pool is free"},
					{InvolvedObject: about, Type: "Normal", Reason: "Owner", Message: "n1 answers"},
				}
			},
			"event warning Service shop/web: NoPool: no pool is free",
		},
	} {
		t.Run(name, func(t *testing.T) {
			before, state := Of(rack("n2"), noPods), rack("n2")
			c.change(state)
			after := Of(state, noPods)
			after.Taken = noon.Add(time.Second)
			told := Timeline(nil).Then(before, after)
			if got := texts(told); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
			if again := told.Then(after, after); len(again) != len(told) {
				t.Errorf("it is told again:\n%s", texts(again))
			}
		})
	}
}

func TestFrames(t *testing.T) {
	first := Frame{Title: "lab", Stale: "no answer"}.Next(Of(rack("n2"), noPods))
	const begins = "owner ok 172.30.0.200 and 1 more: node n2 answers on 172.30.0.0/24 (PeerSilent)"
	if got := texts(first.Timeline); !strings.Contains(got, begins) || first.Stale != "" || first.Title != "lab" {
		t.Errorf("at first: %q, stale %q, of %q", got, first.Stale, first.Title)
	}
	long := first
	for i := range 300 {
		next := Of(rack(fmt.Sprintf("n%d", i)), noPods)
		next.Taken = noon.Add(time.Duration(i) * time.Second)
		long = long.Next(next)
	}
	if len(long.Timeline) != length || !strings.Contains(long.Timeline[0].Text, "to node n299") {
		t.Errorf("%d entries, the first %+v", len(long.Timeline), long.Timeline[0])
	}
	text, err := json.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"title":"lab"`, `"pools":[{"name":"rack"`, `"node":"n2"`, `"timeline":[`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s is not in %s", want, text)
		}
	}
}
