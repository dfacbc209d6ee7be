// Package trace remembers what a process of the speaker's pod did last, for kubectl berth trace:
// questions by ARP and NDP, and what happened. It is bounded and recording does not allocate, so it
// is always on. Who reads it connects to a socket in the pod.
package trace

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// perRing is how many entries a ring holds. A Log has two: many questions push out no event.
	perRing = 2048
	// mostText bounds the texts of an entry, in bytes.
	mostText = 256
)

// What is what an entry is about. Observations of layer 2 have kinds of their own.
type What string

// What questions and sessions are.
const (
	// Answered and Ignored: From, with MAC, asked who has Address.
	Answered What = "answered"
	Ignored  What = "not answered"
	// Session: that with the BGPNeighbor Node, whose router is From, has become what Detail says.
	Session What = "session"
)

// Entry is one thing that happened.
type Entry struct {
	Time      time.Time  `json:"time"`
	What      What       `json:"what"`
	Interface string     `json:"interface,omitempty"`
	Address   netip.Addr `json:"address,omitzero"` // of a Service
	From      netip.Addr `json:"from,omitzero"`    // of another host; unspecified: it has none yet
	MAC       MAC        `json:"mac,omitzero"`     // of that host
	Node      string     `json:"node,omitempty"`   // another node, or a BGPNeighbor
	Detail    string     `json:"detail,omitempty"` // why, or how it is
}

// MAC is a hardware address.
type MAC [6]byte

// String returns it with colons.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// MarshalText writes it as String does.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (m *MAC) UnmarshalText(text []byte) error {
	parsed, err := net.ParseMAC(string(text))
	copy(m[:], parsed)
	return err
}

// ring is the last entries. Its memory is taken at first.
type ring struct {
	entries []Entry
	next    int // where the oldest is, once it is full
}

func (r *ring) add(e Entry) {
	e.Node, e.Detail, e.Interface = short(e.Node), short(e.Detail), short(e.Interface)
	if len(r.entries) < cap(r.entries) {
		r.entries = append(r.entries, e)
		return
	}
	r.entries[r.next] = e
	r.next = (r.next + 1) % len(r.entries)
}

// short copies a text only if it is long: others are shared with who recorded them.
func short(text string) string {
	if len(text) <= mostText {
		return text
	}
	return strings.Clone(strings.ToValidUTF8(text[:mostText], ""))
}

func (r *ring) clone() ring { return ring{slices.Clone(r.entries), r.next} }

// last returns the last most entries that are wanted, oldest first.
func (r *ring) last(most int, wanted func(*Entry) bool) []Entry {
	var found []Entry
	for i := len(r.entries) - 1; i >= 0 && len(found) < most; i-- {
		if e := &r.entries[(r.next+i)%len(r.entries)]; wanted(e) {
			found = append(found, *e)
		}
	}
	slices.Reverse(found)
	return found
}

// Log is the last 2048 questions and the last 2048 events, in 600 kB and their texts. Make one with
// New. Nil records nothing.
type Log struct {
	mu        sync.Mutex
	questions ring               // guarded by mu
	events    ring               // guarded by mu
	sessions  map[session]string // guarded by mu; how each is
}

// session is one with a router.
type session struct {
	neighbor string
	router   netip.Addr
}

// New returns an empty Log.
func New() *Log {
	return &Log{
		questions: ring{entries: make([]Entry, 0, perRing)},
		events:    ring{entries: make([]Entry, 0, perRing)},
	}
}

// Question records that somebody asked for an address.
func (l *Log) Question(e Entry) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.questions.add(e)
}

// Event records that something happened.
func (l *Log) Event(e Entry) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events.add(e)
}

// Sessions records which sessions are not as they were in the call before. Each is an entry as of
// Session.
func (l *Log) Sessions(all []Entry) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := map[session]string{}
	for _, e := range all {
		s := session{e.Node, e.From}
		if now[s] = e.Detail; l.sessions[s] != e.Detail {
			l.events.add(e)
		}
	}
	l.sessions = now
}

// Query says what to read of a Log.
type Query struct {
	// Addresses: only what is about one of these, or about no address; empty: everything.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// Last bounds the questions, and the events; 0: all there are.
	Last int `json:"last,omitempty"`
}

// Read returns the entries, oldest first.
func (l *Log) Read(q Query) []Entry {
	most := q.Last
	if most <= 0 {
		most = perRing
	}
	wanted := func(e *Entry) bool {
		return len(q.Addresses) == 0 || !e.Address.IsValid() || slices.Contains(q.Addresses, e.Address)
	}
	l.mu.Lock() // no longer than for a copy: a question waits for it before it is answered
	questions, events := l.questions.clone(), l.events.clone()
	l.mu.Unlock()
	all := append(questions.last(most, wanted), events.last(most, wanted)...)
	Sort(all)
	return all
}

// Sort sorts entries by time.
func Sort(all []Entry) {
	slices.SortStableFunc(all, func(a, b Entry) int { return a.Time.Compare(b.Time) })
}
