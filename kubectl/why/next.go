package why

import (
	"fmt"
	"slices"
	"strings"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/announcement"
	"github.com/berth-lb/berth/controller/service"
)

const pools = "kubectl get loadbalancerpools.berth.dev -o wide"

// nextOfReason returns the command that goes on from the reason of the condition Allocated.
func nextOfReason(l *look) string {
	c := l.condition(v1alpha1.ServiceAllocated)
	if c == nil {
		return ""
	}
	switch c.Reason {
	case service.ReasonNoPool, service.ReasonUnknownPool, service.ReasonPoolOutOfScope, service.ReasonPoolDisabled,
		service.ReasonPoolExhausted, service.ReasonAddressOutside, service.ReasonExcluded:
		return pools
	case service.ReasonAddressInUse:
		return "kubectl get services -A -o wide"
	case service.ReasonReserved:
		return "kubectl get addressreservations.berth.dev -A"
	case service.ReasonInvalidAddress,
		service.ReasonContradiction,
		service.ReasonFamilyMismatch,
		service.ReasonFamilyMissing:
		return l.command("edit")
	case service.ReasonResting:
		return l.command("get", "-w")
	}
	return ""
}

// nextOfAnnounced returns the command that goes on from the reason of the condition Announced.
func nextOfAnnounced(l *look, reason string) string {
	switch reason {
	case announcement.ReasonNoAnnouncement:
		if p := l.snapshot.PoolOf(l.addresses[0]); p != nil && len(l.snapshot.AnnouncementsOf(p)) == 0 {
			return fmt.Sprintf(`kubectl apply -f - <<EOF    # by ARP and NDP, on all nodes
apiVersion: berth.dev/v1alpha1
kind: SegmentAnnouncement
metadata: {name: %s}
spec: {poolNames: [%s], nodeSelector: {}, serviceSelector: {}}
EOF`, p.Name, p.Name)
		}
		return "kubectl get segmentannouncements.berth.dev,routeannouncements.berth.dev -o yaml"
	case announcement.ReasonNoCandidate:
		return "kubectl get nodes --show-labels"
	case announcement.ReasonNoSpeaker:
		if slices.ContainsFunc(l.prospects[l.addresses[0]], func(p announcement.Prospect) bool {
			return strings.Contains(p.Obstacle, "interface")
		}) {
			return "kubectl get speakers.berth.dev -o custom-columns='NODE:.metadata.name,INTERFACES:.status.segments[*].interface'"
		}
		return "kubectl get pods -n " + l.Namespace + " -l app.kubernetes.io/component=speaker -o wide"
	case announcement.ReasonNoSession:
		return "kubectl describe bgpneighbors.berth.dev"
	case announcement.ReasonNoEndpoints:
		return "kubectl get endpointslices -n " + l.svc.Namespace + " -l kubernetes.io/service-name=" + l.svc.Name
	case announcement.ReasonAddressConflict:
		return pools
	}
	return ""
}
