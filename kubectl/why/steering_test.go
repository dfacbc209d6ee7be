package why

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/kubectl/cluster"
)

func TestNotSteered(t *testing.T) {
	steered := func(s *cluster.State) {
		s.Pools[0].Spec.Dataplane = v1alpha1.DataplaneSteering
		s.Services[0].Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	reports := func(s *cluster.State, status metav1.ConditionStatus, message string) {
		speaker := s.Speakers[0]
		speaker.Status.Steering.Ports = new(int32)
		speaker.Status.Conditions = append(speaker.Status.Conditions, metav1.Condition{
			Type: v1alpha1.ConditionSteeringReady, Status: status, Message: message,
		})
	}
	for _, c := range []struct {
		name   string
		change func(*cluster.State)
		want   string // what it begins with; empty: nothing
	}{
		{
			"another data plane", func(*cluster.State) {},
			"connections are not steered: no LoadBalancerPool of its addresses has spec.dataplane: Steering",
		},
		{
			"policy Cluster", func(s *cluster.State) { s.Pools[0].Spec.Dataplane = v1alpha1.DataplaneSteering },
			"connections are not steered, since spec.externalTrafficPolicy is Cluster; write Local",
		},
		{
			"no node steers", steered,
			"connections are not steered, and only nodes with a ready endpoint announce it, since no node steers: n1 does not steer",
		},
		{
			"a node cannot", func(s *cluster.State) { steered(s); reports(s, metav1.ConditionFalse, "no BPF") },
			"connections are not steered, and only nodes with a ready endpoint announce it, since no node steers: n1 does not steer (no BPF)",
		},
		{
			"a node steers", func(s *cluster.State) { steered(s); reports(s, metav1.ConditionTrue, "steers") }, "",
		},
	} {
		s := healthy()
		c.change(s)
		got := NotSteered(s, "shop", "web")
		if c.want == "" && got != "" || !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
