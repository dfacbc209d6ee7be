package l2

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/l2/election"

	"github.com/berth-lb/berth/l2/packet"

	"github.com/berth-lb/berth/l2/neighbor"
)

// segment serves one interface. Its loop owns everything below the inbox; the responders, in the wire's
// goroutines, share only answers with it.
type segment struct {
	name   string
	d      *Driver
	cancel context.CancelFunc
	done   chan struct{} // closed when run has ended

	answers   *neighbor.AddressTable
	published atomic.Pointer[Segment]
	drained   atomic.Uint64 // the round of leaving for which nothing is left to hand over

	inbox inbox
	wake  async.Signal

	messages  chan election.Message
	sightings chan neighbor.Sighting
	broken    chan error
	failed    chan error

	counts    *segmentCounts
	machine   *election.Machine
	announcer *neighbor.Announcer
	prober    *neighbor.Prober
	proxies   *neighbor.ProxyDetector
	doubted   []neighbor.Sighting        // of what is answered for, until it is known who is a proxy
	starting  map[string]election.Action // the beginnings of groups of which no address is answered for yet
	told      map[netip.Addr]struct{}    // the addresses of which Answers was told
	defence   *neighbor.Defender
	desired   map[string]Desired
	link      packet.Link
	home      bool
	wire      wire        // nil: closed
	unwatch   func() bool // ends ctx's hold on the wire
	reopen    time.Time   // when to try again to open it; zero: not
	twin      string      // another interface of this node on the same segment, which comes first; "": none
	twinUntil time.Time   // unless it is heard again
	faults    faults

	// As the driver last said.
	state State
	keys  Keys
	round uint64
}

// inbox is what others leave for the loop. Only the latest counts.
type inbox struct {
	mu       sync.Mutex
	desired  map[string]Desired  // guarded by mu
	mirrored map[mirrorKey]Claim // guarded by mu
	moving   []string            // guarded by mu
	blind    bool                // guarded by mu; the mirror was lost since
	link     *packet.Link        // guarded by mu
	home     bool                // guarded by mu
}

const (
	// burst is how many announcements are sent between two looks at the clock.
	burst = 256
	// waiting is how many events of a kind wait for the loop before its senders wait too.
	waiting = 1024
)

func newSegment(d *Driver, name string, cancel context.CancelFunc) *segment {
	s := &segment{
		name: name, d: d, cancel: cancel, done: make(chan struct{}),
		answers: neighbor.NewAddressTable(), wake: async.NewSignal(),
		messages: make(chan election.Message, waiting), sightings: make(chan neighbor.Sighting, waiting),
		broken: make(chan error, 1), failed: make(chan error, 1),
		announcer: neighbor.NewAnnouncer(), prober: neighbor.NewProber(), proxies: neighbor.NewProxyDetector(), defence: neighbor.NewDefender(),
		starting: make(map[string]election.Action), told: make(map[netip.Addr]struct{}), desired: make(map[string]Desired),
		machine: election.NewMachine(election.Options{
			Node: d.config.Node, Boot: d.boot,
			Interval: d.config.HelloInterval, Listen: d.config.Listen, Handover: d.config.Handover,
			Random: randomNumber,
		}),
	}
	s.inbox.desired, s.inbox.mirrored = make(map[string]Desired), make(map[mirrorKey]Claim)
	return s
}

// want leaves the desired state of one group for the loop.
func (s *segment) want(group string, desired Desired) {
	s.inbox.mu.Lock()
	s.inbox.desired[group] = desired
	s.inbox.mu.Unlock()
	s.stir()
}

// mirror leaves what the mirror says of one group for the loop.
func (s *segment) mirror(said Claim) {
	s.inbox.mu.Lock()
	s.inbox.mirrored[mirrorKey{said.Group, said.Segment}] = said
	s.inbox.mu.Unlock()
	s.stir()
}

// rebalance leaves a group to be moved, if need be, for the loop.
func (s *segment) rebalance(group string) {
	s.inbox.mu.Lock()
	s.inbox.moving = append(s.inbox.moving, group)
	s.inbox.mu.Unlock()
	s.stir()
}

// mirrorLost leaves that the mirror is not to be trusted for the loop.
func (s *segment) mirrorLost() {
	s.inbox.mu.Lock()
	s.inbox.blind = true
	clear(s.inbox.mirrored)
	s.inbox.mu.Unlock()
	s.stir()
}

// relink leaves what the kernel says of the interface.
func (s *segment) relink(l packet.Link, home bool) {
	s.inbox.mu.Lock()
	news := s.inbox.link == nil || !s.inbox.link.Same(l) || s.inbox.home != home
	s.inbox.link, s.inbox.home = &l, home
	s.inbox.mu.Unlock()
	if news {
		s.stir()
	}
}

// stir makes the loop look at its inbox and at the driver's state.
func (s *segment) stir() { s.wake.Notify() }

// run serves the interface until ctx ends.
func (s *segment) run(ctx context.Context) {
	s.counts = s.d.metrics.of(s.name)
	defer s.d.metrics.forget(s.name)
	defer s.finish()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var (
			said   election.Message
			seen   neighbor.Sighting
			broken error
		)
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-timer.C:
		case said = <-s.messages:
		case seen = <-s.sightings:
		case broken = <-s.broken:
		case err := <-s.failed:
			s.note(faultJoin, err)
		}
		now := time.Now()
		if broken != nil {
			s.note(faultSocket, broken)
			s.shut(now, election.LinkDown)
			s.reopen = now.Add(retry)
		}
		s.takeInbox(ctx, now)
		if said.Node != "" {
			s.hear(now, said)
		}
		if seen.Addr.IsValid() {
			s.see(now, seen)
		}
		s.step(ctx, now)
		s.carryOut(now)
		s.sendDue(now)
		timer.Reset(max(time.Until(s.next()), 0))
	}
}

// step does what is due by the clock.
func (s *segment) step(ctx context.Context, now time.Time) {
	if s.wire == nil && s.link.Up && !s.reopen.IsZero() && !now.Before(s.reopen) {
		s.open(ctx, now)
	}
	if s.machine.Due(now) {
		s.tick(now)
	} else if s.machine.DecisionDue(now) {
		s.drain(now)
	}
	if s.twin != "" && !now.Before(s.twinUntil) {
		s.pair(now, "")
	}
	s.stand(now, election.Joined)
	s.machine.Step(now, election.Joined)
}

// sendDue sends the probes and announcements that are due, and ends what is over.
func (s *segment) sendDue(now time.Time) {
	s.probe(now)
	for _, a := range s.defence.Settled(now) {
		s.tellAnswers(a, s.answers.IsAnswered(a))
	}
	s.announce(now)
	if s.state.Departing() && s.drained.Load() != s.round && s.machine.Drained() {
		s.drained.Store(s.round)
		s.d.wakeSupervisor()
	}
}

// next is when step has something to do again.
func (s *segment) next() time.Time {
	first := s.machine.Next()
	consider := func(t time.Time) {
		if !t.IsZero() && t.Before(first) {
			first = t
		}
	}
	if s.mayAnnounce() {
		consider(s.announcer.Next())
		consider(s.prober.Next())
		consider(s.proxies.Next())
	}
	consider(s.defence.Next())
	if s.link.Up {
		consider(s.reopen)
	}
	return first
}

// tick is the heartbeat. A loop that is late must not judge others before it has heard what waits in the socket; one
// that was late for longer than peers wait has lost its groups, knows it only now, and answers again when it
// has caught up.
func (s *segment) tick(now time.Time) {
	if late := s.machine.BeginTick(now); late > election.OnTime && s.wire != nil {
		if late == election.TooLate {
			s.answers.Watchdog.Stop()
			s.counts.overslept.Inc()
		}
		s.drain(now)
	}
	s.machine.Tick(now)
	s.publish(now)
}

// drain hears all that waits.
func (s *segment) drain(now time.Time) {
	for waiting := true; waiting; {
		select {
		case x := <-s.messages:
			s.hear(now, x)
		default:
			waiting = false
		}
	}
	if s.wire == nil {
		return
	}
	err := s.wire.Drain(func(payload []byte) {
		if x, ok := s.verified(payload); ok {
			s.hear(now, x)
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
	var mirrored map[mirrorKey]Claim
	if len(s.inbox.mirrored) > 0 && l != nil { // without a link the segment has no name yet
		mirrored, s.inbox.mirrored = s.inbox.mirrored, make(map[mirrorKey]Claim)
	}
	blind, moving := s.inbox.blind, s.inbox.moving
	s.inbox.blind, s.inbox.moving = false, nil
	s.inbox.mu.Unlock()

	s.d.mu.Lock()
	state, keys, able, round := s.d.state, s.d.keys, s.d.able, s.d.leave.round
	s.d.mu.Unlock()
	s.state, s.keys, s.round = state, keys, round
	if l != nil && (!l.Same(s.link) || s.link.Name == "") {
		s.follow(ctx, now, *l)
	} else if l != nil {
		s.link = *l
	}
	s.machine.SetCapabilities(now, able)
	cause := election.Unable
	switch {
	case state.Departing():
		cause = election.Departing
	case state == Ready:
		cause = election.Joined
	}
	s.stand(now, cause)
	if blind {
		s.machine.MirrorLost(now)
	}
	for _, said := range mirrored {
		if said.Segment == s.link.Segment() {
			s.machine.Mirrored(now, said)
		}
	}
	if home != s.home {
		s.home = home
		for group, d := range s.desired {
			s.apply(now, group, d)
		}
	}
	// What comes first, then what goes: an address that moves from one group to another is answered for all the time.
	for group, d := range desired {
		if len(d.Addresses) > 0 {
			s.desired[group] = d
			s.apply(now, group, d)
		}
	}
	for group, d := range desired {
		if len(d.Addresses) == 0 {
			delete(s.desired, group)
			s.apply(now, group, d)
		}
	}
	s.machine.Rebalance(moving...)
}

// stand tells the machine what it may do.
func (s *segment) stand(now time.Time, cause Cause) {
	s.machine.SetState(now, s.state, s.wire != nil, len(s.keys.Sign) > 0, cause)
}

// apply hands a group to the machine if it concerns this interface. Of two interfaces on one segment one serves it.
func (s *segment) apply(now time.Time, group string, d Desired) {
	if !concerns(d, s.name, s.home) || s.twin != "" && concerns(d, s.twin, s.d.home(s.twin)) {
		d.Addresses = nil
	}
	s.machine.SetGroup(now, group, d)
}

// concerns reports whether the group is wanted on an interface, home of a node address or not.
func concerns(d Desired, name string, home bool) bool {
	return len(d.Interfaces) == 0 && home ||
		slices.ContainsFunc(d.Interfaces, func(p string) bool { return p == "" && home || matches(p, name) })
}

func (s *segment) hear(now time.Time, x election.Message) {
	if x.Node == s.d.config.Node && x.Boot == s.d.boot {
		s.echo(now, x)
		return
	}
	if err := s.machine.Hear(now, x); err != nil {
		s.counts.rejected(err)
	} else {
		s.counts.hellosReceived.Inc()
	}
}

// echo takes a message of this very process. If another interface sent it, both are on one segment.
func (s *segment) echo(now time.Time, x election.Message) {
	other := s.d.interfaceOf(x.MAC)
	if x.MAC == s.link.MAC || other == "" || other >= s.name {
		return
	}
	s.twinUntil = now.Add(s.machine.SilentAfter())
	if s.twin != other {
		s.d.config.Logger.Info("two interfaces on one segment; the first serves what is wanted on both", "interface", s.name, "first", other)
		s.pair(now, other)
	}
}

// pair takes another interface's beginning or ceasing to be on this segment.
func (s *segment) pair(now time.Time, other string) {
	s.twin = other
	for group, d := range s.desired {
		s.apply(now, group, d)
	}
}

func (s *segment) observe(now time.Time, x Observation) {
	x.Time, x.Interface = now, s.name
	s.d.observed.Send(x)
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
	m := s.machine.Summary(now)
	p := &Segment{
		Interface: s.name, MAC: s.link.HardwareAddr(), Up: s.wire != nil, Claiming: m.Claiming,
		Peers: m.Peers, Groups: len(s.desired), Owned: m.Owned, Err: s.faults.String(),
		Subnets: s.link.HostSubnets(), ProxyARP: s.proxies.Present(now),
	}
	s.published.Store(p)
	s.counts.peers.Set(float64(len(p.Peers)))
	s.counts.owned.Set(float64(p.Owned))
}
