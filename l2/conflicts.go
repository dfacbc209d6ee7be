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
	scout     *neighbor.Scout
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
	// peerPatience is how long a peer may have an address before that is reported: a node that is
	// short of time says late that it let go, and may do so for thousands of addresses.
	peerPatience = 2 * time.Second

	// maxNext is how many addresses are probed before they are wanted.
	maxNext = 64
)

func newConflicts() conflicts {
	return conflicts{
		prober:   neighbor.NewProber(),
		defender: neighbor.NewDefender(),
		proxies:  neighbor.NewProxyDetector(),
		scout:    neighbor.NewScout(),
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
	if _, owned := s.owned[x.Addr]; !owned && s.scout.Listens(x.Addr) {
		s.reviewNext(now, x, peer)
		return
	}
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
	if !s.mayAnnounce() {
		return
	}
	s.lookAhead(now)
	if s.prober.Next().IsZero() && s.proxies.Next().IsZero() {
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

// verdict is what the probes for an address showed.
type verdict uint8

const (
	free      verdict = iota
	contested         // another host probed for it too
	used
	undecided // until it is known whether the host that answered is a proxy
)

// judge returns the verdict about an address by what was heard of it while it was probed, with the
// use that it comes from. Each use is judged once more: a claim, or a MAC that the mirror tells,
// may have arrived since.
func (s *segment) judge(now time.Time, p *neighbor.Probe) (found verdict, by neighbor.Sighting) {
	for _, seen := range p.Heard {
		switch {
		case s.isHarmless(now, seen, s.machine.PeerByMAC(seen.MAC)):
		case seen.Use == neighbor.Probed:
			found, by = contested, seen
		case seen.Use == neighbor.Announced && s.proxies.Testing(seen):
			return undecided, seen
		default:
			return used, seen
		}
	}
	return found, by
}

// applyVerdict decides about an address that was probed.
func (s *segment) applyVerdict(now time.Time, p *neighbor.Probe) {
	found, by := s.judge(now, p)
	if _, owned := s.owned[p.Addr]; !owned && found != undecided {
		s.prober.End(p.Addr)
		if found == free {
			s.scout.Found(now, p.Addr)
		} else {
			s.scout.Used(now, p.Addr)
		}
		return
	}
	switch found {
	case undecided:
		s.prober.JudgeLater(p, now.Add(proxyDelay))
	case used:
		s.rejectAddress(now, p, by)
	case contested:
		if p.Contests++; p.Contests == maxContests {
			s.rejectAddress(now, p, by)
		} else {
			s.prober.Rest(now, p, contenderRest)
		}
	case free:
		s.prober.End(p.Addr)
		s.startAnswering(now, p.Addr)
	}
}

// rejectAddress reports that another host has an address that was probed, of a peer only if it
// lasts, and probes again later.
func (s *segment) rejectAddress(now time.Time, p *neighbor.Probe, seen neighbor.Sighting) {
	p.Contests = 0
	rest, lasts := conflictRest, true
	if s.machine.PeerByMAC(seen.MAC) != "" {
		rest = min(peerRest+time.Duration(s.prober.Resting())*peerRestEach, conflictRest)
		if p.Refused.IsZero() {
			p.Refused = now
		}
		lasts = now.Sub(p.Refused) >= peerPatience
	}
	if lasts {
		s.reportConflict(now, seen)
	}
	s.prober.Rest(now, p, rest)
}

func (s *segment) reportConflict(now time.Time, x neighbor.Sighting) {
	s.counts.conflicts.Inc()
	node := s.machine.PeerByMAC(x.MAC)
	s.observe(now, Observation{Kind: Conflict, Address: x.Addr, MAC: x.MAC[:], Node: node})
}

// anticipate replaces what may be wanted on this segment soon.
func (s *segment) anticipate(now time.Time) {
	var addrs []netip.Addr
	for a, d := range s.coming {
		if s.isConcerned(d) {
			addrs = append(addrs, a)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	s.ignoreNext(s.scout.Set(now, addrs[:min(len(addrs), maxNext)])...)
}

// lookAhead probes those of the addresses that may be wanted soon which this node would be the
// first to claim.
func (s *segment) lookAhead(now time.Time) {
	for _, a := range s.scout.Due(now) {
		if !s.machine.ComesFirst(a, s.coming[a]) {
			if s.scout.Postpone(now, a) {
				s.ignoreNext(a)
			}
			continue
		}
		if s.scout.Begin(a) {
			s.table.SetNext(a, true)
			s.wire.Join(a)
		}
		s.prober.Begin(now, a)
	}
}

// reviewNext takes another host's use of an address that may be wanted soon.
func (s *segment) reviewNext(now time.Time, x neighbor.Sighting, peer string) {
	switch {
	case s.isHarmless(now, x, peer):
	case s.prober.Hears(x.Addr):
		s.scout.Doubt(x.Addr)
		s.prober.Sighted(x)
		if x.Use == neighbor.Announced {
			s.testForProxy(now, x)
		}
	default:
		s.scout.Used(now, x.Addr)
	}
}

// isClear reports whether an address that this node claims was probed beforehand, and nothing was
// heard of it since.
func (s *segment) isClear(now time.Time, a netip.Addr) bool {
	return s.scout.Claim(now, a) && len(s.sightings) == 0
}

// doubtNext takes that something may have gone unheard.
func (s *segment) doubtNext(now time.Time) { s.ignoreNext(s.scout.Reset(now)...) }

// ignoreNext ends the probing for addresses that may be wanted soon, and stops listening for them.
func (s *segment) ignoreNext(addrs ...netip.Addr) {
	for _, a := range addrs {
		if _, owned := s.owned[a]; !owned {
			s.prober.End(a)
		}
		s.table.SetNext(a, false)
		if s.wire != nil {
			s.wire.Leave(a)
		}
	}
}
