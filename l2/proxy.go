package l2

import (
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"
)

// This file tells hosts that hold an address from routers that answer for everything (proxy ARP, RFC 1027): who answers a
// probe is asked for decoys, addresses that nobody has, before the verdict. Two of a range that no network uses (RFC 2544,
// RFC 5180), since some answer only for what lies beyond the segment; and two of the segment's own subnet, which others
// answer for alone. Who answers for both of a pair is a proxy, and holds nothing.

const (
	proxyLasts  = 5 * time.Minute // for so long a proxy is known
	honestLasts = time.Minute     // and who is none
	mostKnown   = 256
)

var (
	nobodys4 = netip.MustParsePrefix("198.18.0.0/15")
	nobodys6 = netip.MustParsePrefix("2001:2::/48")
)

// proxies are what is known of the hosts that answered a probe. It has no clock and no socket.
type proxies struct {
	tests map[bool]*decoyTest // by whether it is IPv4's; one at a time serves all suspects
	known map[station]finding
}

// station is a host as far as one family goes.
type station struct {
	mac [6]byte
	is4 bool
}

type finding struct {
	proxy bool
	until time.Time
}

// decoyTest is three questions for each decoy, as for an address that is probed.
type decoyTest struct {
	pairs    [][2]netip.Addr
	suspects map[[6]byte]netip.Addr // with the address that each answered for
	heard    map[sighting]struct{}
	asked    int
	at       time.Time
}

func newProxies() *proxies {
	return &proxies{tests: make(map[bool]*decoyTest), known: make(map[station]finding)}
}

// judged reports whether a host is a proxy, and whether that is known.
func (p *proxies) judged(now time.Time, mac [6]byte, is4 bool) (proxy, known bool) {
	f, ok := p.known[station{mac, is4}]
	if !ok || !now.Before(f.until) {
		return false, false
	}
	return f.proxy, true
}

// suspect has a host that answered for an address tested, and returns the decoys if the test begins: they must be heard
// of until finished says otherwise. Without a pair nothing can be told apart.
func (p *proxies) suspect(now time.Time, seen sighting, pairs func(is4 bool) [][2]netip.Addr) []netip.Addr {
	is4 := seen.addr.Is4()
	if _, known := p.judged(now, seen.mac, is4); known {
		return nil
	}
	if t := p.tests[is4]; t != nil {
		if len(t.suspects) < mostHeard {
			t.suspects[seen.mac] = seen.addr
		}
		return nil
	}
	t := &decoyTest{pairs: pairs(is4), suspects: map[[6]byte]netip.Addr{seen.mac: seen.addr}, heard: make(map[sighting]struct{}), at: now}
	if len(t.pairs) == 0 {
		return nil
	}
	p.tests[is4] = t
	return t.decoys()
}

func (t *decoyTest) decoys() []netip.Addr {
	var list []netip.Addr
	for _, pair := range t.pairs {
		list = append(list, pair[:]...)
	}
	return list
}

// running reports whether a host is being tested.
func (p *proxies) running(mac [6]byte, is4 bool) bool {
	t := p.tests[is4]
	if t == nil {
		return false
	}
	_, suspected := t.suspects[mac]
	return suspected
}

// heard takes what is heard of a decoy, and reports whether it is one.
func (p *proxies) heard(seen sighting) bool {
	t := p.tests[seen.addr.Is4()]
	if t == nil || !slices.Contains(t.decoys(), seen.addr) {
		return false
	}
	if seen.use == announced && len(t.heard) < mostKnown { // who is not suspected yet may be
		t.heard[seen] = struct{}{}
	}
	return true
}

// due returns decoys to ask for now.
func (p *proxies) due(now time.Time) []netip.Addr {
	var list []netip.Addr
	for _, t := range p.tests {
		if t.asked == 3 || now.Before(t.at) {
			continue
		}
		list = append(list, t.decoys()...)
		if t.asked++; t.asked == 3 {
			t.at = now.Add(probeEar)
		} else {
			t.at = now.Add(probePause)
		}
	}
	return list
}

// finished ends the tests whose time is over. It returns who was found to be a proxy, and the decoys that are none any more.
func (p *proxies) finished(now time.Time) (found []sighting, decoys []netip.Addr) {
	for is4, t := range p.tests {
		if t.asked < 3 || now.Before(t.at) {
			continue
		}
		delete(p.tests, is4)
		decoys = append(decoys, t.decoys()...)
		p.forget(now, len(t.suspects))
		for mac, addr := range t.suspects {
			f := finding{t.answersAll(mac), now.Add(honestLasts)}
			if f.proxy {
				f.until = now.Add(proxyLasts)
				found = append(found, sighting{addr, mac, announced})
			}
			p.known[station{mac, is4}] = f
		}
	}
	return found, decoys
}

// answersAll reports whether the host answered for both decoys of a pair.
func (t *decoyTest) answersAll(mac [6]byte) bool {
	return slices.ContainsFunc(t.pairs, func(pair [2]netip.Addr) bool {
		_, one := t.heard[sighting{pair[0], mac, announced}]
		_, other := t.heard[sighting{pair[1], mac, announced}]
		return one && other
	})
}

// forget makes room for n more findings.
func (p *proxies) forget(now time.Time, n int) {
	maps.DeleteFunc(p.known, func(_ station, f finding) bool { return !now.Before(f.until) })
	if len(p.known)+n > mostKnown {
		clear(p.known)
	}
}

// abort ends all tests, and returns their decoys.
func (p *proxies) abort() (decoys []netip.Addr) {
	for is4, t := range p.tests {
		delete(p.tests, is4)
		decoys = append(decoys, t.decoys()...)
	}
	return decoys
}

// next is when due or finished has something to say; the zero time: never.
func (p *proxies) next() time.Time {
	var first time.Time
	for _, t := range p.tests {
		if first.IsZero() || t.at.Before(first) {
			first = t.at
		}
	}
	return first
}

// present returns a proxy that is known, nil if there is none.
func (p *proxies) present(now time.Time) net.HardwareAddr {
	var first net.HardwareAddr
	for s, f := range p.known {
		if f.proxy && now.Before(f.until) && (first == nil || slices.Compare(s.mac[:], first) < 0) {
			first = slices.Clone(s.mac[:])
		}
	}
	return first
}

// decoyPairs picks decoys for a link; taken says which addresses are no use.
func decoyPairs(l link, is4 bool, taken func(netip.Addr) bool) [][2]netip.Addr {
	const roomy = 3 // bits for hosts: in less the chance is too great that somebody has both
	ranges := []netip.Prefix{nobodys6}
	if is4 {
		ranges[0] = nobodys4
	}
	own := slices.IndexFunc(l.subnets, func(p netip.Prefix) bool {
		return p.Addr().Is4() == is4 && !p.Addr().IsLinkLocalUnicast() && p.Addr().BitLen()-p.Bits() >= roomy
	})
	if own >= 0 {
		ranges = append(ranges, l.subnets[own])
	}
	var pairs [][2]netip.Addr
	for _, r := range ranges {
		var pair []netip.Addr
		for range 128 { // tries: a pool may fill the subnet
			if a := randomIn(r); !taken(a) && !slices.Contains(l.addrs, a) && !slices.Contains(pair, a) {
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

// randomIn returns an address of the range, other than its first and its last: they are no host's.
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
