package speaker

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/internal/links"
	"github.com/berth-lb/berth/internal/trace"
	"github.com/berth-lb/berth/l2"
	"github.com/berth-lb/berth/speaker/bfdliveness"
	"github.com/berth-lb/berth/speaker/localnet"
	"github.com/berth-lb/berth/speaker/returnpath"
	"github.com/berth-lb/berth/speaker/rival"
)

// Reasons of problems of a Speaker.
const (
	reasonNoHelloKey         = "NoHelloKey"         // nothing signs hellos
	reasonInvalidRouterID    = "InvalidRouterID"    // spec.bgp.routerID is not valid
	reasonAddressInUse       = "AddressInUse"       // an address is in use elsewhere, so it is not announced
	reasonIPVS               = "IPVSFailed"         // the kernel does not show what IPVS was told
	reasonPodsUnknown        = "PodsUnknown"        // which addresses pods have is not known
	reasonLayer2             = "Layer2Failed"       // ARP and NDP do not work, on one interface or at all
	reasonHellosFiltered     = "HellosFiltered"     // a segment carries no messages of speakers
	reasonSegmentCrowded     = "SegmentCrowded"     // a segment has almost as many speakers as it may
	reasonReturnPath         = "ReturnPath"         // replies leave by another interface
	reasonUnserved           = "UnservedFailed"     // packets that nothing serves are not dropped
	reasonSteering           = "SteeringFailed"     // something is not as steering needs it
	reasonBFD                = "BFDFailed"          // a neighbor is not watched
	reasonBGP                = "BGPFailed"          // the process that speaks BGP is away
	reasonPrefixNotAnnounced = "PrefixNotAnnounced" // BGP does not accept a prefix
	reasonAPIRefuses         = "APIRefuses"         // the API server does not show what the speaker reads
	reasonKindGone           = "KindGone"           // configuration is kept whose kind was deleted
	reasonTruncated          = "ReportTruncated"    // the report has no room for all
)

// Bounds of what a speaker reports of its network.
const (
	mostAddresses = 64
	mostGateways  = 16
	mostSubnets   = 16 // of an interface
	mostUnheard   = 8  // nodes of a segment
	mostSilent    = 16 // nodes, and interfaces of each
	crowded       = l2.MaxPeers / 4 * 3
)

// problems are collected while a report is made.
type problems []v1alpha1.SpeakerProblem

func (p *problems) add(reason, format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	*p = append(*p, v1alpha1.SpeakerProblem{Reason: reason, Message: message[:min(len(message), longestMessage)]})
}

// compose makes the status from what the drivers say. Conditions are those of the status before; a
// condition that does not change keeps its time.
func (r *reporter) compose(conditions []metav1.Condition, generation int64) v1alpha1.SpeakerStatus {
	status := v1alpha1.SpeakerStatus{
		Conditions:         slices.Clone(conditions),
		ObservedGeneration: generation,
		Version:            r.Version,
	}
	var found problems
	r.mu.Lock()
	state, message := r.now, r.reason
	status.SigningKey, status.AcceptedKeys = r.signing, r.accepted
	status.Addresses, status.Gateways = r.addresses, r.gateways
	if r.routerID.IsValid() {
		status.RouterID = r.routerID.String()
	}
	for _, c := range r.complaints {
		found.add(c.Reason, "%s", c.Message)
	}
	r.mu.Unlock()
	slices.SortFunc(found, func(a, b v1alpha1.SpeakerProblem) int {
		return cmp.Or(cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Message, b.Message))
	})
	status.Conflicts = r.foreign.current(time.Now())
	oneWay := r.composeSegments(&status, &found)
	if err := r.unserved.Err(); err != nil {
		found.add(reasonUnserved, "%v", err)
	}
	if report, asked := r.steering.Report(); asked && report.Problem != "" {
		found.add(reasonSteering, "%s", report.Problem)
	}
	for _, complaint := range bfdliveness.Complaints(r.l2.BFD()) {
		found.add(reasonBFD, "%s", complaint)
	}
	r.composeSilentNodes(&status)
	r.composeSessions(&status, &found)
	status.Problems = found[:min(len(found), mostProblems)]

	set := func(kind string, ok bool, reason, message string) {
		c := metav1.Condition{
			Type:               kind,
			Status:             metav1.ConditionFalse,
			Reason:             reason,
			Message:            message[:min(len(message), longestMessage)],
			ObservedGeneration: generation,
		}
		if ok {
			c.Status = metav1.ConditionTrue
		}
		meta.SetStatusCondition(&status.Conditions, c)
	}
	set(v1alpha1.ConditionReady, state == v1alpha1.SpeakerAnnouncing, string(state), message)
	r.composeReturnPath(&status, oneWay, set)
	r.composeIPVS(&status, set)
	r.composeSteering(&status, set)
	return status
}

// composeReturnPath sets the condition that replies leave the way that requests come in, if that is
// known of an interface.
func (r *reporter) composeReturnPath(
	status *v1alpha1.SpeakerStatus,
	oneWay []string,
	set func(kind string, ok bool, reason, message string),
) {
	known := slices.ContainsFunc(status.Segments, func(s v1alpha1.SegmentReport) bool { return s.ReturnPath != "" })
	switch {
	case len(oneWay) > 0:
		set(
			v1alpha1.ConditionReturnPath,
			false,
			string(v1alpha1.ReturnPathOther),
			"replies to clients beyond the segment do not leave by "+strings.Join(oneWay, ", ")+": see problems",
		)
	case known:
		set(
			v1alpha1.ConditionReturnPath,
			true,
			string(v1alpha1.ReturnPathSame),
			"replies leave by the interface that requests come in by",
		)
	default:
		meta.RemoveStatusCondition(&status.Conditions, v1alpha1.ConditionReturnPath)
	}
}

// composeIPVS reports with which schedulers this node can forward by IPVS, if it was asked to.
func (r *reporter) composeIPVS(
	status *v1alpha1.SpeakerStatus,
	set func(kind string, ok bool, reason, message string),
) {
	report, asked := r.dataplane.Report()
	switch {
	case !asked:
		meta.RemoveStatusCondition(&status.Conditions, v1alpha1.ConditionIPVSReady)
		return
	case report.Lacking == "":
		set(v1alpha1.ConditionIPVSReady, true, "AllSchedulers", "can forward by IPVS with all schedulers")
	case len(report.Schedulers) > 0:
		set(v1alpha1.ConditionIPVSReady, false, "SchedulerMissing", report.Lacking)
	default:
		set(v1alpha1.ConditionIPVSReady, false, "Unable", report.Lacking)
	}
	status.IPVS = v1alpha1.IPVSReport{
		Schedulers:     report.Schedulers,
		VirtualServers: new(int32(report.VirtualServers)),
	}
}

// composeSteering reports whether this node steers, if it was asked to.
func (r *reporter) composeSteering(
	status *v1alpha1.SpeakerStatus,
	set func(kind string, ok bool, reason, message string),
) {
	report, asked := r.steering.Report()
	switch {
	case !asked:
		meta.RemoveStatusCondition(&status.Conditions, v1alpha1.ConditionSteeringReady)
		return
	case report.Lacking == "":
		set(v1alpha1.ConditionSteeringReady, true, "Steers", "steers connections to the nodes that have endpoints")
	default:
		set(v1alpha1.ConditionSteeringReady, false, "Unable", report.Lacking)
	}
	status.Steering = v1alpha1.SteeringReport{Features: report.Features, Ports: new(int32(report.Ports))}
}

// composeSegments reports what layer 2 does, and returns the interfaces by which replies do not
// leave.
func (r *reporter) composeSegments(status *v1alpha1.SpeakerStatus, found *problems) (oneWay []string) {
	layer2 := r.l2.Status()
	if layer2.Err == "" { // else it may be what was last heard of a heart that is away
		r.see(layer2.Segments)
	}
	owned := 0
	for _, s := range layer2.Segments {
		path, complaint := returnPath(s.Interface)
		segment := segmentReport(s)
		segment.ReturnPath = path
		status.Segments = append(status.Segments, segment)
		if complaint != "" {
			oneWay = append(oneWay, s.Interface)
			found.add(reasonReturnPath, "%s", complaint)
		}
		owned += s.Owned
		found.addOfSegment(s)
	}
	status.AddressesOwned = new(int32(owned))
	if layer2.Err != "" {
		found.add(reasonLayer2, "layer 2: %s", layer2.Err)
	}
	if more := len(status.Segments) - mostSegments; more > 0 {
		status.Segments = status.Segments[:mostSegments]
		found.add(
			reasonTruncated,
			"%d more interfaces announce, which this report has no room for; do the patterns in a SegmentAnnouncement match too much?",
			more,
		)
	}
	return oneWay
}

// composeSilentNodes reports which nodes are not heard any more, if this node is asked to.
func (r *reporter) composeSilentNodes(status *v1alpha1.SpeakerStatus) {
	if !r.ReportSilent {
		return
	}
	silences := r.dead.Silences()
	for _, s := range silences[:min(len(silences), mostSilent)] {
		report := v1alpha1.SilentNodeReport{
			NodeName: s.Node, Since: new(metav1.NewTime(s.Since.Truncate(time.Second))),
			Interfaces: s.Interfaces[:min(len(s.Interfaces), mostSilent)], Probe: v1alpha1.ProbePending,
		}
		if s.Probed {
			report.Probe = v1alpha1.ProbeUnanswered
		}
		status.SilentNodes = append(status.SilentNodes, report)
	}
}

// addOfSegment adds what is wrong with a segment.
func (p *problems) addOfSegment(s l2.Segment) {
	if s.Err != "" {
		p.add(reasonLayer2, "interface %s: %s", s.Interface, s.Err)
	}
	if nodes := s.Unheard; len(nodes) > 0 {
		more := ""
		if n := len(nodes) - mostUnheard; n > 0 {
			nodes, more = nodes[:mostUnheard], fmt.Sprintf(" and %d more", n)
		}
		p.add(
			reasonHellosFiltered,
			"interface %s: %s%s own addresses on this segment, but were never heard there: a switch, a hypervisor or a private VLAN filters EtherType 0x88b5, or the group address 03:62:65:72:74:68. Let both pass. Until then speakers agree by the API alone, and the addresses of a node that fails are silent until Kubernetes calls it not ready",
			s.Interface,
			strings.Join(nodes, ", "),
			more,
		)
	}
	if n := len(s.Peers); n >= crowded {
		p.add(
			reasonSegmentCrowded,
			"interface %s: %d other speakers are on this segment, and at most %d can be; announce on fewer nodes there, or divide the segment",
			s.Interface,
			n,
			l2.MaxPeers,
		)
	}
}

// composeSessions reports what BGP does.
func (r *reporter) composeSessions(status *v1alpha1.SpeakerStatus, found *problems) {
	routes := r.bgp.Status()
	status.PrefixesAnnounced = new(int32(routes.Announced))
	established := 0
	traced := make([]trace.Entry, 0, len(routes.Peers))
	for _, p := range routes.Peers {
		status.Sessions = append(status.Sessions, session(p))
		traced = append(traced, sessionEntry(p))
		if p.Established() {
			established++
		}
	}
	r.Trace.Sessions(traced)
	for _, h := range r.rivals.Held() {
		status.Sessions = append(status.Sessions, heldSession(h))
	}
	status.SessionCounts = v1alpha1.Counted(established, len(status.Sessions))
	if routes.Err != "" {
		found.add(reasonBGP, "BGP: %s", routes.Err)
	}
	for _, u := range routes.Unannounced {
		found.add(reasonPrefixNotAnnounced, "%s is not announced by BGP: %s", u.Prefix, u.Reason)
	}
	if more := len(status.Sessions) - mostSessions; more > 0 {
		status.Sessions = status.Sessions[:mostSessions]
		found.add(reasonTruncated, "%d more BGP sessions, which this report has no room for", more)
	}
}

// sessionEntry is a session as the trace has it. When it changed is not known more exactly than by
// what it became.
func sessionEntry(p bgp.PeerStatus) trace.Entry {
	e := trace.Entry{Time: time.Now(), What: trace.Session, Node: p.Name, From: p.Address, Detail: p.State}
	if p.Established() {
		e.Time = p.Since
	} else if p.LastError != "" {
		e.Detail += ": " + p.LastError
	}
	return e
}

// segmentReport returns the report of a segment.
func segmentReport(s l2.Segment) v1alpha1.SegmentReport {
	report := v1alpha1.SegmentReport{
		Interface: s.Interface, State: v1alpha1.SegmentWaiting, MAC: s.MAC.String(), ProxyARPMAC: s.ProxyARP.String(),
		PeersAlive: new(int32(len(s.Peers))), AddressesOwned: new(int32(s.Owned)),
	}
	if s.Up && s.Claiming {
		report.State = v1alpha1.SegmentAnnouncing
	}
	for _, subnet := range s.Subnets[:min(len(s.Subnets), mostSubnets)] {
		report.Subnets = append(report.Subnets, subnet.String())
	}
	return report
}

// returnPath reports whether replies to clients beyond the segment leave by its interface; empty if
// that is not known or there are no such clients. The complaint says what is wrong.
func returnPath(iface string) (path v1alpha1.ReturnPath, complaint string) {
	by, err := returnpath.Of(iface)
	switch {
	case err != nil || len(by) == 0:
		return "", "" // an interface that goes, or a node without a default route
	case slices.Equal(by, []string{iface}):
		return v1alpha1.ReturnPathSame, ""
	}
	return v1alpha1.ReturnPathOther, fmt.Sprintf(
		"interface %s: the node's routes to clients beyond the segment leave by %s, so their requests to addresses announced here are not answered the way they came; give the node routes to these clients by %s (by source address, for example), or announce on %s",
		iface,
		strings.Join(by, " and "),
		iface,
		strings.Join(by, " and "),
	)
}

// session returns the report of a session.
func session(p bgp.PeerStatus) v1alpha1.SessionReport {
	report := v1alpha1.SessionReport{
		NeighborName: p.Name,
		State:        v1alpha1.SessionDown,
		Address:      new(""),
		Prefixes:     new(int32(p.IPv4 + p.IPv6)),
		BFD:          v1alpha1.BFDState(p.BFD),
	}
	switch {
	case p.Address.IsValid():
		report.Address = new(p.Address.String())
	case p.Prefix.IsValid():
		report.Address = new(p.Prefix.String())
	}
	for _, f := range p.Families {
		report.Families = append(report.Families, v1alpha1.Family(f))
	}
	if !p.Since.IsZero() {
		report.LastTransitionTime = new(metav1.NewTime(p.Since.Truncate(time.Second)))
	}
	if !p.Established() {
		report.LastError = p.LastError[:min(len(p.LastError), longestMessage)]
		return report
	}
	report.State, report.GracefulRestart = v1alpha1.SessionEstablished, v1alpha1.GracefulRestartNotNegotiated
	if p.KeepsRoutes {
		report.GracefulRestart = v1alpha1.GracefulRestartNegotiated
	}
	return report
}

// heldSession returns the report of a peer that is held back.
func heldSession(h rival.HeldPeer) v1alpha1.SessionReport {
	report := v1alpha1.SessionReport{
		NeighborName: h.Name, Address: new(""), State: v1alpha1.SessionDown,
		LastTransitionTime: new(metav1.NewTime(h.Since.Truncate(time.Second))), LastError: h.Reason(),
	}
	if h.Address.IsValid() {
		report.Address = new(h.Address.String())
	}
	return report
}

// reportedNetwork returns what other nodes must know of this node's network: addresses that are in
// a pool, and gateways.
func reportedNetwork(
	network localnet.Network,
	snapshot *config.Snapshot,
) (addresses []v1alpha1.LocalAddress, gateways []string) {
	for _, a := range network.Addresses {
		told := v1alpha1.LocalAddress{Address: a.Addr().String(), Interface: a.Interface}
		if snapshot.PoolOf(a.Addr()) != nil && !links.OfServices(a.Interface) && !slices.Contains(addresses, told) {
			addresses = append(addresses, told)
		}
	}
	for _, g := range network.Gateways {
		gateways = append(gateways, g.String())
	}
	return addresses[:min(len(addresses), mostAddresses)], gateways[:min(len(gateways), mostGateways)]
}
