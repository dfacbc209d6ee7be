package bfd

import (
	"errors"
	"time"
)

// session is one end of a BFD session in asynchronous mode, active role (RFC 5880 section 6). It
// has no socket and no clock: each method takes the time, which must not go backwards, and what it
// wants sent and told is collected until take.
type session struct {
	timers    // as configured
	auth      Authentication
	sequences sequences
	random    func() float64

	state       State
	diag        Diagnostic
	local       uint32 // discriminators
	remote      uint32 // 0: not known
	remoteState State
	remoteDiag  Diagnostic
	remoteTx    time.Duration // Desired Min TX
	remoteRx    time.Duration // Required Min RX; 0: it wants no packets
	remoteMult  uint8

	// What we announce, and what is in effect until the other knows of a change (section 6.8.3).
	desiredTx, requiredRx time.Duration
	usedTx, usedRx        time.Duration
	polling, pollAgain    bool

	heard  time.Time // the last packet; zero: the detection time has passed since
	proven time.Time // the last packet with our discriminator, which strangers cannot know
	// verified is when the last packet came whose signature was right; only with auth.
	verified time.Time
	sent     time.Time
	due      time.Time // the next packet
	ends     time.Time // after stop; until then AdminDown is told

	out    []packet
	events []change
}

// timers are what is configured of a session.
type timers struct {
	tx, rx     time.Duration // the shortest intervals that we like to send at, and to receive at
	multiplier uint8
}

// change is a session's step from one state to another.
type change struct {
	from, to   State
	diag       Diagnostic
	remoteDiag Diagnostic
	remote     State // what the other said last
}

// slow is the shortest interval of a session that is not Up (section 6.8.3).
const slow = time.Second

func newSession(now time.Time, t timers, auth Authentication, discriminator uint32, random func() float64) *session {
	s := &session{
		timers:      t,
		auth:        auth,
		sequences:   newSequences(),
		random:      random,
		state:       Down,
		local:       discriminator,
		remoteState: Down,
		remoteRx:    time.Microsecond,
		due:         now,
	}
	s.desiredTx, s.requiredRx = max(slow, t.tx), t.rx
	s.usedTx, s.usedRx = s.desiredTx, s.requiredRx
	return s
}

// take returns what is to be sent and told, once.
func (s *session) take() ([]packet, []change) {
	out, events := s.out, s.events
	s.out, s.events = nil, nil
	return out, events
}

// errUnproven is a packet that a stranger could have sent.
var errUnproven = errors.New("unproven")

// receive takes a packet that belongs to the session (section 6.8.6), or returns why it does not
// count.
//
// A packet without our discriminator comes from an end that has just begun, or from anybody who
// knows two addresses. It ends no session that is being heard: an end that begins again has fallen
// silent before.
func (s *session) receive(now time.Time, p packet) error {
	if s.silentSince(now) {
		s.sequences.known = false
	}
	if err := s.auth.check(p, &s.sequences); err != nil {
		return err
	}
	s.verified = now
	switch {
	case s.state == AdminDown:
		return nil
	case p.yours != 0:
		s.proven = now
	case s.state == Up && now.Sub(s.proven) < s.detection()/2:
		return errUnproven
	}
	s.heard = now
	s.remote, s.remoteState, s.remoteDiag = p.mine, p.state, p.diag
	s.remoteTx, s.remoteRx, s.remoteMult = p.desiredTx, p.requiredRx, p.multiplier
	if p.final && s.polling {
		s.usedTx, s.usedRx = s.desiredTx, s.requiredRx
		s.polling, s.pollAgain = s.pollAgain, false
	}
	switch {
	case p.state == AdminDown:
		if s.state != Down {
			s.enter(now, Down, NeighborSignaledDown)
		}
	case s.state == Down && p.state == Down:
		s.enter(now, Init, s.diag)
	case s.state == Down && p.state == Init, s.state == Init && (p.state == Init || p.state == Up):
		s.enter(now, Up, NoDiagnostic)
	case s.state == Up && p.state == Down:
		s.enter(now, Down, NeighborSignaledDown)
	}
	if p.poll {
		s.send(now, true)
	}
	s.hasten()
	return nil
}

// enter changes the state.
func (s *session) enter(now time.Time, to State, diag Diagnostic) {
	s.events = append(s.events, change{from: s.state, to: to, diag: diag, remoteDiag: s.remoteDiag, remote: s.remoteState})
	s.state, s.diag = to, diag
	if to == Up {
		s.announce(s.tx, s.rx)
	} else {
		s.desiredTx = max(slow, s.tx)
		s.usedTx, s.usedRx = s.desiredTx, s.requiredRx
		s.polling, s.pollAgain = false, false
	}
	s.due = now // the other is to know at once
}

// announce begins to tell other intervals (section 6.8.3): a longer one of ours, and a shorter one
// of the other's, take effect when the other has confirmed that it knows.
func (s *session) announce(tx, rx time.Duration) {
	if tx == s.desiredTx && rx == s.requiredRx {
		return
	}
	s.desiredTx, s.requiredRx = tx, rx
	s.usedTx, s.usedRx = min(s.usedTx, tx), max(s.usedRx, rx)
	s.pollAgain = s.polling
	s.polling = true
}

// configure takes other timers.
func (s *session) configure(now time.Time, t timers) {
	s.timers = t
	if s.state == Up {
		s.announce(t.tx, t.rx)
		s.due = now
		return
	}
	s.desiredTx, s.requiredRx = max(slow, t.tx), t.rx
	s.usedTx, s.usedRx = s.desiredTx, s.requiredRx
}

// stop ends the session on purpose: the other is told for its detection time (section 6.8.16).
func (s *session) stop(now time.Time) {
	if s.state == AdminDown {
		return
	}
	s.ends = now
	if s.remote != 0 {
		s.ends = now.Add(time.Duration(s.multiplier) * s.interval())
	}
	tx := s.usedTx
	s.enter(now, AdminDown, AdministrativelyDown)
	s.usedTx = tx // a detection time is a matter of the pace so far
}

// ended reports whether nothing is left to be told after stop.
func (s *session) ended(now time.Time) bool {
	return s.state == AdminDown && !now.Before(s.ends)
}

// interval is the time between our packets, before jitter; 0: none are wanted.
func (s *session) interval() time.Duration {
	if s.remoteRx == 0 {
		return 0
	}
	return max(s.usedTx, s.remoteRx)
}

// jittered shortens an interval by up to a quarter, by at least a tenth if one lost packet is a
// death (section 6.8.7).
func (s *session) jittered(interval time.Duration) time.Duration {
	least, span := 0.75, 0.25
	if s.multiplier == 1 {
		span = 0.15
	}
	return time.Duration(float64(interval) * (least + span*s.random()))
}

// detection is after which silence the other is dead (section 6.8.4); 0: not known yet.
func (s *session) detection() time.Duration {
	return time.Duration(s.remoteMult) * max(s.usedRx, s.remoteTx)
}

// silent reports whether the detection time has passed.
func (s *session) silent(now time.Time) bool {
	return !s.heard.IsZero() && now.Sub(s.heard) >= s.detection()
}

// tick does what is due.
func (s *session) tick(now time.Time) {
	if s.silent(now) && s.state != AdminDown {
		s.heard, s.remote = time.Time{}, 0
		if s.state == Init || s.state == Up {
			s.enter(now, Down, DetectionTimeExpired)
		}
		s.remoteState = Down
	}
	if !now.Before(s.due) {
		s.send(now, false)
	}
}

// send sends a packet: the next one, or the answer to a poll, which is none of those.
func (s *session) send(now time.Time, final bool) {
	if s.interval() == 0 && !final && s.state != AdminDown {
		s.due = now.Add(slow) // it wants none; perhaps later
		return
	}
	s.out = append(s.out, packet{
		diag: s.diag, state: s.state, poll: s.polling && !final, final: final, multiplier: s.multiplier,
		mine: s.local, yours: s.remote, desiredTx: s.desiredTx, requiredRx: s.requiredRx,
	})
	if !final {
		s.sent, s.due = now, now.Add(s.jittered(max(s.interval(), time.Millisecond)))
	}
}

// hasten brings the next packet forward when the interval became shorter.
func (s *session) hasten() {
	if interval := s.interval(); interval > 0 && !s.sent.IsZero() {
		if at := s.sent.Add(interval); at.Before(s.due) {
			s.due = at
		}
	}
}

// next is when tick has something to do.
func (s *session) next() time.Time {
	first := s.due
	if !s.heard.IsZero() && s.state != AdminDown {
		if at := s.heard.Add(s.detection()); at.Before(first) {
			first = at
		}
	}
	if s.state == AdminDown && s.ends.Before(first) {
		return s.ends
	}
	return first
}
