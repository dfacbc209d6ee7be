package l2

import (
	"maps"
	"slices"
	"time"
)

// This file is what the machine does by the clock, and what it tells others.

// tell has a claim that changed told to the segment, and to the mirror if it is this node's.
func (m *machine) tell(c *contest) {
	m.untold[c.key] = tellTimes
	switch {
	case c.owned:
		m.own.put(c.key, c.mine)
		m.tellMirror(c)
	case c.lost.relayed:
		m.own.put(c.key, c.lost)
	default:
		m.own.remove(c.key)
	}
}

// tellMirror has this node's claim told to the mirror.
func (m *machine) tellMirror(c *contest) {
	m.out.claims = append(m.out.claims, Claim{Group: c.group, Node: m.self, Term: c.mine.term, Witnessed: c.mine.witnessed})
}

// send completes a message, to be sent.
func (m *machine) send(x message) {
	m.sequence++
	x.node, x.boot, x.sequence = m.self, m.boot, m.sequence
	x.interval, x.state, x.digest, x.capabilities = m.announcedInterval(), m.says(), m.own.digest, m.capabilities
	m.out.messages = append(m.out.messages, x)
}

// says is the state in our messages: Ready only while this node would take a group.
func (m *machine) says() State {
	if m.state == Ready && !m.eligible {
		return Starting
	}
	return m.state
}

// wake begins a tick, and says how late it is: a late one is to hear what waits before it goes on.
func (m *machine) wake(now time.Time) lateness {
	before := m.clock.last
	late := m.clock.tick(now)
	if late == overslept {
		if !m.dazed {
			m.answeredUntil = before
		}
		m.dazed, m.company = true, now
		m.doubt()
		m.settle(now, Overslept)
	}
	return late
}

// tick is the heartbeat: judge the others, tell them of ourselves, and allow answers until the third next one.
func (m *machine) tick(now time.Time) {
	m.judge(now)
	m.settleSynced(now)
	m.expire(now)
	if m.dazed && m.clock.awake && m.synced {
		m.dazed = false
		m.settle(now, Overslept)
		m.evaluateAll(now, Overslept)
		m.repeat(Overslept)
	}
	if m.unwitnessed() && m.acquainted(now) {
		m.evaluateAll(now, Joined)
	}
	if !m.dazed {
		m.out.answerUntil = now.Add(silence * m.clock.interval)
	}
	m.clock.interval = m.clock.base * time.Duration(max(1, (m.members.alive()+crowd-1)/crowd))
	m.hello(now)
}

// unwitnessed reports whether a claim of this node's is.
func (m *machine) unwitnessed() bool {
	return slices.ContainsFunc(m.order, func(c *contest) bool { return c.owned && !c.mine.witnessed })
}

func (m *machine) judge(now time.Time) {
	if !m.clock.mayJudge() {
		return
	}
	for _, c := range m.members.judge(now) {
		m.changed(now, c)
	}
}

// verdictDue reports whether somebody is to be declared silent: whoever calls step should see first that nothing
// that was said waits to be heard.
func (m *machine) verdictDue(now time.Time) bool {
	v := m.members.verdict()
	return m.clock.mayJudge() && !v.IsZero() && !now.Before(v)
}

// turnDue reports whether it is this node's turn to take something: one who came before it may have, and whoever calls step
// should see that first.
func (m *machine) turnDue(now time.Time) bool {
	for key := range m.pending {
		if c := m.contests[key]; !c.owned && !now.Before(c.due) {
			return true
		}
	}
	return false
}

// step does what is due.
func (m *machine) step(now time.Time, cause Cause) {
	m.settle(now, cause)
	if m.verdictDue(now) {
		m.judge(now)
	}
	for _, key := range slices.SortedFunc(maps.Keys(m.pending), compareKeys) {
		m.evaluate(now, m.contests[key], m.contests[key].cause)
	}
	m.move(now)
	m.flush(now)
	if m.pulled && now.Sub(m.published) >= m.clock.interval {
		m.pulled, m.published = false, now
		for _, part := range m.own.all(m.room) {
			m.send(message{kind: kindClaims, claims: part})
		}
	}
	if m.clock.quickDue(now) {
		m.hello(now)
	}
}

// flush tells the claims that changed, some of them if they are very many.
func (m *machine) flush(now time.Time) {
	if len(m.untold) == 0 || now.Sub(m.flushed) < tellPause {
		return
	}
	m.flushed = now
	keys := slices.SortedFunc(maps.Keys(m.untold), func(a, b groupKey) int {
		if d := m.untold[b] - m.untold[a]; d != 0 {
			return d // what was told least often first
		}
		return compareKeys(a, b)
	})
	keys = keys[:min(len(keys), tellAtOnce*m.room)]
	for some := range slices.Chunk(keys, m.room) {
		x := message{kind: kindClaims}
		for _, key := range some {
			c, claimed := m.own.claims[key]
			x.claims.entries = append(x.claims.entries, claimEntry{group: key, claim: c, removed: !claimed})
			if m.untold[key]--; m.untold[key] == 0 {
				delete(m.untold, key)
			}
		}
		m.send(x)
	}
}

func (m *machine) hello(now time.Time) {
	m.clock.sent(now)
	m.send(message{kind: kindHello})
}

// next is when step or a tick has something to do again.
func (m *machine) next() time.Time {
	first := m.clock.next()
	consider := func(t time.Time) {
		if !t.IsZero() && t.Before(first) {
			first = t
		}
	}
	if m.clock.mayJudge() {
		consider(m.members.verdict())
	}
	for key := range m.pending {
		consider(m.contests[key].due)
	}
	if c := m.contests[m.offering]; len(m.moving) > 0 || c != nil && !c.offered.IsZero() {
		consider(m.moved.Add(m.handover))
	}
	if len(m.untold) > 0 {
		consider(m.flushed.Add(tellPause))
	}
	if m.pulled {
		consider(m.published.Add(m.clock.interval))
	}
	return first
}
