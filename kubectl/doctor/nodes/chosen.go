package nodes

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/internal/probe"
	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/speaker/object"
)

// maxSilent is how many addresses of nodes that are not asked are asked for: as for maxRanges.
const maxSilent = 256

// choose returns the nodes that are asked, ascending, and notes which are not.
func (p *Plan) choose(s *cluster.State) []*corev1.Node {
	var nodes, silent []*corev1.Node
	for _, n := range s.Nodes {
		why := candidate.Exclusion(n)
		switch {
		case n.Labels[corev1.LabelOSStable] != "" && n.Labels[corev1.LabelOSStable] != "linux":
		case isVirtual(n):
			p.Facts = append(p.Facts, fmt.Sprintf(
				"node %s was not asked, since it is virtual and runs no pods in its network", n.Name,
			))
		case why != "":
			p.Facts = append(
				p.Facts,
				fmt.Sprintf("node %s was not asked, since it does not announce: it %s", n.Name, why),
			)
		case candidate.ReadyStatus(n) != corev1.ConditionTrue:
			p.Unknown = append(
				p.Unknown,
				fmt.Sprintf("node %s is not Ready: nothing was looked at from there", n.Name),
			)
		default:
			nodes = append(nodes, n)
			continue
		}
		silent = append(silent, n)
	}
	for _, n := range silent {
		if speaker := s.Speaker(n.Name); speaker != nil && len(speaker.Status.Segments) > 0 {
			continue // which has the MAC addresses
		}
		for _, a := range object.InternalIPs(n) {
			p.Silent[a] = n.Name
		}
	}
	slices.SortFunc(nodes, func(a, b *corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	return nodes
}

// isVirtual reports whether a node is a service that runs pods, as providers of Virtual Kubelet and
// EKS Fargate are: it has no network that a pod could share.
func isVirtual(n *corev1.Node) bool {
	return n.Labels["type"] == "virtual-kubelet" || n.Labels["eks.amazonaws.com/compute-type"] == "fargate" ||
		slices.ContainsFunc(
			n.Spec.Taints,
			func(t corev1.Taint) bool { return t.Key == "virtual-kubelet.io/provider" },
		)
}

// silentAsk asks on these interfaces for the addresses of nodes that are not asked, so that their
// MAC addresses become known.
func (p *Plan) silentAsk(interfaces []string) []probe.Ask {
	addresses := slices.SortedFunc(maps.Keys(p.Silent), netip.Addr.Compare)
	if len(addresses) == 0 {
		return nil
	}
	ask := probe.Ask{Interfaces: interfaces}
	for _, a := range addresses[:min(len(addresses), maxSilent)] {
		ask.Ranges = append(ask.Ranges, netipx.IPRangeFrom(a, a))
	}
	return []probe.Ask{ask}
}

// uncalled notes which routers no node calls.
func (p *Plan) uncalled(snapshot *config.Snapshot, nodes []*corev1.Node) {
	said := map[string]bool{}
	for _, n := range nodes {
		for _, x := range snapshot.NeighborsOf(labels.Set(n.Labels)) {
			why := ""
			switch {
			case x.Prefix.IsValid():
				why = fmt.Sprintf("routers in addressPrefix %s call the nodes, so none calls them", x.Prefix)
			case x.Passive:
				why = "it calls the nodes (connect: Accept), so none calls it"
			case !x.Address.IsValid():
				why = fmt.Sprintf("speakers find it on interface %s, and a probe does not", x.Interface)
			}
			if why != "" && !said[x.Name] {
				said[x.Name] = true
				p.Unknown = append(
					p.Unknown,
					fmt.Sprintf("whether the router of BGPNeighbor %s is reached: %s", x.Name, why),
				)
			}
		}
	}
}
