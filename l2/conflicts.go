package l2

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/berth-lb/berth/l2/neighbor"
)

// conflicts are what a segment knows about other hosts that use its addresses: before this node
// answers for an address, and while it does.
type conflicts struct {
	prober    *neighbor.Prober
	defender  *neighbor.Defender
	proxies   *neighbor.ProxyDetector
	undecided []neighbor.Sighting // of answered addresses, until it is known which hosts are proxies
}

const (
	conflictRest  = 10 * time.Second // from a conflict with a foreign host to the next probes
	contenderRest = time.Second      // after another host only probed for the address
	maxContests   = 3                // as many of those in a row are a conflict
	proxyDelay    = 20 * time.Millisecond

	// The rest after a conflict with a peer is short, because the peer may run another load
	// balancer that is about to let go. It grows with the number of addresses that rest, so that a
	// thousand of them are not probed every second.
	peerRest     = time.Second
	peerRestEach = 10 * time.Millisecond
)

func newConflicts() conflicts {
	return conflicts{
		prober:   neighbor.NewProber(),
		defender: neighbor.NewDefender(),
		proxies:  neighbor.NewProxyDetector(),
	}
}

// see takes another host's use of an address.
func (s *segment) see(now time.Time, x neighbor.Sighting) {
	if s.parent.interfaceOf(x.MAC) != "" {
		return // it is this node, on another interface of the segment
	}
	if s.proxies.Heard(x) {
		return
	}
	peer := s.machine.PeerByMAC(x.MAC)
	if peer != "" && x.Use == neighbor.Announced {
		s.machine.Sighted(x.Addr, peer)
	}
	s.review(now, x, peer)
}

// review decides whether the use of an address, by a peer or a foreign host, is a conflict.
func (s *segment) review(now time.Time, x neighbor.Sighting, peer string) {
	if !s.machine.Owns(x.Addr) || s.isHarmless(now, x, peer) {
		return
	}
	if s.prober.Hears(x.Addr) {
		s.prober.Sighted(x)
		if x.Use == neighbor.Announced {
			s.testForProxy(now, x)
		}
	}
	switch {
	case !s.table.Answering(x.Addr):
		return
	case peer != "" && !s.defender.Stray(now, x.Addr):
		return // its claim may be on the way
	case s.mayBeProxyAnswer(now, x):
		return
	}
	if s.defender.Sighted(now, x) {
		s.reportConflict(now, x)
		s.sendAnnouncements(x.Addr)
	}
	if s.defender.Contested(x.Addr) {
		s.notifyAnswers(x.Addr, false)
	}
}

// isHarmless reports whether a use of an address is no conflict: it is a proxy's answer, or that of
// a peer that does not answer for the address, or claims it, or whose kernel has it as ours does.
func (s *segment) isHarmless(now time.Time, x neighbor.Sighting, peer string) bool {
	if x.Use == neighbor.Announced {
		if proxy, _ := s.proxies.Judged(now, x); proxy {
			return true
		}
	}
	if peer == "" {
		return false
	}
	return x.Use != neighbor.Announced || s.machine.Claims(now, peer, x.Addr) ||
		s.config.Harmless != nil && s.config.Harmless(x.Addr)
}

// mayBeProxyAnswer reports whether the use of an address is a proxy's answer to this node's own
// announcement, or may be one. In the latter case the address is defended at once, and the use is
// reviewed again when a survey has found the proxies.
func (s *segment) mayBeProxyAnswer(now time.Time, x neighbor.Sighting) bool {
	if x.Use != neighbor.Announced || !x.Addr.Is4() || !s.link.HostAddr().IsValid() {
		return false
	}
	if s.proxies.AnswersHosts(now, x.MAC) {
		return true
	}
	if s.proxies.SurveyedWithin(now, neighbor.SurveyFresh) {
		return false
	}
	s.joinDecoys(s.proxies.Survey(now, neighbor.SurveyFresh, s.decoyPairs))
	if !slices.Contains(s.undecided, x) && len(s.undecided) < neighbor.MaxKnown {
		s.undecided = append(s.undecided, x)
		s.sendAnnouncements(x.Addr)
	}
	return true
}

// testForProxy asks a host that answered a probe for decoys, unless it is known whether the host is
// a proxy.
func (s *segment) testForProxy(now time.Time, x neighbor.Sighting) {
	s.joinDecoys(s.proxies.Suspect(now, x, s.decoyPairs))
}

func (s *segment) decoyPairs(is4 bool) [][2]netip.Addr {
	taken := func(a netip.Addr) bool { return s.table.Knows(a) || slices.Contains(s.link.Addrs, a) }
	return neighbor.DecoyPairs(s.link.Subnets, is4, taken)
}

func (s *segment) joinDecoys(decoys []netip.Addr) {
	s.table.SetDecoys(decoys, true)
	if s.wire == nil {
		return // opening it ends the test
	}
	for _, a := range decoys {
		s.wire.Join(a)
	}
}

// probe sends the probes that are due, and starts answering for addresses that are free.
func (s *segment) probe(now time.Time) {
	if !s.mayAnnounce() || s.prober.Next().IsZero() && s.proxies.Next().IsZero() {
		return
	}
	addrs := s.prober.Due(now, maxBurst)
	if len(addrs) > 0 && s.link.HostAddr().IsValid() {
		s.joinDecoys(s.proxies.Survey(now, neighbor.ProxyLifetime, s.decoyPairs))
	}
	decoys, requests := s.proxies.Due(now)
	s.sendProbes(append(addrs, decoys...), requests)
	if len(s.sightings) > 0 {
		return // what was heard until now counts: the next turn takes it
	}
	s.finishProxyTests(now)
	for _, p := range s.prober.Verdicts(now) {
		s.applyVerdict(now, p)
	}
}

// sendProbes sends probes, and ARP requests in this node's name for some other addresses.
func (s *segment) sendProbes(probe, request []netip.Addr) {
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
	for _, a := range request {
		failures = append(failures, s.wire.SendARP(neighbor.ARPRequest(mac, s.link.HostAddr(), a)))
	}
	if len(failures) > 0 {
		s.setFault(faultAnnounce, cmp.Or(failures...))
	}
}

// finishProxyTests reports hosts that were found to be proxies, and reviews what waited for that.
func (s *segment) finishProxyTests(now time.Time) {
	found, decoys := s.proxies.Finished(now)
	s.table.SetDecoys(decoys, false)
	for _, a := range decoys {
		s.wire.Leave(a)
	}
	for _, x := range found {
		mac := net.HardwareAddr(x.MAC[:])
		s.observe(now, Observation{Kind: ProxyFound, Address: x.Addr, MAC: mac})
		s.config.Logger.Warn("a host answers for every address (proxy ARP); its answers are ignored",
			"interface", s.name, "mac", mac.String(), "address", x.Addr)
	}
	if len(s.undecided) > 0 && s.proxies.SurveyedWithin(now, neighbor.SurveyFresh) {
		undecided := s.undecided
		s.undecided = nil
		for _, x := range undecided {
			s.review(now, x, s.machine.PeerByMAC(x.MAC))
		}
	}
}

// applyVerdict decides about an address by what was heard of it while it was probed. Each use is
// judged once more: a claim, or a MAC that the mirror tells, may have arrived since.
func (s *segment) applyVerdict(now time.Time, p *neighbor.Probe) {
	var contender *neighbor.Sighting
	for _, seen := range p.Heard {
		if s.isHarmless(now, seen, s.machine.PeerByMAC(seen.MAC)) {
			continue
		}
		switch {
		case seen.Use == neighbor.Probed:
			contender = &seen
		case seen.Use == neighbor.Announced && s.proxies.Testing(seen):
			s.prober.JudgeLater(p, now.Add(proxyDelay))
			return
		default:
			s.rejectAddress(now, p, seen)
			return
		}
	}
	if contender != nil {
		if p.Contests++; p.Contests == maxContests {
			s.rejectAddress(now, p, *contender)
			return
		}
		s.prober.Rest(now, p, contenderRest)
		return
	}
	s.prober.End(p.Addr)
	s.startAnswering(now, p.Addr)
}

// rejectAddress reports that another host has an address that was probed, and probes again later.
func (s *segment) rejectAddress(now time.Time, p *neighbor.Probe, seen neighbor.Sighting) {
	s.reportConflict(now, seen)
	p.Contests = 0
	rest := conflictRest
	if s.machine.PeerByMAC(seen.MAC) != "" {
		rest = min(peerRest+time.Duration(s.prober.Resting())*peerRestEach, conflictRest)
	}
	s.prober.Rest(now, p, rest)
}

func (s *segment) reportConflict(now time.Time, x neighbor.Sighting) {
	s.counts.conflicts.Inc()
	node := s.machine.PeerByMAC(x.MAC)
	s.observe(now, Observation{Kind: Conflict, Address: x.Addr, MAC: x.MAC[:], Node: node})
}
