package election

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// This file has the rules of the protocol: which node owns an address, and what follows.

// evaluateAll decides every address again.
func (m *Machine) evaluateAll(now time.Time, cause Cause) {
	for _, c := range m.ordered {
		m.evaluate(now, c, cause)
	}
}

// evaluate decides one address again.
func (m *Machine) evaluate(now time.Time, c *addressState, cause Cause) {
	if !c.wanted {
		return
	}
	if !c.owned {
		m.evaluateVacancy(now, c, cause)
		return
	}
	best, rival := c.best(m.counts(c))
	mine := nodeClaim{c.mine, m.self}
	offers := !c.offeredSince.IsZero() || !m.catchingUp && !(m.keepsAddresses() && m.suits(c))
	fresher := m.fresherOwner(c)
	switch {
	case fresher != "":
		m.relinquish(c, fresher, HandedOver)
	case rival && (offers || c.beats(best, mine)):
		m.relinquish(c, best.node, HandedOver)
	case m.mustStop(now, c):
		m.relinquish(c, "", Capability)
	case m.catchingUp: // the others decide
	case offers && c.mirror.Node != "" && c.mirror.Node != m.self && c.mirror.Term >= c.mine.term &&
		m.mayBeHere(c, c.mirror.Node):
		m.relinquish(c, c.mirror.Node, HandedOver) // by a node that is silent here
	case offers:
		m.offer(c, true)
	case rival && best.term >= c.mine.term, c.contested():
		m.reclaim(now, c, c.highestTerm) // the claimant does not hear this node, or not yet: the mirror may tell it
	case m.settleDispute(now, c, mine):
	case !rival && !c.mine.witnessed && m.inStep(now):
		c.mine.witnessed = true
		m.publish(c)
	default:
		m.offer(c, false)
	}
}

// suits reports whether this node may own the address: it is a candidate and has the capabilities.
func (m *Machine) suits(c *addressState) bool {
	return c.isCandidate(m.self) && c.canWith(m.self, m.capabilities)
}

// counts returns a predicate for peer claims that must be respected: the peer is alive and owns the
// address, or it is held for the peer, and the peer does not offer it.
func (m *Machine) counts(c *addressState) func(string, claim) bool {
	better := m.keepsAddresses() && m.suits(c)
	return func(node string, x claim) bool {
		if x.offered || x.held {
			return !x.offered
		}
		return m.peers.mayOwn(node) && (x.relayed || !better || !m.seemsToOffer(c, node) && !m.outranks(node))
	}
}

// seemsToOffer reports whether the claimant lacks a capability that the address needs, but does not
// offer the address: because it runs an older version, or because its message was lost and it does
// not hear our pull. A peer that tells its capabilities and is in step may know better what the
// address needs. Two nodes that disagree about that would take the address from each other forever.
func (m *Machine) seemsToOffer(c *addressState, node string) bool {
	has := m.peers.capabilities(node)
	return !c.canWith(node, has) && (has == 0 || !m.knows(node))
}

// outranks reports whether this node knows better than a peer what is desired.
func (m *Machine) outranks(node string) bool {
	return m.freshness.isFresh(m.freshness.age) && m.freshness.isStale(m.peers.age(node))
}

// isOutranked reports whether a peer that is alive knows better than this node.
func (m *Machine) isOutranked(node string) bool {
	return m.freshness.isStale(m.freshness.age) && m.peers.isAlive(node) && m.freshness.isFresh(m.peers.age(node))
}

// fresherOwner returns a peer that claims the address and knows better than this node; "": none.
func (m *Machine) fresherOwner(c *addressState) string {
	for node, x := range c.rivals {
		if !x.relayed && !x.held && !x.offered && m.isOutranked(node) && m.peers.mayOwn(node) {
			return node
		}
	}
	return ""
}

// comesBefore reports whether a peer takes a vacant address before this node does: it knows better
// what is desired, or it ranks before this node.
func (m *Machine) comesBefore(c *addressState) func(string) bool {
	ranks := before(c.ranked, c.preferred, m.self)
	return func(node string) bool { return m.isOutranked(node) || !m.outranks(node) && ranks(node) }
}

// able returns a predicate for peers that are able to take the address if they are candidates.
func (m *Machine) able(c *addressState) func(string) bool {
	return func(node string) bool { return m.peers.isReady(node) && c.canWith(node, m.peers.capabilities(node)) }
}

// mustStop reports whether this node owns an address that it lacks a capability for and that nobody
// takes: no other node is able to, or none did within the handover time.
func (m *Machine) mustStop(now time.Time, c *addressState) bool {
	if c.canWith(m.self, m.capabilities) {
		m.cancelDue(c)
		return false
	}
	if c.due.IsZero() {
		c.due = now.Add(m.handover)
		m.pending[c.key] = true
	}
	return !now.Before(c.due) || !c.hasTakers(m.self, m.able(c))
}

// inStep reports whether this node knows all claims of the peers that it can be expected to hear:
// at least one is alive, and the last one to join did so at least three intervals ago.
func (m *Machine) inStep(now time.Time) bool {
	return !m.isolated && m.synced && !m.isGathering(now)
}

// isGathering reports whether a peer joined less than three intervals ago. There may be more to
// come, as when a segment carries messages again.
func (m *Machine) isGathering(now time.Time) bool {
	return now.Sub(m.lastPeerJoin) < silence*m.pacer.interval
}

// knows reports whether the node's claims are known from the segment.
func (m *Machine) knows(node string) bool {
	p, ok := m.claims[node]
	return ok && p.differsSince.IsZero() && m.peers.isAlive(node)
}

// evaluateVacancy decides whether and when to claim an address that this node does not own.
func (m *Machine) evaluateVacancy(now time.Time, c *addressState, cause Cause) {
	if !m.eligible || !m.synced || !m.suits(c) || !c.vacant(m.counts(c), m.isolated || m.gathering) {
		m.cancelDue(c)
		m.endBid(c)
		return
	}
	if !m.isMute() {
		m.endBid(c)
	}
	turn := m.turnOf(now, c)
	if c.due.IsZero() {
		c.cause, c.vacantSince = cause, now
		c.due = turn
		m.pending[c.key] = true
	} else if turn.Before(c.due) {
		c.due = turn
	}
	switch {
	case now.Before(c.due):
	case m.mustBid(c):
		m.beginBid(now, c)
	default:
		m.claim(now, c)
	}
}

// turnOf returns when this node may claim a vacant address. It may claim at once what it owned
// before it restarted.
func (m *Machine) turnOf(now time.Time, c *addressState) time.Time {
	switch {
	case c.bid.term != 0:
		return m.bidEnds(now, c)
	case c.mirror.Node == m.self:
		return now
	case m.mustBid(c):
		return now.Add(time.Duration(m.muteRank(c)) * bidDelay)
	}
	delay := rankDelay
	if c.isOffered(m.peers.isAlive) {
		delay = offerDelay
	}
	turn := now.Add(time.Duration(c.rank(m.self, m.able(c), m.comesBefore(c))) * delay)
	if m.outage.peers > 0 && c.mirror.Node != "" && m.mayBeHere(c, c.mirror.Node) {
		turn = turn.Add(m.patience(c))
	}
	return turn
}

// ComesFirst reports whether this node would be the first to claim an address that becomes wanted
// like that, and no other node is known to want it as well: nobody claims it, this node may, and of
// the candidates that are able to take it none comes before. Where candidates are expected and
// nobody is heard, no node can tell.
func (m *Machine) ComesFirst(addr netip.Addr, desired Desired) bool {
	c := &addressState{
		candidates: sorted(desired.Candidates),
		preferred:  desired.Preferred,
		needs:      desired.Needs,
		exempt:     desired.Exempt,
		ranked:     cmp.Or(desired.Rank, addr.String()),
	}
	if !m.eligible || !m.synced || !m.suits(c) || m.addresses[keyOf(addr)] != nil {
		return false
	}
	if len(c.candidates) > 1 && m.peers.countAlive() == 0 {
		return false
	}
	return c.rank(m.self, m.able(c), m.comesBefore(c)) == 0
}

// outage is that all of several peers fall silent at once while the link is up: more likely the
// segment fails, as while a spanning tree changes, than several nodes. Others see the same, so not
// everybody is to claim everything at once.
type outage struct {
	peers int  // how many fall silent; 0: there is no outage
	heard bool // a peer was heard since
}

const (
	// severalPeers is how many peers must fall silent at once to make an outage.
	severalPeers = 3

	minPatience  = 500 * time.Millisecond
	peerPatience = 100 * time.Millisecond // for each peer that fell silent, about the time in which a claim gets around
	maxPatience  = 16 * time.Second
)

// patience returns how long to wait in an outage for an address that the mirror says somebody owns:
// a random time, since others wait too, and twice as long each time that another node claims it
// there.
func (m *Machine) patience(c *addressState) time.Duration {
	if c.patience == 0 {
		spread := uint64(m.outage.peers) * uint64(peerPatience)
		c.patience = minPatience + time.Duration(m.random()%spread)
	}
	return c.patience
}

// cancelDue cancels an address's due time.
func (m *Machine) cancelDue(c *addressState) {
	c.due = time.Time{}
	delete(m.pending, c.key)
}

// claim takes a vacant address.
func (m *Machine) claim(now time.Time, c *addressState) {
	m.cancelDue(c)
	probe, since := m.unproven(now, c), m.unansweredSince(now, c)
	c.relayed = claim{}
	c.owned, c.claimedAt, c.offeredSince = true, now, time.Time{}
	c.mine = claim{term: c.highestTerm + 1, witnessed: !m.isolated, probing: probe}
	if c.bid.term != 0 && c.mirror.Node == m.self {
		c.mine.term = c.mirror.Term
	}
	c.bid = bid{}
	c.learnTerm(c.mine.term)
	m.owned++
	m.publish(c)
	m.out.Actions = append(m.out.Actions, Action{
		Kind:    ActionStart,
		Address: c.addr,
		Owner:   m.self,
		Cause:   c.cause,
		Probe:   probe,
		Since:   since,
	})
}

// reclaim claims an owned address again, with a term above a rival's.
func (m *Machine) reclaim(now time.Time, c *addressState, above uint64) {
	c.learnTerm(above)
	c.learnTerm(c.mine.term)
	c.claimedAt = now
	c.mine = claim{term: c.highestTerm + 1, witnessed: !m.isolated, probing: c.mine.probing}
	c.learnTerm(c.mine.term)
	m.publish(c)
	m.announce(c, HandedOver)
}

// relinquish gives an address up if this node owns it.
func (m *Machine) relinquish(c *addressState, owner string, cause Cause) {
	if !c.owned {
		return
	}
	m.cancelDue(c)
	c.owned, c.mine, c.offeredSince, c.disputed = false, claim{}, time.Time{}, ""
	m.owned--
	m.publish(c)
	m.out.Claims = append(m.out.Claims, Claim{Address: c.addr, Cause: cause})
	m.out.Actions = append(m.out.Actions, Action{
		Kind:    ActionStop,
		Address: c.addr,
		Owner:   owner,
		Cause:   cause,
	})
}

// offer sets whether other nodes are to take the address.
func (m *Machine) offer(c *addressState, offered bool) {
	if c.mine.offered == offered {
		return
	}
	c.mine.offered = offered
	m.publish(c)
}

// announce has an owned address announced.
func (m *Machine) announce(c *addressState, cause Cause) {
	m.out.Actions = append(m.out.Actions, Action{
		Kind:    ActionAnnounce,
		Address: c.addr,
		Owner:   m.self,
		Cause:   cause,
	})
}

// AnnounceAll has every owned address announced again.
func (m *Machine) AnnounceAll(cause Cause) {
	for _, c := range m.ordered {
		if c.owned {
			m.announce(c, cause)
		}
	}
}

// Rebalance offers the addresses for which other nodes rank before this one, one after the other.
func (m *Machine) Rebalance(addresses ...netip.Addr) {
	for _, a := range addresses {
		if key := keyOf(a); !slices.Contains(m.toOffer, key) {
			m.toOffer = append(m.toOffer, key)
		}
	}
}

// offerNext offers the next address that is to be rebalanced, and withdraws an offer that nobody
// took.
func (m *Machine) offerNext(now time.Time) {
	if now.Sub(m.lastOffer) < m.handover {
		return
	}
	if c := m.addresses[m.offered]; c != nil && c.owned && !c.offeredSince.IsZero() {
		c.offeredSince = time.Time{}
		m.evaluate(now, c, Configured)
	}
	for len(m.toOffer) > 0 {
		c := m.addresses[m.toOffer[0]]
		m.toOffer = m.toOffer[1:]
		if c == nil || !c.owned || !m.eligible || !m.synced || c.rank(m.self, m.able(c), m.comesBefore(c)) == 0 {
			continue
		}
		m.lastOffer, m.offered, c.offeredSince = now, c.key, now
		m.evaluate(now, c, Configured)
		return
	}
}

// Sighted says that a peer announced the address. If this node offers it, the peer has taken it.
func (m *Machine) Sighted(addr netip.Addr, peer string) {
	if c, ok := m.addresses[keyOf(addr)]; ok && c.owned && c.mine.offered && m.peers.isAlive(peer) {
		m.relinquish(c, peer, HandedOver)
	}
}

// Drained reports whether this node, which is leaving, owns nothing that another node could take,
// or has told the others to hold it.
func (m *Machine) Drained() bool {
	return !m.pacer.hasQuick() && len(m.untold) == 0 &&
		(m.state == Holding || !slices.ContainsFunc(m.ordered, func(c *addressState) bool {
			return c.owned && c.hasTakers(m.self, m.able(c))
		}))
}
