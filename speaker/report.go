package speaker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/internal/liveness"
	"github.com/berth-lb/berth/l2"
	"github.com/berth-lb/berth/speaker/plan"
	"github.com/berth-lb/berth/speaker/rival"
)

// Pace of reports: a report is written when something changed, after the pause of pace, and
// compared with what is known this often although nothing was observed.
const (
	reportAtLeast  = 10 * time.Second
	writeAtMost    = 5 * time.Second
	eventAfter     = 700 * time.Millisecond
	mostProblems   = 16
	mostSegments   = 64
	mostSessions   = 256
	longestMessage = 1024
	longestNote    = 1000 // of an event; the API takes 1024
)

// reporter tells the outside what the drivers see: the Speaker, events, logs.
type reporter struct {
	Options
	drivers
	sources *sources
	changed async.Signal
	// freshness is notified when this node becomes outdated on a segment, or is no longer.
	freshness async.Signal
	foreign   *conflicts
	spend     *rate.Limiter            // of events about Services
	sessions  map[string]*rate.Limiter // of events about BGP sessions, by their type

	mu         sync.Mutex // guards what follows
	now        v1alpha1.SpeakerState
	reason     string
	complaints map[string]v1alpha1.SpeakerProblem // by subject
	services   map[netip.Addr][]string            // that have each address announced on segments
	signing    string                             // fingerprints of keys
	accepted   []string
	lacks      string // why this node cannot forward by IPVS as it should
	addresses  []v1alpha1.LocalAddress
	gateways   []string
	routerID   netip.Addr // in use

	flushes chan chan error // asks run to write now

	written *v1alpha1.Speaker // of the goroutine of publish
	lag     lag               // of the goroutine of publish
	rewound atomic.Bool       // what was written may be lost
}

func newReporter(o Options, s *sources, d drivers, foreign *conflicts) *reporter {
	return &reporter{
		Options: o, drivers: d, sources: s, foreign: foreign,
		changed:   async.NewSignal(),
		freshness: async.NewSignal(),
		flushes:   make(chan chan error),
		spend:     rate.NewLimiter(2, 50),
		sessions: map[string]*rate.Limiter{
			corev1.EventTypeNormal:  rate.NewLimiter(rate.Every(10*time.Second), 5),
			corev1.EventTypeWarning: rate.NewLimiter(rate.Every(10*time.Second), 5),
		},
		now:        v1alpha1.SpeakerStarting,
		complaints: map[string]v1alpha1.SpeakerProblem{},
		services:   map[netip.Addr][]string{},
	}
}

// poke has the report written again, soon.
func (r *reporter) poke() { r.changed.Notify() }

// setState notes the state and reports whether it is another one.
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
	state := v1alpha1.SpeakerStopped
	if replaced {
		state = v1alpha1.SpeakerReplaced
	}
	r.setState(state, reason)
}

// complain notes what is wrong with a subject, or with "" that it is over. The reason is of the
// problem, in CamelCase.
func (r *reporter) complain(reason, subject, message string) {
	r.mu.Lock()
	key := reason + " " + subject
	changed := message != r.complaints[key].Message
	switch {
	case !changed:
	case message == "":
		delete(r.complaints, key)
	default:
		r.complaints[key] = v1alpha1.SpeakerProblem{Reason: reason, Message: message}
	}
	r.mu.Unlock()
	if !changed {
		return
	}
	if message != "" {
		r.Logger.Warn(message)
	}
	r.poke()
}

// setRouterID notes the router ID in use.
func (r *reporter) setRouterID(id netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.routerID != id {
		r.routerID = id
		r.poke()
	}
}

// ability tells of this node, when it changes, whether it lacks something to forward by IPVS.
func (r *reporter) ability(lacking string) {
	r.mu.Lock()
	before := r.lacks
	r.lacks = lacking
	r.mu.Unlock()
	about := r.sources.node.Get(r.Node)
	switch {
	case lacking == before || about == nil:
	case lacking != "":
		r.Events.Eventf(
			about,
			nil,
			corev1.EventTypeWarning,
			"IPVSLacking",
			"Forward",
			"%s",
			lacking[:min(len(lacking), longestNote)],
		)
	default:
		r.Events.Eventf(
			about,
			nil,
			corev1.EventTypeNormal,
			"IPVSReady",
			"Forward",
			"can forward by IPVS with all schedulers",
		)
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

// remember notes which Services have an address, for events about it.
func (r *reporter) remember(address netip.Addr, services []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.services[address] = services
}

// forget forgets an address that is not announced any longer.
func (r *reporter) forget(address netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.services, address)
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

// gain is an address that this node began to own.
type gain struct {
	l2.Observation
	due time.Time // when an event is made, if the node still owns it
}

// observe takes what the drivers observe, until the context ends.
func (r *reporter) observe(ctx context.Context) {
	var gains []gain // by due
	due := time.NewTimer(0)
	due.Stop()
	defer due.Stop()
	pass := liveness.Of(ctx, "observer", liveness.Limit)
	for {
		pass.End()
		select {
		case <-ctx.Done():
			return
		case now := <-due.C:
			pass.Begin()
			for ; len(gains) > 0 && !gains[0].due.After(now); gains = gains[1:] {
				r.tellOwner(gains[0].Observation)
			}
			if len(gains) > 0 {
				due.Reset(time.Until(gains[0].due))
			}
			continue
		case o := <-r.l2.Observed():
			pass.Begin()
			r.observedL2(o)
			if o.Kind == l2.AddressGained {
				gains = append(gains, gain{o, time.Now().Add(eventAfter)})
				if len(gains) == 1 {
					due.Reset(eventAfter)
				}
			}
		case o := <-r.bgp.Observed():
			pass.Begin()
			r.observedBGP(o)
		case held := <-r.rivals.Begun():
			pass.Begin()
			r.heldBack(held)
		}
		r.poke()
	}
}

// tellOwner makes events about an address that this node owns by now for a while: to own it for a
// moment only is not news.
func (r *reporter) tellOwner(o l2.Observation) {
	if slices.Contains(r.l2.Holds(o.Address), o.Interface) {
		r.aboutServices(
			o.Address,
			corev1.EventTypeNormal,
			"Owner",
			"%s is answered for by node %s on %s (%s)",
			o.Address,
			r.Node,
			o.Interface,
			o.Cause.Reason(),
		)
	}
}

func (r *reporter) publish(ctx context.Context) {
	refresh := time.NewTicker(reportAtLeast)
	defer refresh.Stop()
	pause := time.NewTimer(0) // fires when a report may be written
	defer pause.Stop()
	due, failure := true, ""
	var next pace
	pass := liveness.Of(ctx, "reporter", liveness.Limit)
	for {
		pass.End()
		var may <-chan time.Time
		if due {
			may = pause.C
		}
		select {
		case <-ctx.Done():
			return
		case <-r.changed:
			due = true
		case <-r.foreign.forgot:
			due = true
		case <-r.dead.SilencesChanged():
			due = true
			if r.ReportSilent && failure == "" { // the controller fences by it, and every moment counts
				pause.Reset(next.shortest(time.Now()))
			}
		case <-refresh.C:
			due = true
		case done := <-r.flushes:
			pass.Begin()
			_, err := r.write(ctx)
			done <- err
		case <-may:
			pass.Begin()
			due = false
			switch written, err := r.write(ctx); {
			case err == nil:
				failure = ""
				pause.Reset(next.after(written, time.Now(), len(r.sources.node.All())))
			case ctx.Err() == nil:
				if err.Error() != failure { // once, not each time
					failure = err.Error()
					r.Logger.Warn("the Speaker object was not written; will be tried again", "error", err)
				}
				due = true
				again := next.afterFailure(len(r.sources.node.All()))
				pause.Reset(again + rand.N(again/2)) // not all nodes at once
			}
		}
	}
}

// serves reports whether a node has what its speaker makes: one that leaves announces nothing, and
// serves what it gets. Where this node steers, the other one must, too: without the program,
// packets of connections that it does not know would be reset there.
func (r *reporter) serves(s l2.State, can l2.Capabilities) bool {
	return (s == l2.Ready || s == l2.Leaving) && (!r.Steering || can.Has(plan.Steers))
}

// see tells whom this node hears.
func (r *reporter) see(segments []l2.Segment) { r.dead.See(r.heard(segments)) }

// heard returns which nodes are heard on which interfaces, and which of them serve.
func (r *reporter) heard(segments []l2.Segment) (alive map[string]map[string]bool, ready map[string]bool) {
	alive, ready = map[string]map[string]bool{}, map[string]bool{}
	for _, s := range segments {
		for _, p := range s.Peers {
			if alive[p.Node] == nil {
				alive[p.Node] = map[string]bool{}
			}
			alive[p.Node][s.Interface] = true
			if r.serves(p.State, p.Capabilities) {
				ready[p.Node] = true
			}
		}
	}
	return alive, ready
}

// rehearWithin is how long after its start a heart has heard all that live: hellos come each 100
// ms.
const rehearWithin = 600 * time.Millisecond

// miss tells whom a new heart does not hear.
func (r *reporter) miss() {
	if layer2 := r.l2.Status(); layer2.Err == "" {
		alive, _ := r.heard(layer2.Segments)
		r.dead.Miss(alive)
	}
}

func (r *reporter) observedL2(o l2.Observation) {
	switch o.Kind {
	case l2.AddressGained:
		r.Logger.Info("gained ownership", "interface", o.Interface, "address", o.Address, "cause", o.Cause.Reason())
	case l2.AddressLost:
		r.Logger.Info(
			"lost ownership",
			"interface",
			o.Interface,
			"address",
			o.Address,
			"owner",
			o.Node,
			"cause",
			o.Cause.Reason(),
		)
	case l2.PeerUp, l2.PeerDown: // the driver logs them
		if o.Kind == l2.PeerUp {
			r.dead.Heard(o.Node, o.Interface)
			if r.serves(o.State, o.Capabilities) {
				r.dead.Ready(o.Node)
			}
		} else {
			r.dead.Silent(o.Node, o.Interface, o.State.Departing())
		}
	case l2.PeerOverdue:
		r.dead.Overdue(o.Node)
	case l2.Conflict:
		r.Logger.Warn(
			"another host has an address",
			"address",
			o.Address,
			"mac",
			o.MAC.String(),
			"interface",
			o.Interface,
		)
		r.foreign.note(o, time.Now()) // the controller tells the Service
		r.unserved.SetConflicts(r.foreign.addresses(time.Now()))
	case l2.ProxyFound:
		r.Logger.Warn(
			"a router answers for every address (proxy ARP); its answers are taken for nobody's",
			"interface",
			o.Interface,
			"mac",
			o.MAC.String(),
			"address",
			o.Address,
		)
	case l2.Outdated:
		r.Logger.Warn("another node knows better what is desired", "interface", o.Interface, "node", o.Node)
		r.freshness.Notify()
	case l2.UpToDate:
		r.freshness.Notify()
	case l2.Restarted:
		time.AfterFunc(rehearWithin, r.miss) // it does not say who fell silent before
	case l2.Failure:
		r.Logger.Warn("layer 2 failed", "interface", o.Interface, "error", o.Err)
	}
}

func (r *reporter) observedBGP(o bgp.Observation) {
	r.rivals.Check()
	switch o.Kind { // the driver logs them
	case bgp.SessionUp:
		r.aboutNeighbor(o.Peer, corev1.EventTypeNormal, o.Kind, "%s: established", with(o.Router))
	case bgp.SessionDown, bgp.SessionFailed:
		kind := corev1.EventTypeWarning
		if o.Intended {
			kind = corev1.EventTypeNormal
		}
		r.aboutNeighbor(o.Peer, kind, o.Kind, "%s: %s", with(o.Router), o.Reason)
	case bgp.RouteFailed:
		r.Logger.Warn("route is not announced", "prefix", o.Prefix, "reason", o.Reason)
	}
}

// heldBack makes an event about a peer that is not dialed.
func (r *reporter) heldBack(h rival.HeldPeer) {
	r.aboutNeighbor(h.Name, corev1.EventTypeWarning, bgp.SessionFailed, ": %s", h.Reason())
}

// aboutNeighbor makes an event on a BGPNeighbor; when many sessions change at once, only about
// some: the log and the Speaker have them all.
func (r *reporter) aboutNeighbor(name, kind string, what bgp.Kind, format string, args ...any) {
	if about := r.neighbor(name); about != nil && r.sessions[kind].Allow() {
		r.Events.Eventf(about, nil, kind, string(what), "Peer", "node %s%s", r.Node, fmt.Sprintf(format, args...))
	}
}

// neighbor returns what an event about a BGPNeighbor is about, or nil if there is none. It has no
// resourceVersion: that changes with the sessions, and what happens again would not be counted as
// such.
func (r *reporter) neighbor(name string) runtime.Object {
	o, ok := r.known(r.sources.peer, name).(*v1alpha1.BGPNeighbor)
	if !ok {
		return nil
	}
	return &corev1.ObjectReference{
		APIVersion: v1alpha1.GroupVersion.String(),
		Kind:       "BGPNeighbor",
		Name:       o.Name,
		UID:        o.UID,
	}
}

// with names the router of a prefix, if there is one.
func with(neighbor netip.Addr) string {
	if !neighbor.IsValid() {
		return ""
	}
	return " with " + neighbor.String()
}

// aboutServices makes an event on each Service that has the address; when very many move at once,
// only on some: the log has them all.
func (r *reporter) aboutServices(address netip.Addr, kind, reason, format string, args ...any) {
	r.mu.Lock()
	names := slices.Clone(r.services[address])
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
