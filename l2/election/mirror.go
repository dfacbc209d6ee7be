package election

import (
	"net/netip"
	"slices"
	"time"
)

// This file has what the machine does with the mirror, the second channel by which claims arrive.

// Mirrored takes what the mirror says of an address. Without a Node no claim counts there. The term
// is then that of a claim which is there still, of a Node that is not ready; 0: nothing is there.
func (m *Machine) Mirrored(now time.Time, said Claim) {
	key := keyOf(said.Address)
	if said.Node == "" && m.addresses[key] == nil {
		return
	}
	c := m.stateOf(key)
	if was := c.mirror.Node; was != "" && was != m.self && was != said.Node {
		c.formerNode, c.formerUntil = was, now
	}
	another := said.Node != c.mirror.Node || said.Term != c.mirror.Term
	if m.outage.peers > 0 && !c.owned && another && said.Node != "" && said.Node != m.self {
		c.patience = min(2*m.patience(c), maxPatience)
		m.cancelDue(c)
	}
	c.mirror = said
	c.learnTerm(said.Term)
	m.learnMAC(said)
	switch {
	case another && m.endsBid(c):
		m.endBid(c)
		m.relay(c)
	case !c.relayed.relayed, said.Tentative: // a tentative claim changes nothing yet
	case said.Node != "" && said.Node != m.self && m.mayBeHere(c, said.Node) && !m.knows(said.Node) &&
		said.Term >= c.relayed.term:
		m.relay(c) // its side moved the address, or witnessed the claim
	default:
		m.dropRelay(c)
	}
	m.evaluate(now, c, PeerSilent)
	switch {
	case !c.owned || c.mirror.Node == m.self:
	case c.mirror.Term < c.mine.term:
		m.publishToMirror(c) // another node's withdrawal or older claim replaced ours
	case c.mirror.Node == "":
		m.reclaim(now, c, c.mirror.Term) // ours is not written over a claim of a higher term
	}
	m.prune(c)
}

// MirrorLost says that the mirror cannot be read any more. Nodes that only the mirror shows count
// as dead from now on. On a mute segment it shows all nodes, and they count as before.
func (m *Machine) MirrorLost(now time.Time) {
	if m.isMute() {
		return
	}
	for _, c := range m.ordered {
		if !m.knows(c.mirror.Node) {
			m.dropRelay(c)
			c.mirror, c.disputed = Claim{}, ""
		}
	}
	m.evaluateAll(now, PeerSilent)
}

// Remirror says that the mirror has another name for the segment, under which it has these claims:
// what it said under the former one is void, and this node's claims are written again.
func (m *Machine) Remirror(now time.Time, claims []Claim) {
	for _, c := range m.ordered {
		m.dropRelay(c)
		if c.mirror, c.disputed = (Claim{}), ""; c.owned {
			m.publishToMirror(c)
		}
	}
	for _, said := range claims {
		m.Mirrored(now, said)
	}
	m.evaluateAll(now, PeerSilent)
}

// SetNeighbors says which nodes have an address in a subnet of the segment, as the API has it:
// there a node cannot write its own. What the mirror says of other nodes, which were never heard
// here, does not count, so that the token of a node takes nothing on segments that the node is not
// on. Where no node has such an address, nobody can tell, and every candidate's claim counts.
func (m *Machine) SetNeighbors(now time.Time, neighbors map[string]bool) {
	m.neighbors = neighbors
	for _, c := range m.ordered {
		m.dropRelayOfStranger(c)
	}
	m.evaluateAll(now, Configured)
}

// dropRelayOfStranger ends the relay of a claim that does not count any longer.
func (m *Machine) dropRelayOfStranger(c *addressState) {
	if !m.mayBeHere(c, c.mirror.Node) {
		m.dropRelay(c)
	}
}

// mayBeHere reports whether the mirrored claim of a node counts: it may own the address, and it may
// be on the segment.
func (m *Machine) mayBeHere(c *addressState, node string) bool {
	return c.isCandidate(node) && (m.peers.known(node) || len(m.neighbors) == 0 || m.neighbors[node])
}

// settleDispute handles a mirrored claim of a node that is silent on the segment. That node may be
// dead. It is alive if its term is above one that this node claimed after it fell silent.
func (m *Machine) settleDispute(now time.Time, c *addressState, mine nodeClaim) bool {
	other := c.mirror
	if other.Node == "" || other.Node == m.self || other.Term < mine.term {
		return false
	}
	if m.knows(other.Node) || other.Tentative {
		// On the segment its claim does not count: it may be offered, and its node may not have
		// heard us take the address. A tentative one asks whether we answer.
		m.reclaim(now, c, other.Term)
		return true
	}
	theirs := nodeClaim{claim{term: other.Term, witnessed: other.Witnessed}, other.Node}
	silent := m.peers.silentSince(other.Node)
	lives := m.peers.isAlive(other.Node) || other.Term > mine.term && (c.disputed == other.Node ||
		!silent.IsZero() && !c.claimedAt.Before(silent))
	if lives && m.mayBeHere(c, other.Node) && c.beats(theirs, mine) {
		m.relinquish(c, other.Node, HandedOver)
		m.relay(c)
		return true
	}
	c.disputed = other.Node
	m.reclaim(now, c, other.Term)
	return true
}

// How candidates bid.
const (
	bidDelay    = 100 * time.Millisecond // between the candidates' bids
	maxBidRank  = 8                      // the candidates from here on bid together
	bidPatience = 1500 * time.Millisecond
)

// isMute reports whether the segment carries no messages as far as this node knows: other
// candidates are expected, and nobody was ever heard. It may filter the EtherType.
func (m *Machine) isMute() bool { return m.isolated && !m.peers.anyKnown() }

// hasRead reports whether this node has read the mirror since it started. It may be lost by now,
// and what makes an address vacant may be the first that arrives after that: all nodes see it, and
// none of them can tell yet.
func (m *Machine) hasRead() bool { return !m.freshness.contact.IsZero() }

// unheard returns the nodes that own addresses on a mute segment according to the mirror, by name:
// none before it has listened, as others are heard a moment after a start.
func (m *Machine) unheard() []string {
	if !m.isMute() || !m.eligible {
		return nil
	}
	var nodes []string
	for _, c := range m.ordered {
		if node := c.mirror.Node; node != m.self && m.mayBeHere(c, node) && !slices.Contains(nodes, node) {
			nodes = append(nodes, node)
		}
	}
	slices.Sort(nodes)
	return nodes
}

// mustBid reports whether this node asks by the mirror before it claims the address. What it owned
// before it restarted is still its own.
func (m *Machine) mustBid(c *addressState) bool {
	return m.isMute() && m.hasRead() && c.bid.term == 0 && c.mirror.Node != m.self
}

// muteRank returns this node's place among the candidates that may be on a mute segment.
func (m *Machine) muteRank(c *addressState) int {
	rank := c.rank(m.self, func(node string) bool { return m.mayBeHere(c, node) }, m.comesBefore(c))
	return min(rank, maxBidRank)
}

// beginBid shows a tentative claim in the mirror.
func (m *Machine) beginBid(now time.Time, c *addressState) {
	c.bid = bid{term: c.highestTerm + 1, until: now.Add(bidPatience)}
	if m.mayBeHere(c, c.mirror.Node) {
		c.bid.owner = c.mirror.Node
	}
	c.learnTerm(c.bid.term)
	c.due = c.bid.until
	m.out.Claims = append(m.out.Claims, Claim{Address: c.addr, Node: m.self, Term: c.bid.term, Tentative: true})
}

// bidEnds returns when the address is claimed after a bid: at once when the mirror shows the bid
// where it showed no owner before.
func (m *Machine) bidEnds(now time.Time, c *addressState) time.Time {
	if c.mirror.Node == m.self && c.mirror.Term >= c.bid.term && c.bid.owner == "" {
		return now
	}
	return c.bid.until
}

// endsBid reports whether the mirror shows another node's claim that came while this node was
// waiting to claim the address: that node is alive. Of two bids the higher one stands.
func (m *Machine) endsBid(c *addressState) bool {
	return m.isMute() && !c.owned && !c.due.IsZero() && c.mirror.Node != m.self &&
		(!c.mirror.Tentative || c.mirror.Term >= c.bid.term) && m.mayBeHere(c, c.mirror.Node)
}

// endBid withdraws a bid.
func (m *Machine) endBid(c *addressState) {
	if c.bid.term == 0 {
		return
	}
	c.bid = bid{}
	m.cancelDue(c)
	m.out.Claims = append(m.out.Claims, Claim{Address: c.addr})
}

// relay treats the mirrored claim as authoritative and repeats it on the segment. Peers that cannot
// see the API would otherwise consider the address vacant.
func (m *Machine) relay(c *addressState) {
	lost := claim{term: c.mirror.Term, witnessed: c.mirror.Witnessed, relayed: true}
	if c.relayed != lost {
		c.relayed = lost
		m.publish(c)
	}
}

// dropRelay ends that.
func (m *Machine) dropRelay(c *addressState) {
	if c.relayed.relayed {
		c.relayed = claim{}
		m.publish(c)
	}
}

// dropRelaysOf ends that for all addresses of a node whose claims are known from the segment again.
func (m *Machine) dropRelaysOf(node string) {
	for _, c := range m.ordered {
		if c.mirror.Node == node && m.knows(node) {
			m.dropRelay(c)
		}
	}
}

// learnMAC keeps the MAC that the mirror shows for a node. Hellos show it too, but may be filtered.
func (m *Machine) learnMAC(said Claim) {
	if said.Node == "" || said.Node == m.self || len(said.MAC) != 6 {
		return
	}
	if len(m.nodeByMAC) >= MaxPeers {
		clear(m.nodeByMAC)
	}
	m.nodeByMAC[[6]byte(said.MAC)] = said.Node
}

// PeerByMAC returns the peer that has the MAC; empty: none is known.
func (m *Machine) PeerByMAC(mac [6]byte) string {
	if node, ok := m.peers.byMAC(mac); ok {
		return node
	}
	return m.nodeByMAC[mac]
}

// SegmentName returns the name of a segment for the mirror, which is the same on all of its nodes:
// the lowest IPv4 subnet of the interface's addresses, or else the lowest IPv6 subnet, or else the
// name of the interface.
func SegmentName(ifname string, subnets []netip.Prefix) string {
	var lowest netip.Prefix
	for _, p := range subnets {
		switch {
		case p.IsSingleIP() || p.Addr().IsLinkLocalUnicast():
		case !lowest.IsValid(), p.Addr().Is4() && lowest.Addr().Is6(),
			p.Addr().Is4() == lowest.Addr().Is4() && p.Addr().Less(lowest.Addr()):
			lowest = p
		}
	}
	if !lowest.IsValid() {
		return ifname
	}
	return lowest.String()
}
