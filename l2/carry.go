package l2

import (
	"net/netip"
	"time"
)

// This file carries out what ownership decided: for the responders, on the wire, and for those who watch.

// carryOut makes moves true: for the responders, for the segment, and for those who watch.
func (s *segment) carryOut(now time.Time, moves []move) {
	for _, m := range moves {
		switch m.kind {
		case expect:
			on, off := s.answers.set(m.group, m.addrs)
			s.admit(m.addrs)
			s.listenFor(on, off)
		case forget:
			_, off := s.answers.set(m.group, nil)
			s.listenFor(nil, off)
		case start:
			s.listenFor(s.answers.mark(m.group, true))
			s.announcer.begin(now, m.group, m.addrs)
			s.moved(now, GroupGained, "gained", m)
		case announce:
			s.announcer.begin(now, m.group, m.addrs)
		case stop:
			s.listenFor(s.answers.mark(m.group, false))
			s.announcer.end(m.group)
			s.moved(now, GroupLost, "lost", m)
		}
	}
}

func (s *segment) moved(now time.Time, kind Kind, direction string, m move) {
	s.counts.moved(direction, m.cause)
	s.observe(now, Observation{Kind: kind, Group: m.group, Node: m.owner, Cause: m.cause})
	s.d.config.Logger.Debug("group "+direction, "interface", s.name, "group", m.group, "owner", m.owner, "cause", m.cause)
}

// mayAnnounce reports whether announcements can be sent, and are to be believed.
func (s *segment) mayAnnounce() bool { return s.wire != nil && s.clock.awake }

// announce sends what the announcer has for now, a burst at a time.
func (s *segment) announce(now time.Time) {
	if !s.mayAnnounce() {
		return
	}
	mac, addrs := s.link.hardware(), s.announcer.due(now, burst)
	if len(addrs) == 0 {
		return
	}
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

// admit lets ARP for the addresses reach us, whether we own them or only listen for who does.
func (s *segment) admit(addrs []netip.Addr) {
	if s.wire == nil {
		return
	}
	for _, a := range addrs {
		if a.Is4() {
			s.note(faultFilter, s.wire.admit(a))
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
