package speaker

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/l2"
	"github.com/berth-lb/berth/speaker/returnpath"
	"github.com/berth-lb/berth/speaker/unserved"
)

// Pace of reports: a report is written when something changed, at most this often,
// and compared with what is known this often although nothing was observed.
const (
	reportAtMostEvery = 300 * time.Millisecond
	reportAtLeast     = 10 * time.Second
	writeAtMost       = 5 * time.Second
	eventAfter        = 700 * time.Millisecond
	mostMessages      = 16
	mostSegments      = 64
	mostSessions      = 256
	longestMessage    = 1024
	longestNote       = 1000 // of an event; the API takes 1024
)

// reporter tells the outside what the drivers see: the SpeakerStatus, events, logs.
type reporter struct {
	Options
	sources  *sources
	l2       *l2.Driver
	bgp      *bgp.Driver
	drops    *unserved.Driver
	paths    *paths
	forwards *forwarder
	rivals   *rivals
	// heard takes in that a peer is heard on an interface, or not any more.
	heard   func(ctx context.Context, node, on string, heard bool)
	changed chan struct{}
	foreign conflicts
	spend   *rate.Limiter // of events about Services

	mu         sync.Mutex // guards what follows
	now        v1alpha1.SpeakerState
	reason     string
	complaints map[string]string   // by subject
	members    map[string][]string // Services by group
	signing    string              // fingerprints of keys
	accepted   []string
	lacks      string // why this node cannot forward by IPVS as it should
	addresses  []v1alpha1.LocalAddress
	gateways   []string
	replaced   bool // what ends next is this process alone

	flushes chan chan error // asks run to write now

	written *v1alpha1.SpeakerStatus // of the goroutine of publish
}

func newReporter(o Options, s *sources, layer2 *l2.Driver, routes *bgp.Driver, drops *unserved.Driver, watched *paths, forwards *forwarder) *reporter {
	return &reporter{
		Options: o, sources: s, l2: layer2, bgp: routes, drops: drops, paths: watched, forwards: forwards,
		changed:    make(chan struct{}, 1),
		flushes:    make(chan chan error),
		spend:      rate.NewLimiter(2, 50),
		now:        v1alpha1.SpeakerStarting,
		complaints: map[string]string{},
		members:    map[string][]string{},
	}
}

// poke has the report written anew, soon.
func (r *reporter) poke() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// setState notes the state and tells whether it is another one.
func (r *reporter) setState(state v1alpha1.SpeakerState, reason string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.now == state && r.reason == reason {
		return false
	}
	r.now, r.reason = state, reason
	r.poke()
	return true
}

func (r *reporter) state() (v1alpha1.SpeakerState, string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now, r.reason
}

// stop says that the process ends, and whether another replaces it.
func (r *reporter) stop(reason string, replaced bool) {
	r.mu.Lock()
	r.replaced = replaced
	r.mu.Unlock()
	r.setState(v1alpha1.SpeakerStopped, reason)
}

// complain notes what is wrong with a subject, or with "" that it is mended.
func (r *reporter) complain(subject, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if message == "" {
		delete(r.complaints, subject)
	} else if r.complaints[subject] != message {
		r.complaints[subject] = message
		r.Logger.Warn(message)
	}
	r.poke()
}

// ability tells of this node, when it changes, whether it lacks something to forward by IPVS.
func (r *reporter) ability(lacking string) {
	r.mu.Lock()
	before := r.lacks
	r.lacks = lacking
	r.mu.Unlock()
	about := r.known(r.sources.node, r.Node)
	switch {
	case lacking == before || about == nil:
	case lacking != "":
		r.Events.Eventf(about, nil, corev1.EventTypeWarning, "IPVSLacking", "Forward", "%s", lacking[:min(len(lacking), longestNote)])
	default:
		r.Events.Eventf(about, nil, corev1.EventTypeNormal, "IPVSReady", "Forward", "can forward by IPVS with all schedulers")
	}
}

// setNetwork notes what of this node's network is reported.
func (r *reporter) setNetwork(addresses []v1alpha1.LocalAddress, gateways []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.addresses, r.gateways = addresses, gateways
	r.poke()
}

// setKeys notes the fingerprints of the keys of hellos.
func (r *reporter) setKeys(signing string, accepted []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.signing, r.accepted = signing, accepted
	r.poke()
}

// remember notes which Services a part of a group has, for events about it.
func (r *reporter) remember(part string, group Group) {
	names := make([]string, 0, len(group.Services))
	for _, s := range group.Services {
		names = append(names, s.Name)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.members[part] = names
}

// forget forgets a group that is no more.
func (r *reporter) forget(group string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.members, group)
}

// flush has the report written now; run must be running.
func (r *reporter) flush(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case r.flushes <- done:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run takes what the drivers observe, and writes reports, until the context ends.
// The two do not wait for each other: the API server may be away.
func (r *reporter) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { r.observe(ctx); return nil })
	group.Go(func() error { r.publish(ctx); return nil })
	return group.Wait()
}

func (r *reporter) observe(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case o := <-r.l2.Observed():
			r.observedL2(ctx, o)
		case o := <-r.bgp.Observed():
			r.observedBGP(o)
		}
		r.poke()
	}
}

func (r *reporter) publish(ctx context.Context) {
	refresh := time.NewTicker(reportAtLeast)
	defer refresh.Stop()
	pause := time.NewTimer(0) // fires when a report may be written
	defer pause.Stop()
	due := true
	for {
		var may <-chan time.Time
		if due {
			may = pause.C
		}
		select {
		case <-ctx.Done():
			return
		case <-r.changed:
			due = true
		case <-refresh.C:
			due = true
		case done := <-r.flushes:
			done <- r.write(ctx)
		case <-may:
			due = false
			pause.Reset(reportAtMostEvery)
			if err := r.write(ctx); err != nil && ctx.Err() == nil {
				r.Logger.Warn("SpeakerStatus was not written; will be tried again", "error", err)
				due = true
				pause.Reset(10 * reportAtMostEvery)
			}
		}
	}
}

func (r *reporter) observedL2(ctx context.Context, o l2.Observation) {
	switch o.Kind {
	case l2.GroupGained:
		r.Logger.Info("owner", "interface", o.Interface, "group", o.Group, "cause", o.Cause)
		// Who owns it for a moment only is no news.
		time.AfterFunc(eventAfter, func() {
			if slices.Contains(r.l2.Holds(o.Group), o.Interface) {
				r.aboutServices(o.Group, corev1.EventTypeNormal, "Owner", "answers from node %s on %s (%s)", r.Node, o.Interface, o.Cause)
			}
		})
	case l2.GroupLost:
		r.Logger.Info("owner no more", "interface", o.Interface, "group", o.Group, "owner", o.Node, "cause", o.Cause)
	case l2.PeerUp, l2.PeerDown: // the driver logs them
		r.heard(ctx, o.Node, o.Interface, o.Kind == l2.PeerUp)
	case l2.Conflict:
		r.Logger.Warn("conflict", "address", o.Address, "mac", o.MAC.String(), "interface", o.Interface)
		r.foreign.note(o, time.Now()) // the controller tells the Service
		r.drops.SetConflicts(r.foreign.addresses(time.Now()))
	case l2.ProxyFound:
		r.Logger.Warn("a router answers for every address (proxy ARP); its answers are taken for nobody's", "interface", o.Interface, "mac", o.MAC.String(), "address", o.Address)
	case l2.Failure:
		r.Logger.Warn("layer 2", "interface", o.Interface, "error", o.Err)
	}
}

// answers takes that this node begins or ceases to answer for an address. It does not begin while somebody else has it.
func (r *reporter) answers(address netip.Addr, on bool) {
	if on {
		r.foreign.forget(address)
		r.poke()
	}
}

func (r *reporter) observedBGP(o bgp.Observation) {
	r.rivals.poke()
	switch o.Kind { // the driver logs them
	case bgp.SessionUp:
		if about := r.known(r.sources.peer, o.Peer); about != nil {
			r.Events.Eventf(about, nil, corev1.EventTypeNormal, string(o.Kind), "Peer", "node %s%s: established", r.Node, with(o.Neighbour))
		}
	case bgp.SessionDown, bgp.SessionFailed:
		if about := r.known(r.sources.peer, o.Peer); about != nil {
			r.Events.Eventf(about, nil, corev1.EventTypeWarning, string(o.Kind), "Peer", "node %s%s: %s", r.Node, with(o.Neighbour), o.Reason)
		}
	case bgp.RouteFailed:
		r.Logger.Warn("route", "prefix", o.Prefix, "reason", o.Reason)
	}
}

// heldBack tells of a peer that it is not dialed.
func (r *reporter) heldBack(peer, reason string) {
	if about := r.known(r.sources.peer, peer); about != nil {
		r.Events.Eventf(about, nil, corev1.EventTypeWarning, string(bgp.SessionFailed), "Peer", "node %s: %s", r.Node, reason)
	}
}

// with names the router of a prefix, if there is one.
func with(neighbour netip.Addr) string {
	if !neighbour.IsValid() {
		return ""
	}
	return " with " + neighbour.String()
}

// aboutServices makes an event on each Service of the group; when very many move
// at once, only on some: the log has them all.
func (r *reporter) aboutServices(group, kind, reason, format string, args ...any) {
	r.mu.Lock()
	names := slices.Clone(r.members[group])
	r.mu.Unlock()
	for _, name := range names {
		if svc := r.known(r.sources.service, name); svc != nil && r.spend.Allow() {
			r.Events.Eventf(svc, nil, kind, reason, "Announce", format, args...)
		}
	}
}

// known returns the object of that key, or nil: an event needs its UID to be found.
func (r *reporter) known(informer cache.SharedIndexInformer, key string) runtime.Object {
	o, exists, err := informer.GetStore().GetByKey(key)
	object, ok := o.(runtime.Object)
	if err != nil || !exists || !ok {
		return nil
	}
	return object
}

// sessionsUp counts the established BGP sessions.
func (r *reporter) sessionsUp() int {
	up := 0
	for _, p := range r.bgp.Status().Peers {
		if p.Established() {
			up++
		}
	}
	return up
}

// write writes the SpeakerStatus if it differs from what was written last.
func (r *reporter) write(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, writeAtMost)
	defer cancel()
	r.drops.SetConflicts(r.foreign.addresses(time.Now())) // without those that are over
	report := r.compose()
	if _, exists, err := r.sources.status.GetStore().GetByKey(r.Node); err == nil && !exists {
		r.written = nil // somebody deleted it, or we did not see it yet
	}
	owner := r.owner()
	if r.written != nil && reflect.DeepEqual(r.written.Status, report) && reflect.DeepEqual(r.written.OwnerReferences, owner) {
		return nil
	}
	statuses := r.Berth.SpeakerStatuses
	if r.written == nil {
		found, err := statuses.Get(ctx, r.Node, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			found, err = statuses.Create(ctx, &v1alpha1.SpeakerStatus{
				TypeMeta:   typeMeta("SpeakerStatus"),
				ObjectMeta: metav1.ObjectMeta{Name: r.Node, OwnerReferences: owner},
				Status:     report,
			}, metav1.CreateOptions{})
		}
		if err != nil {
			return fmt.Errorf("SpeakerStatus %s: %w", r.Node, err)
		}
		r.written = found
		if reflect.DeepEqual(found.Status, report) && reflect.DeepEqual(found.OwnerReferences, owner) {
			return nil
		}
	}
	desired := r.written.DeepCopy()
	desired.TypeMeta = typeMeta("SpeakerStatus")
	desired.OwnerReferences = owner
	desired.Status = report
	written, err := statuses.Update(ctx, desired, metav1.UpdateOptions{})
	if err != nil {
		r.written = nil // read it anew
		return fmt.Errorf("SpeakerStatus %s: %w", r.Node, err)
	}
	written.Status = report // as we compare it
	r.written = written
	return nil
}

// owner makes the report go with the Node, as the API has it now.
func (r *reporter) owner() []metav1.OwnerReference {
	node := r.sources.nodeObject(r.Node)
	if node == nil {
		return nil
	}
	return []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
}

// compose makes the report from what the drivers say.
func (r *reporter) compose() v1alpha1.SpeakerReport {
	report := v1alpha1.SpeakerReport{Version: r.Version}
	var messages []string
	r.mu.Lock()
	report.State, report.Reason = r.now, r.reason
	kept := r.now == v1alpha1.SpeakerStopped && r.replaced
	report.SigningKey, report.AcceptedKeys = r.signing, r.accepted
	report.Addresses, report.Gateways = r.addresses, r.gateways
	for _, m := range r.complaints {
		messages = append(messages, m)
	}
	r.mu.Unlock()
	slices.Sort(messages)

	if report.IPVS = r.forwards.report(); report.IPVS != nil {
		report.IPVS.Kept = kept
	}
	report.Conflicts = r.foreign.current(time.Now())
	layer2 := r.l2.Status()
	for _, s := range layer2.Segments {
		returns, complaint := returnPath(s.Interface)
		segment := segmentReport(s)
		segment.ReturnPath = returns
		report.Segments = append(report.Segments, segment)
		if complaint != "" {
			messages = append(messages, complaint)
		}
		report.GroupsOwned += int32(s.Owned)
		if s.Err != "" {
			messages = append(messages, fmt.Sprintf("interface %s: %s", s.Interface, s.Err))
		}
	}
	if layer2.Err != "" {
		messages = append(messages, "layer 2: "+layer2.Err)
	}
	if err := r.drops.Err(); err != nil {
		messages = append(messages, err.Error())
	}
	messages = append(messages, r.paths.complaints()...)
	routes := r.bgp.Status()
	report.PrefixesAnnounced = int32(routes.Announced)
	for _, p := range routes.Peers {
		report.Sessions = append(report.Sessions, session(p))
		if p.Established() {
			report.SessionsEstablished++
		}
	}
	report.Sessions = append(report.Sessions, r.rivals.reports()...)
	for _, u := range routes.Unannounced {
		messages = append(messages, fmt.Sprintf("%s is not announced by BGP: %s", u.Prefix, u.Reason))
	}
	if more := len(report.Segments) - mostSegments; more > 0 {
		report.Segments = report.Segments[:mostSegments]
		messages = append(messages, fmt.Sprintf("%d more interfaces announce, which this report has no room for; do the patterns in an L2Advertisement match too much?", more))
	}
	if more := len(report.Sessions) - mostSessions; more > 0 {
		report.Sessions = report.Sessions[:mostSessions]
		messages = append(messages, fmt.Sprintf("%d more BGP sessions, which this report has no room for", more))
	}
	for i, m := range messages {
		messages[i] = m[:min(len(m), longestMessage)]
	}
	report.Messages = messages[:min(len(messages), mostMessages)]
	return report
}

// segmentReport is what the driver says of a segment.
func segmentReport(s l2.Segment) v1alpha1.SegmentReport {
	report := v1alpha1.SegmentReport{
		Interface: s.Interface, MAC: s.MAC.String(), Announcing: s.Up && s.Claiming,
		PeersAlive: int32(len(s.Peers)), GroupsOwned: int32(s.Owned), ProxyARP: s.ProxyARP.String(),
	}
	for _, subnet := range s.Subnets[:min(len(s.Subnets), mostSubnets)] {
		report.Subnets = append(report.Subnets, subnet.String())
	}
	return report
}

// returnPath tells whether replies leave by the interface; nil if that is not known or
// does not arise. The complaint says what is wrong.
func returnPath(iface string) (returns *bool, complaint string) {
	by, err := returnpath.Of(iface)
	if err != nil || len(by) == 0 {
		return nil, "" // an interface that goes, or a node without a default route
	}
	same := slices.Equal(by, []string{iface})
	if !same {
		complaint = fmt.Sprintf("interface %s: the node's routes to clients beyond the segment leave by %s, so their requests to addresses announced here are not answered the way they came; give the node routes to these clients by %s (by source address, for example), or announce on %s",
			iface, strings.Join(by, " and "), iface, strings.Join(by, " and "))
	}
	return &same, complaint
}

func session(p bgp.PeerStatus) v1alpha1.SessionReport {
	names := map[string]string{"idle": "Idle", "connect": "Connect", "active": "Active", "opensent": "OpenSent", "openconfirm": "OpenConfirm", "established": "Established"}
	report := v1alpha1.SessionReport{
		Peer: p.Name, State: names[p.State], Prefixes: int32(p.IPv4 + p.IPv6),
		BFD: string(p.BFD), GracefulRestart: p.KeepsRoutes,
	}
	switch {
	case p.Address.IsValid():
		report.Address = p.Address.String()
	case p.Prefix.IsValid():
		report.Address = p.Prefix.String()
	}
	for _, f := range p.Families {
		report.Families = append(report.Families, v1alpha1.Family(f))
	}
	if report.State == "" {
		report.State = p.State
	}
	if !p.Since.IsZero() {
		since := metav1.NewTime(p.Since.Truncate(time.Second))
		report.Since = &since
	}
	if !p.Established() {
		// Idle, Connect and Active follow one another in each attempt; the report
		// would change all the time.
		report.State = "Active"
		report.LastError = p.LastError[:min(len(p.LastError), longestMessage)]
	}
	return report
}

func typeMeta(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: kind}
}
