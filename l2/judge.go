package l2

import (
	"net"
	"net/netip"
	"slices"
	"time"
)

// This file is what a segment makes of others' use of the addresses that it knows: before it answers for one, and while.

const (
	foreignRest = 10 * time.Second // from a foreign host's conflict to the next probes
	contestRest = time.Second      // after another host's mere probe
	contestMost = 3                // such in a row are told as a conflict
	proxyWait   = 20 * time.Millisecond

	// The rest after a peer's conflict is short, since it may be another load balancer's that lets go, and the longer
	// the more addresses rest, lest a thousand of them be probed each second.
	peerRest     = time.Second
	peerRestEach = 10 * time.Millisecond
)

// see takes somebody else's use of an address.
func (s *segment) see(now time.Time, x sighting) {
	if s.d.interfaceOf(x.mac) != "" {
		return // it is we, on another interface of the segment
	}
	if s.proxies.heard(x) {
		return
	}
	peer := s.machine.PeerByMAC(x.mac)
	if peer != "" && x.use == announced {
		taken := false
		for _, group := range s.answers.groupsOf(x.addr) {
			taken = s.machine.Sighted(group, peer) || taken
		}
		if taken {
			return // the peer took what this node offered
		}
	}
	s.review(now, x, peer)
}

// review decides whether the use of an address, by a peer or a foreign host, is a conflict.
func (s *segment) review(now time.Time, x sighting, peer string) {
	if s.excused(now, x, peer) {
		return
	}
	if s.prober.hears(x.addr) {
		s.prober.sighted(x)
		if x.use == announced {
			s.suspect(now, x)
		}
	}
	if !s.answers.answering(x.addr) || peer != "" && !s.defence.stray(now, x.addr) || s.doubts(now, x) {
		return
	}
	if s.defence.sighted(now, x) {
		s.conflict(now, x)
		s.sendAnnouncement([]netip.Addr{x.addr})
	}
	if s.defence.fresh(x.addr) {
		s.tellAnswers(x.addr, false)
	}
}

// excused reports whether a use of an address is no conflict: a peer's that does not answer for it, or that claims it, or
// whose kernel has it as ours does; or a proxy's answer.
func (s *segment) excused(now time.Time, x sighting, peer string) bool {
	if x.use == announced {
		if proxy, _ := s.proxies.judged(now, x); proxy {
			return true
		}
	}
	if peer == "" {
		return false
	}
	return x.use != announced || s.machine.Claims(now, peer, x.addr) || s.d.config.Harmless != nil && s.d.config.Harmless(x.addr)
}

// doubts reports whether the use of an address that this node announces is a proxy's answer to that, or may be: then it is
// looked at again when that is known. The address is defended at once.
func (s *segment) doubts(now time.Time, x sighting) bool {
	if x.use != announced || !x.addr.Is4() || !s.link.inSubnet().IsValid() {
		return false
	}
	if s.proxies.answersHosts(now, x.mac) {
		return true
	}
	if s.proxies.surveyedWithin(now, surveyFresh) {
		return false
	}
	s.listenForDecoys(s.proxies.survey(now, surveyFresh, s.decoyPairs))
	if !slices.Contains(s.doubted, x) && len(s.doubted) < mostKnown {
		s.doubted = append(s.doubted, x)
		s.sendAnnouncement([]netip.Addr{x.addr})
	}
	return true
}

// suspect has a host that answered a probe asked for decoys, unless it is known whether it answers for everything.
func (s *segment) suspect(now time.Time, x sighting) {
	s.listenForDecoys(s.proxies.suspect(now, x, s.decoyPairs))
}

func (s *segment) decoyPairs(is4 bool) [][2]netip.Addr {
	return decoyPairs(s.link, is4, s.answers.knows)
}

func (s *segment) listenForDecoys(decoys []netip.Addr) {
	s.answers.watch(decoys, true)
	if s.wire == nil {
		return // opening it ends the test
	}
	for _, a := range decoys {
		s.wire.join(a)
	}
}

// probe sends the probes that are due, and begins to answer for addresses that are free.
func (s *segment) probe(now time.Time) {
	if !s.mayAnnounce() || s.prober.next().IsZero() && s.proxies.next().IsZero() {
		return
	}
	if len(s.sightings) > 0 {
		return // what was heard until now counts: the next turns take it
	}
	addrs := s.prober.due(now, burst)
	if len(addrs) > 0 && s.link.inSubnet().IsValid() {
		s.listenForDecoys(s.proxies.survey(now, proxyLasts, s.decoyPairs))
	}
	decoys, ask := s.proxies.due(now)
	s.sendProbes(append(addrs, decoys...), ask)
	s.endDecoys(now)
	for _, x := range s.prober.verdicts(now) {
		s.judge(now, x)
	}
}

// endDecoys tells who was found to answer for everything.
func (s *segment) endDecoys(now time.Time) {
	found, decoys := s.proxies.finished(now)
	s.answers.watch(decoys, false)
	for _, a := range decoys {
		s.wire.leave(a)
	}
	for _, x := range found {
		mac := net.HardwareAddr(x.mac[:])
		s.observe(now, Observation{Kind: ProxyFound, Address: x.addr, MAC: mac})
		s.d.config.Logger.Warn("a host answers for everything (proxy ARP); its answers are taken for no holder's", "interface", s.name, "mac", mac.String(), "address", x.addr)
	}
	if len(s.doubted) > 0 && s.proxies.surveyedWithin(now, surveyFresh) {
		doubted := s.doubted
		s.doubted = nil
		for _, x := range doubted {
			s.review(now, x, s.machine.PeerByMAC(x.mac))
		}
	}
}

// sendProbes sends probes, and requests in this node's name for some other addresses.
func (s *segment) sendProbes(probe, ask []netip.Addr) {
	mac := s.link.hardware()
	var failures []error
	for _, a := range probe {
		if a.Is4() {
			failures = append(failures, s.wire.sendARP(arpProbe(mac, a)))
			s.counts.arpProbes.Inc()
		} else {
			failures = append(failures, s.wire.sendNDP(ndpProbe(mac, a)))
			s.counts.ndpProbes.Inc()
		}
	}
	for _, a := range ask {
		failures = append(failures, s.wire.sendARP(arpRequest(mac, s.link.inSubnet(), a)))
	}
	if len(failures) > 0 {
		s.note(faultAnnounce, first(failures))
	}
}

// judge says what follows from what was heard of an address that was probed. Who used it is looked at again: a claim, or the
// mirror's word of a MAC, may have come since.
func (s *segment) judge(now time.Time, x *probing) {
	var contender *sighting
	for _, seen := range x.heard {
		if s.excused(now, seen, s.machine.PeerByMAC(seen.mac)) {
			continue
		}
		switch {
		case seen.use == probed:
			contender = &seen
		case seen.use == announced && s.proxies.running(seen):
			s.prober.listen(x, now.Add(proxyWait))
			return
		default:
			s.refuse(now, x, seen)
			return
		}
	}
	if contender != nil {
		if x.contests++; x.contests == contestMost {
			s.refuse(now, x, *contender)
			return
		}
		s.prober.rest(now, x, contestRest)
		return
	}
	s.prober.end(x.addr)
	s.answer(now, x.addr)
	for _, group := range s.answers.groupsOf(x.addr) {
		s.settle(now, group)
	}
	s.announcer.begin(now, x.addr)
}

// refuse tells of somebody who has an address that was probed, and asks again later.
func (s *segment) refuse(now time.Time, x *probing, seen sighting) {
	s.conflict(now, seen)
	x.contests = 0
	rest := foreignRest
	if s.machine.PeerByMAC(seen.mac) != "" {
		rest = min(peerRest+time.Duration(s.prober.idle)*peerRestEach, foreignRest)
	}
	s.prober.rest(now, x, rest)
}

// conflict tells of somebody else who uses one of our addresses.
func (s *segment) conflict(now time.Time, x sighting) {
	s.counts.conflicts.Inc()
	s.observe(now, Observation{Kind: Conflict, Address: x.addr, MAC: x.mac[:], Node: s.machine.PeerByMAC(x.mac)})
}
