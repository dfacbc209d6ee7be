package election

import (
	"maps"
	"slices"
	"time"
)

// This file has what the machine does by the clock, and what it sends.

// publish has a claim that changed sent to the segment and, if it is this node's own, to the
// mirror.
func (m *Machine) publish(c *addressState) {
	m.untold[c.key] = claimRepeats
	switch {
	case c.owned:
		m.own.put(c.key, c.mine)
		m.publishToMirror(c)
	case c.relayed.relayed:
		m.own.put(c.key, c.relayed)
	default:
		m.own.remove(c.key)
	}
}

// publishToMirror has this node's claim written to the mirror.
func (m *Machine) publishToMirror(c *addressState) {
	m.out.Claims = append(m.out.Claims, Claim{
		Address:   c.addr,
		Node:      m.self,
		Term:      c.mine.term,
		Witnessed: c.mine.witnessed,
	})
}

// send completes a message and adds it to the output.
func (m *Machine) send(x Message) { m.out.Messages = append(m.out.Messages, m.complete(x)) }

// complete adds what every message says about this node.
func (m *Machine) complete(x Message) Message {
	m.sequence++
	x.Node, x.Boot, x.sequence = m.self, m.boot, m.sequence
	x.interval, x.state = m.announcedInterval(), m.announcedState()
	x.digest, x.capabilities, x.age = m.own.digest, m.capabilities, m.freshness.age
	return x
}

// Echo returns the answer to a message that another machine of this node sent on the segment. It is
// for that machine's interface alone.
func (m *Machine) Echo(x Message) Message {
	return m.complete(Message{kind: kindEcho, to: x.Boot, nonce: x.sequence})
}

// IsEcho reports whether the message is an echo.
func (x Message) IsEcho() bool { return x.kind == kindEcho }

// Echoed reports whether x proves that its sender and this machine hear each other: it answers a
// message of a moment ago, and not one that an earlier echo answered.
func (m *Machine) Echoed(x Message) bool {
	if x.kind != kindEcho || x.to != m.boot || x.nonce <= m.echoes[x.Boot] || x.nonce+echoWindow < m.sequence {
		return false
	}
	if len(m.echoes) > maxEchoes {
		clear(m.echoes) // of segments that ended
	}
	m.echoes[x.Boot] = x.nonce
	return true
}

// announcedState returns the state for messages. It is Ready only while this node would take an
// address.
func (m *Machine) announcedState() State {
	if m.state == Ready && !m.eligible {
		return Starting
	}
	return m.state
}

// BeginTick begins a tick and returns how late it is. After a late one, Hear what waits before
// Tick.
func (m *Machine) BeginTick(now time.Time) Lateness {
	before := m.pacer.lastTick
	late := m.pacer.tick(now)
	if late == TooLate {
		if !m.catchingUp {
			m.answeredUntil = before
		}
		m.catchingUp, m.lastPeerJoin = true, now
		m.clearWitnessed()
		m.updateEligible(now, Overslept)
	}
	return late
}

// Tick is the heartbeat: it judges the peers, sends a hello, and allows answers for three more
// intervals.
func (m *Machine) Tick(now time.Time) {
	m.declareSilent(now)
	m.updateAge(now)
	m.updateSynced(now)
	m.endOutage(now)
	m.expireHolds(now)
	if m.catchingUp && m.pacer.caughtUp && m.synced {
		m.catchingUp = false
		m.updateEligible(now, Overslept)
		m.evaluateAll(now, Overslept)
		m.AnnounceAll(Overslept)
	}
	gathered := m.gathering && !m.isGathering(now)
	if gathered {
		m.gathering = false
	}
	if gathered || m.anyUnwitnessed() && m.inStep(now) {
		m.evaluateAll(now, Joined)
	}
	if !m.catchingUp {
		m.out.AnswerUntil = now.Add(silence * m.pacer.interval)
	}
	for _, key := range slices.SortedFunc(maps.Keys(m.pending), compareKeys) {
		m.evaluate(now, m.addresses[key], m.addresses[key].cause) // a turn may have come nearer
	}
	m.pacer.interval = m.pacer.base * time.Duration(max(1, (m.peers.countAlive()+crowd-1)/crowd))
	m.sendHello(now)
}

// anyUnwitnessed reports whether a claim of this node is unwitnessed.
func (m *Machine) anyUnwitnessed() bool {
	return slices.ContainsFunc(m.ordered, func(c *addressState) bool { return c.owned && !c.mine.witnessed })
}

// declareSilent drops peers that were silent for too long.
func (m *Machine) declareSilent(now time.Time) {
	if !m.pacer.mayJudge() {
		return
	}
	dead := m.peers.declareSilent(now)
	if peers := len(dead) + m.peers.countAlive(); len(dead) > 0 && peers >= severalPeers && m.peers.allOverdue(now) {
		m.outage = outage{peers: max(m.outage.peers, peers)}
	}
	if len(dead) > 0 {
		m.applyChanges(now, dead...)
	}
}

// DecisionDue reports whether the clock makes the next Step decide something: that a peer is
// silent, or that it is this node's turn to take an address. Hear what waits first: it may show
// that the peer is alive, or that another node took the address.
func (m *Machine) DecisionDue(now time.Time) bool { return m.silenceDue(now) || m.turnDue(now) }

// silenceDue reports whether a peer is to be declared silent.
func (m *Machine) silenceDue(now time.Time) bool {
	v := m.peers.nextSilence()
	return m.pacer.mayJudge() && !v.IsZero() && !now.Before(v)
}

// due returns the addresses about which the clock makes something to decide. What else changes a
// decision makes it itself.
func (m *Machine) due(now time.Time) (keys []addressKey) {
	for key := range m.pending {
		if !now.Before(m.addresses[key].due) {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, compareKeys)
	return keys
}

// turnDue reports whether it is this node's turn to take something.
func (m *Machine) turnDue(now time.Time) bool {
	for key := range m.pending {
		if c := m.addresses[key]; !c.owned && !now.Before(c.due) {
			return true
		}
	}
	return false
}

// Step does what is due.
func (m *Machine) Step(now time.Time, cause Cause) {
	m.updateEligible(now, cause)
	if m.silenceDue(now) {
		m.declareSilent(now)
	}
	if m.pacer.mayJudge() {
		m.out.Overdue = append(m.out.Overdue, m.peers.declareOverdue(now)...)
	}
	for _, key := range m.due(now) {
		m.evaluate(now, m.addresses[key], m.addresses[key].cause)
	}
	m.offerNext(now)
	m.flush(now)
	if m.pullRequested && now.Sub(m.lastPull) >= m.pacer.interval {
		m.pullRequested, m.lastPull = false, now
		for _, part := range m.own.parts(m.claimsPerFrame) {
			m.send(Message{kind: kindClaims, claims: part})
		}
	}
	if m.pacer.quickDue(now) {
		m.sendHello(now)
	}
}

// flush sends claims that changed. If they are very many, it sends some of them.
func (m *Machine) flush(now time.Time) {
	if len(m.untold) == 0 || now.Sub(m.lastFlush) < claimPause {
		return
	}
	m.lastFlush = now
	keys := slices.SortedFunc(maps.Keys(m.untold), func(a, b addressKey) int {
		if d := m.untold[b] - m.untold[a]; d != 0 {
			return d // what was sent least often comes first
		}
		return compareKeys(a, b)
	})
	keys = keys[:min(len(keys), maxClaimFrames*m.claimsPerFrame)]
	for some := range slices.Chunk(keys, m.claimsPerFrame) {
		x := Message{kind: kindClaims}
		for _, key := range some {
			c, claimed := m.own.claims[key]
			x.claims.entries = append(x.claims.entries, claimEntry{address: key, claim: c, removed: !claimed})
			if m.untold[key]--; m.untold[key] == 0 {
				delete(m.untold, key)
			}
		}
		m.send(x)
	}
}

func (m *Machine) sendHello(now time.Time) {
	m.pacer.sent(now)
	m.send(Message{kind: kindHello})
}

// Next returns when Step or a tick has something to do again.
func (m *Machine) Next() time.Time {
	first := m.pacer.next()
	consider := func(t time.Time) {
		if !t.IsZero() && t.Before(first) {
			first = t
		}
	}
	if m.pacer.mayJudge() {
		consider(m.peers.nextSilence())
		consider(m.peers.nextOverdue())
	}
	for key := range m.pending {
		consider(m.addresses[key].due)
	}
	if c := m.addresses[m.offered]; len(m.toOffer) > 0 || c != nil && !c.offeredSince.IsZero() {
		consider(m.lastOffer.Add(m.handover))
	}
	if len(m.untold) > 0 {
		consider(m.lastFlush.Add(claimPause))
	}
	if m.pullRequested {
		consider(m.lastPull.Add(m.pacer.interval))
	}
	return first
}
