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

// needsExtendedNextHop reports whether IPv4 routes go to a peer with an IPv6 next hop (RFC 8950):
// an unnumbered one knows the way to our link-local address only, and a node without IPv4 has no
// other.
func (o *loop) needsExtendedNextHop(p Peer) bool {
	_, own := o.nextHops[gobgp.RF_IPv4_UC]
	return slices.Contains(familiesOf(p), gobgp.RF_IPv4_UC) && (p.Interface != "" || !own)
}

// checkNextHops withholds IPv4 routes from a peer that would not understand them.
func (o *loop) checkNextHops(s *session, e sessionEvent) {
	withheld := o.needsExtendedNextHop(s.peer) && !e.extended
	if withheld {
		o.published.update(func() {
			s.families = slices.DeleteFunc(s.families, func(f gobgp.Family) bool { return f == gobgp.RF_IPv4_UC })
		})
		o.attemptFailed(s, "IPv4 routes are withheld: they have an IPv6 next hop, which the peer does not take (RFC 8950); "+
			"have it send the capability extended next hop", e.time, false)
	}
	if withheld == s.withheld {
		return
	}
	s.withheld = withheld
	o.sets.news = true
	if err := o.publishSets(); err != nil {
		o.log.Error("GoBGP refused the policies", "error", err)
		return
	}
	if !withheld {
		s.missed = true
	}
}

// nextHop is what a route of this family points to, where the peer does not demand otherwise.
func (o *loop) nextHop(family gobgp.Family) (netip.Addr, bool) {
	if hop, ok := o.nextHops[family]; ok {
		return hop, true
	}
	if family == gobgp.RF_IPv4_UC {
		hop, ok := o.nextHops[gobgp.RF_IPv6_UC]
		return hop, ok
	}
	return netip.Addr{}, false
}
