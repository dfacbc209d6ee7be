package bgp

import (
	"net"
	"net/netip"
	"sync"
	"time"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

const (
	retryPause  = 5 * time.Second        // before something GoBGP refused is tried again
	settlePause = 2 * time.Millisecond   // between looks at a session that is just coming up
	byePause    = 900 * time.Millisecond // for sessions to send their last NOTIFICATION
	stopPause   = 1 * time.Second        // for GoBGP's goroutines to end, and
	sessionStop = 50 * time.Millisecond  // more for each session
)

// loop is the one goroutine that knows both what is wanted and what is announced, and that talks to
// GoBGP. It never waits for a peer: calls, and what GoBGP sends and receives, are in goroutines of
// each session's own.
type loop struct {
	*Driver
	server        *server
	routerID      netip.Addr // of server
	nextHops      map[gobgp.Family]netip.Addr
	listenError   string // why nobody can connect to us
	restartReason string // why server is to be replaced by another
	gobgpLog      *gobgpLog
	probes        chan probeResult
	answered      chan answer
	asking        sync.WaitGroup // probes and calls

	routers   map[string]foundRouter // of unnumbered peers, by interface
	searching []string               // the interfaces where a search is on
	found     chan foundRouter
	seekAgain *time.Timer
	watched   []Peer // by config.Liveness
	watches   bool   // it was told

	desired   *desiredRoutes
	sets      *attributeSets
	announced map[netip.Prefix]announcement // what GoBGP was told
	dirty     map[netip.Prefix]bool         // to compare; true: also if wanted and announced are equal
	refused   map[netip.Prefix]struct{}     // by GoBGP; dirty again when retry fires
	lastWrite time.Time                     // when a path was last handed to GoBGP

	peers        []Peer // as ordered
	leftAlone    map[netip.Addr]string
	usable       []Peer // those of them that can have a session
	peersDone    bool   // all of them are in GoBGP
	peersNews    bool   // they were ordered since
	byAddress    map[netip.Addr]*session
	backoffUntil map[netip.Addr]time.Time  // routers of a prefix that are left alone until then
	newcomers    map[netip.Addr]netip.Addr // routers of a prefix that have connected, to our end
	ended        map[string]time.Time      // when we ended the session of a peer for our configuration

	turn      uint64 // of the order that set the phase
	phase     phase
	withdrawn []chan struct{}
	closing   bool
	settles   bool // a session that has just come up is not counted yet: see settleSessions

	ready                      <-chan struct{} // closed
	retry, settle, drain, rest *time.Timer
}

func newLoop(d *Driver) *loop {
	ready := make(chan struct{})
	close(ready)
	return &loop{
		Driver:       d,
		routerID:     d.config.RouterID,
		nextHops:     d.nextHops,
		gobgpLog:     newGobgpLog(d.log.Handler()),
		probes:       make(chan probeResult),
		answered:     make(chan answer),
		routers:      map[string]foundRouter{},
		found:        make(chan foundRouter),
		seekAgain:    stoppedTimer(),
		desired:      newDesiredRoutes(),
		sets:         newAttributeSets(),
		announced:    map[netip.Prefix]announcement{},
		dirty:        map[netip.Prefix]bool{},
		refused:      map[netip.Prefix]struct{}{},
		peersDone:    true,
		byAddress:    map[netip.Addr]*session{},
		backoffUntil: map[netip.Addr]time.Time{},
		newcomers:    map[netip.Addr]netip.Addr{},
		ended:        map[string]time.Time{},
		ready:        ready,
		retry:        stoppedTimer(),
		settle:       stoppedTimer(),
		drain:        stoppedTimer(),
		rest:         stoppedTimer(),
	}
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// probeResult is a probe's answer.
type probeResult struct {
	of   *session
	text string
}

// answer is a connection that a peer took.
type answer struct {
	of   *session
	conn net.Conn
}

// foundRouter is what was found out of the router on an interface.
type foundRouter struct {
	link    string
	address netip.Addr // with the interface as its zone; if err is nil
	err     error
}
