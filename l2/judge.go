package l2

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/berth-lb/berth/l2/neighbor"
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
func (s *segment) see(now time.Time, x neighbor.Sighting) {
	if s.d.interfaceOf(x.MAC) != "" {
		return // it is we, on another interface of the segment
	}
	if s.proxies.Heard(x) {
		return
	}
	peer := s.machine.PeerByMAC(x.MAC)
	if peer != "" && x.Use == neighbor.Announced {
		taken := false
		for _, group := range s.answers.GroupsOf(x.Addr) {
			taken = s.machine.Sighted(group, peer) || taken
		}
		if taken {
			return // the peer took what this node offered
		}
	}
	s.review(now, x, peer)
}

// review decides whether the use of an address, by a peer or a foreign host, is a conflict.
func (s *segment) review(now time.Time, x neighbor.Sighting, peer string) {
	if s.excused(now, x, peer) {
		return
	}
	if s.prober.Hears(x.Addr) {
		s.prober.Sighted(x)
		if x.Use == neighbor.Announced {
			s.suspect(now, x)
		}
	}
	if !s.answers.Answering(x.Addr) || peer != "" && !s.defence.Stray(now, x.Addr) || s.doubts(now, x) {
		return
	}
	if s.defence.Sighted(now, x) {
		s.conflict(now, x)
		s.sendAnnouncement([]netip.Addr{x.Addr})
	}
	if s.defence.Contested(x.Addr) {
		s.tellAnswers(x.Addr, false)
	}
}

// excused reports whether a use of an address is no conflict: a peer's that does not answer for it, or that claims it, or
// whose kernel has it as ours does; or a proxy's answer.
func (s *segment) excused(now time.Time, x neighbor.Sighting, peer string) bool {
	if x.Use == neighbor.Announced {
		if proxy, _ := s.proxies.Judged(now, x); proxy {
			return true
		}
	}
	if peer == "" {
		return false
	}
	return x.Use != neighbor.Announced || s.machine.Claims(now, peer, x.Addr) || s.d.config.Harmless != nil && s.d.config.Harmless(x.Addr)
}

// doubts reports whether the use of an address that this node announces is a proxy's answer to that, or may be: then it is
// looked at again when that is known. The address is defended at once.
func (s *segment) doubts(now time.Time, x neighbor.Sighting) bool {
	if x.Use != neighbor.Announced || !x.Addr.Is4() || !s.link.HostAddr().IsValid() {
		return false
	}
	if s.proxies.AnswersHosts(now, x.MAC) {
		return true
	}
	if s.proxies.SurveyedWithin(now, neighbor.SurveyFresh) {
		return false
	}
	s.listenForDecoys(s.proxies.Survey(now, neighbor.SurveyFresh, s.decoyPairs))
	if !slices.Contains(s.doubted, x) && len(s.doubted) < neighbor.MaxKnown {
		s.doubted = append(s.doubted, x)
		s.sendAnnouncement([]netip.Addr{x.Addr})
	}
	return true
}

// suspect has a host that answered a probe asked for decoys, unless it is known whether it answers for everything.
func (s *segment) suspect(now time.Time, x neighbor.Sighting) {
	s.listenForDecoys(s.proxies.Suspect(now, x, s.decoyPairs))
}

func (s *segment) decoyPairs(is4 bool) [][2]netip.Addr {
	taken := func(a netip.Addr) bool { return s.answers.Knows(a) || slices.Contains(s.link.Addrs, a) }
	return neighbor.DecoyPairs(s.link.Subnets, is4, taken)
}

func (s *segment) listenForDecoys(decoys []netip.Addr) {
	s.answers.SetDecoys(decoys, true)
	if s.wire == nil {
		return // opening it ends the test
	}
	for _, a := range decoys {
		s.wire.Join(a)
	}
}

// probe sends the probes that are due, and begins to answer for addresses that are free.
func (s *segment) probe(now time.Time) {
	if !s.mayAnnounce() || s.prober.Next().IsZero() && s.proxies.Next().IsZero() {
		return
	}
	if len(s.sightings) > 0 {
		return // what was heard until now counts: the next turns take it
	}
	addrs := s.prober.Due(now, burst)
	if len(addrs) > 0 && s.link.HostAddr().IsValid() {
		s.listenForDecoys(s.proxies.Survey(now, neighbor.ProxyLifetime, s.decoyPairs))
	}
	decoys, ask := s.proxies.Due(now)
	s.sendProbes(append(addrs, decoys...), ask)
	s.endDecoys(now)
	for _, x := range s.prober.Verdicts(now) {
		s.judge(now, x)
	}
}

// endDecoys tells who was found to answer for everything.
func (s *segment) endDecoys(now time.Time) {
	found, decoys := s.proxies.Finished(now)
	s.answers.SetDecoys(decoys, false)
	for _, a := range decoys {
		s.wire.Leave(a)
	}
	for _, x := range found {
		mac := net.HardwareAddr(x.MAC[:])
		s.observe(now, Observation{Kind: ProxyFound, Address: x.Addr, MAC: mac})
		s.d.config.Logger.Warn("a host answers for everything (proxy ARP); its answers are taken for no holder's", "interface", s.name, "mac", mac.String(), "address", x.Addr)
	}
	if len(s.doubted) > 0 && s.proxies.SurveyedWithin(now, neighbor.SurveyFresh) {
		doubted := s.doubted
		s.doubted = nil
		for _, x := range doubted {
			s.review(now, x, s.machine.PeerByMAC(x.MAC))
		}
	}
}

// sendProbes sends probes, and requests in this node's name for some other addresses.
func (s *segment) sendProbes(probe, ask []netip.Addr) {
	mac := s.link.HardwareAddr()
	var failures []error
	for _, a := range probe {
		if a.Is4() {
			failures = append(failures, s.wire.SendARP(neighbor.ARPProbe(mac, a)))
			s.counts.arpProbes.Inc()
		} else {
			failures = append(failures, s.wire.SendNDP(neighbor.NDPProbe(mac, a)))
			s.counts.ndpProbes.Inc()
		}
	}
	for _, a := range ask {
		failures = append(failures, s.wire.SendARP(neighbor.ARPRequest(mac, s.link.HostAddr(), a)))
	}
	if len(failures) > 0 {
		s.note(faultAnnounce, cmp.Or(failures...))
	}
}

// judge says what follows from what was heard of an address that was probed. Who used it is looked at again: a claim, or the
// mirror's word of a MAC, may have come since.
func (s *segment) judge(now time.Time, x *neighbor.Probe) {
	var contender *neighbor.Sighting
	for _, seen := range x.Heard {
		if s.excused(now, seen, s.machine.PeerByMAC(seen.MAC)) {
			continue
		}
		switch {
		case seen.Use == neighbor.Probed:
			contender = &seen
		case seen.Use == neighbor.Announced && s.proxies.Testing(seen):
			s.prober.JudgeLater(x, now.Add(proxyWait))
			return
		default:
			s.refuse(now, x, seen)
			return
		}
	}
	if contender != nil {
		if x.Contests++; x.Contests == contestMost {
			s.refuse(now, x, *contender)
			return
		}
		s.prober.Rest(now, x, contestRest)
		return
	}
	s.prober.End(x.Addr)
	s.answer(now, x.Addr)
	for _, group := range s.answers.GroupsOf(x.Addr) {
		s.settle(now, group)
	}
	s.announcer.Begin(now, x.Addr)
}

// refuse tells of somebody who has an address that was probed, and asks again later.
func (s *segment) refuse(now time.Time, x *neighbor.Probe, seen neighbor.Sighting) {
	s.conflict(now, seen)
	x.Contests = 0
	rest := foreignRest
	if s.machine.PeerByMAC(seen.MAC) != "" {
		rest = min(peerRest+time.Duration(s.prober.Resting())*peerRestEach, foreignRest)
	}
	s.prober.Rest(now, x, rest)
}

// conflict tells of somebody else who uses one of our addresses.
func (s *segment) conflict(now time.Time, x neighbor.Sighting) {
	s.counts.conflicts.Inc()
	s.observe(now, Observation{Kind: Conflict, Address: x.Addr, MAC: x.MAC[:], Node: s.machine.PeerByMAC(x.MAC)})
}
