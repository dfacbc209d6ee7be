package bgpd

import (
	"maps"
	"net/netip"

	"github.com/berth-lb/berth/bgp"
)

// wants are all that is wanted of BGP.
type wants struct {
	Identity  Identity
	RouterID  netip.Addr
	NextHops  []netip.Addr
	Groups    map[string]bgp.Desired
	LeftAlone map[netip.Addr]string `json:"-"` // what is known of routers is kept elsewhere
	Peers     []bgp.Peer            // nil: not said yet
	Phase     phase
}

func newWants() wants {
	return wants{Groups: map[string]bgp.Desired{}, Phase: phase{Kind: phaseResume}}
}

// unsaid is what the other side has not been told yet.
type unsaid struct {
	identity, routerID, nextHops, leftAlone, peers, phase bool

	complete  bool // the last order completes what a connection begins with
	groups    map[string]bool
	paths     []bgp.PathChange
	questions []question
}

// everything has all told, on a new connection.
func (u *unsaid) everything(w *wants) {
	*u = unsaid{
		identity: true, routerID: true, nextHops: true, phase: true, complete: true,
		leftAlone: w.LeftAlone != nil, peers: w.Peers != nil, groups: map[string]bool{}, questions: u.questions,
	}
	for group := range w.Groups {
		u.groups[group] = true
	}
}

// next takes the next order; false: nothing is to be said. Peers follow all groups, so that the end
// of what they are told at first is true; and what is wanted is complete once there was a word on
// peers.
func (u *unsaid) next(w *wants) (o order, more bool) {
	flag := func(unsaid *bool) bool {
		was := *unsaid
		*unsaid, more = false, more || was
		return was
	}
	if flag(&u.identity) {
		o.Identity = new(w.Identity)
	}
	if flag(&u.routerID) {
		o.RouterID = w.RouterID
	}
	if flag(&u.nextHops) {
		o.NextHops = w.NextHops
	}
	for group := range u.groups {
		if len(o.Groups) == groupsPerOrder {
			break
		}
		if o.Groups == nil {
			o.Groups, more = map[string]bgp.Desired{}, true
		}
		o.Groups[group] = w.Groups[group]
		delete(u.groups, group)
	}
	if len(u.groups) > 0 {
		return o, more
	}
	if flag(&u.leftAlone) {
		o.LeftAlone = new(maps.Clone(w.LeftAlone))
	}
	if flag(&u.peers) {
		o.Peers = new(w.Peers)
	}
	if flag(&u.phase) {
		o.Phase = new(w.Phase)
	}
	if len(u.paths) > 0 {
		o.Paths, u.paths, more = u.paths, nil, true
	}
	if len(u.questions) > 0 { // one may be about what was said before it
		o.Question, u.questions, more = new(u.questions[0]), u.questions[1:], true
	}
	if w.Peers != nil {
		o.Complete = flag(&u.complete)
	}
	return o, more
}
