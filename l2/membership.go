package l2

import (
	"slices"
	"time"
)

// membership says who is alive on one segment and in which state. It has no clock and no socket: whoever
// owns it hands it what was heard and the time, in order, from one goroutine.
type membership interface {
	// hear takes a hello whose signature held. A nil change means that nothing decisive is new;
	// an error is a rejection.
	hear(now time.Time, h hello) (*change, error)
	// judge declares those silent whose time is over.
	judge(now time.Time) []change
	// ready reports whether the named peer is alive and Ready.
	ready(node string) bool
	// byMAC returns the name of the peer that last said it has this MAC, and whether there is one alive.
	byMAC(mac [6]byte) (string, bool)
	// peers lists those alive by name.
	peers(now time.Time) []Peer
}

// change is one peer's step from one state to another, or in or out of life.
type change struct {
	peer  string
	alive bool
	state State
	cause Cause
}

const (
	// silence is after how many of its own intervals a peer counts as dead.
	silence = 3
	// maxPeers bounds what signed hellos can make a node remember of one segment.
	maxPeers = 1024
	// maxBoots is how many of a peer's former boots are remembered, so that their hellos cannot be replayed.
	maxBoots = 8
)

// roster is membership by hellos: a peer is alive while its sequence advances.
type roster struct {
	self    string
	members map[string]*member
}

// member outlives the peer's silence, for its sequence and former boots.
type member struct {
	alive    bool
	state    State
	boot     uint64
	sequence uint64
	interval time.Duration
	mac      [6]byte
	advanced time.Time // when the sequence last advanced, on our clock
	former   []uint64
}

var _ membership = (*roster)(nil)

func newRoster(self string) *roster {
	return &roster{self: self, members: make(map[string]*member)}
}

func (r *roster) hear(now time.Time, h hello) (*change, error) {
	if h.node == r.self {
		return nil, rejectOwn
	}
	m, known := r.members[h.node]
	if !known {
		if len(r.members) >= maxPeers && !r.forgetOldest() {
			return nil, rejectTooMany
		}
		m = &member{boot: h.boot}
		r.members[h.node] = m
	}
	if err := m.admit(h, known); err != nil {
		return nil, err
	}
	before := *m
	m.alive, m.advanced = true, now
	m.sequence, m.interval, m.state, m.mac = h.sequence, h.interval, h.state, h.mac
	if before.alive && before.state == h.state {
		return nil, nil
	}
	return &change{peer: h.node, alive: true, state: h.state, cause: causeOf(before, h.state)}, nil
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

// admit says whether h is new, and changes to a new boot. A boot is followed by another only after it fell
// silent: a replayed hello of an earlier boot cannot push a living peer aside.
func (m *member) admit(h hello, known bool) error {
	switch {
	case !known:
		return nil
	case h.boot == m.boot:
		if h.sequence <= m.sequence {
			return rejectReplay
		}
		return nil
	case m.alive && !m.state.departing(), slices.Contains(m.former, h.boot):
		return rejectReplay
	}
	m.former = append(m.former, m.boot)
	if len(m.former) > maxBoots {
		m.former = m.former[1:]
	}
	m.boot, m.sequence = h.boot, 0
	return nil
}

func causeOf(before member, to State) Cause {
	switch {
	case to.departing():
		return PeerLeft
	case to == Ready:
		return PeerReady
	case before.alive && before.state == Ready:
		return PeerLeft // ready, then starting again: it overslept
	}
	return PeerSeen
}

func (r *roster) judge(now time.Time) []change {
	var dead []change
	for name, m := range r.members {
		if m.alive && now.Sub(m.advanced) > silence*m.interval {
			m.alive = false
			dead = append(dead, change{peer: name, state: m.state, cause: PeerSilent})
		}
	}
	return dead
}

func (r *roster) ready(node string) bool {
	m, ok := r.members[node]
	return ok && m.alive && m.state == Ready
}

func (r *roster) byMAC(mac [6]byte) (string, bool) {
	for name, m := range r.members {
		if m.alive && m.mac == mac {
			return name, true
		}
	}
	return "", false
}

func (r *roster) peers(now time.Time) []Peer {
	list := make([]Peer, 0, len(r.members))
	for name, m := range r.members {
		if m.alive {
			list = append(list, Peer{Node: name, State: m.state, Age: now.Sub(m.advanced)})
		}
	}
	slices.SortFunc(list, func(a, b Peer) int {
		if a.Node < b.Node {
			return -1
		}
		return 1
	})
	return list
}
