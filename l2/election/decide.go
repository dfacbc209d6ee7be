package election

import (
	"slices"
	"time"
)

// This file is the machine's rules: who owns a group, and what follows.

// evaluateAll decides every group anew.
func (m *Machine) evaluateAll(now time.Time, cause Cause) {
	for _, c := range m.ordered {
		m.evaluate(now, c, cause)
	}
}

// evaluate decides one group anew.
func (m *Machine) evaluate(now time.Time, c *groupState, cause Cause) {
	if !c.wanted {
		return
	}
	if !c.owned {
		m.evaluateVacancy(now, c, cause)
		return
	}
	best, rival := c.best(m.counts(c))
	mine := nodeClaim{c.mine, m.self}
	offers := !c.offeredSince.IsZero() || !m.catchingUp && !(m.keepsGroups() && m.suits(c))
	switch {
	case rival && (offers || c.beats(best, mine)):
		m.relinquish(c, best.node, HandedOver)
	case m.mustStop(now, c):
		m.relinquish(c, "", Capability)
	case m.catchingUp: // silent: the others decide
	case offers && c.mirror.Node != "" && c.mirror.Node != m.self && c.mirror.Term >= c.mine.term:
		m.relinquish(c, c.mirror.Node, HandedOver) // taken by one that is silent here
	case offers:
		m.offer(c, true)
	case rival && best.term >= c.mine.term, c.contested():
		m.reclaim(now, c, c.highestTerm) // who claimed that does not hear us, or not yet: the mirror may tell it
	case m.settleDispute(now, c, mine):
	case !rival && !c.mine.witnessed && m.inStep(now):
		c.mine.witnessed = true
		m.publish(c)
	default:
		m.offer(c, false)
	}
}

// suits reports whether this node may own the group: the API says so, and it has the capabilities.
func (m *Machine) suits(c *groupState) bool {
	return c.isCandidate(m.self) && m.capabilities.Has(c.needs)
}

// counts returns which of the peers' claims of the group count: of those that own what they claim, or for whom it is
// held, and that do not offer it, or seem to.
func (m *Machine) counts(c *groupState) func(string, claim) bool {
	better := m.keepsGroups() && m.suits(c)
	return func(node string, x claim) bool {
		if x.offered || x.held {
			return !x.offered
		}
		return m.peers.mayOwn(node) && (x.relayed || !better || !m.seemsToOffer(c, node))
	}
}

// seemsToOffer reports whether a claimant lacks a capability, and does not say that it offers the group since it is of
// an older version, or since what it says is lost and it does not hear our pull. Any other has the last word: it may
// know better what is needed, and two that disagree on that would take the group from one another for ever.
func (m *Machine) seemsToOffer(c *groupState, node string) bool {
	has := m.peers.capabilities(node)
	return !has.Has(c.needs) && (has == 0 || !m.knows(node))
}

// others returns which peers are able to take the group, if they are candidates.
func (m *Machine) able(c *groupState) func(string) bool {
	return func(node string) bool { return m.peers.isReady(node) && m.peers.capabilities(node).Has(c.needs) }
}

// mustStop reports whether this node owns what it lacks a capability for, and nobody takes it: none is able to, or did
// within the handover time.
func (m *Machine) mustStop(now time.Time, c *groupState) bool {
	if m.capabilities.Has(c.needs) {
		m.cancelDue(c)
		return false
	}
	if c.due.IsZero() {
		c.due = now.Add(m.handover)
		m.pending[c.key] = true
	}
	return !now.Before(c.due) || !c.hasTakers(m.self, m.able(c))
}

// acquainted reports whether this node knows what all others claim that it can be expected to hear: it has company, of
// which nobody came only now.
func (m *Machine) inStep(now time.Time) bool {
	return !m.isolated && m.synced && now.Sub(m.lastPeerJoin) >= silence*m.pacer.interval
}

// knows reports whether the segment tells what the node claims.
func (m *Machine) knows(node string) bool {
	p, ok := m.claims[node]
	return ok && p.differsSince.IsZero() && m.peers.isAlive(node)
}

// evaluateVacancy decides whether and when to claim what this node does not own.
func (m *Machine) evaluateVacancy(now time.Time, c *groupState, cause Cause) {
	if !m.eligible || !m.synced || !m.suits(c) || !c.vacant(m.counts(c), m.isolated) {
		m.cancelDue(c)
		return
	}
	turn := m.turnOf(now, c)
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
func (m *Machine) turnOf(now time.Time, c *groupState) time.Time {
	own, peers := m.renamed(now, c)
	if c.mirror.Node == m.self || own {
		return now
	}
	rank := c.rank(m.self, m.able(c))
	if peers {
		rank++
	}
	return now.Add(time.Duration(rank) * rankDelay)
}

func (m *Machine) cancelDue(c *groupState) {
	c.due = time.Time{}
	delete(m.pending, c.key)
}

// claim takes a vacant group.
func (m *Machine) claim(now time.Time, c *groupState) {
	m.cancelDue(c)
	probe := m.unproven(now, c)
	c.relayed = claim{}
	c.owned, c.claimedAt, c.offeredSince = true, now, time.Time{}
	c.mine = claim{term: c.highestTerm + 1, witnessed: !m.isolated, partial: len(probe) > 0}
	c.learnTerm(c.mine.term)
	m.owned++
	m.publish(c)
	m.out.Actions = append(m.out.Actions, Action{Kind: ActionStart, Group: c.name, Owner: m.self, Cause: c.cause, Addresses: c.addresses, Probe: probe})
}

// reclaim claims anew what this node owns, above a rival's term.
func (m *Machine) reclaim(now time.Time, c *groupState, above uint64) {
	c.learnTerm(above)
	c.learnTerm(c.mine.term)
	c.claimedAt = now
	c.mine = claim{term: c.highestTerm + 1, witnessed: !m.isolated, partial: c.mine.partial}
	c.learnTerm(c.mine.term)
	m.publish(c)
	m.announce(c, HandedOver)
}

// relinquish gives a group up, if this node owns it.
func (m *Machine) relinquish(c *groupState, owner string, cause Cause) {
	if !c.owned {
		return
	}
	m.cancelDue(c)
	c.owned, c.mine, c.offeredSince, c.disputed = false, claim{}, time.Time{}, ""
	m.owned--
	m.publish(c)
	m.out.Claims = append(m.out.Claims, Claim{Group: c.name})
	m.out.Actions = append(m.out.Actions, Action{Kind: ActionStop, Group: c.name, Owner: owner, Cause: cause, Addresses: c.addresses})
}

// offer says whether others shall take the group.
func (m *Machine) offer(c *groupState, offered bool) {
	if c.mine.offered == offered {
		return
	}
	c.mine.offered = offered
	m.publish(c)
}

func (m *Machine) announce(c *groupState, cause Cause) {
	m.out.Actions = append(m.out.Actions, Action{Kind: ActionAnnounce, Group: c.name, Owner: m.self, Cause: cause, Addresses: c.addresses})
}

// repeat announces everything that is answered for.
func (m *Machine) AnnounceAll(cause Cause) {
	for _, c := range m.ordered {
		if c.owned {
			m.announce(c, cause)
		}
	}
}

// rebalance offers the groups that others come before this node for, one after the other.
func (m *Machine) Rebalance(groups ...string) {
	for _, g := range groups {
		if key := keyOf(g); !slices.Contains(m.toOffer, key) {
			m.toOffer = append(m.toOffer, key)
		}
	}
}

// move offers the next group that is to be rebalanced, and takes back an offer that nobody took.
func (m *Machine) offerNext(now time.Time) {
	if now.Sub(m.lastOffer) < m.handover {
		return
	}
	if c := m.groups[m.offered]; c != nil && c.owned && !c.offeredSince.IsZero() {
		c.offeredSince = time.Time{}
		m.evaluate(now, c, Configured)
	}
	for len(m.toOffer) > 0 {
		c := m.groups[m.toOffer[0]]
		m.toOffer = m.toOffer[1:]
		if c == nil || !c.owned || !m.eligible || !m.synced || c.rank(m.self, m.able(c)) == 0 {
			continue
		}
		m.lastOffer, m.offered, c.offeredSince = now, c.key, now
		m.evaluate(now, c, Configured)
		return
	}
}

// sighted takes a peer's announcement of an address of the group, and reports whether the peer so took what this node
// offered.
func (m *Machine) Sighted(group, peer string) bool {
	c, ok := m.groups[keyOf(group)]
	if !ok || !c.owned || !c.mine.offered || !m.peers.isAlive(peer) {
		return false
	}
	m.relinquish(c, peer, HandedOver)
	return true
}

// drained reports whether this node owns nothing that another could take, or holds it, and has told so.
func (m *Machine) Drained() bool {
	return !m.pacer.hasQuick() && len(m.untold) == 0 &&
		(m.state == Holding || !slices.ContainsFunc(m.ordered, func(c *groupState) bool { return c.owned && c.hasTakers(m.self, m.able(c)) }))
}
