package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

const (
	retryPause  = 5 * time.Second        // before something GoBGP refused is tried again
	settlePause = 2 * time.Millisecond   // between looks at a session that is just coming up
	byePause    = 900 * time.Millisecond // for sessions to send their last NOTIFICATION
	stopPause   = 1 * time.Second        // for GoBGP's goroutines to end
)

// owner is the one goroutine that knows both what is wanted and what is announced, and that talks to GoBGP.
// It never waits for a peer: GoBGP dials, sends and receives in goroutines of each session's own.
type owner struct {
	*Driver
	server   *server
	routerID netip.Addr // of server
	deaf     string     // why nobody can connect to us
	anew     string     // why server is to be replaced by another
	notes    *notes
	probes   chan verdict
	asking   sync.WaitGroup

	routers   map[string]sighting // of unnumbered peers, by interface
	sought    []string            // the interfaces where a search is on
	sightings chan sighting
	seekAgain *time.Timer
	watched   []Peer // by config.Liveness

	wanted    *wanted
	book      *book
	announced map[netip.Prefix]announcement // what GoBGP was told
	dirty     map[netip.Prefix]bool         // to compare; true: also if wanted and announced are equal
	refused   map[netip.Prefix]struct{}     // by GoBGP; dirty again when retry fires
	lastWrite time.Time                     // when a path was last handed to GoBGP

	peers     []Peer // as ordered
	usable    []Peer // those of them that can have a session
	peersDone bool   // all of them are in GoBGP
	peersNews bool   // they were ordered since
	byAddress map[netip.Addr]*session
	resting   map[netip.Addr]time.Time // routers of a prefix that are left alone until then

	turn      uint64 // of the order that set the phase
	phase     phase
	withdrawn []chan struct{}
	closing   bool

	ready                      <-chan struct{} // closed
	retry, settle, drain, rest *time.Timer
}

func newOwner(d *Driver) *owner {
	ready := make(chan struct{})
	close(ready)
	return &owner{
		Driver:    d,
		routerID:  d.config.RouterID,
		notes:     newNotes(d.log.Handler()),
		probes:    make(chan verdict),
		routers:   map[string]sighting{},
		sightings: make(chan sighting),
		seekAgain: stoppedTimer(),
		wanted:    newWanted(),
		book:      newBook(),
		announced: map[netip.Prefix]announcement{},
		dirty:     map[netip.Prefix]bool{},
		refused:   map[netip.Prefix]struct{}{},
		peersDone: true,
		byAddress: map[netip.Addr]*session{},
		resting:   map[netip.Addr]time.Time{},
		ready:     ready,
		retry:     stoppedTimer(),
		settle:    stoppedTimer(),
		drain:     stoppedTimer(),
		rest:      stoppedTimer(),
	}
}

func (o *owner) run(ctx context.Context) error {
	// GoBGP outlives ctx by the time it takes to say goodbye.
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer o.asking.Wait()
	defer cancel()
	if err := o.start(inner); err != nil {
		return err
	}
	resync := time.NewTicker(o.config.ResyncInterval)
	defer resync.Stop()
	defer o.retry.Stop()
	defer o.settle.Stop()
	defer o.drain.Stop()
	defer o.rest.Stop()
	defer o.seekAgain.Stop()

	for {
		select {
		case <-ctx.Done():
			return o.close(inner, cancel)
		case <-o.orders.wake:
			o.carryOut(o.orders.take())
		case e := <-o.server.events:
			o.sessionChanged(inner, e)
		case <-o.notes.wake:
			o.readNotes(inner)
		case v := <-o.probes:
			o.probeAnswered(v)
		case c := <-o.changes():
			o.pathChanged(inner, c)
		case seen := <-o.sightings:
			o.sighted(inner, seen)
		case <-o.seekAgain.C:
			o.seek(inner)
		case <-o.settle.C:
			o.settleSessions(inner)
		case <-o.retry.C:
			o.tryAgain(inner)
		case <-o.drain.C:
			if o.phase == draining {
				o.enter(withdrawn)
			}
		case <-o.rest.C:
			o.wakeRested(inner)
		case <-resync.C:
			o.readBack()
		case <-o.work():
			o.sendBatch()
		}
		if o.anew != "" {
			if err := o.restart(inner); err != nil {
				return err
			}
		}
		if o.peersNews && len(o.dirty) == 0 {
			o.peersNews = false
			o.syncPeers(inner)
			o.seek(inner)
		}
	}
}

// work is ready while there is something to send. One batch at a time, so that news of sessions and newer
// orders come in between.
func (o *owner) work() <-chan struct{} {
	if len(o.dirty) > 0 || len(o.withdrawn) > 0 && o.withdrawDone() {
		return o.ready
	}
	return nil
}

// withdrawDone tells whether nothing is left to wait for, be it because Resume came first.
func (o *owner) withdrawDone() bool {
	return o.phase != withdrawn || len(o.dirty) == 0 && len(o.announced) == 0
}

func (o *owner) carryOut(ord order) {
	for group, desired := range ord.groups {
		for _, prefix := range o.wanted.replace(group, desired) {
			o.touch(prefix)
		}
	}
	if ord.turn != o.turn {
		o.turn = ord.turn
		o.drain.Stop()
		if ord.phase == draining {
			o.drain.Reset(ord.drainFor)
		}
		o.enter(ord.phase)
	}
	o.withdrawn = append(o.withdrawn, ord.withdrawn...)
	if ord.routerID.IsValid() && ord.routerID != o.routerID {
		o.anew = fmt.Sprintf("the router ID changes from %s to %s", o.routerID, ord.routerID)
		o.routerID = ord.routerID
	}
	if ord.peers != nil {
		o.peers = *ord.peers
		o.peersNews = true // see to them after the routes, so that the first End-of-RIB tells the truth
	}
}

// enter begins a phase.
func (o *owner) enter(p phase) {
	if p == o.phase {
		return
	}
	o.phase = p
	o.board.update(func() { o.board.leaving = p == draining || p == withdrawn })
	for prefix := range o.wanted.prefixes {
		o.touch(prefix)
	}
	o.log.Info("BGP", slog.String("phase", p.String()), slog.Int("announced", len(o.announced)))
}

// touch marks a prefix for comparison, without taking back that it was marked for sure.
func (o *owner) touch(prefix netip.Prefix) {
	if _, marked := o.dirty[prefix]; !marked {
		o.dirty[prefix] = false
	}
}

// change is one prefix on its way to GoBGP.
type change struct {
	prefix   netip.Prefix
	announce bool
	to       announcement
	path     *apiutil.Path
}

// sendBatch compares some dirty prefixes with what is announced, and sends the difference.
func (o *owner) sendBatch() {
	var announce, withdraw []change
	for prefix, forced := range o.dirty {
		if len(announce)+len(withdraw) == pathsPerCall {
			break
		}
		delete(o.dirty, prefix)
		c, needed := o.compare(prefix, forced)
		switch {
		case !needed:
		case c.announce:
			announce = append(announce, c)
		default:
			withdraw = append(withdraw, c)
		}
	}
	if len(o.dirty) == 0 {
		o.dirty = map[netip.Prefix]bool{} // an emptied map costs its former size to look through
	}
	o.send(withdraw, o.server.remove)
	o.send(announce, o.addKnown)
	if o.withdrawDone() {
		for _, done := range o.withdrawn {
			close(done)
		}
		o.withdrawn = nil
	}
}

// addKnown hands paths to GoBGP, after the policy knows what they refer to.
func (o *owner) addKnown(paths []*apiutil.Path) error {
	if err := o.publishBook(); err != nil {
		return err
	}
	return o.server.add(paths)
}

// publishBook has the export policy know all sets of attributes.
func (o *owner) publishBook() error {
	if !o.book.news {
		return nil
	}
	peers := slices.Clone(o.usable)
	for i, p := range peers {
		if s := o.board.sessions[p.Name]; s != nil && s.withheld {
			peers[i].IPv4, peers[i].IPv6 = false, true
		}
	}
	for _, s := range o.byAddress { // before the prefix that they are in: the first statement counts
		if s.peer.ByPrefix() && s.withheld {
			p := s.peer
			p.IPv4, p.IPv6 = false, true
			peers = append([]Peer{p}, peers...)
		}
	}
	if err := o.server.setPeers(context.Background(), peers, o.book); err != nil {
		return err
	}
	o.book.news = false
	return nil
}

// compare decides what a prefix needs, if anything.
func (o *owner) compare(prefix netip.Prefix, forced bool) (c change, needed bool) {
	have, announced := o.announced[prefix]
	want, wanted := o.wanted.announcement(prefix)
	switch {
	case o.phase == withdrawn, o.phase == draining && !announced:
		wanted = false
	case o.phase == draining:
		want = want.drained()
	}
	hop, reachable := o.nextHop(familyOf(prefix.Addr()))
	var problem string
	switch {
	case !prefix.IsValid():
		problem = "the prefix is not valid"
	case !reachable:
		problem = "the node has no next hop of this family"
	}
	if wanted && problem != "" {
		o.fail(prefix, problem)
		return change{}, false
	}
	if !wanted && problem != "" {
		o.clear(prefix)
		return change{}, false
	}
	if !forced && announced == wanted && (!announced || have.equal(want)) {
		o.clear(prefix)
		return change{}, false
	}
	c = change{prefix: prefix, announce: wanted, to: want}
	if !wanted {
		c.to = have
	}
	err := c.to.validate()
	if err == nil {
		o.book.learn(c.to)
		c.path, err = newPath(prefix, c.to, hop, !wanted, o.book, o.asn())
	}
	if err != nil {
		o.refuse(prefix, err)
		return change{}, false
	}
	return c, true
}

// asn is the AS number that link bandwidths name: that of the first session.
func (o *owner) asn() uint32 {
	for _, p := range o.peers {
		return p.LocalASN
	}
	return 0
}

// send hands changes to GoBGP. If it refuses the batch, one by one, so that one bad path stops no other.
func (o *owner) send(changes []change, call func([]*apiutil.Path) error) {
	if len(changes) == 0 {
		return
	}
	paths := make([]*apiutil.Path, len(changes))
	for i, c := range changes {
		paths[i] = c.path
	}
	err := call(paths)
	o.lastWrite = time.Now()
	if err == nil {
		for _, c := range changes {
			o.sent(c)
		}
		return
	}
	for _, c := range changes {
		err := call([]*apiutil.Path{c.path})
		o.lastWrite = time.Now()
		if err != nil {
			o.refuse(c.prefix, err)
			continue
		}
		o.sent(c)
	}
}

func (o *owner) sent(c change) {
	if have, was := o.announced[c.prefix]; was {
		o.board.count(c.prefix, have, -1)
		delete(o.announced, c.prefix)
	}
	operation := "withdraw"
	if c.announce {
		operation = "announce"
		o.announced[c.prefix] = c.to
		o.board.count(c.prefix, c.to, 1)
	}
	o.metrics.updates.WithLabelValues(operation).Inc()
	o.log.Debug("BGP route", slog.String("operation", operation), slog.String("prefix", c.prefix.String()))
	o.clear(c.prefix)
}

// refuse remembers that GoBGP did not take a change, to try it again.
func (o *owner) refuse(prefix netip.Prefix, err error) {
	o.metrics.errors.Inc()
	o.refused[prefix] = struct{}{}
	o.retry.Reset(retryPause)
	o.fail(prefix, err.Error())
}

// fail publishes why a prefix is not as wanted.
func (o *owner) fail(prefix netip.Prefix, reason string) {
	var known bool
	o.board.update(func() {
		known = o.board.failed[prefix] == reason
		o.board.failed[prefix] = reason
	})
	if known {
		return
	}
	o.log.Warn("BGP route failed", slog.String("prefix", prefix.String()), slog.String("reason", reason))
	o.observed.send(Observation{Time: time.Now(), Kind: RouteFailed, Prefix: prefix, Reason: reason})
}

func (o *owner) clear(prefix netip.Prefix) {
	delete(o.refused, prefix)
	o.board.update(func() { delete(o.board.failed, prefix) })
}

func (o *owner) tryAgain(ctx context.Context) {
	for prefix := range o.refused {
		o.dirty[prefix] = true
	}
	if o.deaf != "" && o.mayListen() {
		o.anew = "routers can connect from now on"
		return
	}
	if !o.peersDone {
		o.syncPeers(ctx)
	}
}

// readBack compares what GoBGP has with what it was told, and marks the difference for repair.
func (o *owner) readBack() {
	o.book.forget(maps.Values(o.announced))
	if err := o.publishBook(); err != nil {
		o.log.Error("BGP policies refused", slog.Any("error", err))
	}
	for _, family := range families {
		found, err := o.server.paths(family)
		if err != nil {
			o.log.Error("BGP resync failed", slog.Any("error", err))
			return
		}
		hop, _ := o.nextHop(family)
		for prefix, a := range o.announced {
			if familyOf(prefix.Addr()) != family {
				continue
			}
			want, err := newPath(prefix, a, hop, false, o.book, o.asn())
			if got, ok := found[prefix]; err != nil || !ok || !samePath(got, want) {
				o.log.Warn("BGP route drifted", slog.String("prefix", prefix.String()))
				o.dirty[prefix] = true
			}
		}
		for prefix := range found {
			if _, ok := o.announced[prefix]; !ok {
				o.log.Warn("BGP route not ours to announce", slog.String("prefix", prefix.String()))
				o.dirty[prefix] = true
			}
		}
	}
}

// close says goodbye to the peers and ends GoBGP.
func (o *owner) close(ctx context.Context, cancel context.CancelFunc) error {
	o.closing = true
	o.unwatchPaths()
	for address, s := range o.byAddress {
		if counted, err := o.server.established(ctx, address); err == nil && counted {
			// Its event may still be on the way.
			o.board.update(func() { s.state = gobgp.BGP_FSM_ESTABLISHED })
		}
		if !s.up() || o.phase == restarting && s.keeps {
			continue
		}
		if err := o.server.goodbye(ctx, address, o.phase == draining || o.phase == withdrawn); err != nil {
			o.log.Warn("BGP goodbye failed", slog.String("peer", s.peer.Name), slog.Any("error", err))
		}
	}
	enough := time.NewTimer(byePause)
	defer enough.Stop()
	for waiting := true; waiting && o.anyToEnd(); {
		select {
		case e := <-o.server.events:
			o.sessionChanged(ctx, e)
		case <-enough.C:
			waiting = false
		}
	}
	quietly := o.phase == restarting
	if !quietly {
		cancel()
	}
	stopped := make(chan struct{})
	go func() { // ends when GoBGP has; if that hangs, so does GoBGP
		o.server.stop(ctx, quietly)
		close(stopped)
	}()
	last := time.NewTimer(stopPause)
	defer last.Stop()
	select {
	case <-stopped:
		return nil
	case <-last.C:
		return errors.New("stop BGP: sessions did not end in time")
	}
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}
