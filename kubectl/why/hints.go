package why

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/controller/service"
	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/speaker/object"
	"github.com/berth-lb/berth/speaker/plan"
)

// leftOut says where clients reach only some of the ready endpoints because of hints, one line for
// each zone or node. Under policy Local hints do not count.
func (l *look) leftOut() []string {
	needs := []cluster.Resource{
		cluster.Pools, cluster.SegmentAnnouncements, cluster.RouteAnnouncements, cluster.Nodes, cluster.Speakers,
		cluster.Owners,
	}
	if service.Local(l.svc) || len(l.Lack(needs...)) > 0 {
		return nil
	}
	// Who is near is decided by the plan of the data plane, which is kube-proxy's rule.
	backends, nodes := object.Backends(l.slices()), l.PlanNodes()
	like := map[string][]string{} // nodes, by what is to be said of them
	for _, node := range l.entries() {
		reached, ready, by := l.reached(backends, plan.World{Self: node, Nodes: nodes})
		if reached == ready {
			continue
		}
		where := "node " + node
		if by == plan.ZoneHints {
			where = "zone " + nodes[node].Labels[corev1.LabelTopologyZone]
		}
		text := fmt.Sprintf(
			"%d of the %d ready endpoints: those that EndpointSlices hint for %s",
			reached,
			ready,
			where,
		)
		like[text] = append(like[text], node)
	}
	var lines []string
	for _, text := range slices.Sorted(maps.Keys(like)) {
		lines = append(lines, "what arrives at "+few(like[text])+" goes to "+text)
	}
	return lines
}

// entries returns the nodes that clients' packets come to, sorted: those that answer for an
// address, and those that may tell a router of it.
func (l *look) entries() []string {
	found := map[string]bool{}
	for _, a := range l.addresses {
		for _, o := range l.ownersOf(a) {
			found[o.Status.NodeName] = true
		}
		for _, node := range l.may(a, "RouteAnnouncement") {
			found[node] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// reached counts the endpoints that get new connections through the node of a World, and those that
// are ready, and says by which hints they are chosen.
func (l *look) reached(backends []plan.Backend, world plan.World) (reached, ready int, by plan.Hints) {
	var svc plan.Service
	object.ReadForwarding(&svc, l.svc)
	all, some := map[netip.Addr]bool{}, map[netip.Addr]bool{}
	for _, address := range l.addresses {
		for _, port := range svc.Ports {
			behind := plan.Behind(port, address, backends)
			takes, hints := plan.Targets(behind, world)
			by = max(by, hints)
			for _, b := range behind {
				if b.State == candidate.Ready {
					all[b.Address.Addr()] = true
				}
				if b.State == candidate.Ready && takes(b) {
					some[b.Address.Addr()] = true
				}
			}
		}
	}
	return len(some), len(all), by
}
