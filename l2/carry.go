package l2

import (
	"net/netip"
	"slices"
	"time"
)

// This file carries out what the machine decided: for the responders, on the wire, and for those who watch.

// carryOut makes what the machine decided true. What is to be answered no more comes first, what is said of it last.
func (s *segment) carryOut(now time.Time) {
	out := s.machine.take()
	for _, m := range out.moves {
		s.move(now, m)
	}
	for _, c := range out.claims {
		s.tellMirror(c)
	}
	for _, c := range out.changes {
		s.tellChange(now, c)
	}
	for _, x := range out.messages {
		s.send(x)
	}
}

func (s *segment) move(now time.Time, m move) {
	switch m.kind {
	case expect:
		s.hearOf(m.addrs, s.answers.of(m.group))
		s.listenFor(s.answers.set(m.group, m.addrs))
		if s.prober.holds(m.group) {
			s.beginProbing(now, m)
		}
	case forget:
		s.hearOf(nil, s.answers.of(m.group))
		s.listenFor(s.answers.set(m.group, nil))
	case start:
		if m.fresh {
			s.beginProbing(now, m)
		} else {
			s.begin(now, m)
		}
	case announce:
		if !s.prober.holds(m.group) {
			s.announcer.begin(now, m.group, m.addrs)
		}
	case stop:
		if s.endProbing(m.group) {
			return // it was never answered for
		}
		s.listenFor(s.answers.mark(m.group, false))
		s.announcer.end(m.group)
		s.moved(now, GroupLost, "lost", m)
	}
}

// begin has this node answer for a group.
func (s *segment) begin(now time.Time, m move) {
	s.listenFor(s.answers.mark(m.group, true))
	s.announcer.begin(now, m.group, m.addrs)
	s.moved(now, GroupGained, "gained", m)
}

// beginProbing asks the segment whether somebody else has the addresses of a group that was never announced.
func (s *segment) beginProbing(now time.Time, m move) {
	s.endProbing(m.group)
	s.probing[m.group] = m
	s.listenFor(m.addrs, nil)
	s.prober.begin(now, m.group, m.addrs)
}

// endProbing ends that, and reports whether it was so.
func (s *segment) endProbing(group string) bool {
	m, probing := s.probing[group]
	if probing {
		delete(s.probing, group)
		s.listenFor(nil, m.addrs)
		s.prober.end(group)
	}
	return probing
}

// probe sends the probes that are due, and begins to answer for groups whose addresses are free.
func (s *segment) probe(now time.Time) {
	if !s.mayAnnounce() || len(s.probing) == 0 {
		return
	}
	for waiting := true; waiting; { // what was heard until now counts
		select {
		case x := <-s.sightings:
			s.see(now, x)
		default:
			waiting = false
		}
	}
	mac := s.link.hardware()
	var failures []error
	for _, a := range s.prober.due(now, burst) {
		if a.Is4() {
			failures = append(failures, s.wire.sendARP(arpProbe(mac, a)))
			s.counts.arpProbes.Inc()
		} else {
			failures = append(failures, s.wire.sendNDP(ndpProbe(mac, a)))
			s.counts.ndpProbes.Inc()
		}
	}
	if len(failures) > 0 {
		s.note(faultAnnounce, first(failures))
	}
	for _, v := range s.prober.verdicts(now) {
		m := s.probing[v.group]
		if !v.free {
			s.conflict(now, v.foe)
			continue
		}
		s.begin(now, m)
		s.endProbing(v.group)
	}
}

// tellMirror hands a claim of this node's to whoever mirrors it.
func (s *segment) tellMirror(c Claim) {
	if s.d.config.OnClaim == nil {
		return
	}
	c.Segment, c.Interface, c.MAC = s.link.segment(), s.name, s.link.hardware()
	s.d.config.OnClaim(c)
}

// tellChange tells of a peer's step.
func (s *segment) tellChange(now time.Time, c change) {
	kind := PeerUp
	if !c.alive {
		kind = PeerDown
	}
	s.observe(now, Observation{Kind: kind, Node: c.peer, State: c.state, Cause: c.cause})
	s.d.config.Logger.Info("peer "+kind.String()[len("peer "):], "interface", s.name, "node", c.peer, "state", c.state, "capabilities", c.capabilities, "cause", c.cause)
}

// send signs a message and sends it. One that cannot be sent is lost as if on the wire.
func (s *segment) send(x message) {
	if s.wire == nil || len(s.keys.Sign) == 0 {
		return
	}
	x.mac, x.cluster = s.link.mac, s.d.cluster
	err := s.wire.sendHello(helloFrame(s.link.hardware(), x.seal(s.keys.Sign)))
	if s.note(faultHello, err); err == nil {
		s.counts.hellosSent.Inc()
	}
}

func (s *segment) moved(now time.Time, kind Kind, direction string, m move) {
	s.counts.moved(direction, m.cause)
	s.observe(now, Observation{Kind: kind, Group: m.group, Node: m.owner, Cause: m.cause})
	s.d.config.Logger.Debug("group "+direction, "interface", s.name, "group", m.group, "owner", m.owner, "cause", m.cause)
}

// mayAnnounce reports whether announcements can be sent, and are to be believed.
func (s *segment) mayAnnounce() bool { return s.wire != nil && !s.machine.dazed }

// announce sends what the announcer has for now, a burst at a time.
func (s *segment) announce(now time.Time) {
	if !s.mayAnnounce() {
		return
	}
	if addrs := s.announcer.due(now, burst); len(addrs) > 0 {
		s.sendAnnouncement(addrs)
	}
}

// sendAnnouncement tells the segment that the addresses are here.
func (s *segment) sendAnnouncement(addrs []netip.Addr) {
	if !s.mayAnnounce() {
		return
	}
	mac := s.link.hardware()
	var failures []error
	for _, addr := range addrs {
		if addr.Is4() {
			for _, frame := range gratuitousARP(mac, addr) {
				failures = append(failures, s.wire.sendARP(frame))
			}
			s.counts.gratuitousARP.Inc()
			continue
		}
		failures = append(failures, s.wire.sendNDP(unsolicitedNA(mac, addr)))
		s.counts.unsolicitedNA.Inc()
	}
	// One is enough to tell of: they fail alike.
	s.note(faultAnnounce, first(failures))
}

// hearOf lets ARP about addresses of this segment reach us, whether we own them or only listen for who does, and that about
// others no more. Both are counted by group.
func (s *segment) hearOf(now, before []netip.Addr) {
	if s.wire == nil {
		return
	}
	for _, a := range now {
		if a.Is4() && !slices.Contains(before, a) {
			s.wire.join(a)
		}
	}
	for _, a := range before {
		if a.Is4() && !slices.Contains(now, a) {
			s.wire.leave(a)
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
			s.wire.join(a)
		}
	}
	for _, a := range off {
		if a.Is6() {
			s.wire.leave(a)
		}
	}
}
