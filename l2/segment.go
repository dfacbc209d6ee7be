package l2

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// segment serves one interface. Its loop owns everything below the inbox; the responders, in the wire's
// goroutines, share only answers with it.
type segment struct {
	name   string
	d      *Driver
	cancel context.CancelFunc
	done   chan struct{} // closed when run has ended

	answers   *answers
	published atomic.Pointer[Segment]
	drained   atomic.Uint64 // the round of leaving for which nothing is left to hand over

	inbox inbox
	wake  chan struct{}

	hellos    chan hello
	sightings chan sighting
	broken    chan error
	failed    chan error

	counts    *segmentCounts
	members   membership
	owner     *ownership
	announcer *announcer
	desired   map[string]Desired
	link      link
	home      bool
	wire      wire        // nil: closed
	unwatch   func() bool // ends ctx's hold on the wire
	reopen    time.Time   // when to try again to open it; zero: not
	clock     clockwork
	sequence  uint64
	faults    faults

	// As the driver last said.
	state State
	key   []byte
	round uint64
}

// inbox is what others leave for the loop. Only the latest counts.
type inbox struct {
	mu      sync.Mutex
	desired map[string]Desired // guarded by mu
	link    *link              // guarded by mu
	home    bool               // guarded by mu
}

const (
	// burst is how many announcements are sent between two looks at the clock.
	burst = 256
	// waiting is how many events of a kind wait for the loop before its senders wait too.
	waiting = 256
)

func newSegment(d *Driver, name string, cancel context.CancelFunc) *segment {
	s := &segment{
		name: name, d: d, cancel: cancel, done: make(chan struct{}),
		answers: newAnswers(), wake: make(chan struct{}, 1),
		hellos: make(chan hello, waiting), sightings: make(chan sighting, waiting),
		broken: make(chan error, 1), failed: make(chan error, 1),
		members: newRoster(d.config.Node), announcer: newAnnouncer(), desired: make(map[string]Desired),
	}
	s.inbox.desired = make(map[string]Desired)
	s.owner = newOwnership(d.config.Node, d.config.Handover, s.members.ready)
	s.clock = clockwork{interval: d.config.HelloInterval, listen: d.config.Listen}
	return s
}

// want leaves the desired state of one group for the loop.
func (s *segment) want(group string, desired Desired) {
	s.inbox.mu.Lock()
	s.inbox.desired[group] = desired
	s.inbox.mu.Unlock()
	s.stir()
}

// relink leaves what the kernel says of the interface.
func (s *segment) relink(l link, home bool) {
	s.inbox.mu.Lock()
	news := s.inbox.link == nil || !s.inbox.link.same(l) || s.inbox.home != home
	s.inbox.link, s.inbox.home = &l, home
	s.inbox.mu.Unlock()
	if news {
		s.stir()
	}
}

// stir makes the loop look at its inbox and at the driver's state.
func (s *segment) stir() { signal(s.wake) }

// run serves the interface until ctx ends.
func (s *segment) run(ctx context.Context) {
	s.counts = s.d.metrics.of(s.name)
	defer s.d.metrics.forget(s.name)
	defer s.finish()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var (
			h      hello
			seen   sighting
			broken error
		)
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-timer.C:
		case h = <-s.hellos:
		case seen = <-s.sightings:
		case broken = <-s.broken:
		case err := <-s.failed:
			s.note(faultJoin, err)
		}
		now := time.Now()
		if broken != nil {
			s.note(faultSocket, broken)
			s.shut(now, LinkDown)
			s.reopen = now.Add(retry)
		}
		s.takeInbox(ctx, now)
		if h.node != "" {
			s.hear(now, h)
		}
		if seen.addr.IsValid() {
			s.see(now, seen)
		}
		s.step(ctx, now)
		timer.Reset(max(time.Until(s.next()), 0))
	}
}

// step does what is due by the clock.
func (s *segment) step(ctx context.Context, now time.Time) {
	if s.wire == nil && s.link.up && !s.reopen.IsZero() && !now.Before(s.reopen) {
		s.open(ctx, now)
	}
	if s.clock.due(now) {
		s.tick(now)
	}
	s.settleStand(now)
	s.carryOut(now, s.owner.advance(now))
	if s.clock.quickDue(now) {
		s.sendHello(now) // before the announcements that follow from it
	}
	s.announce(now)
	if s.state.departing() && s.owner.pending == 0 && !s.clock.quickLeft() && s.drained.Load() != s.round {
		s.drained.Store(s.round)
		s.d.wakeSupervisor()
	}
}

// next is when step has something to do again.
func (s *segment) next() time.Time {
	first := s.clock.next()
	consider := func(t time.Time) {
		if !t.IsZero() && t.Before(first) {
			first = t
		}
	}
	consider(s.owner.next())
	if s.mayAnnounce() {
		consider(s.announcer.next())
	}
	if s.link.up {
		consider(s.reopen)
	}
	return first
}

// tick is the heartbeat: judge the others, tell them of ourselves, and allow the responders to go on. A loop that
// is late must not judge before it has heard what waits in the socket; one that was late for longer than
// peers wait has lost its groups, knows it only now, and answers again when it is on time again.
func (s *segment) tick(now time.Time) {
	lateness := s.clock.tick(now)
	if lateness > onTime && s.wire != nil {
		if lateness == overslept {
			s.answers.awake.sleep()
			s.counts.overslept.Inc()
		}
		s.drain(now)
	}
	if s.clock.mayJudge() {
		for _, c := range s.members.judge(now) {
			s.change(now, c)
		}
	}
	if s.clock.awake {
		s.answers.awake.extend(now.Add(silence * s.clock.interval))
		if s.clock.woken() {
			s.carryOut(now, s.owner.repeat(Overslept))
		}
	}
	s.sendHello(now)
	s.publish(now)
}

func (s *segment) drain(now time.Time) {
	for waiting := true; waiting; {
		select {
		case h := <-s.hellos:
			s.hear(now, h)
		default:
			waiting = false
		}
	}
	err := s.wire.drain(func(payload []byte) {
		if h, ok := s.verified(payload); ok {
			s.hear(now, h)
		}
	})
	s.note(faultDrain, err)
}

// takeInbox brings the loop's view up to what others want of it.
func (s *segment) takeInbox(ctx context.Context, now time.Time) {
	s.inbox.mu.Lock()
	l, home := s.inbox.link, s.inbox.home
	var desired map[string]Desired
	if len(s.inbox.desired) > 0 {
		desired, s.inbox.desired = s.inbox.desired, make(map[string]Desired)
	}
	s.inbox.mu.Unlock()

	s.d.mu.Lock()
	state, key, round := s.d.state, s.d.keys.Sign, s.d.leave.round
	s.d.mu.Unlock()
	if state != s.state || round != s.round {
		s.state, s.round = state, round
		s.clock.hurry(now)
	}
	if (len(key) > 0) != (len(s.key) > 0) {
		s.clock.listenAnew(now)
	}
	s.key = key
	if l != nil && (!l.same(s.link) || s.link.name == "") {
		s.follow(ctx, now, *l)
	}
	s.settleStand(now)
	if home != s.home {
		s.home = home
		for group, d := range s.desired {
			s.apply(now, group, d)
		}
	}
	for group, d := range desired {
		if len(d.Addresses) == 0 {
			delete(s.desired, group)
		} else {
			s.desired[group] = d
		}
		s.apply(now, group, d)
	}
}

// apply hands a group to ownership if it concerns this interface.
func (s *segment) apply(now time.Time, group string, d Desired) {
	here := len(d.Interfaces) == 0 && s.home ||
		slices.ContainsFunc(d.Interfaces, func(p string) bool { return p == "" && s.home || matches(p, s.name) })
	if !here {
		d.Addresses = nil
	}
	s.carryOut(now, s.owner.set(now, group, d.Addresses, d.Candidates))
}

func (s *segment) hear(now time.Time, h hello) {
	c, err := s.members.hear(now, h)
	if err != nil {
		s.counts.rejected(err)
		return
	}
	s.counts.hellosReceived.Inc()
	if c != nil {
		s.change(now, *c)
	}
}

// change takes a peer's step, and decides anew.
func (s *segment) change(now time.Time, c change) {
	kind := PeerUp
	if !c.alive {
		kind = PeerDown
	}
	s.observe(now, Observation{Kind: kind, Node: c.peer, State: c.state, Cause: c.cause})
	s.d.config.Logger.Info("peer "+kind.String()[len("peer "):], "interface", s.name, "node", c.peer, "state", c.state, "cause", c.cause)
	s.carryOut(now, s.owner.reconsider(now, c.cause))
}

// see takes somebody else's announcement of one of our addresses.
func (s *segment) see(now time.Time, x sighting) {
	peer, ok := s.members.byMAC(x.mac)
	if !ok {
		if s.answers.answering(x.addr) {
			s.counts.conflicts.Inc()
			s.observe(now, Observation{Kind: Conflict, Address: x.addr, MAC: x.mac[:]})
		}
		return
	}
	for _, group := range s.answers.groupsOf(x.addr) {
		s.carryOut(now, s.owner.heard(now, group, peer))
	}
}

// settleStand tells ownership whether this node may own groups here.
func (s *segment) settleStand(now time.Time) {
	able := s.wire != nil && len(s.key) > 0 && s.clock.listened(now)
	cause := Unable
	switch {
	case s.state.departing():
		cause = Departing
	case able && s.state == Ready:
		cause = Joined
	}
	was := s.owner.eligible
	s.carryOut(now, s.owner.stand(now, able && s.state == Ready, s.state.departing() && able, cause))
	if was != s.owner.eligible {
		s.clock.hurry(now)
	}
}

// said is the state in our hellos: Ready only while this node would take a group.
func (s *segment) said() State {
	if s.state == Ready && (!s.owner.eligible || !s.clock.awake) {
		return Starting
	}
	return s.state
}

func (s *segment) sendHello(now time.Time) {
	s.clock.sent(now)
	if s.wire == nil || len(s.key) == 0 {
		return
	}
	s.sequence++
	h := hello{
		node: s.d.config.Node, boot: s.d.boot, sequence: s.sequence,
		interval: s.clock.interval, state: s.said(), mac: s.link.mac,
	}
	err := s.wire.sendHello(helloFrame(s.link.hardware(), h.seal(s.key)))
	if s.note(faultHello, err); err == nil {
		s.counts.hellosSent.Inc()
	}
}

func (s *segment) observe(now time.Time, x Observation) {
	x.Time, x.Interface = now, s.name
	s.d.observed.add(x)
}

// note keeps what fails, or with a nil error that it works again. A failure is told of once, not each time it
// repeats.
func (s *segment) note(f fault, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if s.faults[f] == text {
		return
	}
	s.faults[f] = text
	if err != nil {
		s.d.fail(s.name, err)
	}
}

func (s *segment) publish(now time.Time) {
	p := &Segment{
		Interface: s.name, MAC: s.link.hardware(), Up: s.wire != nil, Claiming: s.owner.eligible,
		Peers: s.members.peers(now), Groups: len(s.owner.claims), Owned: s.owner.owned + s.owner.pending, Err: s.faults.String(),
	}
	s.published.Store(p)
	s.counts.peers.Set(float64(len(p.Peers)))
	s.counts.owned.Set(float64(p.Owned))
}
