package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/berth-lb/berth/bgp/discover"
)

// seekPause is between attempts to find the routers of unnumbered peers without a session.
const seekPause = 2 * time.Second

// locate gives unnumbered peers the addresses of their routers, as far as they are known.
func (o *loop) locate(peers []Peer) (usable []Peer, problems []problem) {
	taken := map[netip.Addr]string{}
	for _, p := range peers {
		if p.Interface == "" {
			usable = append(usable, p)
			taken[p.Address] = p.Name
			continue
		}
		seen, ok := o.routers[p.Interface]
		other, twice := taken[seen.address.WithZone("")]
		switch {
		case !ok:
			problems = append(problems, problem{p, "looking for the router on " + p.Interface})
		case seen.err != nil && !seen.address.IsValid():
			problems = append(problems, problem{p, seen.err.Error()})
		case twice: // policies tell peers apart by address, without zone
			problems = append(problems, problem{p, fmt.Sprintf("the router on %s has the address %s of peer %s; give one of the routers another",
				p.Interface, seen.address.WithZone(""), other)})
		default:
			taken[seen.address.WithZone("")] = p.Name
			p.Address = seen.address
			usable = append(usable, p)
		}
	}
	return usable, problems
}

// seek looks for the routers of unnumbered peers that have no session, again and again until they
// have one: a router may come later, or be replaced by another.
func (o *loop) seek(ctx context.Context) {
	waiting := false
	for _, p := range o.peers {
		if p.Interface == "" {
			continue
		}
		if s := o.published.sessions[p.Name]; s != nil && s.up() {
			continue
		}
		waiting = true
		if slices.Contains(o.searching, p.Interface) {
			continue
		}
		o.searching = append(o.searching, p.Interface)
		o.asking.Add(1)
		go func() { // ends after listenPause or with ctx
			defer o.asking.Done()
			seen := foundRouter{link: p.Interface}
			seen.address, seen.err = discover.Router(ctx, p.Interface)
			select {
			case o.found <- seen:
			case <-ctx.Done():
			}
		}()
	}
	if waiting {
		o.seekAgain.Reset(seekPause)
	}
}

// routerFound notes where a router is. One that is no longer seen keeps its address: it may come
// back.
func (o *loop) routerFound(ctx context.Context, seen foundRouter) {
	o.searching = slices.DeleteFunc(o.searching, func(link string) bool { return link == seen.link })
	was, known := o.routers[seen.link]
	if seen.err != nil {
		seen.address = was.address
	}
	o.routers[seen.link] = seen
	if !known || was.address != seen.address || !seen.address.IsValid() {
		o.syncPeers(ctx)
	}
}

// pointsToSession reports whether routes of a family point to the local end of the session with the
// peer: those of the session's own family do, and where the node has no IPv4 address, those of IPv4
// in an IPv6 session. An unnumbered peer knows the way to our link-local address only.
func (o *loop) pointsToSession(p Peer, f gobgp.Family) bool {
	_, own := o.nextHops[f]
	return p.Interface != "" || !p.NodeNextHop &&
		(familyOf(p.Covers().Addr()) == f || f == gobgp.RF_IPv4_UC && !own && !o.besideOf(p, f))
}

// besideOf reports whether the card of the session with the peer has an address for routes of this
// family, which is not the session's.
func (o *loop) besideOf(p Peer, f gobgp.Family) bool {
	s := o.published.sessions[p.Label()]
	return s != nil && s.beside.IsValid() && familyOf(s.beside) == f
}

// beside returns what routes of the other family than the session's point to: an address of the
// card that the session runs on, if the node's own is not there. So a router that knows the
// fabric's networks only can reach it.
func (o *loop) beside(p Peer, local netip.Addr) netip.Addr {
	if p.Interface != "" || p.NodeNextHop || !local.IsValid() {
		return netip.Addr{}
	}
	found, err := discover.Beside(local.WithZone(""))
	if err != nil {
		o.log.Warn("could not read the addresses of a session's card", "peer", p.Name, "error", err)
	}
	if len(found) == 0 || slices.Contains(found, o.nextHops[familyOf(found[0])]) {
		return netip.Addr{}
	}
	return found[0]
}

// needsExtendedNextHop reports whether IPv4 routes go to a peer with an IPv6 next hop (RFC 8950).
func (o *loop) needsExtendedNextHop(p Peer) bool {
	_, own := o.nextHops[gobgp.RF_IPv4_UC]
	overIPv4 := p.Interface == "" && p.Covers().Addr().Is4() && !p.NodeNextHop
	return slices.Contains(familiesOf(p), gobgp.RF_IPv4_UC) &&
		(p.Interface != "" || !own && !overIPv4 && !o.besideOf(p, gobgp.RF_IPv4_UC))
}

// hopless reports whether the peer gets no IPv6 routes, since they could point nowhere: over an
// IPv4 session from a node that has no IPv6 address.
func (o *loop) hopless(p Peer) bool {
	_, own := o.nextHops[gobgp.RF_IPv6_UC]
	return slices.Contains(familiesOf(p), gobgp.RF_IPv6_UC) && !own && !o.pointsToSession(p, gobgp.RF_IPv6_UC) &&
		!o.besideOf(p, gobgp.RF_IPv6_UC)
}

// recipient is the peer without IPv4 if that needs an extended next hop, of which it is not known
// that the peer takes it, and without IPv6 if its routes would point nowhere.
func (o *loop) recipient(p Peer, extended bool) recipient {
	r := recipient{Peer: p}
	withheld := !extended && o.needsExtendedNextHop(p)
	if s := o.published.sessions[p.Label()]; s != nil {
		r.beside = s.beside
	}
	for _, f := range familiesOf(p) {
		if f == gobgp.RF_IPv4_UC && withheld || f == gobgp.RF_IPv6_UC && o.hopless(p) {
			continue
		}
		r.families = append(r.families, f)
		if o.pointsToSession(p, f) {
			r.toSession = append(r.toSession, f)
		}
	}
	return r
}

// takesExtended reports whether the peer gets IPv4 routes with an IPv6 next hop. Before it has said
// that it takes them it does not, because OpenBGPD 7.7 crashes at one; unless it keeps routes while
// the speaker is replaced, and would drop those that do not come again at once.
func (s *session) takesExtended() bool {
	return s.extended || !s.greeted && s.peer.GracefulRestart > 0
}

// doubtExtended holds IPv4 routes with an IPv6 next hop back, as from a peer that is new, until the
// next session has said that it takes them; unless the peer keeps those that it has.
func (o *loop) doubtExtended(s *session) {
	if !s.extended || s.keeps {
		return
	}
	s.extended = false
	o.sets.news = true
	if err := o.publishSets(); err != nil {
		o.log.Error("GoBGP refused the policies", "error", err)
	}
}

// checkNextHops gives IPv4 routes with an IPv6 next hop to a peer that takes them, and says what is
// withheld.
func (o *loop) checkNextHops(s *session, e sessionEvent) {
	hops, beside := o.hops(), s.beside
	s.beside = o.beside(s.peer, s.local)
	if o.hops() != hops {
		for prefix := range o.desired.prefixes {
			o.dirty[prefix] = true
		}
	}
	if o.hopless(s.peer) {
		o.published.update(func() {
			s.families = slices.DeleteFunc(s.families, func(f gobgp.Family) bool { return f == gobgp.RF_IPv6_UC })
		})
		o.attemptFailed(s, "IPv6 routes are withheld: the session is over IPv4, and the node has no IPv6 address (InternalIP) for them to point to; "+
			"give it one, or peer over IPv6", e.time, false)
	}
	before := s.takesExtended()
	if o.needsExtendedNextHop(s.peer) {
		s.extended, s.greeted = e.extended, true
		if !e.extended {
			o.published.update(func() {
				s.families = slices.DeleteFunc(s.families, func(f gobgp.Family) bool { return f == gobgp.RF_IPv4_UC })
			})
			o.attemptFailed(s, "IPv4 routes are withheld: they have an IPv6 next hop, which the peer does not take (RFC 8950); "+
				"have it send the capability extended next hop", e.time, false)
		}
	}
	if s.takesExtended() == before && s.beside == beside {
		return
	}
	o.sets.news = true
	if err := o.publishSets(); err != nil {
		o.log.Error("GoBGP refused the policies", "error", err)
		return
	}
	s.missed = true
}

// nextHop is what a route of this family points to where the policy does not put the session's
// local end in its place. The unspecified address stands for nothing else.
func (o *loop) nextHop(family gobgp.Family) (netip.Addr, bool) {
	if hop, ok := o.nextHops[family]; ok {
		return hop, true
	}
	toSession := slices.ContainsFunc(o.usable, func(p Peer) bool {
		return o.pointsToSession(p, family) || o.besideOf(p, family)
	})
	switch hop, ok := o.nextHops[gobgp.RF_IPv6_UC]; {
	case toSession && family == gobgp.RF_IPv4_UC:
		return netip.IPv4Unspecified(), true
	case toSession:
		return netip.IPv6Unspecified(), true
	case family == gobgp.RF_IPv4_UC:
		return hop, ok
	}
	return netip.Addr{}, false
}

// hops are the next hops of both families.
func (o *loop) hops() (hops [len(families)]netip.Addr) {
	for i, f := range families {
		hops[i], _ = o.nextHop(f)
	}
	return hops
}
