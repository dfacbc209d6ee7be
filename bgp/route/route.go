// Package route is what is to be announced by BGP, in plain values: programs that only plan need no
// sockets. Package bgp announces it.
package route

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/berth-lb/berth/bgp/community"
)

// Route is one prefix to announce.
type Route struct {
	// Prefix is announced masked: 192.0.2.1/24 is 192.0.2.0/24.
	Prefix netip.Prefix
	// Peers names the peers that get the route; empty means all, present and future. A name without a
	// Peer is kept until there is one.
	Peers []string
	// Attributes that these peers are told.
	Attributes
}

// Equal reports whether both say the same.
func (r Route) Equal(o Route) bool {
	return r.Prefix == o.Prefix && slices.Equal(r.Peers, o.Peers) && r.Attributes.Equal(o.Attributes)
}

// Desired is everything one group wants announced. A prefix may come several times, for different
// peers.
type Desired struct {
	Routes []Route
}

// Attributes are what a route tells besides its prefix and next hop. The zero value tells nothing
// more.
type Attributes struct {
	// LocalPref is LOCAL_PREF (RFC 4271 section 5.1.5), for internal peers only; nil: 100.
	LocalPref *uint32
	// MED is MULTI_EXIT_DISC (RFC 4271 section 5.1.4); nil: none.
	MED *uint32
	// Communities are ascending, each once.
	Communities []community.Community
	// Prepend is how often the session's own AS number is in AS_PATH besides the usual once; external
	// peers only.
	Prepend uint8
	// Weight is the share of the traffic that this node asks for, as a link bandwidth extended
	// community of as many Mbit/s (draft-ietf-idr-link-bandwidth); 0: none. The community is not
	// transitive, and names the AS in two bytes: 23456 stands for a longer one.
	Weight uint32
}

// Equal reports whether both say the same.
func (a Attributes) Equal(b Attributes) bool { return a.Key() == b.Key() }

// Key is the same for equal attributes only.
func (a Attributes) Key() string {
	var b strings.Builder
	for _, n := range []*uint32{a.LocalPref, a.MED} {
		if n != nil {
			fmt.Fprintf(&b, "%d", *n)
		}
		b.WriteByte('/')
	}
	fmt.Fprintf(&b, "%d/%d", a.Prepend, a.Weight)
	for _, c := range a.Communities {
		b.WriteByte('/')
		b.WriteString(c.String())
	}
	return b.String()
}
