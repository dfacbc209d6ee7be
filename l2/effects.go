package l2

import (
	"cmp"
	"net/netip"
	"time"

	"github.com/berth-lb/berth/l2/election"
	"github.com/berth-lb/berth/l2/neighbor"
	"github.com/berth-lb/berth/l2/packet"
)

// effects are what it takes to carry out what the machine decided: for the responders, on the wire,
// and for observers.
type effects struct {
	announcer *neighbor.Announcer
	owned     map[netip.Addr]struct{}        // addresses that this node owns, probed ones included
	starting  map[netip.Addr]election.Action // of those, the ones that were not answered for yet
	notified  map[netip.Addr]struct{}        // addresses for which Config.Answers was last called with true
}

func newEffects() effects {
	return effects{
		announcer: neighbor.NewAnnouncer(),
		owned:     make(map[netip.Addr]struct{}),
		starting:  make(map[netip.Addr]election.Action),
		notified:  make(map[netip.Addr]struct{}),
	}
}

// applyOutputs carries out what the machine decided in this turn of the loop, at its end: first
// what the responders answer for, last what others are told.
func (s *segment) applyOutputs(now time.Time) {
	out := s.machine.Take()
	for _, a := range out.Actions {
		s.applyAction(now, a)
	}
	if !out.AnswerUntil.IsZero() {
		s.table.Watchdog.Extend(out.AnswerUntil)
	}
	for _, c := range out.Claims {
		s.notifyMirror(s.link.Segment(), c)
	}
	for _, c := range out.Changes {
		s.reportPeer(now, c)
	}
	for _, node := range out.Overdue {
		s.observe(now, Observation{Kind: PeerOverdue, Node: node})
	}
	for _, x := range out.Messages {
		s.send(x)
	}
}

func (s *segment) applyAction(now time.Time, a election.Action) {
	switch a.Kind {
	case election.ActionExpect:
		s.table.SetWanted(a.Address, true)
		s.listen(a.Address)
	case election.ActionForget:
		s.ignore(a.Address)
		s.table.SetWanted(a.Address, false)
	case election.ActionStart:
		s.owned[a.Address], s.starting[a.Address] = struct{}{}, a
		s.joinNDP(a.Address)
		s.prober.End(a.Address) // what it asked before this node claimed the address
		if clear := s.isClear(now, a.Address); a.Probe && !clear {
			s.prober.Begin(now, a.Address)
		} else {
			s.startAnswering(now, a.Address)
		}
	case election.ActionAnnounce:
		if s.table.IsAnswered(a.Address) {
			s.announcer.Begin(now, a.Address)
		}
	case election.ActionStop:
		s.stopAnswering(now, a.Address)
		s.leaveNDP(a.Address)
		delete(s.owned, a.Address)
		if _, starting := s.starting[a.Address]; starting {
			delete(s.starting, a.Address)
			return // it was never answered for
		}
		s.reportMove(now, AddressLost, "lost", a)
	}
}

// startAnswering answers for an address that this node owns from now on, and announces it.
func (s *segment) startAnswering(now time.Time, a netip.Addr) {
	s.notifyAnswers(a, !s.defender.Contested(a))
	s.table.Answer(a)
	s.machine.SetAnswered(now, a, true)
	s.announcer.Begin(now, a)
	if action, starting := s.starting[a]; starting {
		delete(s.starting, a)
		s.counts.vacant(now.Sub(action.Since), action.Cause)
		s.reportMove(now, AddressGained, "gained", action)
	}
}

// stopAnswering stops answering for an address, or probing for it.
func (s *segment) stopAnswering(now time.Time, a netip.Addr) {
	s.prober.End(a)
	s.announcer.End(a)
	s.defender.Silenced(a)
	if s.table.Silence(a) {
		s.machine.SetAnswered(now, a, false)
		s.notifyAnswers(a, false)
	}
}

// notifyAnswers calls Config.Answers if it was not last called with the same value.
func (s *segment) notifyAnswers(a netip.Addr, on bool) {
	if _, was := s.notified[a]; s.config.Answers == nil || was == on {
		return
	}
	if on {
		s.notified[a] = struct{}{}
	} else {
		delete(s.notified, a)
	}
	s.config.Answers(a, on)
}

func (s *segment) notifyMirror(segment string, c Claim) {
	if s.config.OnClaim == nil {
		return
	}
	c.Segment, c.Interface, c.MAC = segment, s.name, s.link.HardwareAddr()
	s.config.OnClaim(c)
}

func (s *segment) reportPeer(now time.Time, c election.PeerChange) {
	kind := PeerUp
	if !c.Alive {
		kind = PeerDown
	}
	s.observe(now, Observation{
		Kind: kind, Node: c.Node, State: c.State, Capabilities: c.Capabilities, Cause: c.Cause,
	})
	s.config.Logger.Info(kind.String(), "interface", s.name, "node", c.Node,
		"state", c.State, "capabilities", c.Capabilities, "cause", c.Cause)
}

func (s *segment) reportMove(now time.Time, kind Kind, direction string, a election.Action) {
	s.counts.moved(direction, a.Cause)
	s.observe(now, Observation{Kind: kind, Address: a.Address, Node: a.Owner, Cause: a.Cause})
	s.config.Logger.Debug(kind.String(), "interface", s.name, "address", a.Address, "owner", a.Owner, "cause", a.Cause)
}

// send signs a message and sends it. If that fails the message is lost, as if on the wire.
func (s *segment) send(x election.Message) {
	if s.twins.first == "" {
		s.sendFrame(packet.HelloFrame(s.link.HardwareAddr(), s.seal(x)))
	}
}

// seal completes and signs a message.
func (s *segment) seal(x election.Message) []byte {
	x.MAC, x.Cluster = s.link.MAC, s.cluster
	return x.Seal(s.keys.Sign)
}

func (s *segment) sendFrame(frame []byte) {
	if s.wire == nil || len(s.keys.Sign) == 0 {
		return
	}
	err := s.wire.SendHello(frame)
	if s.setFault(faultHello, err); err == nil {
		s.counts.hellosSent.Inc()
	}
}

// mayAnnounce reports whether announcements can be sent, and are true.
func (s *segment) mayAnnounce() bool { return s.wire != nil && !s.machine.CatchingUp() }

// announce sends the announcements that are due, a burst at a time.
func (s *segment) announce(now time.Time) {
	if !s.mayAnnounce() {
		return
	}
	if addrs := s.announcer.Due(now, maxBurst); len(addrs) > 0 {
		s.sendAnnouncements(addrs...)
	}
}

// sendAnnouncements tells the segment that the addresses are here.
func (s *segment) sendAnnouncements(addrs ...netip.Addr) {
	if !s.mayAnnounce() {
		return
	}
	mac := s.link.HardwareAddr()
	var failures []error
	for _, addr := range addrs {
		if addr.Is4() {
			for _, frame := range neighbor.GratuitousARP(mac, addr) {
				failures = append(failures, s.wire.SendARP(frame))
			}
			s.counts.gratuitousARP.Inc()
			continue
		}
		failures = append(failures, s.wire.SendNDP(neighbor.UnsolicitedNA(mac, addr)))
		s.counts.unsolicitedNA.Inc()
	}
	// One failure is enough to report: they all have the same cause.
	s.setFault(faultAnnounce, cmp.Or(failures...))
}

// listen lets ARP about a wanted IPv4 address reach this node, whether it owns it or only listens
// for who does. The wire counts how often an address is joined.
func (s *segment) listen(a netip.Addr) {
	if s.wire != nil && a.Is4() {
		s.wire.Join(a)
	}
}

// ignore undoes listen.
func (s *segment) ignore(a netip.Addr) {
	if s.wire != nil && a.Is4() {
		s.wire.Leave(a)
	}
}

// joinNDP joins the solicited-node group of an IPv6 address.
func (s *segment) joinNDP(a netip.Addr) {
	if s.wire != nil && a.Is6() {
		s.wire.Join(a)
	}
}

// leaveNDP undoes joinNDP.
func (s *segment) leaveNDP(a netip.Addr) {
	if s.wire != nil && a.Is6() {
		s.wire.Leave(a)
	}
}
