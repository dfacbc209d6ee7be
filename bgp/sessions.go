package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/berth-lb/berth/bgp/sift"
)

// syncPeers makes GoBGP's peers those that were ordered. Sessions of peers that did not change are
// not touched. What fails is tried again.
func (o *loop) syncPeers(ctx context.Context) {
	o.peersDone = true
	usable, problems := checkPeers(o.peers)
	usable, missing := o.locate(usable)
	problems = append(problems, missing...)
	usable, avoided := o.avoid(usable)
	problems = append(problems, avoided...)
	usable, unheard := o.hear(usable)
	problems = append(problems, unheard...)
	hops := o.hops()
	o.usable = usable
	if o.hops() != hops {
		for prefix := range o.desired.prefixes {
			o.dirty[prefix] = true
		}
	}
	byName := map[string]Peer{}
	names := map[netip.Prefix]string{}
	for _, p := range usable {
		byName[p.Name] = p
		names[p.Covers()] = p.Name
	}
	for name, s := range o.published.sessions {
		next, stays := byName[name]
		switch {
		case s.peer.ByPrefix(): // goes with its prefix
		case s.invalid || stays && next == s.peer:
		case stays && next.Session() == s.peer.Session():
			o.published.update(func() { s.peer = next })
			if s.hangUp != nil { // with the time that it had
				s.rest()
				o.call(ctx, s)
			}
		default:
			o.dropPeer(ctx, s, "peer removed or changed in the configuration")
		}
	}
	o.publishProblems(problems, byName)
	o.gobgpLog.rename(names)
	o.sets.news = true
	if err := o.publishSets(); err != nil {
		o.log.Error("GoBGP refused the policies", "error", err)
		o.peersDone = false
		o.retry.Reset(retryPause)
		return
	}
	for _, p := range usable {
		if s := o.published.sessions[p.Name]; s == nil || s.invalid {
			o.addPeer(ctx, p)
		}
	}
	maps.DeleteFunc(o.ended, func(_ string, at time.Time) bool { return time.Since(at) > returnWithin })
	o.watchPaths()
}

// checkPeers tells the peers that can have a session from those that cannot.
func checkPeers(peers []Peer) (usable []Peer, problems []problem) {
	names := map[string]bool{}
	places := map[string]string{}
	numbers := map[uint32]string{}
	for _, p := range peers {
		err := p.Validate()
		twin, sameNumber := numbers[peerNumber(p.Name)]
		other, samePlace := places[p.Place()]
		around := slices.IndexFunc(usable, func(q Peer) bool {
			return (p.Prefix.IsValid() || q.Prefix.IsValid()) && p.Interface == "" && q.Interface == "" &&
				p.Covers().Overlaps(q.Covers())
		})
		switch {
		case err != nil:
			problems = append(problems, problem{p, "peer " + p.Name + ": " + err.Error()})
		case names[p.Name]:
			problems = append(problems, problem{p, fmt.Sprintf("peer %s is configured twice", p.Name)})
		case samePlace && p.Interface != "":
			problems = append(
				problems,
				problem{p, fmt.Sprintf("peer %s is on interface %s, as peer %s is", p.Name, p.Interface, other)},
			)
		case samePlace:
			problems = append(
				problems,
				problem{p, fmt.Sprintf("peer %s has the address %s of peer %s", p.Name, p.Address, other)},
			)
		case around >= 0:
			problems = append(
				problems,
				problem{
					p,
					fmt.Sprintf(
						"peer %s (%s) overlaps peer %s (%s): a router would belong to both",
						p.Name,
						p.Place(),
						usable[around].Name,
						usable[around].Place(),
					),
				},
			)
		case sameNumber:
			problems = append(
				problems,
				problem{
					p,
					fmt.Sprintf(
						"peer %s has by chance the same number as peer %s (of 4294967295); give it another name",
						p.Name,
						twin,
					),
				},
			)
		default:
			usable = append(usable, p)
			names[p.Name] = true
			numbers[peerNumber(p.Name)] = p.Name
			places[p.Place()] = p.Name
		}
	}
	return usable, problems
}

// avoid tells the peers that are left alone from the others.
func (o *loop) avoid(peers []Peer) (usable []Peer, problems []problem) {
	for _, p := range peers {
		if why := o.leftAlone[p.Address]; why != "" {
			problems = append(problems, problem{p, why})
		} else {
			usable = append(usable, p)
		}
	}
	return usable, problems
}

// publishProblems replaces the peers in Status that have no session, at once. Of two with one name,
// the one with a session stays, and so does one that is about to get one.
func (o *loop) publishProblems(problems []problem, usable map[string]Peer) {
	sessions := maps.Clone(o.published.sessions)
	maps.DeleteFunc(sessions, func(_ string, s *session) bool {
		_, awaited := usable[s.peer.Name]
		return s.invalid && !awaited
	})
	for _, bad := range problems {
		s := &session{peer: bad.peer, invalid: true, lastError: bad.text, lastErrorAt: time.Now()}
		if before := o.published.sessions[bad.peer.Name]; before == nil || !before.invalid ||
			before.lastError != bad.text {
			o.report(s, SessionFailed, bad.text)
		}
		if sessions[bad.peer.Name] == nil {
			sessions[bad.peer.Name] = s
		}
	}
	o.published.update(func() { o.published.sessions = sessions })
}

// dropPeer ends a session. A peer that is still configured stays in Status, without one.
func (o *loop) dropPeer(ctx context.Context, s *session, why string) {
	if err := o.server.deletePeer(ctx, s.peer); err != nil {
		o.log.Error("BGP peer was not deleted", "peer", s.peer.Name, "error", err)
	}
	gone := []*session{s}
	for _, n := range o.byAddress {
		if n.peer.ByPrefix() && n.peer.Name == s.peer.Name {
			gone = append(gone, n)
		}
	}
	at := slices.IndexFunc(o.peers, func(p Peer) bool { return p.Name == s.peer.Name })
	o.published.update(func() {
		for _, g := range gone {
			delete(o.published.sessions, g.peer.Label())
		}
		if at >= 0 {
			o.published.sessions[s.peer.Name] = &session{peer: o.peers[at], invalid: true, since: time.Now()}
		}
	})
	for _, g := range gone {
		g.rest()
		delete(o.byAddress, g.peer.Address)
		if g.up() {
			o.ended[g.peer.Name] = time.Now()
			o.tell(g, Observation{Kind: SessionDown, Reason: why, Intended: true})
		}
	}
	o.metrics.downs.DeleteLabelValues(s.peer.Name)
}

func (o *loop) addPeer(ctx context.Context, p Peer) {
	s := &session{peer: p, since: time.Now(), closedAt: o.ended[p.Name]}
	if err := o.server.addPeer(ctx, p); err != nil {
		s.invalid = true
		s.lastError, s.lastErrorAt = err.Error(), time.Now()
		o.report(s, SessionFailed, s.lastError)
		o.peersDone = false
		o.retry.Reset(retryPause)
	} else if p.Address.IsValid() {
		o.byAddress[p.Address] = s
	}
	o.published.update(func() { o.published.sessions[p.Name] = s })
	o.metrics.downs.WithLabelValues(p.Name) // it is 0 from now on
}

// sessionChanged handles a session's change of state.
func (o *loop) sessionChanged(ctx context.Context, e sessionEvent) {
	o.readLog(ctx) // what explains the event was logged before it
	s := o.byAddress[e.address]
	if s == nil {
		s = o.acceptRouter(ctx, e)
	}
	if s == nil || s.state == e.state {
		return
	}
	wasUp, was, since := s.up(), s.state, s.since
	o.published.update(func() {
		s.state = e.state
		if s.up() || wasUp {
			s.since = e.time
		}
		if s.up() {
			s.families, s.keeps = e.families, e.restarts && s.peer.GracefulRestart > 0
		}
	})
	switch {
	case s.up():
		if !s.endedAt.IsZero() {
			o.metrics.outages.Observe(e.time.Sub(s.endedAt).Seconds())
		}
		s.endedAt, s.refusals = time.Time{}, 0
		o.sessionUp(ctx, s, e)
	case wasUp:
		o.sessionDown(s, e)
		if e.time.Sub(since) >= o.config.LastingSession && s.peer.GracefulRestart == 0 {
			o.startAnew(ctx, s)
		}
	case e.state == gobgp.BGP_FSM_IDLE && was == gobgp.BGP_FSM_OPENCONFIRM:
		o.refusedByPeer(s, e)
		if !s.peer.Listens() {
			o.startAnew(ctx, s)
		}
	case e.state == gobgp.BGP_FSM_IDLE && was == gobgp.BGP_FSM_OPENSENT && !s.peer.Listens():
		o.noted(ctx, s, failure{
			kind: openFailed, time: e.time, text: "peer closed the connection before the session was established",
		})
		s.refusals++
		o.startAnew(ctx, s)
	}
	if s.state == gobgp.BGP_FSM_ACTIVE {
		o.call(ctx, s)
	} else {
		s.rest()
	}
	if s.peer.ByPrefix() && (e.state == gobgp.BGP_FSM_IDLE || e.state == gobgp.BGP_FSM_ACTIVE) {
		o.releaseRouter(ctx, s, wasUp)
	}
}

func (o *loop) sessionUp(ctx context.Context, s *session, e sessionEvent) {
	s.verdict, s.probed, s.lastNote, s.closedBecause = "", time.Time{}, failure{}, ""
	if s.peer.RemoteASN == 0 && s.peer.External() && e.peerASN == s.peer.LocalASN {
		// GoBGP takes any AS then.
		s.closedBecause = fmt.Sprintf(
			"peer is in our own AS %d, and an external one is wanted; next attempt in %s",
			e.peerASN,
			o.config.RefusalPause,
		)
		s.backoffUntil = e.time.Add(o.config.RefusalPause)
		if err := o.server.refuse(ctx, s.peer.Address, "external peer wanted"); err != nil {
			o.log.Error("BGP session was not ended", "peer", s.peer.Name, "error", err)
		}
		o.restUntil()
		return
	}
	s.settling = e.time
	o.report(s, SessionUp, "")
	o.checkNextHops(s, e)
	o.settleSessions(ctx)
}

func (o *loop) sessionDown(s *session, e sessionEvent) {
	s.settling, s.endedAt = time.Time{}, e.time
	hold, _, _ := s.peer.Timers()
	reason := e.reason
	switch {
	case s.closedBecause != "":
		reason = s.closedBecause
	case e.reason == "hold-timer-expired":
		reason = fmt.Sprintf("hold timer expired: nothing heard from the peer (configured hold time %s)", hold)
	case s.lastNote.notification():
		reason = s.lastNote.text
	case e.reason == "read-failed":
		reason = "peer closed the connection"
	case e.reason == "write-failed":
		reason = "cannot send to the peer"
	case e.reason == "":
		reason = "session ended"
	}
	if s.peer.Interface != "" {
		o.seekAgain.Reset(seekPause)
	}
	o.doubtExtended(s)
	o.metrics.downs.WithLabelValues(s.peer.Name).Inc()
	o.setError(s, reason, e.time)
	o.tell(s, Observation{Kind: SessionDown, Reason: reason, Intended: o.closing})
}

// startAnew makes GoBGP forget that the peer had a session, for it stays idle for 5 s after one
// that ended. For sessions that lasted, so that one that ends again and again is held up, and for
// those that never were, which wait for our next call.
func (o *loop) startAnew(ctx context.Context, s *session) {
	if o.closing || !s.backoffUntil.IsZero() || s.peer.ByPrefix() {
		return
	}
	err := o.server.deletePeer(ctx, s.peer)
	if err == nil {
		err = o.server.addPeer(ctx, s.peer)
	}
	if err == nil {
		return
	}
	o.log.Error("BGP session was not restarted", "peer", s.peer.Name, "error", err)
	delete(o.byAddress, s.peer.Address)
	o.published.update(func() { s.invalid = true })
	o.peersDone = false
	o.retry.Reset(retryPause)
}

// wakeRested lets those sessions come up again that have rested after we refused them.
func (o *loop) wakeRested(ctx context.Context) {
	for address, s := range o.byAddress {
		if s.backoffUntil.IsZero() || time.Now().Before(s.backoffUntil) {
			continue
		}
		s.backoffUntil = time.Time{}
		if err := o.server.enable(ctx, address); err != nil {
			o.log.Error("BGP session was not enabled", "peer", s.peer.Name, "error", err)
		}
	}
	o.restUntil()
}

// restUntil sets the timer for the first of those that rest.
func (o *loop) restUntil() {
	var first time.Time
	for _, s := range o.byAddress {
		if !s.backoffUntil.IsZero() && (first.IsZero() || s.backoffUntil.Before(first)) {
			first = s.backoffUntil
		}
	}
	if !first.IsZero() {
		o.rest.Reset(time.Until(first))
	}
}

// refusedByPeer is the end of a session whose OPENs were exchanged and that the peer did not
// confirm.
func (o *loop) refusedByPeer(s *session, e sessionEvent) {
	s.refusals++
	if !s.lastNote.notification() {
		o.attemptFailed(s, "peer refused the session after the OPEN messages", e.time, true)
	}
}

// readLog reads what GoBGP's log says about sessions that are not up.
func (o *loop) readLog(ctx context.Context) {
	for address, n := range o.gobgpLog.take() {
		if n.deconfigured() {
			continue // it ended the session before, of the peer as it was
		}
		s := o.byAddress[address]
		if s == nil {
			if prefix := o.prefixOf(address); prefix != nil {
				o.routerFailed(address, n.about(prefix.peer), n.time)
			}
			continue
		}
		o.noted(ctx, s, n)
	}
}

// noted takes one reason for which a session is not up.
func (o *loop) noted(ctx context.Context, s *session, n failure) {
	if n.kind == openFailed && s.lastNote.notification() {
		return // the peer's way to answer the NOTIFICATION
	}
	if n.byWire && s.up() {
		return // perhaps of another connection; GoBGP tells of the session's own
	}
	s.lastNote = n
	if s.up() {
		return // the event that follows tells it
	}
	silent := n.silent() && s.peer.Password != ""
	reason, vague := n.about(s.peer), !n.notification()
	if silent && s.verdict != "" {
		reason, vague = s.verdict, false
	}
	o.attemptFailed(s, reason, n.time, vague)
	if silent {
		o.probe(ctx, s)
	}
}

// call connects to a peer, again and again until it takes the connection.
func (o *loop) call(ctx context.Context, s *session) {
	if s.hangUp != nil || o.closing || s.peer.Listens() {
		return
	}
	ctx, s.hangUp = context.WithCancel(ctx)
	peer, wait := s.peer, s.pause()
	o.asking.Add(1)
	go func() { // ends with ctx, or when the peer takes the connection
		defer o.asking.Done()
		conn := connect(ctx, peer, wait, func(f failure) { o.gobgpLog.put(peer.Address, f) })
		if conn == nil {
			return
		}
		select {
		case o.answered <- answer{of: s, conn: o.sifted(conn, peer, peer.Address)}:
		case <-ctx.Done():
			conn.Close()
		}
	}()
}

// sifted is a connection to a router without what it announces, which nobody wants.
func (o *loop) sifted(conn *net.TCPConn, p Peer, router netip.Addr) net.Conn {
	heard := func() {}
	if o.config.Heard != nil {
		heard = func() { o.config.Heard(router) }
	}
	return sift.New(conn, heard, func(message []byte) { o.gobgpLog.said(router, p, message) })
}

// pause is how long to wait before the peer is called.
func (s *session) pause() time.Duration {
	if s.refusals == 0 {
		return 0
	}
	_, _, retry := s.peer.Timers()
	return min(callPause<<min(s.refusals-1, 16), max(retry, callPause))
}

// rest ends the attempts to connect.
func (s *session) rest() {
	if s.hangUp != nil {
		s.hangUp()
		s.hangUp = nil
	}
}

// connected gives GoBGP the connection, of which it makes a session.
func (o *loop) connected(a answer) {
	if a.of.hangUp == nil { // too late
		a.conn.Close()
		return
	}
	a.of.rest()
	a.of.local = localEnd(a.conn)
	if err := o.server.take(a.conn); err != nil {
		o.log.Error("GoBGP did not take a connection", "peer", a.of.peer.Name, "error", err)
	}
}

// returnWithin is how long a peer may take until it lets a session come up again that we ended for
// our configuration. GoBGP as a router took 26 s.
const returnWithin = 30 * time.Second

// attemptFailed records why a session did not come up, and reports it unless that is known. A vague
// reason can be that the peer is still busy with the end of the session before.
func (o *loop) attemptFailed(s *session, reason string, at time.Time, vague bool) {
	if s.peer.ByPrefix() {
		o.routerFailed(s.peer.Address, reason, at)
		return
	}
	known := s.lastError == reason && !s.untold
	s.untold = vague && at.Sub(s.closedAt) < returnWithin
	o.setError(s, reason, at)
	if !known && !s.untold {
		o.report(s, SessionFailed, reason)
	}
}

func (o *loop) setError(s *session, reason string, at time.Time) {
	o.published.update(func() { s.lastError, s.lastErrorAt = reason, at })
}

func (o *loop) report(s *session, kind Kind, reason string) {
	o.tell(s, Observation{Kind: kind, Reason: reason})
}

// tell completes an observation of the session, logs it and sends it.
func (o *loop) tell(s *session, seen Observation) {
	level := slog.LevelInfo
	if seen.Kind != SessionUp && !seen.Intended {
		level = slog.LevelWarn
	}
	o.log.Log(context.Background(), level, "BGP session", "event", string(seen.Kind),
		"peer", s.peer.Name, "address", s.peer.Place(), "reason", seen.Reason)
	seen.Time, seen.Peer = time.Now(), s.peer.Name
	if s.peer.ByPrefix() {
		seen.Router = s.peer.Address
	}
	o.observed.Send(seen)
}

// probe finds out why a peer with a password answers nothing, at most once a minute.
func (o *loop) probe(ctx context.Context, s *session) {
	if !s.probed.IsZero() && time.Since(s.probed) < probePause {
		return
	}
	s.probed = time.Now()
	peer := s.peer
	o.asking.Add(1)
	go func() { // ends after unsignedTimeout and pingTimeout or with ctx
		defer o.asking.Done()
		select {
		case o.probes <- probeResult{of: s, text: probeUnsigned(ctx, peer)}:
		case <-ctx.Done():
		}
	}()
}

func (o *loop) probeAnswered(v probeResult) {
	s := v.of
	if v.text == "" || s.up() || o.byAddress[s.peer.Address] != s {
		return
	}
	s.verdict = v.text
	o.attemptFailed(s, v.text, time.Now(), false)
}

// settleSessions closes a gap in GoBGP v4.8.0: it tells that a session is established, and has
// queued all routes for it, an instant before it counts it among those that get changes. A change
// in between would never reach the peer: from here on changes wait (see work), and if there was one
// before, everything is sent again.
func (o *loop) settleSessions(ctx context.Context) {
	waiting := false
	for _, s := range o.byAddress {
		if s.settling.IsZero() {
			continue
		}
		counted, err := o.server.established(ctx, s.peer.Address)
		if err == nil && !counted {
			waiting = true
			continue
		}
		missed := s.missed || o.lastWrite.After(s.settling)
		s.settling, s.missed = time.Time{}, false
		if err == nil && missed {
			err = o.server.resend(ctx, s.peer.Address)
		}
		if err != nil {
			o.log.Warn("could not check a BGP session for missed routes", "peer", s.peer.Name, "error", err)
		}
	}
	if o.settles = waiting; waiting {
		o.settle.Reset(settlePause)
	}
}

// anyToEnd reports whether a session is up that is to end with a word.
func (o *loop) anyToEnd() bool {
	for _, s := range o.byAddress {
		if s.up() && !(o.phase == restarting && s.keeps) {
			return true
		}
	}
	return false
}
