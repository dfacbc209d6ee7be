package l2

import (
	"slices"
	"strings"
	"time"
)

// roster says who is alive on one segment and in which state: a peer is alive while its sequence advances. It has
// no clock and no socket: whoever owns it hands it what was heard and the time, in order, from one goroutine.
type roster struct {
	self    string
	boot    uint64 // this node's own
	random  func() uint64
	late    bool // what is heard may have waited for long
	members map[string]*member
}

// change is one peer's step from one state, or from some capabilities, to another, or in or out of life.
type change struct {
	peer         string
	alive        bool
	state        State
	capabilities Capabilities
	cause        Cause
}

// member outlives the peer's silence, for its boot and sequence.
type member struct {
	alive        bool
	state        State
	boot         uint64 // 0: none has shown that it lives
	sequence     uint64
	interval     time.Duration
	mac          [6]byte
	digest       uint64
	capabilities Capabilities
	advanced     time.Time // when the sequence last advanced, on our clock
	stood        time.Time // when it did so in a state in which its claims stand
	silent       time.Time // since when it counts as dead; zero: never heard

	// A boot that is heard, and has yet to show that it lives.
	stranger   uint64
	nonce      uint64
	asked      time.Time // first
	challenged time.Time // last
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
	strangerTime = 200 * time.Millisecond
)

func newRoster(self string, boot uint64, random func() uint64) *roster {
	return &roster{self: self, boot: boot, random: random, members: make(map[string]*member)}
}

// hear takes a message whose signature held. A nil change means that nothing decisive is new; an error is a
// rejection, and with rejectBoot the challenge is to be sent, if there is one.
func (r *roster) hear(now time.Time, x message) (*change, *message, error) {
	if x.node == r.self {
		return nil, nil, rejectOwn
	}
	m, known := r.members[x.node]
	if !known {
		if len(r.members) >= maxPeers && !r.forgetOldest() {
			return nil, nil, rejectTooMany
		}
		m = &member{}
		r.members[x.node] = m
	}
	switch {
	case x.boot == m.boot && x.sequence <= m.sequence:
		return nil, nil, rejectReplay
	case x.boot != m.boot && !m.proves(r.boot, x):
		return nil, r.challenge(now, m, x.boot), rejectBoot
	}
	was := *m
	if x.boot != m.boot {
		// Another process: what the former one said is void, and its state too.
		was.alive = was.alive && was.state.departing()
		m.boot, m.stranger = x.boot, 0
	}
	m.alive, m.advanced = true, now
	m.sequence, m.interval, m.state, m.mac, m.digest, m.capabilities = x.sequence, x.interval, x.state, x.mac, x.digest, x.capabilities
	if x.state != Starting && !r.late {
		m.stood = now
	}
	if was.boot == m.boot && was.alive && was.state == x.state && was.capabilities == x.capabilities {
		return nil, nil, nil
	}
	return &change{peer: x.node, alive: true, state: x.state, capabilities: x.capabilities, cause: causeOf(was, *m)}, nil, nil
}

// challenge asks a boot that was not heard before to show that it lives: what it says may be replayed. It returns
// nil when it was asked a moment ago.
func (r *roster) challenge(now time.Time, m *member, boot uint64) *message {
	switch {
	case m.stranger == boot && now.Sub(m.challenged) < challengePause,
		m.stranger != boot && m.stranger != 0 && now.Sub(m.asked) < strangerTime:
		return nil
	case m.stranger != boot:
		m.stranger, m.nonce, m.asked = boot, r.random(), now
	}
	m.challenged = now
	return &message{kind: kindChallenge, to: boot, nonce: m.nonce}
}

// proves tells whether x is the answer to our challenge.
func (m *member) proves(self uint64, x message) bool {
	return x.kind == kindProof && x.to == self && x.boot == m.stranger && x.nonce == m.nonce && m.stranger != 0
}

// forgetOldest makes room by forgetting who has been silent for longest, and reports whether there was one.
func (r *roster) forgetOldest() bool {
	var oldest string
	for name, m := range r.members {
		if !m.alive && (oldest == "" || m.advanced.Before(r.members[oldest].advanced)) {
			oldest = name
		}
	}
	delete(r.members, oldest)
	return oldest != ""
}

func causeOf(before, after member) Cause {
	switch {
	case before.alive && before.boot == after.boot && before.state == after.state:
		return PeerCapability
	case after.state.departing():
		return PeerLeft
	case after.state == Ready:
		return PeerReady
	case before.alive && before.state == Ready:
		return PeerLeft // ready, then starting again: it overslept
	}
	return PeerSeen
}

// judge declares those silent whose time is over.
func (r *roster) judge(now time.Time) []change {
	var dead []change
	for name, m := range r.members {
		if m.alive && now.Sub(m.advanced) > silence*m.interval {
			m.alive, m.silent = false, now
			dead = append(dead, change{peer: name, state: m.state, cause: PeerSilent})
		}
	}
	// The order of a map is nobody's business.
	slices.SortFunc(dead, func(a, b change) int { return strings.Compare(a.peer, b.peer) })
	return dead
}

// verdict is when judge has something to say at the earliest; the zero time: never.
func (r *roster) verdict() time.Time {
	var first time.Time
	for _, m := range r.members {
		if !m.alive {
			continue
		}
		if t := m.advanced.Add(silence*m.interval + 1); first.IsZero() || t.Before(first) {
			first = t
		}
	}
	return first
}

// alive counts the peers that are, without those that are not expected to say anything.
func (r *roster) alive() int {
	n := 0
	for _, m := range r.members {
		if m.alive && m.state != Holding {
			n++
		}
	}
	return n
}

// hears reports whether the named peer is alive, and says so.
func (r *roster) hears(node string) bool {
	m, ok := r.members[node]
	return ok && m.alive && m.state != Holding
}

// ready reports whether the named peer is alive and Ready.
func (r *roster) ready(node string) bool {
	m, ok := r.members[node]
	return ok && m.alive && m.state == Ready
}

// capabilities returns those of which the named peer told last.
func (r *roster) capabilities(node string) Capabilities {
	if m, ok := r.members[node]; ok {
		return m.capabilities
	}
	return 0
}

// owns reports whether claims of the named peer count: it is alive, and Ready or Holding.
func (r *roster) owns(node string) bool {
	m, ok := r.members[node]
	return ok && m.alive && (m.state == Ready || m.state == Holding)
}

// stood returns until when the named peer answered for what it claims, as far as it was heard. What one that is Holding
// claims is kept for it as long as it counts as alive. The zero time: it never was heard to.
func (r *roster) stood(now time.Time, node string) time.Time {
	m, ok := r.members[node]
	switch {
	case !ok:
		return time.Time{}
	case m.alive && m.state == Holding:
		return now
	}
	return m.stood
}

// silentSince returns since when the peer is not heard; the zero time: it never was.
func (r *roster) silentSince(node string) time.Time {
	if m, ok := r.members[node]; ok {
		return m.silent
	}
	return time.Time{}
}

// byMAC returns the name of the peer that last said it has this MAC, alive or not, and whether there is one.
func (r *roster) byMAC(mac [6]byte) (string, bool) {
	for name, m := range r.members {
		if m.mac == mac && m.boot != 0 {
			return name, true
		}
	}
	return "", false
}

// peers lists those alive by name.
func (r *roster) peers(now time.Time) []Peer {
	list := make([]Peer, 0, len(r.members))
	for name, m := range r.members {
		if m.alive {
			list = append(list, Peer{Node: name, State: m.state, Age: now.Sub(m.advanced)})
		}
	}
	slices.SortFunc(list, func(a, b Peer) int { return strings.Compare(a.Node, b.Node) })
	return list
}
