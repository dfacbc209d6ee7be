package l2

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/internal/liveness"
	"github.com/berth-lb/berth/l2/election"
	"github.com/berth-lb/berth/l2/neighbor"
	"github.com/berth-lb/berth/l2/packet"
)

// segment serves one interface. Its loop owns everything below the inbox. The responders, in the
// goroutines of the wire, share only the address table with it.
type segment struct {
	*shared
	parent parent
	name   string
	boot   uint64 // the machine's: peers of another segment, or of a former one, do not know it
	cancel context.CancelFunc
	done   chan struct{} // closed when run has ended

	table     *neighbor.AddressTable
	published atomic.Pointer[Segment]
	drained   atomic.Uint64 // the round of the departure for which nothing is left to hand over

	inbox inbox
	wake  async.Signal // the inbox or the driver's orders changed

	// What the wire receives and reports.
	messages  chan election.Message
	sightings chan neighbor.Sighting
	broken    chan error
	failed    chan error

	orders
	machine *election.Machine
	desired map[netip.Addr]Desired
	coming  map[netip.Addr]Desired // what may be desired soon
	home    bool                   // the interface holds a node address
	nodes   nodes
	subnets []netip.Prefix // for which the machine knows its neighbors
	twins   twins
	attachment
	effects
	conflicts
	counts *segmentCounts
	faults faults
}

// shared is what a driver and its segments have in common. It does not change.
type shared struct {
	config   Config
	system   system
	cluster  uint64
	metrics  *metrics
	observed *async.Stream[Observation]
}

// parent is the driver as its segments see it. Its methods may be called from any goroutine.
type parent interface {
	orders() orders
	interfaceOf(mac [6]byte) string
	interfaceOfBoot(boot uint64) string
	pair(name, other string)
	mirrored(segment string) []Claim
	isPaired(name, first string) bool
	unpair(name string)
	home(name string) bool
	segmentDrained()
	fail(ifname string, err error)
}

// twins are interfaces of this node on one segment. One of them serves what is wanted on any of
// them, and the others are silent: peers see one machine.
//
// Two interfaces are twins while one hears the other's echoes, which are sent to its MAC, so that
// peers do not see them. Frames that somebody copies from one segment to another make no twins.
type twins struct {
	first  string    // the one that serves the segment; "": this one
	until  time.Time // when that is over unless it is confirmed again
	others []string  // those that this one serves the segment for
}

const (
	// maxBurst is how many frames are sent between two looks at the clock.
	maxBurst = 256
	// queueSize is how many events of a kind wait for the loop before more of them are lost.
	queueSize = 1024
	// retryDelay is the pause before something that failed is tried again.
	retryDelay = time.Second
)

func newSegment(shared *shared, parent parent, name string, cancel context.CancelFunc) *segment {
	boot := randomNumber()
	return &segment{
		shared:    shared,
		parent:    parent,
		name:      name,
		boot:      boot,
		cancel:    cancel,
		done:      make(chan struct{}),
		table:     neighbor.NewAddressTable(shared.system.now),
		inbox:     inbox{inputs: inputs{desired: make(map[netip.Addr]Desired), mirrored: make(map[mirrorKey]Claim)}},
		wake:      async.NewSignal(),
		messages:  make(chan election.Message, queueSize),
		sightings: make(chan neighbor.Sighting, queueSize),
		broken:    make(chan error, 1),
		failed:    make(chan error, 1),
		machine: election.NewMachine(election.Options{
			Node:     shared.config.Node,
			Boot:     boot,
			Interval: shared.config.HelloInterval,
			Listen:   shared.config.Listen,
			Handover: shared.config.Handover,

			Times:  shared.config.times(),
			Random: randomNumber,
		}),
		desired:   make(map[netip.Addr]Desired),
		effects:   newEffects(),
		conflicts: newConflicts(),
	}
}

// randomNumber returns a number that nobody can foresee, never 0.
func randomNumber() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // documented never to fail
	return max(1, binary.BigEndian.Uint64(b[:]))
}

// run serves the interface until ctx ends.
func (s *segment) run(ctx context.Context) {
	s.counts = s.metrics.of(s.name)
	defer s.metrics.forget(s.name)
	defer s.parent.unpair(s.name)
	defer s.finish()
	timer := time.NewTimer(0)
	defer timer.Stop()
	pass := liveness.Of(ctx, "segment "+s.name, liveness.Limit)
	for {
		pass.End()
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
			s.setFault(faultJoin, err)
		}
		pass.Begin()
		now := s.system.now()
		if broken != nil {
			s.setFault(faultSocket, broken)
			s.closeLink(now, election.LinkDown)
			s.reopen = now.Add(retryDelay)
		}
		s.readInbox(ctx, now)
		if said.Node != "" {
			s.hear(now, said)
		}
		if seen.Addr.IsValid() {
			s.see(now, seen)
		}
		for range len(s.sightings) { // this loop is their only reader
			s.see(now, <-s.sightings)
		}
		s.runDue(ctx, now)
		s.applyOutputs(now)
		s.sendDue(now)
		timer.Reset(max(s.next().Sub(s.system.now()), 0))
	}
}

// runDue does what the clock makes due before the outputs of the machine are applied.
func (s *segment) runDue(ctx context.Context, now time.Time) {
	if s.wire == nil && s.link.Up && !s.reopen.IsZero() && !now.Before(s.reopen) {
		s.openWire(ctx, now)
	}
	if s.machine.Due(now) {
		s.tick(now)
	} else if s.machine.DecisionDue(now) {
		s.drain(now)
	}
	if s.twins.first != "" && !now.Before(s.twins.until) {
		s.parent.unpair(s.name)
		s.setFirst(now, "")
	}
	s.updateMachine(now, election.Joined)
	s.machine.Step(now, election.Joined)
}

// sendDue sends the probes and announcements that are due, and ends what is over.
func (s *segment) sendDue(now time.Time) {
	s.probe(now)
	for _, a := range s.defender.Settled(now) {
		s.notifyAnswers(a, s.table.IsAnswered(a))
	}
	s.announce(now)
	if s.state.Departing() && s.drained.Load() != s.round && s.machine.Drained() {
		s.drained.Store(s.round)
		s.parent.segmentDrained()
	}
}

// next returns when the loop has something to do again.
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
		consider(s.scout.Next())
	}
	consider(s.defender.Next())
	if s.link.Up {
		consider(s.reopen)
	}
	return first
}

// tick is the heartbeat. A loop that is late hears what waits in the socket before it judges
// others. One that is so late that its peers count it as dead stops answering first: its addresses
// may be somebody else's by now.
func (s *segment) tick(now time.Time) {
	if s.machine.BeginTick(now) == election.TooLate && s.wire != nil {
		s.table.Watchdog.Stop()
		s.counts.overslept.Inc()
		s.doubtNext(now)
	}
	s.drain(now) // it may claim
	s.machine.Tick(now)
	s.publish(now)
}

// drain hears all messages that wait.
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
		if x, ok := s.verify(payload); ok {
			s.hear(now, x)
		}
	})
	s.setFault(faultDrain, err)
}

// updateMachine tells the machine what it may do.
func (s *segment) updateMachine(now time.Time, cause Cause) {
	s.machine.SetState(now, s.state, s.wire != nil && s.twins.first == "", len(s.keys.Sign) > 0, cause)
}

func (s *segment) hear(now time.Time, x election.Message) {
	if x.Node == s.config.Node {
		if other := s.parent.interfaceOfBoot(x.Boot); other != "" {
			s.hearSelf(other, x)
			return
		}
	}
	if err := s.machine.Hear(now, x); err != nil {
		s.counts.rejected(err)
	} else {
		s.counts.hellosReceived.Inc()
	}
}

// hearSelf takes a message that this very process sent on an interface.
func (s *segment) hearSelf(other string, x election.Message) {
	switch {
	case other == s.name:
	case !x.IsEcho():
		s.sendFrame(packet.EchoFrame(x.MAC, s.link.HardwareAddr(), s.seal(s.machine.Echo(x))))
	case s.machine.Echoed(x):
		s.parent.pair(s.name, other)
	}
}

// confirmFirst takes that another interface serves this segment, for a while.
func (s *segment) confirmFirst(now time.Time, first string) {
	s.twins.until = now.Add(s.machine.SilentAfter())
	if s.twins.first != first {
		s.config.Logger.Info("two interfaces are on one segment; one serves what is wanted on any of them",
			"interface", s.name, "served by", first)
		s.setFirst(now, first)
	}
}

// setFirst takes that another interface serves this segment from now on or, with "", that none
// does. This one hands nothing over: the other is heard where this one is.
func (s *segment) setFirst(now time.Time, first string) {
	s.twins.first = first
	s.updateMachine(now, election.LinkChanged)
	s.applyDesired(now)
}

// applyDesired hands every address to the machine again.
func (s *segment) applyDesired(now time.Time) {
	for addr, d := range s.desired {
		s.apply(now, addr, d)
	}
	s.anticipate(now)
}

func (s *segment) observe(now time.Time, x Observation) {
	x.Time, x.Interface = now, s.name
	s.observed.Send(x)
}

// setFault keeps what fails or, with a nil error, that it works again. A failure is reported once,
// not each time it repeats.
func (s *segment) setFault(f fault, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if s.faults[f] == text {
		return
	}
	s.faults[f] = text
	if err != nil {
		s.parent.fail(s.name, err)
	}
}

// observeFreshness observes that this node became outdated, or is no longer.
func (s *segment) observeFreshness(now time.Time, was bool, fresher string) {
	switch {
	case fresher != "" && !was:
		s.observe(now, Observation{Kind: Outdated, Node: fresher})
	case fresher == "" && was:
		s.observe(now, Observation{Kind: UpToDate})
	}
}

func (s *segment) publish(now time.Time) {
	m, fresher := s.machine.Summary(now), s.machine.Outdated()
	p := &Segment{
		Interface: s.name,
		MAC:       s.link.HardwareAddr(),
		Up:        s.wire != nil,
		Claiming:  m.Claiming,
		Peers:     m.Peers,
		Wanted:    len(s.desired),
		Owned:     m.Owned,
		Outdated:  fresher != "",
		Unheard:   m.Unheard,
		Err:       s.faults.String(),
		Subnets:   s.link.HostSubnets(),
		ProxyARP:  s.proxies.Present(now),
	}
	before := s.published.Swap(p)
	s.observeFreshness(now, before != nil && before.Outdated, fresher) // its reader finds the new status
	s.counts.peers.Set(float64(len(p.Peers)))
	s.counts.owned.Set(float64(p.Owned))
}
