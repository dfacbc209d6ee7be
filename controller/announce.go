package controller

import (
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/ipam"
)

// Reasons of the condition berth.dev/Announced.
const (
	ReasonAnnounced       = "Announced"       // True: each address is announced, or about to be
	ReasonNoAddress       = "NoAddress"       // False: there is nothing to announce
	ReasonNoAnnouncement  = "NoAnnouncement"  // False: no announcement selects an address
	ReasonAddressConflict = "AddressConflict" // False: a foreign host announces an address
	ReasonNoEndpoints     = "NoEndpoints"     // False: policy Local, and no node has an endpoint
	ReasonNoCandidate     = "NoCandidate"     // False: a rule keeps every selected node from announcing
	ReasonNoSpeaker       = "NoSpeaker"       // False: nodes may announce, but no speaker on them does
	ReasonNoSession       = "NoSession"       // False: announced by BGP only, and no session is established
)

// nodeView is what the controller knows of a node that matters to announcing.
type nodeView struct {
	labels   map[string]string
	excluded string // why it announces nothing; empty: it may
	alive    bool   // the Node is Ready
	speaker  v1alpha1.SpeakerState
	awaited  bool              // its speaker has Stopped to be replaced, and the next one is expected still
	leaves   string            // why its speaker is Leaving
	segments []string          // interfaces on which its speaker announces, sorted
	oneWay   []string          // interfaces whose replies leave by another, sorted
	proxies  map[string]string // MAC addresses of routers that answer for every address, by interface
	sessions []session         // that are established, sorted
	failing  []string          // neighbors with which it has no session, and says why, sorted
	// schedulers of IPVS by which it can forward, sorted, and why it can by none, or not by all.
	schedulers []string
	noIPVS     string
}

// session is an established session with a BGPNeighbor, and the families that it carries.
type session struct {
	neighbor   string
	ipv4, ipv6 bool
}

func (s session) carries(address netip.Addr) bool {
	return address.Is4() && s.ipv4 || address.Is6() && s.ipv6
}

// foreign is who else uses an address of Berth's.
type foreign struct {
	mac         string
	has         string // the node whose MAC address it is; empty: a host that is not of the cluster
	node, iface string // where it was heard
}

// String says who uses the address, where that was heard, and what to do.
func (f foreign) String() string {
	if f.has != "" {
		return fmt.Sprintf("is answered for by node %s (%s), heard on %s of node %s, though its speaker does not announce it: an interface of that node has the address, or another load balancer there (MetalLB's speaker, kube-vip) announces it; it is announced once that ends",
			f.has, f.mac, f.iface, f.node)
	}
	return fmt.Sprintf("is announced by %s too, heard on %s of node %s: a host that is not Berth's has the address; take it from that host, or exclude it with spec.reserved of its LoadBalancerPool and ask for another",
		f.mac, f.iface, f.node)
}

// outlook is all that bears on whether the addresses of a Service are announced.
type outlook struct {
	addresses []netip.Addr
	// labels of the Services that have each address; without an entry those of none.
	labels    map[netip.Addr][]labels.Set
	local     bool // externalTrafficPolicy
	endpoints candidate.Endpoints
	// unknown: there is no EndpointSlice of the Service, so endpoints says nothing.
	unknown   bool
	conflicts map[netip.Addr]foreign
	snapshot  *config.Snapshot
	nodes     map[string]nodeView
	errors    sessionErrors
	forwarder forwarder
}

// condition says by which announcements the addresses are announced, or why one of them is not. Who
// answers on a segment is in the L2Owners, and how many sessions there are in the BGPNeighbors: a
// node that comes or goes does not change every Service.
func (o outlook) condition() condition {
	c := condition{kind: v1alpha1.ServiceAnnounced, warns: o.forwarder.complaint != ""}
	if len(o.addresses) == 0 {
		c.reason, c.message = ReasonNoAddress, "no address to announce: see condition "+v1alpha1.ServiceAllocated
		return c
	}
	var by []string
	var risks hazards
	for _, address := range o.addresses {
		found, reason, message := o.announcers(address)
		if reason != "" {
			c.reason, c.message = reason, message
			if c.warns {
				c.message += "; " + o.forwarder.complaint
			}
			return c
		}
		by = unite(by, found)
		risks = risks.or(o.hazards(address))
	}
	c.ok, c.reason, c.message = true, ReasonAnnounced, "by "+strings.Join(by, ", ")
	switch {
	case o.local:
		c.message += ", from nodes with a ready Pod (externalTrafficPolicy Local)"
	case !o.endpoints.Some && !o.unknown:
		c.message += "; it has no endpoint that is ready or serves, so connections are refused"
	}
	c.message += risks.String() + o.forwarder.remarks()
	return c
}

// hazards are what may keep some clients from an address that is answered for on a segment.
type hazards struct{ oneWay, proxied bool }

// hazards returns those of the nodes that may answer for the address.
func (o outlook) hazards(address netip.Addr) hazards {
	var found hazards
	for name, n := range o.nodes {
		if len(n.oneWay)+len(n.proxies) == 0 || o.obstacle(name, n).text != "" {
			continue
		}
		for _, a := range o.snapshot.L2For(address, o.labels[address]...) {
			if a.Nodes.Matches(labels.Set(n.labels)) {
				found = found.or(hazards{
					oneWay:  hasInterface(n.oneWay, a.Interfaces),
					proxied: hasInterface(slices.Collect(maps.Keys(n.proxies)), a.Interfaces),
				})
			}
		}
	}
	return found
}

func (h hazards) or(other hazards) hazards {
	return hazards{oneWay: h.oneWay || other.oneWay, proxied: h.proxied || other.proxied}
}

// String returns the end of a message. Which nodes, interfaces and routers it is about their
// Speakers tell, so that the message stays the same when an address moves.
func (h hazards) String() string {
	var text string
	if h.oneWay {
		text += "; clients beyond the segment may get no reply from some nodes, whose routes to them leave by another interface (spec.nodeSelector can leave those out; see returnPath in kubectl get speakers.berth.dev -o yaml)"
	}
	if h.proxied {
		text += "; some clients may not reach it, since a router answers ARP for every address on a segment (proxy ARP); turn that off there (see proxyARPMAC in kubectl get speakers.berth.dev -o yaml)"
	}
	return text
}

func unite(a, b []string) []string {
	for _, s := range b {
		if !slices.Contains(a, s) {
			a = append(a, s)
		}
	}
	return a
}

// announcers returns the announcements that are acted on for the address, or the reason and the
// message that say why none is.
func (o outlook) announcers(address netip.Addr) (found []string, reason, message string) {
	l2, bgp := o.snapshot.L2For(address, o.labels[address]...), o.snapshot.BGPFor(address, o.labels[address]...)
	if len(l2)+len(bgp) == 0 {
		return found, ReasonNoAnnouncement, o.unannounced(address)
	}
	if f, conflict := o.conflicts[address]; conflict && len(l2) > 0 {
		return found, ReasonAddressConflict, fmt.Sprintf("%s %s", address, f)
	}
	var names []string
	obstacles := map[string]obstacle{}
	for _, a := range l2 {
		name := "SegmentAnnouncement " + a.Name
		names = append(names, name)
		if o.passable(a.Nodes, obstacles, func(_ string, n nodeView) obstacle {
			if hasInterface(n.segments, a.Interfaces) {
				return obstacle{}
			}
			return obstacle{text: "has a speaker that announces on no interface named there"}
		}) {
			found = append(found, name)
		}
	}
	for _, a := range bgp {
		name := "RouteAnnouncement " + a.Name
		names = append(names, name)
		if o.passable(a.Nodes, obstacles, func(node string, n nodeView) obstacle { return o.sessionObstacle(a, address, node, n) }) {
			found = append(found, name)
		}
	}
	if len(found) > 0 {
		return found, "", ""
	}
	selected := fmt.Sprintf("%s is selected by %s", address, strings.Join(names, ", "))
	reason, message = o.nobody(obstacles)
	return found, reason, selected + ", but " + message
}

// sessionObstacle says why a node cannot announce the address by BGP to a neighbor of the announcement.
func (o outlook) sessionObstacle(a *config.RouteAnnouncement, address netip.Addr, node string, n nodeView) obstacle {
	switch {
	case slices.ContainsFunc(n.sessions, func(s session) bool { return a.To(s.neighbor) && s.carries(address) }):
		return obstacle{}
	case slices.ContainsFunc(n.sessions, func(s session) bool { return a.To(s.neighbor) }):
		return obstacle{text: "has no session there that carries " + ipam.FamilyOf(address).String(), session: true}
	}
	var reasons []string
	for _, neighbor := range n.failing {
		if text := o.errors[neighbor][node]; a.To(neighbor) && text != "" {
			reasons = append(reasons, neighbor+": "+text)
		}
	}
	text := "has no established session with a neighbor selected there"
	if len(reasons) > 0 {
		text += " (" + few(reasons) + ")"
	}
	return obstacle{text: text, session: true}
}

// unannounced says why no announcement selects the address.
func (o outlook) unannounced(address netip.Addr) string {
	p := o.snapshot.PoolOf(address)
	if p == nil {
		return fmt.Sprintf("%s answers nowhere: it is in no LoadBalancerPool, and no SegmentAnnouncement or RouteAnnouncement selects all pools; add it to a pool that is announced", address)
	}
	if names := o.snapshot.AnnouncementsOf(p); len(names) > 0 {
		verb, of := "selects", "its"
		if len(names) > 1 {
			verb, of = "select", "their"
		}
		return fmt.Sprintf("%s answers nowhere: %s %s LoadBalancerPool %s, but not this Service, by %s serviceSelector; change that, or the labels of the Service", address, few(names), verb, p.Name, of)
	}
	return fmt.Sprintf("%s answers nowhere: no SegmentAnnouncement or RouteAnnouncement selects LoadBalancerPool %s; create one", address, p.Name)
}

// obstacle is what keeps a node from announcing, in words that follow its name; none
// without words.
type obstacle struct {
	text    string
	rule    bool // the node is no candidate
	session bool // all is well but for a BGP session
}

// passable tells whether a node that the selector matches can announce, by what holds
// of all nodes and by the last word of this announcement. If none can it has noted
// the obstacle of each.
func (o outlook) passable(selector labels.Selector, obstacles map[string]obstacle, last func(string, nodeView) obstacle) bool {
	for name, n := range o.nodes {
		if !selector.Matches(labels.Set(n.labels)) {
			continue
		}
		ob := o.obstacle(name, n)
		if ob.text == "" {
			ob = last(name, n)
		}
		if ob.text == "" {
			return true
		}
		if !obstacles[name].session {
			obstacles[name] = ob
		}
	}
	return false
}

func (o outlook) obstacle(name string, n nodeView) obstacle {
	absence := n.absence()
	switch {
	case absence.rule:
		return absence
	case o.local && !o.endpoints.Nodes()[name]:
		return obstacle{text: "has no ready endpoint", rule: true}
	case absence.text != "":
		return absence
	case n.speaker != v1alpha1.SpeakerAnnouncing:
		return obstacle{text: "has a speaker that is " + string(n.speaker)}
	case o.forwarder.scheduler != "":
		return obstacle{text: n.incapacity(o.forwarder.scheduler), rule: true}
	}
	return obstacle{}
}

// nobody says why no node announces, by what keeps each selected one from it.
func (o outlook) nobody(obstacles map[string]obstacle) (reason, message string) {
	if o.local && len(o.endpoints.Nodes()) == 0 {
		return ReasonNoEndpoints, "no node has an endpoint of the Service that is ready, or terminating and serving (externalTrafficPolicy Local); see its EndpointSlices"
	}
	reason = ReasonNoCandidate
	var each []string
	for name, ob := range obstacles {
		each = append(each, name+" "+ob.text)
		switch {
		case ob.session:
			reason = ReasonNoSession
		case !ob.rule && reason == ReasonNoCandidate:
			reason = ReasonNoSpeaker
		}
	}
	if len(each) == 0 {
		return reason, "no node is matched by its nodeSelector"
	}
	slices.Sort(each)
	switch reason {
	case ReasonNoCandidate:
		return reason, "no selected node may announce it: " + few(each)
	case ReasonNoSpeaker:
		return reason, "no speaker on a selected node announces: " + few(each) + "; see kubectl get speakers.berth.dev"
	}
	return reason, "no selected node has a session for it: " + few(each) + "; see kubectl get speakers.berth.dev"
}

// hasInterface tells whether one of the interfaces is one that the announcement
// names; no patterns stands for the default ones.
func hasInterface(interfaces, patterns []string) bool {
	return slices.ContainsFunc(interfaces, func(name string) bool {
		return len(patterns) == 0 || slices.ContainsFunc(patterns, func(pattern string) bool {
			ok, err := path.Match(pattern, name)
			return ok && err == nil
		})
	})
}
