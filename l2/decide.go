package l2

import (
	"slices"
	"time"
)

// This file is the machine's rules: who owns a group, and what follows.

// evaluateAll decides every group anew.
func (m *machine) evaluateAll(now time.Time, cause Cause) {
	for _, c := range m.order {
		m.evaluate(now, c, cause)
	}
}

// evaluate decides one group anew.
func (m *machine) evaluate(now time.Time, c *contest, cause Cause) {
	if !c.wanted {
		return
	}
	if !c.owned {
		m.evaluateVacancy(now, c, cause)
		return
	}
	best, rival := c.best(m.counts(c))
	mine := standing{c.mine, m.self}
	offers := !c.offered.IsZero() || !m.dazed && !(m.stays() && m.suits(c))
	switch {
	case rival && (offers || c.beats(best, mine)):
		m.relinquish(c, best.node, HandedOver)
	case m.mustStop(now, c):
		m.relinquish(c, "", Capability)
	case m.dazed: // silent: the others decide
	case offers && c.mirror.Node != "" && c.mirror.Node != m.self && c.mirror.Term >= c.mine.term:
		m.relinquish(c, c.mirror.Node, HandedOver) // taken by one that is silent here
	case offers:
		m.offer(c, true)
	case rival && best.term >= c.mine.term, c.contested():
		m.reclaim(now, c, c.highest) // who claimed that does not hear us, or not yet: the mirror may tell it
	case m.disputed(now, c, mine):
	case !rival && !c.mine.witnessed && m.acquainted(now):
		c.mine.witnessed = true
		m.tell(c)
	default:
		m.offer(c, false)
	}
}

// suits reports whether this node may own the group: the API says so, and it has the capabilities.
func (m *machine) suits(c *contest) bool {
	return c.candidate(m.self) && m.capabilities.Has(c.needs)
}

// counts returns which of the peers' claims of the group count: of those that own what they claim, or for whom it is
// held, and that do not offer it, or seem to.
func (m *machine) counts(c *contest) func(string, claim) bool {
	better := m.stays() && m.suits(c)
	return func(node string, x claim) bool {
		if x.offered || x.held {
			return !x.offered
		}
		return m.members.owns(node) && (x.relayed || !better || !m.seemsToOffer(c, node))
	}
}

// seemsToOffer reports whether a claimant lacks a capability, and does not say that it offers the group since it is of
// an older version, or since what it says is lost and it does not hear our pull. Any other has the last word: it may
// know better what is needed, and two that disagree on that would take the group from one another for ever.
func (m *machine) seemsToOffer(c *contest, node string) bool {
	has := m.members.capabilities(node)
	return !has.Has(c.needs) && (has == 0 || !m.knows(node))
}

// others returns which peers are able to take the group, if they are candidates.
func (m *machine) others(c *contest) func(string) bool {
	return func(node string) bool { return m.members.ready(node) && m.members.capabilities(node).Has(c.needs) }
}

// mustStop reports whether this node owns what it lacks a capability for, and nobody takes it: none is able to, or did
// within the handover time.
func (m *machine) mustStop(now time.Time, c *contest) bool {
	if m.capabilities.Has(c.needs) {
		m.undue(c)
		return false
	}
	if c.due.IsZero() {
		c.due = now.Add(m.handover)
		m.pending[c.key] = true
	}
	return !now.Before(c.due) || !c.takers(m.self, m.others(c))
}

// acquainted reports whether this node knows what all others claim that it can be expected to hear: it has company, of
// which nobody came only now.
func (m *machine) acquainted(now time.Time) bool {
	return !m.alone && m.synced && now.Sub(m.company) >= silence*m.clock.interval
}

// disputed settles a claim of a node that is silent here, but whose claim the mirror shows. It may be dead. It is
// not if its term is above one that we claimed after it fell silent.
func (m *machine) disputed(now time.Time, c *contest, mine standing) bool {
	other := c.mirror
	if other.Node == "" || other.Node == m.self || other.Term < mine.term {
		return false
	}
	if m.knows(other.Node) {
		// By the segment it does not count: it may be offered, by one who does not hear us take it.
		m.reclaim(now, c, other.Term)
		return true
	}
	theirs := standing{claim{term: other.Term, witnessed: other.Witnessed}, other.Node}
	silent := m.members.silentSince(other.Node)
	lives := m.members.hears(other.Node) || other.Term > mine.term && (c.disputes == other.Node || !silent.IsZero() && !c.claimed.Before(silent))
	if lives && c.beats(theirs, mine) {
		m.relinquish(c, other.Node, HandedOver)
		m.lose(c)
		return true
	}
	c.disputes = other.Node
	m.reclaim(now, c, other.Term)
	return true
}

// lose takes the claim of which the mirror tells as one that counts, and tells the segment of it: others there may
// not see it, and would take the group for vacant.
func (m *machine) lose(c *contest) {
	lost := claim{term: c.mirror.Term, witnessed: c.mirror.Witnessed, relayed: true}
	if c.lost != lost {
		c.lost = lost
		m.tell(c)
	}
}

// regain ends that.
func (m *machine) regain(c *contest) {
	if c.lost.relayed {
		c.lost = claim{}
		m.tell(c)
	}
}

// regainFrom ends that for all groups of a node of which the segment tells now.
func (m *machine) regainFrom(node string) {
	for _, c := range m.order {
		if c.mirror.Node == node && m.knows(node) {
			m.regain(c)
		}
	}
}

// knows reports whether the segment tells what the node claims.
func (m *machine) knows(node string) bool {
	p, ok := m.peers[node]
	return ok && p.since.IsZero() && m.members.hears(node)
}

// evaluateVacancy decides whether and when to claim what this node does not own.
func (m *machine) evaluateVacancy(now time.Time, c *contest, cause Cause) {
	if !m.eligible || !m.synced || !m.suits(c) || !c.vacant(m.counts(c), m.alone) {
		m.undue(c)
		return
	}
	turn := m.turn(now, c)
	if c.due.IsZero() {
		c.cause = cause
		c.due = turn
		m.pending[c.key] = true
	} else if turn.Before(c.due) {
		c.due = turn
	}
	if !now.Before(c.due) {
		m.claim(now, c)
	}
}

// turn is when this node may claim what is vacant. What was its own until it restarted, or what it answers for as part
// of another group, it may at once; for what a peer answers for so, others wait a rank more: a regrouping moves nothing.
func (m *machine) turn(now time.Time, c *contest) time.Time {
	own, peers := m.renamed(now, c)
	if c.mirror.Node == m.self || own {
		return now
	}
	rank := c.rank(m.self, m.others(c))
	if peers {
		rank++
	}
	return now.Add(time.Duration(rank) * rankPause)
}

func (m *machine) undue(c *contest) {
	c.due = time.Time{}
	delete(m.pending, c.key)
}

// claim takes a vacant group.
func (m *machine) claim(now time.Time, c *contest) {
	m.undue(c)
	probe := m.unproven(now, c)
	c.lost = claim{}
	c.owned, c.claimed, c.offered = true, now, time.Time{}
	c.mine = claim{term: c.highest + 1, witnessed: !m.alone, partial: len(probe) > 0}
	c.learn(c.mine.term)
	m.owned++
	m.tell(c)
	m.out.moves = append(m.out.moves, move{kind: start, group: c.group, owner: m.self, cause: c.cause, addrs: c.addresses, probe: probe})
}

// reclaim claims anew what this node owns, above a rival's term.
func (m *machine) reclaim(now time.Time, c *contest, above uint64) {
	c.learn(above)
	c.learn(c.mine.term)
	c.claimed = now
	c.mine = claim{term: c.highest + 1, witnessed: !m.alone, partial: c.mine.partial}
	c.learn(c.mine.term)
	m.tell(c)
	m.announce(c, HandedOver)
}

// relinquish gives a group up, if this node owns it.
func (m *machine) relinquish(c *contest, owner string, cause Cause) {
	if !c.owned {
		return
	}
	m.undue(c)
	c.owned, c.mine, c.offered, c.disputes = false, claim{}, time.Time{}, ""
	m.owned--
	m.tell(c)
	m.out.claims = append(m.out.claims, Claim{Group: c.group})
	m.out.moves = append(m.out.moves, move{kind: stop, group: c.group, owner: owner, cause: cause, addrs: c.addresses})
}

// offer says whether others shall take the group.
func (m *machine) offer(c *contest, offered bool) {
	if c.mine.offered == offered {
		return
	}
	c.mine.offered = offered
	m.tell(c)
}

func (m *machine) announce(c *contest, cause Cause) {
	m.out.moves = append(m.out.moves, move{kind: announce, group: c.group, owner: m.self, cause: cause, addrs: c.addresses})
}

// repeat announces everything that is answered for.
func (m *machine) repeat(cause Cause) {
	for _, c := range m.order {
		if c.owned {
			m.announce(c, cause)
		}
	}
}

// rebalance offers the groups that others come before this node for, one after the other.
func (m *machine) rebalance(groups ...string) {
	for _, g := range groups {
		if key := keyOf(g); !slices.Contains(m.moving, key) {
			m.moving = append(m.moving, key)
		}
	}
}

// move offers the next group that is to be rebalanced, and takes back an offer that nobody took.
func (m *machine) move(now time.Time) {
	if now.Sub(m.moved) < m.handover {
		return
	}
	if c := m.contests[m.offering]; c != nil && c.owned && !c.offered.IsZero() {
		c.offered = time.Time{}
		m.evaluate(now, c, Configured)
	}
	for len(m.moving) > 0 {
		c := m.contests[m.moving[0]]
		m.moving = m.moving[1:]
		if c == nil || !c.owned || !m.eligible || !m.synced || c.rank(m.self, m.others(c)) == 0 {
			continue
		}
		m.moved, m.offering, c.offered = now, c.key, now
		m.evaluate(now, c, Configured)
		return
	}
}

// sighted takes a peer's announcement of an address of the group, and reports whether the peer so took what this node
// offered.
func (m *machine) sighted(group, peer string) bool {
	c, ok := m.contests[keyOf(group)]
	if !ok || !c.owned || !c.mine.offered || !m.members.hears(peer) {
		return false
	}
	m.relinquish(c, peer, HandedOver)
	return true
}

// drained reports whether this node owns nothing that another could take, or holds it, and has told so.
func (m *machine) drained() bool {
	return !m.clock.quickLeft() && len(m.untold) == 0 &&
		(m.state == Holding || !slices.ContainsFunc(m.order, func(c *contest) bool { return c.owned && c.takers(m.self, m.others(c)) }))
}
