package cluster

import (
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/config/v1alpha1/v1alpha1test"
	"github.com/berth-lb/berth/speaker/plan"
)

// Where Services of policy Local are steered, nodes with endpoints need not steer; with policy
// Cluster none need.
func TestAnnouncements_steered(t *testing.T) {
	named := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }
	snapshot, _ := config.Compile(config.Objects{
		Pools: v1alpha1test.SelectAll([]*v1alpha1.LoadBalancerPool{{
			ObjectMeta: named("steered"), Spec: v1alpha1.LoadBalancerPoolSpec{
				Addresses: []v1alpha1.AddressRange{"192.0.2.0/24"}, Dataplane: v1alpha1.DataplaneSteering,
				Steering: &v1alpha1.SteeringSettings{ClusterPolicy: v1alpha1.ClusterSteered},
			},
		}}),
		SegmentAnnouncements: v1alpha1test.SelectAll([]*v1alpha1.SegmentAnnouncement{{ObjectMeta: named("l2")}}),
	})
	on2 := "n2"
	s := &State{
		Nodes: []*corev1.Node{{ObjectMeta: named("n1")}, {ObjectMeta: named("n2")}, {ObjectMeta: named("n3")}},
		EndpointSlices: []*discoveryv1.EndpointSlice{{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "d", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"},
			},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.2.1"}, NodeName: &on2}},
		}},
	}
	address := netip.MustParseAddr("192.0.2.1")
	for _, local := range []bool{false, true} {
		service := plan.Service{Name: "d/web", Addresses: []netip.Addr{address}, Local: local}
		world := plan.World{Self: "n2", Nodes: s.PlanNodes(), Snapshot: snapshot, Electorates: plan.NewElectorates()}
		segment := s.Announcements(Groups([]plan.Service{service})[0], world).L2[address]
		var exempt []string
		if local {
			exempt = []string{"n2"}
		}
		if !slices.Equal(segment.Candidates, []string{"n1", "n2", "n3"}) || !slices.Equal(segment.Exempt, exempt) {
			t.Errorf("policy Local %t: candidates %v, of which %v need not steer", local, segment.Candidates, segment.Exempt)
		}
	}
}
