package announcement

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// Node is what matters about a node for announcing.
type Node struct {
	Labels   map[string]string
	Excluded string // why it must not announce; empty: it may
	Alive    bool   // the Node is Ready
	Speaker  v1alpha1.SpeakerState
	Awaited  bool              // its speaker has ended to be replaced, and the next one is still expected
	leaves   string            // why its speaker is Leaving
	segments []string          // interfaces on which its speaker announces, sorted
	oneWay   []string          // interfaces whose replies leave by another one, sorted
	proxies  map[string]string // MAC addresses of routers that answer for every address, by interface
	sessions []session         // that are established, sorted
	Failing  []string          // neighbors without a session, for which it reports an error; sorted
	// schedulers are the IPVS schedulers with which it can forward, sorted. noIPVS says why it has
	// none, or not all.
	schedulers []string
	noIPVS     string
	steers     bool
	noSteering string // why it does not
}

// session is an established session with a BGPNeighbor, and the families that it carries.
type session struct {
	neighbor   string
	ipv4, ipv6 bool
}

func (s session) carries(address netip.Addr) bool {
	return address.Is4() && s.ipv4 || address.Is6() && s.ipv6
}

// Report adds what the speaker of the node reports.
func (n *Node) Report(r v1alpha1.SpeakerStatus) {
	state, message := r.State()
	n.Speaker = state
	if state == v1alpha1.SpeakerLeaving {
		n.leaves = message
	}
	for _, segment := range r.Segments {
		if segment.State == v1alpha1.SegmentAnnouncing {
			n.segments = append(n.segments, segment.Interface)
		}
		if segment.ProxyARPMAC != "" {
			if n.proxies == nil {
				n.proxies = map[string]string{}
			}
			n.proxies[segment.Interface] = segment.ProxyARPMAC
		}
		if segment.ReturnPath == v1alpha1.ReturnPathOther {
			n.oneWay = append(n.oneWay, segment.Interface)
		}
	}
	for _, session := range r.Sessions {
		switch {
		case session.State == v1alpha1.SessionEstablished:
			n.sessions = append(n.sessions, established(session))
		case session.LastError != "":
			n.Failing = append(n.Failing, session.NeighborName)
		}
	}
	n.reportIPVS(r)
	n.reportSteering(r)
	slices.Sort(n.Failing)
	slices.Sort(n.segments)
	slices.Sort(n.oneWay)
	slices.SortFunc(n.sessions, func(a, b session) int { return cmp.Compare(a.neighbor, b.neighbor) })
}

func established(r v1alpha1.SessionReport) session {
	return session{
		neighbor: r.NeighborName,
		ipv4:     len(r.Families) == 0 || slices.Contains(r.Families, v1alpha1.IPv4),
		ipv6:     len(r.Families) == 0 || slices.Contains(r.Families, v1alpha1.IPv6),
	}
}

// reportIPVS adds how far the node can forward by IPVS. It leaves out the number of virtual
// servers, since each change of a Node requeues every Service.
func (n *Node) reportIPVS(r v1alpha1.SpeakerStatus) {
	if !r.IPVS.Asked() {
		n.noIPVS = "its speaker was not asked to"
		return
	}
	n.schedulers = slices.Sorted(slices.Values(r.IPVS.Schedulers))
	if ready := meta.FindStatusCondition(r.Conditions, v1alpha1.ConditionIPVSReady); ready != nil &&
		ready.Status == metav1.ConditionFalse {
		n.noIPVS = ready.Message
	}
}

// reportSteering adds whether the node steers. It leaves out the number of ports, since each change
// of a Node requeues every Service.
func (n *Node) reportSteering(r v1alpha1.SpeakerStatus) {
	if !r.Steering.Asked() {
		n.noSteering = "its speaker was not asked to"
		return
	}
	ready := meta.FindStatusCondition(r.Conditions, v1alpha1.ConditionSteeringReady)
	n.steers = ready != nil && ready.Status == metav1.ConditionTrue
	if ready != nil && !n.steers {
		n.noSteering = ready.Message
	}
}

// absence returns what keeps a node from doing anything for any Service, now and soon. A speaker
// that starts or is replaced will be back soon: an upgrade does not change what forwards.
func (n Node) absence() obstacle {
	switch {
	case n.Excluded != "":
		return obstacle{text: n.Excluded, rule: true}
	case !n.Alive:
		return obstacle{text: "is not ready"}
	case n.Speaker == "" || n.Speaker == v1alpha1.SpeakerPending:
		return obstacle{text: "has no speaker"}
	case n.Speaker == v1alpha1.SpeakerLeaving:
		return obstacle{text: "leaves: " + n.leaves, rule: true}
	case n.Speaker.Ended() && !n.Awaited:
		return obstacle{text: "has a speaker that is " + string(n.Speaker)}
	}
	return obstacle{}
}

// incapacity says why the node cannot forward with this scheduler, in words that follow its name.
// Empty: it can.
func (n Node) incapacity(scheduler string) string {
	if slices.Contains(n.schedulers, scheduler) {
		return ""
	}
	why := n.noIPVS
	if why == "" {
		why = "its kernel did not show scheduler " + scheduler
	}
	return fmt.Sprintf("cannot forward by IPVS (%s)", why)
}

// SessionErrors are the last errors of sessions that are not established, by neighbor and node.
type SessionErrors map[string]map[string]string

// Note adds the error of a session.
func (e SessionErrors) Note(neighbor, node, text string) {
	if e[neighbor] == nil {
		e[neighbor] = map[string]string{}
	}
	e[neighbor][node] = text
}
