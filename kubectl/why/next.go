package why

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/announcement"
	"github.com/berth-lb/berth/controller/service"
)

const pools = "kubectl get loadbalancerpools.berth.dev -o wide"

// heldBy is who has an address, in the controller's words.
var heldBy = regexp.MustCompile(`is held by Service ([^/ ]+)/([^; ]+)`)

// nextOfReason returns the command that goes on from the reason of the condition Allocated.
func nextOfReason(l *look) string {
	c := l.condition(v1alpha1.ServiceAllocated)
	if c == nil {
		return ""
	}
	switch c.Reason {
	case service.ReasonPoolExhausted, service.ReasonPoolOutOfScope:
		if names := service.AnnotationList(l.svc.Annotations, v1alpha1.AnnotationPools); len(names) == 1 {
			return "kubectl edit loadbalancerpool.berth.dev " + names[0]
		}
		return pools
	case service.ReasonNoPool, service.ReasonUnknownPool, service.ReasonPoolDisabled, service.ReasonAddressOutside,
		service.ReasonExcluded:
		return pools
	case service.ReasonAddressInUse:
		if holder := heldBy.FindStringSubmatch(c.Message); holder != nil {
			return fmt.Sprintf("kubectl get service %s -n %s -o yaml", holder[2], holder[1])
		}
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
		if nodes := l.labeled(); nodes != "" {
			return "kubectl label nodes " + nodes + " " + v1alpha1.ExcludeLabel + "-"
		}
		return "kubectl get nodes --show-labels"
	case announcement.ReasonNoSpeaker:
		for _, p := range l.prospects[l.addresses[0]] {
			name, segment := strings.CutPrefix(p.Announcement, "SegmentAnnouncement ")
			if segment && strings.Contains(p.Obstacle, "spec.interfaces") {
				return "kubectl edit segmentannouncement.berth.dev " + name
			}
		}
		if slices.ContainsFunc(l.prospects[l.addresses[0]], func(p announcement.Prospect) bool {
			return strings.Contains(p.Obstacle, "interface")
		}) {
			return "kubectl get speakers.berth.dev -o custom-columns='NODE:.metadata.name,INTERFACES:.status.segments[*].interface'"
		}
		return "kubectl get pods -n " + l.Namespace + " -l app.kubernetes.io/component=speaker -o wide"
	case announcement.ReasonNoSession:
		if neighbors := slices.Collect(maps.Keys(l.neighbors())); len(neighbors) == 1 {
			return "kubectl edit bgpneighbor.berth.dev " + neighbors[0]
		}
		return "kubectl describe bgpneighbors.berth.dev"
	case announcement.ReasonNoEndpoints:
		return "kubectl get endpointslices -n " + l.svc.Namespace + " -l kubernetes.io/service-name=" + l.svc.Name
	case announcement.ReasonAddressConflict:
		return pools
	}
	return ""
}

// labeled returns the nodes that only the label keeps from announcing, with spaces between them;
// empty: something else keeps one of them.
func (l *look) labeled() string {
	var nodes []string
	for _, p := range l.prospects[l.addresses[0]] {
		switch {
		case p.Obstacle == candidate.HasLabel+v1alpha1.ExcludeLabel:
			if !slices.Contains(nodes, p.Node) {
				nodes = append(nodes, p.Node)
			}
		case !strings.HasPrefix(p.Obstacle, "is not matched"):
			return ""
		}
	}
	return strings.Join(nodes, " ")
}

// secretCommand makes the Secret that a problem says is missing; empty: it is another problem.
func (l *look) secretCommand(problem string) string {
	missing := missingSecret.FindStringSubmatch(problem)
	if missing == nil {
		return ""
	}
	return fmt.Sprintf("kubectl create secret generic %s -n %s --type=%s --from-literal=password=PASSWORD    # the router's",
		missing[1], l.Namespace, corev1.SecretTypeBasicAuth)
}

var missingSecret = regexp.MustCompile(`there is no Secret "([^"]+)" of type`)
