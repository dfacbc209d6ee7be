package bgp

import (
	"net/netip"
	"slices"
)

// Route is one prefix to announce.
type Route struct {
	// Prefix is announced masked: 192.0.2.1/24 is 192.0.2.0/24.
	Prefix netip.Prefix
	// Peers names the peers that get the route; empty means all, present and future. A name without a
	// Peer is kept until there is one.
	Peers []string
	// Attributes of the path (communities, MED, LOCAL_PREF, prepending) have their place here, and in
	// announcement, where the routes of several groups for one prefix are merged.
}

// Desired is everything one group wants announced.
type Desired struct {
	Routes []Route
}

// announcement is what one prefix needs, all groups that want it taken together.
type announcement struct {
	// peers is sorted; nil means every peer.
	peers []string
}

func (a announcement) equal(b announcement) bool {
	return (a.peers == nil) == (b.peers == nil) && slices.Equal(a.peers, b.peers)
}

// with adds what one more route of the same prefix wants: the union of the peers.
func (a announcement) with(r Route) announcement {
	if a.peers == nil || len(r.Peers) == 0 {
		return announcement{}
	}
	peers := slices.Concat(a.peers, r.Peers)
	slices.Sort(peers)
	return announcement{peers: slices.Compact(peers)}
}
