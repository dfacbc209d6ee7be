package why

import (
	"fmt"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/kubectl/cluster"
)

// NotSteered says why connections to a Service are not steered, as far as the configuration and the
// nodes' reports show; empty: they should be, or that could not be read.
func NotSteered(s *cluster.State, namespace, name string) string {
	l := newLook(s, namespace, name, Pods{})
	if l == nil || len(s.Lack(cluster.Pools)) > 0 {
		return ""
	}
	how, complaint := l.snapshot.Steered(l.addresses, l.outlook.Local)
	switch {
	case complaint != "":
		return complaint
	case how == nil:
		return fmt.Sprintf("connections are not steered: no LoadBalancerPool of its addresses has spec.dataplane: %s",
			v1alpha1.DataplaneSteering)
	case len(s.Lack(cluster.SegmentAnnouncements, cluster.RouteAnnouncements, cluster.Nodes, cluster.Speakers)) > 0:
		return ""
	}
	return l.outlook.Forwarder.Fallback
}
