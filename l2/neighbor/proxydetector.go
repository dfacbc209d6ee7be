package neighbor

import (
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"
)

// This file tells hosts that have an address from routers that answer for every address (proxy ARP,
// RFC 1027). A host that answers a probe is asked for decoys before the verdict: addresses that no
// host has. Two are out of a range that no network uses (RFC 2544, RFC 5180), because some routers
// answer only for addresses beyond the segment. Two are out of the segment's own subnet, because
// others answer only for those. A host that answers for both addresses of a pair is a proxy.
//
// Some routers, Linux among them, answer for every address only when they are asked in the name of
// a host, and to a gratuitous ARP. Their answers to probes are true. A survey finds them by such
// requests for decoys. It runs when something is probed, and when an answer to this node's own
// announcement is to be judged.

const (
	ProxyLifetime = 5 * time.Minute        // for how long a proxy is known
	hostLifetime  = time.Minute            // and a host that is not a proxy
	MaxKnown      = 256                    // limits what other hosts can make this one remember
	hostListen    = 880 * time.Millisecond // Linux as a proxy answers up to 0.8 s later (proxy_delay)
	// SurveyFresh is how old a survey may be when an answer to an announcement is judged.
	SurveyFresh = 10 * time.Second
)

var (
	benchmark4 = netip.MustParsePrefix("198.18.0.0/15")
	benchmark6 = netip.MustParsePrefix("2001:2::/48")
)

// trial is a way to ask for decoys.
type trial uint8

const (
	byProbe4 trial = iota
	byProbe6
	byHost4 // by requests in the name of this node
)

func trialOf(a netip.Addr) trial {
	if a.Is4() {
		return byProbe4
	}
	return byProbe6
}

// ProxyDetector knows which hosts are proxies. Times are arguments and never go back.
type ProxyDetector struct {
	tests    map[trial]*decoyTest // one of a kind at a time serves all suspects
	known    map[testedHost]testResult
	surveyed time.Time // when the last survey ended
}

// DecoyPicker returns pairs of decoys of one family.
type DecoyPicker func(is4 bool) [][2]netip.Addr

// testedHost is a host in one kind of trial.
type testedHost struct {
	mac   [6]byte
	trial trial
}

type testResult struct {
	proxy bool
	until time.Time
}

// decoyTest asks three times for each decoy, as for an address that is probed.
type decoyTest struct {
	pairs    [][2]netip.Addr
	suspects map[[6]byte]netip.Addr // with the address for which each answered
	heard    map[Sighting]struct{}
	asked    int
	at       time.Time
}

// NewProxyDetector returns a detector that knows no proxies.
func NewProxyDetector() *ProxyDetector {
	return &ProxyDetector{tests: make(map[trial]*decoyTest), known: make(map[testedHost]testResult)}
}

// Judged reports whether the host is a proxy when it is probed, and whether that is known.
func (p *ProxyDetector) Judged(now time.Time, seen Sighting) (proxy, known bool) {
	f, ok := p.known[testedHost{seen.MAC, trialOf(seen.Addr)}]
	if !ok || !now.Before(f.until) {
		return false, false
	}
	return f.proxy, true
}

// Suspect has a host tested that answered for an address. If a test begins it returns the decoys:
// sightings of them must be passed to Heard until Finished returns them. Without a pair of decoys
// nothing can be tested.
func (p *ProxyDetector) Suspect(now time.Time, seen Sighting, pick DecoyPicker) []netip.Addr {
	if _, known := p.Judged(now, seen); known {
		return nil
	}
	if t := p.tests[trialOf(seen.Addr)]; t != nil {
		if len(t.suspects) < maxHeard {
			t.suspects[seen.MAC] = seen.Addr
		}
		return nil
	}
	return p.begin(now, trialOf(seen.Addr), pick, map[[6]byte]netip.Addr{seen.MAC: seen.Addr})
}

// Survey starts looking for proxies that answer only requests in the name of a host, unless that
// was done within the given time, and returns the decoys.
func (p *ProxyDetector) Survey(now time.Time, within time.Duration, pick DecoyPicker) []netip.Addr {
	if p.tests[byHost4] != nil || p.SurveyedWithin(now, within) {
		return nil
	}
	return p.begin(now, byHost4, pick, make(map[[6]byte]netip.Addr))
}

// SurveyedWithin reports whether a survey ended within the given time.
func (p *ProxyDetector) SurveyedWithin(now time.Time, within time.Duration) bool {
	return !p.surveyed.IsZero() && now.Sub(p.surveyed) < within
}

// AnswersHosts reports whether a recent survey found the host to be a proxy.
func (p *ProxyDetector) AnswersHosts(now time.Time, mac [6]byte) bool {
	f := p.known[testedHost{mac, byHost4}]
	return f.proxy && now.Before(f.until)
}

func (p *ProxyDetector) begin(now time.Time, by trial, pick DecoyPicker, suspects map[[6]byte]netip.Addr) []netip.Addr {
	t := &decoyTest{pairs: pick(by != byProbe6), suspects: suspects, heard: make(map[Sighting]struct{}), at: now}
	if len(t.pairs) == 0 {
		return nil
	}
	p.tests[by] = t
	return t.decoys()
}

func (t *decoyTest) decoys() []netip.Addr {
	var list []netip.Addr
	for _, pair := range t.pairs {
		list = append(list, pair[:]...)
	}
	return list
}

// Testing reports whether the host is being tested.
func (p *ProxyDetector) Testing(seen Sighting) bool {
	t := p.tests[trialOf(seen.Addr)]
	if t == nil {
		return false
	}
	_, suspected := t.suspects[seen.MAC]
	return suspected
}

// Heard takes a sighting, and reports whether it is of a decoy.
func (p *ProxyDetector) Heard(seen Sighting) bool {
	decoy := false
	for by, t := range p.tests {
		if !slices.Contains(t.decoys(), seen.Addr) {
			continue
		}
		decoy = true
		if seen.Use == Announced && len(t.heard) < MaxKnown { // the host may become a suspect
			t.heard[seen] = struct{}{}
			if by == byHost4 {
				t.suspects[seen.MAC] = seen.Addr
			}
		}
	}
	return decoy
}

// Due returns decoys to probe for now, and decoys to request in this node's name.
func (p *ProxyDetector) Due(now time.Time) (probe, ask []netip.Addr) {
	for by, t := range p.tests {
		if t.asked == 3 || now.Before(t.at) {
			continue
		}
		ear := probeListen
		if by == byHost4 {
			ask, ear = append(ask, t.decoys()...), hostListen
		} else {
			probe = append(probe, t.decoys()...)
		}
		if t.asked++; t.asked < 3 {
			ear = probePause
		}
		t.at = now.Add(ear)
	}
	return probe, ask
}

// Finished ends the tests whose time is over. It returns the hosts that were found to be proxies,
// and the addresses that are no longer decoys.
func (p *ProxyDetector) Finished(now time.Time) (found []Sighting, decoys []netip.Addr) {
	for by, t := range p.tests {
		if t.asked < 3 || now.Before(t.at) {
			continue
		}
		delete(p.tests, by)
		if by == byHost4 {
			p.surveyed = now
		}
		decoys = append(decoys, t.decoys()...)
		p.forget(now, len(t.suspects))
		for mac, addr := range t.suspects {
			f := testResult{t.answersAll(mac), now.Add(hostLifetime)}
			if f.proxy {
				f.until = now.Add(ProxyLifetime + time.Second) // the next survey comes earlier
				found = append(found, Sighting{addr, mac, Announced})
			}
			p.known[testedHost{mac, by}] = f
		}
	}
	return found, decoys
}

// answersAll reports whether the host answered for both decoys of a pair.
func (t *decoyTest) answersAll(mac [6]byte) bool {
	return slices.ContainsFunc(t.pairs, func(pair [2]netip.Addr) bool {
		_, one := t.heard[Sighting{pair[0], mac, Announced}]
		_, other := t.heard[Sighting{pair[1], mac, Announced}]
		return one && other
	})
}

// forget makes room for n more results.
func (p *ProxyDetector) forget(now time.Time, n int) {
	maps.DeleteFunc(p.known, func(_ testedHost, f testResult) bool { return !now.Before(f.until) })
	if len(p.known)+n > MaxKnown {
		clear(p.known)
	}
}

// Abort ends all tests, and returns their decoys.
func (p *ProxyDetector) Abort() (decoys []netip.Addr) {
	for by, t := range p.tests {
		delete(p.tests, by)
		decoys = append(decoys, t.decoys()...)
	}
	return decoys
}

// Next returns when Due or Finished has something to return; the zero time: never.
func (p *ProxyDetector) Next() time.Time {
	var first time.Time
	for _, t := range p.tests {
		if first.IsZero() || t.at.Before(first) {
			first = t.at
		}
	}
	return first
}

// Present returns a known proxy, nil if there is none.
func (p *ProxyDetector) Present(now time.Time) net.HardwareAddr {
	var first net.HardwareAddr
	for s, f := range p.known {
		if f.proxy && now.Before(f.until) && (first == nil || slices.Compare(s.mac[:], first) < 0) {
			first = slices.Clone(s.mac[:])
		}
	}
	return first
}

// DecoyPairs picks decoys for a link with these subnets, among the addresses that are not taken.
func DecoyPairs(subnets []netip.Prefix, is4 bool, taken func(netip.Addr) bool) [][2]netip.Addr {
	const roomy = 3 // host bits: with fewer the chance is too great that one host has both
	ranges := []netip.Prefix{benchmark6}
	if is4 {
		ranges[0] = benchmark4
	}
	own := slices.IndexFunc(subnets, func(p netip.Prefix) bool {
		return p.Addr().Is4() == is4 && !p.Addr().IsLinkLocalUnicast() && p.Addr().BitLen()-p.Bits() >= roomy
	})
	if own >= 0 {
		ranges = append(ranges, subnets[own])
	}
	var pairs [][2]netip.Addr
	for _, r := range ranges {
		var pair []netip.Addr
		for range 128 { // attempts: a pool may fill the subnet
			if a := randomIn(r); !taken(a) && !slices.Contains(pair, a) {
				pair = append(pair, a)
			}
			if len(pair) == 2 {
				pairs = append(pairs, [2]netip.Addr(pair))
				break
			}
		}
	}
	return pairs
}

// randomIn returns a random address of the range, except its first and last: no host has those.
func randomIn(r netip.Prefix) netip.Addr {
	for {
		b := r.Addr().AsSlice()
		ones, zeros := true, true
		for bit := r.Bits(); bit < 8*len(b); bit++ {
			if rand.IntN(2) == 1 {
				b[bit/8] |= 0x80 >> (bit % 8)
				zeros = false
			} else {
				ones = false
			}
		}
		if a, ok := netip.AddrFromSlice(b); ok && !ones && !zeros {
			return a
		}
	}
}
