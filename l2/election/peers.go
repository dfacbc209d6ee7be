package election

import (
	"slices"
	"strings"
	"time"
)

// peerTable knows which peers are alive on one segment, and in which state. A peer is alive while
// its sequence advances.
type peerTable struct {
	self   string
	boot   uint64 // of this node
	random func() uint64
	late   bool // what is heard may have waited for long
	peers  map[string]*peer
}

// Peer is another node that is alive on a segment.
type Peer struct {
	Node  string
	State State
	// Capabilities are the ways in which it is able to forward.
	Capabilities Capabilities
	Age          time.Duration // since its last message, when the status was taken; accurate to a hello interval
}

// PeerChange says that a peer came, went, or changed its state or capabilities.
type PeerChange struct {
	Node         string
	Alive        bool
	State        State
	Capabilities Capabilities
	Cause        Cause
}

// peer is kept after the peer falls silent, for its boot and sequence.
type peer struct {
	alive        bool
	overdue      bool // that its message is was told
	state        State
	boot         uint64 // 0: none has proved that it is alive
	sequence     uint64
	interval     time.Duration
	mac          [6]byte
	digest       uint64
	capabilities Capabilities
	age          time.Duration // of its desired state, when it was last heard
	lastAdvance  time.Time     // when the sequence last advanced, by our clock
	lastStood    time.Time     // when it last did in a state in which claims stand
	silentSince  time.Time     // zero: never silent

	// A boot that was heard, and has not proved yet that it is alive.
	newBoot        uint64
	nonce          uint64
	firstChallenge time.Time
	lastChallenge  time.Time
}

const (
	// silence is how many of its own intervals without a message make a peer count as dead.
	silence = 3
	// overdue is after how many of its intervals without a message a peer may be about to count as
	// dead. One message that came late makes it so, too.
	overdue = 2
	// MaxPeers limits what signed messages can make a node remember about one segment.
	MaxPeers = 1024
	// challengePause is the least time between two challenges of one peer.
	challengePause = 20 * time.Millisecond
	// challengeTime is how long a boot has to prove that it is alive before another one is
	// challenged. Replayed boots in between do not keep it from that.
	challengeTime = 200 * time.Millisecond
)

func newPeerTable(self string, boot uint64, random func() uint64) *peerTable {
	return &peerTable{self: self, boot: boot, random: random, peers: make(map[string]*peer)}
}

// hear takes a message whose signature is valid. The change is nil if nothing that matters is new.
// An error is a Rejection; with RejectBoot the message, if there is one, is a challenge to be sent.
func (r *peerTable) hear(now time.Time, x Message) (*PeerChange, *Message, error) {
	if x.Node == r.self {
		return nil, nil, RejectOwn
	}
	m, known := r.peers[x.Node]
	if !known {
		if len(r.peers) >= MaxPeers && !r.forgetOldest() {
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
		// It is another process: the state and the claims of the former one are void.
		was.alive = was.alive && was.state.Departing()
		m.boot, m.newBoot = x.Boot, 0
	}
	m.alive, m.overdue, m.lastAdvance = true, false, now
	m.sequence, m.interval, m.state = x.sequence, x.interval, x.state
	m.mac, m.digest, m.capabilities, m.age = x.MAC, x.digest, x.capabilities, x.age
	if x.state != Starting && !r.late {
		m.lastStood = now
	}
	if was.boot == m.boot && was.alive && was.state == x.state && was.capabilities == x.capabilities {
		return nil, nil, nil
	}
	return &PeerChange{
		Node:         x.Node,
		Alive:        true,
		State:        x.state,
		Capabilities: x.capabilities,
		Cause:        causeOfChange(was, *m),
	}, nil, nil
}

// challenge asks a boot that was not heard before to prove that it is alive: its messages may be a
// replay. It returns nil if the boot was asked a moment ago.
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

// answersChallenge reports whether x is the answer to our challenge.
func (m *peer) answersChallenge(self uint64, x Message) bool {
	return x.kind == kindProof && x.to == self && x.Boot == m.newBoot && x.nonce == m.nonce && m.newBoot != 0
}

// forgetOldest forgets the peer that has been silent for longest, and reports whether there was
// one.
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
		return PeerLeft // it was ready and is starting again: its loop ran too late
	}
	return PeerSeen
}

// declareSilent returns the peers that were silent for too long, by name.
func (r *peerTable) declareSilent(now time.Time) []PeerChange {
	var dead []PeerChange
	for name, m := range r.peers {
		if m.alive && now.Sub(m.lastAdvance) > silence*m.interval {
			m.alive, m.silentSince = false, now
			dead = append(dead, PeerChange{Node: name, State: m.state, Cause: PeerSilent})
		}
	}
	slices.SortFunc(dead, func(a, b PeerChange) int { return strings.Compare(a.Node, b.Node) })
	return dead
}

// declareOverdue returns the peers whose message is overdue since the last call, by name. Of those
// that said that they leave none is expected.
func (r *peerTable) declareOverdue(now time.Time) []string {
	var nodes []string
	for name, m := range r.peers {
		if t := m.overdueAt(); !t.IsZero() && !now.Before(t) {
			m.overdue = true
			nodes = append(nodes, name)
		}
	}
	slices.Sort(nodes)
	return nodes
}

// overdueAt returns when the message of the peer is overdue; the zero time: none is expected, or it
// is already.
func (m *peer) overdueAt() time.Time {
	if !m.alive || m.overdue || m.state.Departing() {
		return time.Time{}
	}
	return m.lastAdvance.Add(overdue*m.interval + 1)
}

// nextOverdue returns when declareOverdue may have something to return; the zero time: never.
func (r *peerTable) nextOverdue() time.Time {
	var first time.Time
	for _, m := range r.peers {
		if t := m.overdueAt(); !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

// nextSilence returns when declareSilent may have something to return; the zero time: never.
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

// allOverdue reports whether every peer that is alive missed the last message, and the one before.
func (r *peerTable) allOverdue(now time.Time) bool {
	for _, m := range r.peers {
		if m.alive && m.state != Holding && now.Sub(m.lastAdvance) <= (silence-1)*m.interval {
			return false
		}
	}
	return true
}

// countAlive counts the peers that are alive and expected to send messages.
func (r *peerTable) countAlive() int {
	n := 0
	for _, m := range r.peers {
		if m.alive && m.state != Holding {
			n++
		}
	}
	return n
}

// isAlive reports whether the peer is alive and expected to send messages.
func (r *peerTable) isAlive(node string) bool {
	m, ok := r.peers[node]
	return ok && m.alive && m.state != Holding
}

// isReady reports whether the peer is alive and Ready.
func (r *peerTable) isReady(node string) bool {
	m, ok := r.peers[node]
	return ok && m.alive && m.state == Ready
}

// capabilities returns what the peer last said that it is able to do.
func (r *peerTable) capabilities(node string) Capabilities {
	if m, ok := r.peers[node]; ok {
		return m.capabilities
	}
	return 0
}

// age returns for how long the peer's desired state was not confirmed when it was last heard.
func (r *peerTable) age(node string) time.Duration {
	if m, ok := r.peers[node]; ok {
		return m.age
	}
	return 0
}

// anyAlive reports whether a peer is alive for which that is true.
func (r *peerTable) anyAlive(is func(*peer) bool) bool {
	for _, m := range r.peers {
		if m.alive && is(m) {
			return true
		}
	}
	return false
}

// mayOwn reports whether claims of the peer count: it is alive, and Ready or Holding.
func (r *peerTable) mayOwn(node string) bool {
	m, ok := r.peers[node]
	return ok && m.alive && (m.state == Ready || m.state == Holding)
}

// stoodUntil returns until when the peer, as far as it was heard, answered for what it claims. The
// claims of a Holding peer stand as long as it counts as alive. The zero time: it was never heard
// to answer.
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

// known reports whether the peer was ever heard.
func (r *peerTable) known(node string) bool {
	m, ok := r.peers[node]
	return ok && m.boot != 0
}

// anyKnown reports whether any peer was ever heard.
func (r *peerTable) anyKnown() bool {
	for _, m := range r.peers {
		if m.boot != 0 {
			return true
		}
	}
	return false
}

// silentSince returns since when the peer is silent; the zero time: it never was.
func (r *peerTable) silentSince(node string) time.Time {
	if m, ok := r.peers[node]; ok {
		return m.silentSince
	}
	return time.Time{}
}

// byMAC returns the peer that last said it has this MAC, alive or not.
func (r *peerTable) byMAC(mac [6]byte) (string, bool) {
	for name, m := range r.peers {
		if m.mac == mac && m.boot != 0 {
			return name, true
		}
	}
	return "", false
}

// list returns the peers that are alive, by name.
func (r *peerTable) list(now time.Time) []Peer {
	list := make([]Peer, 0, len(r.peers))
	for name, m := range r.peers {
		if m.alive {
			list = append(list, Peer{
				Node: name, State: m.state, Capabilities: m.capabilities, Age: now.Sub(m.lastAdvance),
			})
		}
	}
	slices.SortFunc(list, func(a, b Peer) int { return strings.Compare(a.Node, b.Node) })
	return list
}
