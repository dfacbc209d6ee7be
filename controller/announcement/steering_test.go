package announcement

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/config/v1alpha1/v1alpha1test"
)

// The condition Announced says whether connections are steered, and why not.
func TestServiceConditionSteering(t *testing.T) {
	all, _ := config.Compile(config.Objects{
		Pools: v1alpha1test.SelectAll([]*v1alpha1.LoadBalancerPool{{
			ObjectMeta: named("all"), Spec: v1alpha1.LoadBalancerPoolSpec{
				Addresses: []v1alpha1.AddressRange{"192.0.2.0/24"}, Dataplane: v1alpha1.DataplaneSteering,
				Steering: &v1alpha1.SteeringSettings{ClusterPolicy: v1alpha1.ClusterSteered},
			},
		}}),
		SegmentAnnouncements: v1alpha1test.SelectAll([]*v1alpha1.SegmentAnnouncement{{ObjectMeta: named("l2")}}),
	})
	snapshot, _ := config.Compile(config.Objects{
		Pools: v1alpha1test.SelectAll([]*v1alpha1.LoadBalancerPool{
			{ObjectMeta: named("steered"), Spec: v1alpha1.LoadBalancerPoolSpec{
				Addresses: []v1alpha1.AddressRange{"192.0.2.0/24"}, Dataplane: v1alpha1.DataplaneSteering,
			}},
			{ObjectMeta: named("plain"), Spec: v1alpha1.LoadBalancerPoolSpec{
				Addresses: []v1alpha1.AddressRange{"2001:db8::/64"},
			}},
		}),
		SegmentAnnouncements: v1alpha1test.SelectAll([]*v1alpha1.SegmentAnnouncement{{ObjectMeta: named("l2")}}),
	})
	node := func(asked bool, status metav1.ConditionStatus, message string) Node {
		n := Node{Alive: true}
		r := v1alpha1.SpeakerStatus{
			Conditions: []metav1.Condition{
				{
					Type:   v1alpha1.ConditionReady,
					Status: metav1.ConditionTrue,
					Reason: string(v1alpha1.SpeakerAnnouncing),
				},
				{Type: v1alpha1.ConditionSteeringReady, Status: status, Message: message},
			},
			Segments: []v1alpha1.SegmentReport{{Interface: "eth0", State: v1alpha1.SegmentAnnouncing}},
		}
		if asked {
			r.Steering.Ports = new(int32)
		}
		n.Report(r)
		return n
	}
	steers := node(true, metav1.ConditionTrue, "steers")
	cannot := node(true, metav1.ConditionFalse, "Linux 4.19 has no bpf_redirect_neigh")
	unasked := node(false, metav1.ConditionUnknown, "")
	on3 := candidate.Endpoints{Ready: map[string]bool{"n3": true}, Some: true}
	both := []string{"192.0.2.1", "2001:db8::1"}
	for _, c := range []struct {
		name      string
		addresses []string
		cluster   bool
		snapshot  *config.Snapshot // nil: policy Cluster is not steered
		endpoints candidate.Endpoints
		nodes     map[string]Node
		reason    string
		message   string
	}{
		{
			name: "a node without endpoint steers", endpoints: on3, nodes: map[string]Node{"n1": steers},
			reason:  ReasonAnnounced,
			message: "by SegmentAnnouncement l2, by nodes that steer connections to those with a ready Pod (externalTrafficPolicy Local)",
		},
		{
			name: "another one cannot", endpoints: on3, nodes: map[string]Node{"n1": cannot, "n2": unasked},
			reason:  ReasonNoCandidate,
			message: "192.0.2.1 is selected by SegmentAnnouncement l2, but no selected node may announce it: each of n1, n2 has no ready endpoint",
		},
		{
			name: "none steers", endpoints: on3, nodes: map[string]Node{"n1": cannot, "n3": unasked}, reason: ReasonAnnounced,
			message: "by SegmentAnnouncement l2, from nodes with a ready Pod (externalTrafficPolicy Local); connections are not steered, and only nodes with a ready endpoint announce it, since no node steers: n1 does not steer (Linux 4.19 has no bpf_redirect_neigh), n3 does not steer (its speaker was not asked to)",
		},
		{
			name: "there is nobody to steer to", nodes: map[string]Node{"n1": steers}, reason: ReasonNoEndpoints,
			message: "192.0.2.1 is selected by SegmentAnnouncement l2, but no node has an endpoint of the Service that is ready, or terminating and serving (externalTrafficPolicy Local); see its EndpointSlices",
		},
		{
			name: "policy Cluster", cluster: true, endpoints: on3, nodes: map[string]Node{"n1": steers}, reason: ReasonAnnounced,
			message: "by SegmentAnnouncement l2; connections are not steered, since spec.externalTrafficPolicy is Cluster; write Local: with steering, all nodes answer, also those without an endpoint; or have Services of policy Cluster steered by spec.steering.externalTrafficPolicyCluster: Steer of LoadBalancerPool steered",
		},
		{
			name: "policy Cluster, where it is steered", cluster: true, snapshot: all, endpoints: on3,
			nodes: map[string]Node{"n1": steers, "n2": cannot}, reason: ReasonAnnounced,
			message: "by SegmentAnnouncement l2, by nodes that steer connections to those with a ready Pod",
		},
		{
			name: "policy Cluster, where it is steered, and no node can", cluster: true, snapshot: all, endpoints: on3,
			nodes: map[string]Node{"n1": cannot}, reason: ReasonAnnounced,
			message: "by SegmentAnnouncement l2; connections are not steered, and clients are hidden, since no node steers: n1 does not steer (Linux 4.19 has no bpf_redirect_neigh)",
		},
		{
			name: "two dataplanes", addresses: both, endpoints: on3, nodes: map[string]Node{"n3": steers},
			reason:  ReasonAnnounced,
			message: "by SegmentAnnouncement l2, from nodes with a ready Pod (externalTrafficPolicy Local); connections are not steered, since a Service has one dataplane: 192.0.2.1 is of LoadBalancerPool steered (dataplane Steering), 2001:db8::1 is of LoadBalancerPool plain (dataplane KubeProxy); give these pools the same spec.dataplane, or ask for others with annotation berth.dev/pools",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.addresses == nil {
				c.addresses = both[:1]
			}
			if c.snapshot == nil {
				c.snapshot = snapshot
			}
			s := Service{
				Addresses: addresses(
					c.addresses...), Local: !c.cluster, Snapshot: c.snapshot, Nodes: c.nodes, Endpoints: c.endpoints,
			}
			s.Forwarder = s.Forwarding("")
			got := s.Condition()
			if diff := cmp.Diff([2]string{c.reason, c.message}, [2]string{got.Reason, got.Message}); diff != "" {
				t.Error(diff)
			}
		})
	}
}
