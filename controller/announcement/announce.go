package announcement

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
	"github.com/berth-lb/berth/controller/condition"
	"github.com/berth-lb/berth/ipam"
)

// Reasons of the condition berth.dev/Announced.
const (
	ReasonAnnounced       = "Announced"       // True: each address is announced, or soon will be
	ReasonNoAddress       = "NoAddress"       // False: there is nothing to announce
	ReasonNoAnnouncement  = "NoAnnouncement"  // False: no announcement selects an address
	ReasonAddressConflict = "AddressConflict" // False: a foreign host announces an address
	ReasonNoEndpoints     = "NoEndpoints"     // False: policy Local, and no node has an endpoint
	ReasonNoCandidate     = "NoCandidate"     // False: a rule keeps every selected node from announcing
	ReasonNoSpeaker       = "NoSpeaker"       // False: nodes may announce, but no speaker on them does
	ReasonNoSession       = "NoSession"       // False: announced by BGP only, and no session is established
)

// KnownReason reports whether it is a reason of the condition berth.dev/Announced.
func KnownReason(reason string) bool { return slices.Contains(reasons, reason) }

var reasons = []string{
	ReasonAnnounced, ReasonNoAddress, ReasonNoAnnouncement, ReasonAddressConflict, ReasonNoEndpoints, ReasonNoCandidate,
	ReasonNoSpeaker, ReasonNoSession,
}

// Holder describes another host that uses one of Berth's addresses.
type Holder struct {
	MAC             string
	Owner           string // the node with this MAC address; empty: a host outside the cluster
	Node, Interface string // that heard the host
}

// String says who uses the address, where the host was heard, and what to do.
func (h Holder) String() string {
	if h.Owner != "" {
		return fmt.Sprintf(
			"is answered for by node %s (%s), heard on %s of node %s, though its speaker does not announce it: an interface of that node has the address, or another load balancer there (MetalLB's speaker, kube-vip) announces it; it is announced once that ends",
			h.Owner,
			h.MAC,
			h.Interface,
			h.Node,
		)
	}
	return fmt.Sprintf(
		"is announced by %s too, heard on %s of node %s: a host that is not Berth's has the address; take it from that host, or exclude it with spec.reserved of its LoadBalancerPool and ask for another",
		h.MAC,
		h.Interface,
		h.Node,
	)
}

// Service is everything that decides whether the addresses of a Service are announced.
type Service struct {
	Addresses []netip.Addr
	// Labels are those of the Services that share each address. An address without an entry has a
	// Service without labels.
	Labels    map[netip.Addr][]labels.Set
	Local     bool // externalTrafficPolicy
	Endpoints candidate.Endpoints
	// Unknown says that the Service has no EndpointSlice, so Endpoints means nothing.
	Unknown   bool
	Conflicts map[netip.Addr]Holder
	Snapshot  *config.Snapshot
	Nodes     map[string]Node
	Errors    SessionErrors
	Findings  *Findings // about Nodes and Errors
	Forwarder Forwarder
}

// Condition returns the condition Announced: which announcements announce the addresses, or why one
// address is not announced. Which node answers on a segment is shown in the L2Owners, and how many
// sessions there are in the BGPNeighbors, so that a node that comes or goes does not change every
// Service.
func (s Service) Condition() condition.Condition {
	c := condition.Condition{Kind: v1alpha1.ServiceAnnounced, Warns: s.Forwarder.complaint != ""}
	if len(s.Addresses) == 0 {
		c.Reason, c.Message = ReasonNoAddress, "no address to announce: see condition "+v1alpha1.ServiceAllocated
		return c
	}
	var by []string
	var risks hazards
	for _, address := range s.Addresses {
		a := s.acting(address)
		if a.reason != "" {
			c.Reason, c.Message = a.reason, a.message
			if c.Warns {
				c.Message += "; " + s.Forwarder.complaint
			}
			return c
		}
		by = unite(by, a.by)
		risks = risks.or(a.hazards)
	}
	c.OK, c.Reason, c.Message = true, ReasonAnnounced, "by "+strings.Join(by, ", ")
	switch {
	case s.Forwarder.steers && s.Local:
		c.Message += ", by nodes that steer connections to those with a ready Pod (externalTrafficPolicy Local)"
	case s.Forwarder.steers:
		c.Message += ", by nodes that steer connections to those with a ready Pod"
	case s.Local:
		c.Message += ", from nodes with a ready Pod (externalTrafficPolicy Local)"
	case !s.Endpoints.Some && !s.Unknown:
		c.Message += "; it has no endpoint that is ready or serves, so connections are refused"
	}
	c.Message += risks.String() + s.Forwarder.remarks()
	return c
}

// hazards are reasons why some clients may not reach an address that is announced on a segment.
type hazards struct{ oneWay, proxied bool }

// hazards returns those of the nodes that may announce an address in these ways.
func (s Service) hazards(ways []way) hazards {
	var found hazards
	for name, n := range s.able() {
		if len(n.oneWay)+len(n.proxies) == 0 || s.obstacle(name, n).text != "" {
			continue
		}
		for _, w := range ways {
			if w.onSegment && w.nodes.Matches(labels.Set(n.Labels)) {
				found = found.or(hazards{
					oneWay:  hasInterface(n.oneWay, w.interfaces),
					proxied: hasInterface(slices.Collect(maps.Keys(n.proxies)), w.interfaces),
				})
			}
		}
	}
	return found
}

func (h hazards) or(other hazards) hazards {
	return hazards{oneWay: h.oneWay || other.oneWay, proxied: h.proxied || other.proxied}
}

// String returns the end of a message. It does not name nodes, interfaces and routers, which the
// Speakers show, so that the message stays the same when an address moves.
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

// acting returns the announcements by which the address is announced and their hazards, or the
// reason and the message that say why there is none.
func (s Service) acting(address netip.Addr) answer {
	ways := s.ways(address)
	if len(ways) == 0 {
		return answer{reason: ReasonNoAnnouncement, message: s.unannounced(address)}
	}
	onSegment := func(w way) bool { return w.onSegment }
	if f, conflict := s.Conflicts[address]; conflict && slices.ContainsFunc(ways, onSegment) {
		return answer{reason: ReasonAddressConflict, message: fmt.Sprintf("%s %s", address, f)}
	}
	found := func() answer { return s.among(ways) }
	var a answer
	if s.Local { // it depends on the endpoints of this Service
		a = found()
	} else {
		a = s.remember("acting", ways, address.Is6(), found)
	}
	if a.reason != "" {
		a.message = address.String() + a.message
	}
	return a
}

// among returns which of the ways nodes can go, and their hazards, or the reason and the end of the
// message that say why none can.
func (s Service) among(ways []way) answer {
	var all, passable []string
	obstacles := map[string]obstacle{}
	for _, w := range ways {
		all = append(all, w.announcement)
		if s.passable(w.nodes, obstacles, w.last) {
			passable = append(passable, w.announcement)
		}
	}
	if len(passable) > 0 {
		return answer{by: passable, hazards: s.hazards(ways)}
	}
	reason, message := s.nobody(ways, obstacles)
	return answer{
		reason: reason, message: fmt.Sprintf(" is selected by %s, but %s", strings.Join(all, ", "), message),
	}
}

// remember returns what is found about nodes for announcements of an address of a family. Nothing
// else of the Service than its Forwarder may count in it.
func (s Service) remember(about string, ways []way, ipv6 bool, find func() answer) answer {
	q := question{about: about, ipv6: ipv6, scheduler: s.Forwarder.scheduler, steers: s.Forwarder.steers}
	for _, w := range ways {
		q.ways += w.announcement + ","
	}
	return s.Findings.remember(s.Snapshot, q, find)
}

// way is a way in which an address is announced: an announcement that selects it.
type way struct {
	announcement string   // its kind and name
	onSegment    bool     // by ARP and NDP
	interfaces   []string // patterns; none: all
	nodes        labels.Selector
	// last returns what keeps a node from this announcement alone.
	last func(node string, n Node) obstacle
}

// ways returns those of the address.
func (s Service) ways(address netip.Addr) []way {
	var all []way
	for _, a := range s.Snapshot.L2For(address, s.Labels[address]...) {
		all = append(all, way{"SegmentAnnouncement " + a.Name, true, a.Interfaces, a.Nodes, func(_ string, n Node) obstacle {
			if hasInterface(n.segments, a.Interfaces) {
				return obstacle{}
			}
			return obstacle{text: interfaceObstacle(n.segments, a.Interfaces)}
		}})
	}
	for _, a := range s.Snapshot.BGPFor(address, s.Labels[address]...) {
		all = append(all, way{"RouteAnnouncement " + a.Name, false, nil, a.Nodes, func(node string, n Node) obstacle {
			return s.sessionObstacle(a, address, node, n)
		}})
	}
	return all
}

// Prospect is what comes of an announcement of an address on one node.
type Prospect struct {
	Announcement string `json:"announcement"` // its kind and name
	Node         string `json:"node"`
	// Obstacle keeps the node from announcing, in words that follow its name; empty: it may announce.
	Obstacle string `json:"obstacle,omitempty"`
}

// Prospects returns those of an address, by announcement and node: what Condition sums up.
func (s Service) Prospects(address netip.Addr) []Prospect {
	var all []Prospect
	for _, w := range s.ways(address) {
		for _, name := range slices.Sorted(maps.Keys(s.Nodes)) {
			n := s.Nodes[name]
			ob := obstacle{text: "is not matched by its nodeSelector"}
			if w.nodes.Matches(labels.Set(n.Labels)) {
				ob = s.obstacle(name, n)
				if ob.text == "" {
					ob = w.last(name, n)
				}
			}
			all = append(all, Prospect{w.announcement, name, ob.text})
		}
	}
	return all
}

// sessionObstacle returns what keeps a node from announcing the address by BGP to a neighbor of the
// announcement.
func (s Service) sessionObstacle(a *config.RouteAnnouncement, address netip.Addr, node string, n Node) obstacle {
	switch {
	case slices.ContainsFunc(n.sessions, func(s session) bool { return a.To(s.neighbor) && s.carries(address) }):
		return obstacle{}
	case slices.ContainsFunc(n.sessions, func(s session) bool { return a.To(s.neighbor) }):
		return obstacle{text: "has no session there that carries " + ipam.FamilyOf(address).String(), session: true}
	}
	var reasons []string
	for _, neighbor := range n.Failing {
		if text := s.Errors[neighbor][node]; a.To(neighbor) && text != "" {
			reasons = append(reasons, "BGPNeighbor "+neighbor+": "+text)
		}
	}
	for _, neighbor := range a.Idle {
		reasons = append(reasons, "BGPNeighbor "+neighbor+" is not in effect: its condition Ready says why")
	}
	text := "has no established session with a neighbor selected there"
	if len(reasons) > 0 {
		text += " (" + condition.Few(reasons) + ")"
	}
	return obstacle{text: text, session: true}
}

// unannounced says why no announcement selects the address.
func (s Service) unannounced(address netip.Addr) string {
	p := s.Snapshot.PoolOf(address)
	if p == nil {
		return fmt.Sprintf(
			"%s answers nowhere: it is in no LoadBalancerPool, and no SegmentAnnouncement or RouteAnnouncement selects all pools; add it to a pool that is announced",
			address,
		)
	}
	if names := s.Snapshot.AnnouncementsOf(p); len(names) > 0 {
		verb, of := "selects", "its"
		if len(names) > 1 {
			verb, of = "select", "their"
		}
		return fmt.Sprintf(
			"%s answers nowhere: %s %s LoadBalancerPool %s, but not this Service, by %s serviceSelector; change that, or the labels of the Service",
			address,
			condition.Few(names),
			verb,
			p.Name,
			of,
		)
	}
	return fmt.Sprintf(
		"%s answers nowhere: no SegmentAnnouncement or RouteAnnouncement selects LoadBalancerPool %s; create one, or have one select it",
		address,
		p.Name,
	)
}

// obstacle is what keeps a node from announcing, in words that follow the node's name. Without a
// text there is no obstacle.
type obstacle struct {
	text    string
	rule    bool // by a rule: the node is not a candidate
	session bool // only a BGP session is missing
}

// passable reports whether a node that the selector matches can announce. last returns an obstacle
// of this announcement alone. If no node can, passable has recorded the obstacle of each that is
// able.
func (s Service) passable(
	selector labels.Selector,
	obstacles map[string]obstacle,
	last func(string, Node) obstacle,
) bool {
	for name, n := range s.able() {
		if !selector.Matches(labels.Set(n.Labels)) {
			continue
		}
		ob := s.obstacle(name, n)
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

func (s Service) obstacle(name string, n Node) obstacle {
	absence := n.absence()
	switch {
	case absence.rule:
		return absence
	case s.Local && !s.reaches(name, n):
		text := "has no ready endpoint"
		if s.Forwarder.steers {
			text += ", and " + n.blindness()
		}
		return obstacle{text: text, rule: true}
	case absence.text != "":
		return absence
	case n.Speaker != v1alpha1.SpeakerAnnouncing:
		return obstacle{text: "has a speaker that is " + string(n.Speaker)}
	case s.Forwarder.scheduler != "":
		return obstacle{text: n.incapacity(s.Forwarder.scheduler), rule: true}
	}
	return obstacle{}
}

// reaches reports whether a Service of policy Local has an endpoint on the node, or one that the
// node steers to.
func (s Service) reaches(name string, n Node) bool {
	nodes := s.Endpoints.Nodes()
	return nodes[name] || len(nodes) > 0 && s.Forwarder.steers && n.steers
}

// able returns the nodes that may announce for all that the endpoints say: of a cluster of many few
// have one, and no other node announces under policy Local, unless it steers.
func (s Service) able() map[string]Node {
	if !s.Local || s.Forwarder.steers {
		return s.Nodes
	}
	able := map[string]Node{}
	for name, has := range s.Endpoints.Nodes() {
		if n, known := s.Nodes[name]; known && has {
			able[name] = n
		}
	}
	return able
}

// unable returns the selected nodes that are not able, sorted, by what keeps them from it: a rule.
func (s Service) unable(ways []way) map[string][]string {
	if !s.Local || s.Forwarder.steers {
		return map[string][]string{}
	}
	without := s
	without.Endpoints = candidate.Endpoints{}
	unable := s.remember("without endpoints", ways, false, func() answer {
		nodes := map[string][]string{}
		for _, name := range slices.Sorted(maps.Keys(s.Nodes)) {
			n := s.Nodes[name]
			if slices.ContainsFunc(ways, func(w way) bool { return w.nodes.Matches(labels.Set(n.Labels)) }) {
				text := without.obstacle(name, n).text
				nodes[text] = append(nodes[text], name)
			}
		}
		return answer{nodes: nodes}
	}).nodes
	unable = maps.Clone(unable)
	for text, names := range unable {
		for name, has := range s.Endpoints.Nodes() {
			if i, found := slices.BinarySearch(names, name); found && has {
				names = slices.Concat(names[:i], names[i+1:])
			}
		}
		if unable[text] = names; len(names) == 0 {
			delete(unable, text)
		}
	}
	return unable
}

// nobody says why no node announces, given the obstacle of each selected node that is able.
func (s Service) nobody(ways []way, obstacles map[string]obstacle) (reason, message string) {
	if s.Local && len(s.Endpoints.Nodes()) == 0 {
		return ReasonNoEndpoints, "no node has an endpoint of the Service that is ready, or terminating and serving (externalTrafficPolicy Local); see its EndpointSlices"
	}
	reason = ReasonNoCandidate
	able := map[string][]string{} // by what keeps them from it
	for _, name := range slices.Sorted(maps.Keys(obstacles)) {
		ob := obstacles[name]
		able[ob.text] = append(able[ob.text], name)
		switch {
		case ob.session:
			reason = ReasonNoSession
		case !ob.rule && reason == ReasonNoCandidate:
			reason = ReasonNoSpeaker
		}
	}
	nodes := s.unable(ways)
	for text, names := range able {
		if others := nodes[text]; len(others) > 0 {
			names = slices.Sorted(slices.Values(slices.Concat(names, others)))
		}
		nodes[text] = names
	}
	if len(nodes) == 0 {
		return reason, "no node is matched by its nodeSelector"
	}
	var each []string
	for text, names := range nodes {
		if len(names) == 1 {
			each = append(each, names[0]+" "+text)
		} else {
			each = append(each, "each of "+condition.Few(names)+" "+text)
		}
	}
	slices.Sort(each)
	switch reason {
	case ReasonNoCandidate:
		return reason, "no selected node may announce it: " + condition.Few(each) + labelRemedy(nodes)
	case ReasonNoSpeaker:
		return reason, "no speaker on a selected node announces: " + condition.Few(
			each,
		) + "; see kubectl get speakers.berth.dev"
	}
	return reason, "no selected node has a session for it: " + condition.Few(
		each,
	) + "; see kubectl get speakers.berth.dev"
}

// labelRemedy is what to do if a label is all that keeps nodes from it.
func labelRemedy(nodes map[string][]string) string {
	for text := range nodes {
		if len(nodes) == 1 && strings.HasPrefix(text, candidate.HasLabel) {
			return "; take the label off, or select other nodes"
		}
	}
	return ""
}

// interfaceObstacle says that a node announces on none of the interfaces of an announcement.
func interfaceObstacle(interfaces, patterns []string) string {
	on := "no interface"
	if len(interfaces) > 0 {
		on = condition.Few(interfaces)
	}
	if len(patterns) == 0 {
		return "announces on " + on
	}
	return fmt.Sprintf("announces on %s, and spec.interfaces there says %s", on, condition.Few(patterns))
}

// hasInterface reports whether one of the interfaces matches a pattern of the announcement. Without
// patterns each does.
func hasInterface(interfaces, patterns []string) bool {
	return slices.ContainsFunc(interfaces, func(name string) bool {
		return len(patterns) == 0 || slices.ContainsFunc(patterns, func(pattern string) bool {
			ok, err := path.Match(pattern, name)
			return ok && err == nil
		})
	})
}
