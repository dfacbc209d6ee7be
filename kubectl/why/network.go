package why

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/announcement"
)

// announced says by what the addresses are announced, and which rule takes out each node.
func (l *look) announced() Step {
	c := l.outlook.Condition()
	step := Step{Name: "Announced", Grade: OK, Text: c.Message, next: nextOfAnnounced(l, c.Reason)}
	if !c.OK {
		step.Grade = Failure
	} else if c.Warns {
		step.Grade = Warning
	}
	switch c.Reason {
	case announcement.ReasonNoAnnouncement:
		l.blame(&step, func(string) bool { return true }, "SegmentAnnouncement", "RouteAnnouncement")
	case announcement.ReasonNoSession:
		l.blame(&step, l.toldBy, "BGPNeighbor")
	}
	if has := l.condition(v1alpha1.ServiceAnnounced); has != nil && (has.Status == metav1.ConditionTrue) != c.OK {
		step.Details = append(
			step.Details,
			fmt.Sprintf(
				"the condition says %s %s since %s: %s",
				has.Status,
				has.Reason,
				l.ago(has.LastTransitionTime.Time),
				has.Message,
			),
		)
	}
	for _, a := range l.addresses {
		for _, p := range l.prospects[a] {
			text := "may announce it"
			if p.Obstacle != "" {
				text = p.Obstacle
			}
			step.Details = append(step.Details, fmt.Sprintf("%s by %s: %s %s", a, p.Announcement, p.Node, text))
		}
	}
	return step
}

// may returns the nodes that may announce the address by an announcement of this kind.
func (l *look) may(a netip.Addr, kind string) []string {
	var nodes []string
	for _, p := range l.prospects[a] {
		if p.Obstacle == "" && strings.HasPrefix(p.Announcement, kind+" ") && !slices.Contains(nodes, p.Node) {
			nodes = append(nodes, p.Node)
		}
	}
	return nodes
}

// ownersOf returns who answers for the address, by segment.
func (l *look) ownersOf(a netip.Addr) []*v1alpha1.L2Owner {
	var found []*v1alpha1.L2Owner
	for _, o := range l.Owners {
		if o.Status.Address == a.String() {
			found = append(found, o)
		}
	}
	slices.SortFunc(found, func(a, b *v1alpha1.L2Owner) int { return strings.Compare(a.Name, b.Name) })
	return found
}

// macOf returns the MAC address that is answered for the address on the first segment, if any.
func (l *look) macOf(a netip.Addr) string {
	for _, o := range l.ownersOf(a) {
		return o.Status.MAC
	}
	return ""
}

// youngClaim is for how many seconds after a move some clients may still send to the former owner:
// those that missed the announcement ask again for a neighbor after half a minute.
const youngClaim = 60

// owners says who answers on each segment.
func (l *look) owners() Step {
	step := Step{Name: "Owner", Grade: OK}
	var texts []string
	for _, a := range l.addresses {
		may := l.may(a, "SegmentAnnouncement")
		owners := l.ownersOf(a)
		if len(may) == 0 && len(owners) == 0 {
			continue
		}
		if len(owners) == 0 {
			texts = append(texts, fmt.Sprintf("nobody answers for %s on a segment, though %s may", a, few(may)))
			step.Grade = Failure
			step.next = fmt.Sprintf(
				"kubectl logs -n %s -l app.kubernetes.io/component=speaker -c heart --prefix --tail=20",
				l.Namespace,
			)
			continue
		}
		for _, o := range owners {
			s := o.Status
			texts = append(texts, fmt.Sprintf("%s answers for %s on %s (%s)", s.NodeName, a, s.Interface, s.Segment))
			line := fmt.Sprintf("%s: clients on segment %s must have it at %s", a, s.Segment, s.MAC)
			if s.AcquireTime != nil {
				age := l.Taken.Sub(s.AcquireTime.Time)
				line += fmt.Sprintf("; %s has it since %s", s.NodeName, l.ago(s.AcquireTime.Time))
				if age.Seconds() < youngClaim {
					line += ", so a client that missed the announcement may send to the former owner for some seconds more"
				}
			}
			step.Details = append(step.Details, line)
			if l.Node(s.NodeName) == nil {
				step.Grade = Failure
				texts = append(texts, fmt.Sprintf("but there is no node %s any more", s.NodeName))
			} else if !slices.Contains(may, s.NodeName) && step.Grade == OK {
				step.Grade = Note
				texts = append(texts, fmt.Sprintf("which is no candidate now, so it hands over to %s", orNobody(may)))
			}
		}
	}
	if len(texts) == 0 {
		return Step{}
	}
	step.Text = strings.Join(texts, ", ")
	return step
}

func orNobody(nodes []string) string {
	if len(nodes) == 0 {
		return "nobody: there is no candidate"
	}
	return few(nodes)
}

// neighbors returns the nodes that are to tell a BGPNeighbor of the addresses, by its name.
func (l *look) neighbors() map[string]map[string]bool {
	selected := map[string]map[string]bool{}
	for _, a := range l.addresses {
		for _, r := range l.snapshot.BGPFor(a, l.outlook.Labels[a]...) {
			for _, p := range l.prospects[a] {
				if p.Announcement != "RouteAnnouncement "+r.Name || strings.HasPrefix(p.Obstacle, "is not matched") {
					continue
				}
				for _, n := range l.BGPNeighbors {
					if r.To(n.Name) {
						if selected[n.Name] == nil {
							selected[n.Name] = map[string]bool{}
						}
						selected[n.Name][p.Node] = true
					}
				}
			}
		}
	}
	return selected
}

// toldBy reports whether a BGPNeighbor is to be told of the addresses.
func (l *look) toldBy(neighbor string) bool { return l.neighbors()[neighbor] != nil }

// sessions says with which routers the nodes that announce have a session.
func (l *look) sessions() Step {
	step := Step{Name: "Sessions", Grade: OK, next: "kubectl describe bgpneighbors.berth.dev"}
	up, all := 0, 0
	selected := l.neighbors()
	for _, s := range l.Speakers {
		for _, session := range s.Status.Sessions {
			if !selected[session.NeighborName][s.Name] {
				continue
			}
			all++
			line := fmt.Sprintf("%s with %s: %s", s.Name, session.NeighborName, session.State)
			if session.Address != nil && *session.Address != "" {
				line = fmt.Sprintf("%s with %s (%s): %s", s.Name, session.NeighborName, *session.Address, session.State)
			}
			if session.LastTransitionTime != nil {
				line += " since " + l.ago(session.LastTransitionTime.Time)
			}
			if session.State == v1alpha1.SessionEstablished {
				up++
				if session.Prefixes != nil {
					line += fmt.Sprintf(", %d prefixes", *session.Prefixes)
				}
			} else if session.LastError != "" {
				line += ": " + session.LastError
			}
			step.Details = append(step.Details, line)
		}
	}
	slices.Sort(step.Details)
	if len(selected) == 0 {
		return Step{}
	}
	step.Text = fmt.Sprintf("%d of %d established", up, all)
	if all == 0 {
		step.Text = "no speaker has one, or tries"
	}
	if up < all || all == 0 {
		step.Grade = Note
		if up > 0 {
			step.Grade = Warning
			step.Text += ": some nodes do not announce it"
		}
	}
	return step
}

// returnPath says whether replies leave as requests come.
func (l *look) returnPath() Step {
	step := Step{Name: "Return path", Grade: OK, Text: "replies leave by the interface that requests come by"}
	var other, proxied []string
	known := false
	for _, s := range l.Speakers {
		if !l.announces(s.Name) {
			continue
		}
		for _, segment := range s.Status.Segments {
			switch segment.ReturnPath {
			case v1alpha1.ReturnPathOther:
				known = true
				other = append(other, s.Name+" "+segment.Interface)
			case v1alpha1.ReturnPathSame:
				known = true
			}
			if segment.ProxyARPMAC != "" {
				proxied = append(proxied, fmt.Sprintf("%s sees router %s", s.Name, segment.ProxyARPMAC))
			}
		}
	}
	switch {
	case len(other) > 0:
		step.Grade = Warning
		step.Text = fmt.Sprintf(
			"replies to clients beyond the segment leave by another interface than requests come by, which routers and rp_filter drop: %s",
			strings.Join(other, ", "),
		)
		step.next = "on one of these nodes: ip route get CLIENT-ADDRESS    # it must leave by that interface; spec.nodeSelector of the SegmentAnnouncement can leave the node out"
	case !known:
		return Step{}
	}
	if len(proxied) > 0 {
		step.Grade = Warning
		step.Text += fmt.Sprintf(
			"; a router answers ARP for every address (proxy ARP), and clients may take it for the owner: %s",
			strings.Join(proxied, ", "),
		)
		step.next = "turn proxy ARP off on that router's interface"
	}
	return step
}

// announces reports whether the node may announce one of the addresses on a segment.
func (l *look) announces(node string) bool {
	return slices.ContainsFunc(l.addresses, func(a netip.Addr) bool {
		return slices.Contains(l.may(a, "SegmentAnnouncement"), node)
	})
}

// sources says who may connect at all.
func (l *look) sources() Step {
	ranges := l.svc.Spec.LoadBalancerSourceRanges
	if len(ranges) == 0 {
		return Step{}
	}
	return Step{
		Name: "Clients", Grade: Note,
		Text: "only clients in " + strings.Join(
			ranges,
			", ",
		) + " may connect (spec.loadBalancerSourceRanges); packets of others are dropped without an answer",
		next: l.command("get", "-o jsonpath='{.spec.loadBalancerSourceRanges}'"),
	}
}
