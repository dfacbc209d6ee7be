package bgp

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// maxUnannounced bounds the prefixes a Status lists one by one.
const maxUnannounced = 16

// Status is what a driver does at one moment.
type Status struct {
	// Peers has one element per name given to SyncPeers, sorted by name; of a peer with a Prefix one
	// per router that is connected, sorted by address as a text, or one without an Address while none
	// is.
	Peers []PeerStatus
	// Announced counts the prefixes announced to any peer.
	Announced int
	// Unannounced are prefixes that are wanted and cannot be announced, sorted, at most 16 of them.
	Unannounced []Unannounced
	// UnannouncedTotal counts all of them.
	UnannouncedTotal int
	// Leaving is set between Drain or Withdraw and Resume.
	Leaving bool
	// Err says why this is not known to be so at the moment; empty: it is.
	Err string
}

// PeerStatus is the state of the session with one peer.
type PeerStatus struct {
	Name                string
	Address             netip.Addr // of an unnumbered peer: once it is found, with the interface as its zone
	Prefix              netip.Prefix
	LocalASN, RemoteASN uint32
	// State is one of RFC 4271's, in lower case: idle, active, opensent, openconfirm, established.
	State string
	// Since is when the session came up or went down.
	Since time.Time
	// LastError is why the session was last not up, with the NOTIFICATION decoded if there was one,
	// and LastErrorTime when. They stay after the session comes back; empty if nothing went wrong so
	// far.
	LastError     string
	LastErrorTime time.Time
	// IPv4 and IPv6 count the prefixes announced to the peer: 0 while the session is down, and for a
	// family the peer did not agree to.
	IPv4, IPv6 int
	// Families that the peer takes; while the session is up.
	Families []string
	// BFD is the state of the path to the peer; empty if it is not watched, or nothing is known yet.
	BFD PathState
	// KeepsRoutes: graceful restart was negotiated.
	KeepsRoutes bool
}

// label tells sessions apart in metrics.
func (p PeerStatus) label() string {
	return Peer{Name: p.Name, Address: p.Address, Prefix: p.Prefix}.Label()
}

// Established reports whether the session is up.
func (p PeerStatus) Established() bool { return p.State == stateName(gobgp.BGP_FSM_ESTABLISHED) }

// Ended returns the state of the session after its end.
func (p PeerStatus) Ended(at time.Time, reason string) PeerStatus {
	return PeerStatus{
		Name: p.Name, Address: p.Address, Prefix: p.Prefix, LocalASN: p.LocalASN, RemoteASN: p.RemoteASN,
		State: stateName(gobgp.BGP_FSM_IDLE), Since: at, LastError: reason, LastErrorTime: at,
	}
}

// Unannounced is a prefix that is wanted and not announced.
type Unannounced struct {
	Prefix netip.Prefix
	Reason string
}

func stateName(s gobgp.FSMState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "BGP_FSM_"))
}

// published is what others may read of the loop. The loop alone writes, and only under the lock.
type published struct {
	mu       sync.Mutex
	sessions map[string]*session    // by their peers' labels
	toAll    familyCount            // prefixes for every peer
	toSome   map[string]familyCount // prefixes for named peers
	total    int
	failed   map[netip.Prefix]string
	leaving  bool
	onChange func()
}

// session is what is known of one peer.
type session struct {
	peer        Peer
	invalid     bool // GoBGP does not know it
	routers     int  // routers of its prefix that are connected; they have sessions of their own
	state       gobgp.FSMState
	since       time.Time
	families    []gobgp.Family // negotiated
	keeps       bool           // the peer keeps our routes while we restart; negotiated
	path        PathState      // by BFD; empty: not watched, or nothing is known yet
	lastError   string
	lastErrorAt time.Time
	// Only the loop uses the rest.
	endedAt       time.Time // when the established session ended; zero: there was none, or it is up
	lastNote      failure
	closedBecause string             // why we ended the session that was up last, if we did
	extended      bool               // it takes IPv4 routes with an IPv6 next hop (RFC 8950), as it said
	greeted       bool               // it has said so, or not
	local         netip.Addr         // our end of the last connection
	beside        netip.Addr         // see loop.beside; zero: the node's address counts
	missed        bool               // it has not got all routes since it is up
	settling      time.Time          // when the session came up, until GoBGP is known to send it changes
	backoffUntil  time.Time          // when a session that we refuse for a while may come up again
	hangUp        context.CancelFunc // ends the attempts to connect; nil: there are none
	refusals      int                // how often it ended while it was being opened, since it was up
	probed        time.Time
	verdict       string    // the last probe's
	closedAt      time.Time // when we ended the session before, for our configuration
	untold        bool      // lastError was not reported, since the peer may still be busy with that end
}

func (s *session) up() bool { return s.state == gobgp.BGP_FSM_ESTABLISHED }

type familyCount map[gobgp.Family]int

func newPublished(onChange func()) *published {
	return &published{
		onChange: onChange,
		sessions: map[string]*session{},
		toAll:    familyCount{},
		toSome:   map[string]familyCount{},
		failed:   map[netip.Prefix]string{},
	}
}

func (b *published) status() Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	st := Status{Announced: b.total, UnannouncedTotal: len(b.failed), Leaving: b.leaving}
	for _, label := range slices.Sorted(maps.Keys(b.sessions)) {
		s := b.sessions[label]
		if s.routers > 0 {
			continue
		}
		st.Peers = append(st.Peers, PeerStatus{
			Name:          s.peer.Name,
			Address:       s.peer.Address,
			Prefix:        s.peer.Prefix,
			LocalASN:      s.peer.LocalASN,
			RemoteASN:     s.peer.RemoteASN,
			State:         stateName(s.state),
			Since:         s.since,
			LastError:     s.lastError,
			LastErrorTime: s.lastErrorAt,
			IPv4:          b.announcedTo(s, gobgp.RF_IPv4_UC),
			IPv6:          b.announcedTo(s, gobgp.RF_IPv6_UC),
			Families:      s.taken(),
			BFD:           s.path,
			KeepsRoutes:   s.up() && s.keeps,
		})
	}
	prefixes := slices.SortedFunc(maps.Keys(b.failed), comparePrefixes)
	for _, p := range prefixes[:min(len(prefixes), maxUnannounced)] {
		st.Unannounced = append(st.Unannounced, Unannounced{Prefix: p, Reason: b.failed[p]})
	}
	return st
}

// taken are the families that both sides know.
func (s *session) taken() []string {
	if !s.up() {
		return nil
	}
	var names []string
	for _, f := range familiesOf(s.peer) {
		if !slices.Contains(s.families, f) {
			continue
		}
		if f == gobgp.RF_IPv4_UC {
			names = append(names, "IPv4")
		} else {
			names = append(names, "IPv6")
		}
	}
	return names
}

func (b *published) announcedTo(s *session, family gobgp.Family) int {
	if !s.up() || !slices.Contains(s.families, family) || !slices.Contains(familiesOf(s.peer), family) {
		return 0
	}
	return b.toAll[family] + b.toSome[s.peer.Name][family]
}

// count adds n, 1 or -1, to what is announced with a.
func (b *published) count(prefix netip.Prefix, a announcement, n int) {
	b.update(func() { b.recount(prefix, a, n) })
}

// recount is count while mu is held.
func (b *published) recount(prefix netip.Prefix, a announcement, n int) {
	family := familyOf(prefix.Addr())
	b.total += n
	if a.everyone != nil {
		b.toAll[family] += n
		return // who is named is told otherwise, and gets it too
	}
	for _, s := range a.named {
		c := b.toSome[s.peer]
		if c == nil {
			c = familyCount{}
			b.toSome[s.peer] = c
		}
		c[family] += n
		if c[gobgp.RF_IPv4_UC] == 0 && c[gobgp.RF_IPv6_UC] == 0 {
			delete(b.toSome, s.peer)
		}
	}
}

// update changes what is published.
func (b *published) update(change func()) {
	b.mu.Lock()
	change()
	b.mu.Unlock()
	if b.onChange != nil {
		b.onChange()
	}
}

func comparePrefixes(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// problem is a peer that cannot have a session.
type problem struct {
	peer Peer
	text string
}

// Kind says what an Observation is about.
type Kind string

// The kinds of observations.
const (
	// SessionUp: the session with Peer is established.
	SessionUp Kind = "SessionUp"
	// SessionDown: an established session with Peer ended; Reason says why.
	SessionDown Kind = "SessionDown"
	// SessionFailed: Peer has no session, and the Reason is a new one.
	SessionFailed Kind = "SessionFailed"
	// RouteFailed: Prefix cannot be announced or withdrawn; Reason says why. It is retried.
	RouteFailed Kind = "RouteFailed"
)

// Observation is something that happened to a session or to a route. Routes that are announced and
// withdrawn as desired are not observed one by one: they are counted in Status and in the metrics.
type Observation struct {
	Time time.Time
	Kind Kind
	Peer string
	// Neighbor is the router of a Peer with a Prefix that this is about.
	Router netip.Addr
	Prefix netip.Prefix
	Reason string
	// Intended: this side ended the session, for its configuration or to end itself.
	Intended bool
}

// observationsKept is how many observations wait for a reader before the oldest are lost.
const observationsKept = 256
