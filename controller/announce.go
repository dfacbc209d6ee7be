package controller

import (
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

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

// owner is who answers for an address on a segment.
type owner struct{ node, segment, iface string }

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
	owners    map[netip.Addr][]owner // sorted
	conflicts map[netip.Addr]foreign
	snapshot  *config.Snapshot
	nodes     map[string]nodeView
	errors    sessionErrors
	forwarder forwarder
	// counted is what was counted with this snapshot and these nodes, for whatever is asked again; may be nil.
	counted *sync.Map
}

// condition says by whom the addresses are announced, or why one of them is not.
func (o outlook) condition() condition {
	c := condition{kind: v1alpha1.ServiceAnnounced, complaint: o.forwarder.complaint}
	if len(o.addresses) == 0 {
		c.reason, c.message = ReasonNoAddress, "no address to announce: see condition "+v1alpha1.ServiceAllocated
		return c
	}
	var l2, bgp, answers []string
	var carried carriers
	for _, address := range o.addresses {
		found, reason, message := o.announcers(address)
		if reason != "" {
			c.reason, c.message = reason, message
			if c.complaint != "" {
				c.message += "; " + c.complaint
			}
			return c
		}
		l2, bgp = unite(l2, found.l2), unite(bgp, found.bgp)
		if len(found.bgp) > 0 {
			// Of two addresses the one that fewer carry.
			if n := o.carriers(address); carried == (carriers{}) || n.nodes < carried.nodes || n.nodes == carried.nodes && n.sessions < carried.sessions {
				carried = n
			}
		}
		for _, owner := range o.owners[address] {
			if o.nodes[owner.node].alive {
				answers = unite(answers, []string{o.answer(owner)})
			}
		}
	}
	c.ok, c.reason, c.message = true, ReasonAnnounced, "by "+by(l2, answers, bgp, carried)
	switch {
	case o.local:
		c.message += ", from nodes with a ready Pod (externalTrafficPolicy Local)"
	case !o.endpoints.Some && !o.unknown:
		c.message += "; it has no endpoint that is ready or serves, so connections are refused"
	}
	c.message += o.forwarder.remarks()
	return c
}

// by names the announcements, and who answers.
func by(l2, answers, bgp []string, carried carriers) string {
	var parts []string
	if len(l2) > 0 {
		part := strings.Join(l2, ", ")
		if len(answers) > 0 {
			part += ": " + strings.Join(answers, ", ")
		}
		parts = append(parts, part)
	}
	if len(bgp) > 0 {
		parts = append(parts, strings.Join(bgp, ", ")+carried.String())
	}
	return strings.Join(parts, "; by ")
}

// carriers are how many nodes announce an address by BGP, over how many sessions.
type carriers struct{ nodes, sessions int }

func (c carriers) String() string {
	return fmt.Sprintf(": %s, %s", counted(c.nodes, "node"), counted(c.sessions, "session"))
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

var carriersPattern = regexp.MustCompile(`: \d+ nodes?, \d+ sessions?`)

// uncounted is a message without the numbers of carriers.
func uncounted(message string) string { return carriersPattern.ReplaceAllString(message, "") }

// carriers counts who announces the address by BGP. For policy Cluster that is the same for all Services that the
// same announcements select.
func (o outlook) carriers(address netip.Addr) carriers {
	announcements := o.snapshot.BGPFor(address, o.labels[address]...)
	if o.local {
		var c carriers
		for name := range o.endpoints.Nodes() {
			c = c.with(o, name, address, announcements)
		}
		return c
	}
	if o.counted == nil {
		o.counted = &sync.Map{}
	}
	var key strings.Builder
	fmt.Fprint(&key, address.Is4(), o.forwarder.scheduler)
	for _, a := range announcements {
		key.WriteString(" " + a.Name)
	}
	if known, ok := o.counted.Load(key.String()); ok {
		return known.(carriers)
	}
	var c carriers
	for name := range o.nodes {
		c = c.with(o, name, address, announcements)
	}
	o.counted.Store(key.String(), c)
	return c
}

// with counts a node too, if it announces the address.
func (c carriers) with(o outlook, name string, address netip.Addr, announcements []*config.RouteAnnouncement) carriers {
	n, known := o.nodes[name]
	if !known || o.obstacle(name, n).text != "" {
		return c
	}
	sessions := 0
	for _, s := range n.sessions {
		if s.carries(address) && slices.ContainsFunc(announcements, func(a *config.RouteAnnouncement) bool {
			return a.To(s.neighbor) && a.Nodes.Matches(labels.Set(n.labels))
		}) {
			sessions++
		}
	}
	if sessions > 0 {
		c.nodes, c.sessions = c.nodes+1, c.sessions+sessions
	}
	return c
}

// answer says where an owner answers, and if it does so the wrong way.
func (o outlook) answer(owner owner) string {
	text := fmt.Sprintf("%s answers on %s", owner.node, owner.segment)
	if slices.Contains(o.nodes[owner.node].oneWay, owner.iface) {
		text += fmt.Sprintf(" (clients beyond the segment may get no reply: its routes to them do not leave by %s)", owner.iface)
	}
	if mac := o.nodes[owner.node].proxies[owner.iface]; mac != "" {
		text += fmt.Sprintf(" (some clients may not reach it: %s there answers ARP for every address (proxy ARP); turn that off on it)", mac)
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

// announcers are the announcements that are acted on for an address.
type announcers struct{ l2, bgp []string }

// announcers returns who announces the address, or the reason and the message that
// say why nobody does.
func (o outlook) announcers(address netip.Addr) (found announcers, reason, message string) {
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
			found.l2 = append(found.l2, name)
		}
	}
	for _, a := range bgp {
		name := "RouteAnnouncement " + a.Name
		names = append(names, name)
		if o.passable(a.Nodes, obstacles, func(node string, n nodeView) obstacle { return o.sessionObstacle(a, address, node, n) }) {
			found.bgp = append(found.bgp, name)
		}
	}
	if len(found.l2)+len(found.bgp) > 0 {
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
