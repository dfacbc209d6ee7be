package election

import (
	"slices"
	"strings"
	"time"
)

// roster says who is alive on one segment and in which state: a peer is alive while its sequence advances. It has
// no clock and no socket: whoever owns it hands it what was heard and the time, in order, from one goroutine.
type peerTable struct {
	self   string
	boot   uint64 // this node's own
	random func() uint64
	late   bool // what is heard may have waited for long
	peers  map[string]*peer
}

// Peer is another node that is alive on a segment.
type Peer struct {
	Node  string
	State State
	Age   time.Duration // since its last hello, when the status was taken, within a hello interval
}

// change is one peer's step from one state, or from some capabilities, to another, or in or out of life.
type PeerChange struct {
	Node         string
	Alive        bool
	State        State
	Capabilities Capabilities
	Cause        Cause
}

// member outlives the peer's silence, for its boot and sequence.
type peer struct {
	alive        bool
	state        State
	boot         uint64 // 0: none has shown that it lives
	sequence     uint64
	interval     time.Duration
	mac          [6]byte
	digest       uint64
	capabilities Capabilities
	lastAdvance  time.Time // when the sequence last advanced, on our clock
	lastStood    time.Time // when it did so in a state in which its claims stand
	silentSince  time.Time // since when it counts as dead; zero: never heard

	// A boot that is heard, and has yet to show that it lives.
	newBoot        uint64
	nonce          uint64
	firstChallenge time.Time // first
	lastChallenge  time.Time // last
}

const (
	// silence is after how many of its own intervals a peer counts as dead.
	silence = 3
	// maxPeers bounds what signed messages can make a node remember of one segment.
	maxPeers = 1024
	// challengePause is the least time between two challenges of one peer.
	challengePause = 20 * time.Millisecond
	// strangerTime is how long a boot has to show that it lives before another is asked: so that replayed
	// boots in between do not keep it from that.
	challengeTime = 200 * time.Millisecond
)

func newPeerTable(self string, boot uint64, random func() uint64) *peerTable {
	return &peerTable{self: self, boot: boot, random: random, peers: make(map[string]*peer)}
}

// hear takes a message whose signature held. A nil change means that nothing decisive is new; an error is a
// rejection, and with rejectBoot the challenge is to be sent, if there is one.
func (r *peerTable) hear(now time.Time, x Message) (*PeerChange, *Message, error) {
	if x.Node == r.self {
		return nil, nil, RejectOwn
	}
	m, known := r.peers[x.Node]
	if !known {
		if len(r.peers) >= maxPeers && !r.forgetOldest() {
			return nil, nil, RejectTooMany
		}
		m = &peer{}
		r.peers[x.Node] = m
	}
	switch {
	case x.Boot == m.boot && x.sequence <= m.sequence:
		return nil, nil, RejectReplay
	case x.Boot != m.boot && !m.answersChallenge(r.boot, x):
		return nil, r.challenge(now, m, x.Boot), RejectBoot
	}
	was := *m
	if x.Boot != m.boot {
		// Another process: what the former one said is void, and its state too.
		was.alive = was.alive && was.state.Departing()
		m.boot, m.newBoot = x.Boot, 0
	}
	m.alive, m.lastAdvance = true, now
	m.sequence, m.interval, m.state, m.mac, m.digest, m.capabilities = x.sequence, x.interval, x.state, x.MAC, x.digest, x.capabilities
	if x.state != Starting && !r.late {
		m.lastStood = now
	}
	if was.boot == m.boot && was.alive && was.state == x.state && was.capabilities == x.capabilities {
		return nil, nil, nil
	}
	return &PeerChange{Node: x.Node, Alive: true, State: x.state, Capabilities: x.capabilities, Cause: causeOfChange(was, *m)}, nil, nil
}

// challenge asks a boot that was not heard before to show that it lives: what it says may be replayed. It returns
// nil when it was asked a moment ago.
func (r *peerTable) challenge(now time.Time, m *peer, boot uint64) *Message {
	switch {
	case m.newBoot == boot && now.Sub(m.lastChallenge) < challengePause,
		m.newBoot != boot && m.newBoot != 0 && now.Sub(m.firstChallenge) < challengeTime:
		return nil
	case m.newBoot != boot:
		m.newBoot, m.nonce, m.firstChallenge = boot, r.random(), now
	}
	m.lastChallenge = now
	return &Message{kind: kindChallenge, to: boot, nonce: m.nonce}
}

// proves tells whether x is the answer to our challenge.
func (m *peer) answersChallenge(self uint64, x Message) bool {
	return x.kind == kindProof && x.to == self && x.Boot == m.newBoot && x.nonce == m.nonce && m.newBoot != 0
}

// forgetOldest makes room by forgetting who has been silent for longest, and reports whether there was one.
func (r *peerTable) forgetOldest() bool {
	var oldest string
	for name, m := range r.peers {
		if !m.alive && (oldest == "" || m.lastAdvance.Before(r.peers[oldest].lastAdvance)) {
			oldest = name
		}
	}
	delete(r.peers, oldest)
	return oldest != ""
}

func causeOfChange(before, after peer) Cause {
	switch {
	case before.alive && before.boot == after.boot && before.state == after.state:
		return PeerCapability
	case after.state.Departing():
		return PeerLeft
	case after.state == Ready:
		return PeerReady
	case before.alive && before.state == Ready:
		return PeerLeft // ready, then starting again: it overslept
	}
	return PeerSeen
}

// judge declares those silent whose time is over.
func (r *peerTable) declareSilent(now time.Time) []PeerChange {
	var dead []PeerChange
	for name, m := range r.peers {
		if m.alive && now.Sub(m.lastAdvance) > silence*m.interval {
			m.alive, m.silentSince = false, now
			dead = append(dead, PeerChange{Node: name, State: m.state, Cause: PeerSilent})
		}
	}
	// The order of a map is nobody's business.
	slices.SortFunc(dead, func(a, b PeerChange) int { return strings.Compare(a.Node, b.Node) })
	return dead
}

// verdict is when judge has something to say at the earliest; the zero time: never.
func (r *peerTable) nextSilence() time.Time {
	var first time.Time
	for _, m := range r.peers {
		if !m.alive {
			continue
		}
		if t := m.lastAdvance.Add(silence*m.interval + 1); first.IsZero() || t.Before(first) {
			first = t
		}
	}
	return first
}

// alive counts the peers that are, without those that are not expected to say anything.
func (r *peerTable) countAlive() int {
	n := 0
	for _, m := range r.peers {
		if m.alive && m.state != Holding {
			n++
		}
	}
	return n
}

// hears reports whether the named peer is alive, and says so.
func (r *peerTable) isAlive(node string) bool {
	m, ok := r.peers[node]
	return ok && m.alive && m.state != Holding
}

// ready reports whether the named peer is alive and Ready.
func (r *peerTable) isReady(node string) bool {
	m, ok := r.peers[node]
	return ok && m.alive && m.state == Ready
}

// capabilities returns those of which the named peer told last.
func (r *peerTable) capabilities(node string) Capabilities {
	if m, ok := r.peers[node]; ok {
		return m.capabilities
	}
	return 0
}

// owns reports whether claims of the named peer count: it is alive, and Ready or Holding.
func (r *peerTable) mayOwn(node string) bool {
	m, ok := r.peers[node]
	return ok && m.alive && (m.state == Ready || m.state == Holding)
}

// stood returns until when the named peer answered for what it claims, as far as it was heard. What one that is Holding
// claims is kept for it as long as it counts as alive. The zero time: it never was heard to.
func (r *peerTable) stoodUntil(now time.Time, node string) time.Time {
	m, ok := r.peers[node]
	switch {
	case !ok:
		return time.Time{}
	case m.alive && m.state == Holding:
		return now
	}
	return m.lastStood
}

// silentSince returns since when the peer is not heard; the zero time: it never was.
func (r *peerTable) silentSince(node string) time.Time {
	if m, ok := r.peers[node]; ok {
		return m.silentSince
	}
	return time.Time{}
}

// byMAC returns the name of the peer that last said it has this MAC, alive or not, and whether there is one.
func (r *peerTable) byMAC(mac [6]byte) (string, bool) {
	for name, m := range r.peers {
		if m.mac == mac && m.boot != 0 {
			return name, true
		}
	}
	return "", false
}

// peers lists those alive by name.
func (r *peerTable) list(now time.Time) []Peer {
	list := make([]Peer, 0, len(r.peers))
	for name, m := range r.peers {
		if m.alive {
			list = append(list, Peer{Node: name, State: m.state, Age: now.Sub(m.lastAdvance)})
		}
	}
	slices.SortFunc(list, func(a, b Peer) int { return strings.Compare(a.Node, b.Node) })
	return list
}
