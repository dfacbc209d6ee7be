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

// This file carries out what the machine decided: for the responders, on the wire, and for those who watch.

// carryOut makes what the machine decided in this turn true, at the end of it. First comes what the responders answer
// for, last what others are told.
func (s *segment) carryOut(now time.Time) {
	out := s.machine.Take()
	for _, m := range out.Actions {
		s.move(now, m)
	}
	if !out.AnswerUntil.IsZero() {
		s.answers.Watchdog.Extend(out.AnswerUntil)
	}
	for _, c := range out.Claims {
		s.tellMirror(c)
	}
	for _, c := range out.Changes {
		s.tellChange(now, c)
	}
	for _, x := range out.Messages {
		s.send(x)
	}
}

func (s *segment) move(now time.Time, m election.Action) {
	switch m.Kind {
	case election.ActionExpect:
		s.hearOf(m.Addresses, s.answers.AddressesOf(m.Group))
		on, off := s.answers.SetGroup(m.Group, m.Addresses)
		s.own(now, on, off, m.Probe)
		s.settle(now, m.Group)
	case election.ActionForget:
		s.hearOf(nil, s.answers.AddressesOf(m.Group))
		on, off := s.answers.SetGroup(m.Group, nil)
		s.own(now, on, off, nil)
	case election.ActionStart:
		s.starting[m.Group] = m
		on, off := s.answers.SetOwned(m.Group, true)
		s.own(now, on, off, m.Probe)
		s.settle(now, m.Group)
		s.announceGroup(now, m.Group)
	case election.ActionAnnounce:
		s.announceGroup(now, m.Group)
	case election.ActionStop:
		on, off := s.answers.SetOwned(m.Group, false)
		s.own(now, on, off, nil)
		if _, starting := s.starting[m.Group]; starting {
			delete(s.starting, m.Group)
			return // none of it was ever answered for
		}
		s.moved(now, GroupLost, "lost", m)
	}
}

// own takes which addresses came to be this node's and which went. Those to be probed are answered for when they are found
// free.
func (s *segment) own(now time.Time, on, off, probe []netip.Addr) {
	s.listenFor(on, off)
	for _, a := range off {
		s.quit(now, a)
	}
	ask := make(map[netip.Addr]struct{}, len(probe))
	for _, a := range probe {
		ask[a] = struct{}{}
	}
	for _, a := range on {
		if _, unproven := ask[a]; unproven {
			s.prober.Begin(now, a)
		} else {
			s.answer(now, a)
		}
	}
}

// answer has this node answer for an address.
func (s *segment) answer(now time.Time, a netip.Addr) {
	s.tellAnswers(a, !s.defence.Contested(a))
	s.answers.Answer(a)
	s.machine.SetAnswered(now, a, true)
}

// quit ends that, or the probing that would have come before.
func (s *segment) quit(now time.Time, a netip.Addr) {
	s.prober.End(a)
	s.announcer.End(a)
	if s.answers.Silence(a) {
		s.machine.SetAnswered(now, a, false)
		s.tellAnswers(a, false)
	}
}

// settle tells of a group that is this node's whether it is answered for.
func (s *segment) settle(now time.Time, group string) {
	some, all := s.answers.Extent(group)
	s.machine.SetPartial(group, !all)
	if m, starting := s.starting[group]; starting && some {
		delete(s.starting, group)
		s.moved(now, GroupGained, "gained", m)
	}
}

func (s *segment) announceGroup(now time.Time, group string) {
	s.announcer.Begin(now, s.answers.AnsweredOf(group)...)
}

// tellAnswers tells whoever wants to know whether this node answers for an address that nobody else has, as often as that
// changes.
func (s *segment) tellAnswers(a netip.Addr, on bool) {
	if _, told := s.told[a]; s.d.config.Answers == nil || told == on {
		return
	}
	if on {
		s.told[a] = struct{}{}
	} else {
		delete(s.told, a)
	}
	s.d.config.Answers(a, on)
}

// tellMirror hands a claim of this node's to whoever mirrors it.
func (s *segment) tellMirror(c Claim) {
	if s.d.config.OnClaim == nil {
		return
	}
	c.Segment, c.Interface, c.MAC = s.link.Segment(), s.name, s.link.HardwareAddr()
	s.d.config.OnClaim(c)
}

// tellChange tells of a peer's step.
func (s *segment) tellChange(now time.Time, c election.PeerChange) {
	kind := PeerUp
	if !c.Alive {
		kind = PeerDown
	}
	s.observe(now, Observation{Kind: kind, Node: c.Node, State: c.State, Cause: c.Cause})
	s.d.config.Logger.Info("peer "+kind.String()[len("peer "):], "interface", s.name, "node", c.Node, "state", c.State, "capabilities", c.Capabilities, "cause", c.Cause)
}

// send signs a message and sends it. One that cannot be sent is lost as if on the wire.
func (s *segment) send(x election.Message) {
	if s.wire == nil || len(s.keys.Sign) == 0 {
		return
	}
	x.MAC, x.Cluster = s.link.MAC, s.d.cluster
	err := s.wire.SendHello(packet.HelloFrame(s.link.HardwareAddr(), x.Seal(s.keys.Sign)))
	if s.note(faultHello, err); err == nil {
		s.counts.hellosSent.Inc()
	}
}

func (s *segment) moved(now time.Time, kind Kind, direction string, m election.Action) {
	s.counts.moved(direction, m.Cause)
	s.observe(now, Observation{Kind: kind, Group: m.Group, Node: m.Owner, Cause: m.Cause})
	s.d.config.Logger.Debug("group "+direction, "interface", s.name, "group", m.Group, "owner", m.Owner, "cause", m.Cause)
}

// mayAnnounce reports whether announcements can be sent, and are to be believed.
func (s *segment) mayAnnounce() bool { return s.wire != nil && !s.machine.CatchingUp() }

// announce sends what the announcer has for now, a burst at a time.
func (s *segment) announce(now time.Time) {
	if !s.mayAnnounce() {
		return
	}
	if addrs := s.announcer.Due(now, burst); len(addrs) > 0 {
		s.sendAnnouncement(addrs)
	}
}

// sendAnnouncement tells the segment that the addresses are here.
func (s *segment) sendAnnouncement(addrs []netip.Addr) {
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
	// One is enough to tell of: they fail alike.
	s.note(faultAnnounce, cmp.Or(failures...))
}

// hearOf lets ARP about addresses of this segment reach us, whether we own them or only listen for who does, and that about
// others no more. Both are counted by group.
func (s *segment) hearOf(now, before []netip.Addr) {
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

// listenFor joins and leaves the solicited-node groups of IPv6 addresses.
func (s *segment) listenFor(on, off []netip.Addr) {
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
