package l2

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/berth-lb/berth/l2/election"
	"github.com/berth-lb/berth/l2/neighbor"
	"github.com/berth-lb/berth/l2/packet"
)

// effects are what it takes to carry out what the machine decided: for the responders, on the wire,
// and for observers.
type effects struct {
	announcer *neighbor.Announcer
	starting  map[string]election.Action // groups that began without an answer for any address yet
	notified  map[netip.Addr]struct{}    // addresses for which Config.Answers was last called with true
}

func newEffects() effects {
	return effects{
		announcer: neighbor.NewAnnouncer(),
		starting:  make(map[string]election.Action),
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
		s.notifyMirror(c)
	}
	for _, c := range out.Changes {
		s.reportPeer(now, c)
	}
	for _, x := range out.Messages {
		s.send(x)
	}
}

func (s *segment) applyAction(now time.Time, a election.Action) {
	switch a.Kind {
	case election.ActionExpect:
		s.joinARP(a.Addresses, s.table.AddressesOf(a.Group))
		on, off := s.table.SetGroup(a.Group, a.Addresses)
		s.updateOwned(now, on, off, a.Probe)
		s.reportGroup(now, a.Group)
	case election.ActionForget:
		s.joinARP(nil, s.table.AddressesOf(a.Group))
		on, off := s.table.SetGroup(a.Group, nil)
		s.updateOwned(now, on, off, nil)
	case election.ActionStart:
		s.starting[a.Group] = a
		on, off := s.table.SetOwned(a.Group, true)
		s.updateOwned(now, on, off, a.Probe)
		s.reportGroup(now, a.Group)
		s.announceGroup(now, a.Group)
	case election.ActionAnnounce:
		s.announceGroup(now, a.Group)
	case election.ActionStop:
		on, off := s.table.SetOwned(a.Group, false)
		s.updateOwned(now, on, off, nil)
		if _, starting := s.starting[a.Group]; starting {
			delete(s.starting, a.Group)
			return // none of it was ever answered for
		}
		s.reportMove(now, GroupLost, "lost", a)
	}
}

// updateOwned takes which addresses this node came to own and which it lost. Those to be probed are
// answered for only when they are found to be free.
func (s *segment) updateOwned(now time.Time, on, off, probe []netip.Addr) {
	s.joinNDP(on, off)
	for _, a := range off {
		s.stopAnswering(now, a)
	}
	unproven := make(map[netip.Addr]struct{}, len(probe))
	for _, a := range probe {
		unproven[a] = struct{}{}
	}
	for _, a := range on {
		if _, ok := unproven[a]; ok {
			s.prober.Begin(now, a)
		} else {
			s.startAnswering(now, a)
		}
	}
}

func (s *segment) startAnswering(now time.Time, a netip.Addr) {
	s.notifyAnswers(a, !s.defender.Contested(a))
	s.table.Answer(a)
	s.machine.SetAnswered(now, a, true)
}

// stopAnswering stops answering for an address, or probing for it.
func (s *segment) stopAnswering(now time.Time, a netip.Addr) {
	s.prober.End(a)
	s.announcer.End(a)
	if s.table.Silence(a) {
		s.machine.SetAnswered(now, a, false)
		s.notifyAnswers(a, false)
	}
}

// reportGroup tells the machine, and once also observers, how much of an owned group is answered
// for.
func (s *segment) reportGroup(now time.Time, group string) {
	some, all := s.table.Extent(group)
	s.machine.SetPartial(group, !all)
	if a, starting := s.starting[group]; starting && some {
		delete(s.starting, group)
		s.reportMove(now, GroupGained, "gained", a)
	}
}

func (s *segment) announceGroup(now time.Time, group string) {
	s.announcer.Begin(now, s.table.AnsweredOf(group)...)
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

func (s *segment) notifyMirror(c Claim) {
	if s.config.OnClaim == nil {
		return
	}
	c.Segment, c.Interface, c.MAC = s.link.Segment(), s.name, s.link.HardwareAddr()
	s.config.OnClaim(c)
}

func (s *segment) reportPeer(now time.Time, c election.PeerChange) {
	kind := PeerUp
	if !c.Alive {
		kind = PeerDown
	}
	s.observe(now, Observation{Kind: kind, Node: c.Node, State: c.State, Cause: c.Cause})
	s.config.Logger.Info(kind.String(), "interface", s.name, "node", c.Node,
		"state", c.State, "capabilities", c.Capabilities, "cause", c.Cause)
}

func (s *segment) reportMove(now time.Time, kind Kind, direction string, a election.Action) {
	s.counts.moved(direction, a.Cause)
	s.observe(now, Observation{Kind: kind, Group: a.Group, Node: a.Owner, Cause: a.Cause})
	s.config.Logger.Debug(kind.String(), "interface", s.name, "group", a.Group, "owner", a.Owner, "cause", a.Cause)
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

// joinARP lets ARP about the IPv4 addresses of a group reach this node, whether it owns them or
// only listens for who does, and no longer about those it had before. The wire counts groups.
func (s *segment) joinARP(now, before []netip.Addr) {
	if s.wire == nil {
		return
	}
	for _, a := range now {
		if a.Is4() && !slices.Contains(before, a) {
			s.wire.Join(a)
		}
	}
	for _, a := range before {
		if a.Is4() && !slices.Contains(now, a) {
			s.wire.Leave(a)
		}
	}
}

// joinNDP joins and leaves the solicited-node groups of IPv6 addresses.
func (s *segment) joinNDP(on, off []netip.Addr) {
	if s.wire == nil {
		return
	}
	for _, a := range on {
		if a.Is6() {
			s.wire.Join(a)
		}
	}
	for _, a := range off {
		if a.Is6() {
			s.wire.Leave(a)
		}
	}
}
