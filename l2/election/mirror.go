package election

import "time"

// This file is what the machine does with the mirror, the second channel by which claims arrive.

// mirrored takes what the second channel says of a group.
func (m *Machine) Mirrored(now time.Time, said Claim) {
	key := keyOf(said.Group)
	if said.Node == "" && m.groups[key] == nil {
		return
	}
	c := m.group(key)
	if was := c.mirror.Node; was != "" && was != m.self && was != said.Node {
		c.formerNode, c.formerUntil = was, now
	}
	c.mirror = said
	c.learnTerm(said.Term)
	m.learnMAC(said)
	switch {
	case !c.relayed.relayed:
	case said.Node != "" && said.Node != m.self && !m.knows(said.Node) && said.Term >= c.relayed.term:
		m.relay(c) // its side moved it, or witnesses it
	default:
		m.dropRelay(c)
	}
	m.evaluate(now, c, PeerSilent)
	if c.owned && c.mirror.Node != m.self && c.mirror.Term < c.mine.term {
		m.publishToMirror(c) // another's withdrawal, or older claim, came over ours
	}
	m.prune(c)
}

// mirrorLost has this node trust no more that those live of whom only the mirror told.
func (m *Machine) MirrorLost(now time.Time) {
	for _, c := range m.ordered {
		if !m.knows(c.mirror.Node) {
			m.dropRelay(c)
			c.mirror, c.disputed = Claim{}, ""
		}
	}
	m.evaluateAll(now, PeerSilent)
}

// disputed settles a claim of a node that is silent here, but whose claim the mirror shows. It may be dead. It is
// not if its term is above one that we claimed after it fell silent.
func (m *Machine) settleDispute(now time.Time, c *groupState, mine nodeClaim) bool {
	other := c.mirror
	if other.Node == "" || other.Node == m.self || other.Term < mine.term {
		return false
	}
	if m.knows(other.Node) {
		// By the segment it does not count: it may be offered, by one who does not hear us take it.
		m.reclaim(now, c, other.Term)
		return true
	}
	theirs := nodeClaim{claim{term: other.Term, witnessed: other.Witnessed}, other.Node}
	silent := m.peers.silentSince(other.Node)
	lives := m.peers.isAlive(other.Node) || other.Term > mine.term && (c.disputed == other.Node || !silent.IsZero() && !c.claimedAt.Before(silent))
	if lives && c.beats(theirs, mine) {
		m.relinquish(c, other.Node, HandedOver)
		m.relay(c)
		return true
	}
	c.disputed = other.Node
	m.reclaim(now, c, other.Term)
	return true
}

// lose takes the claim of which the mirror tells as one that counts, and tells the segment of it: others there may
// not see it, and would take the group for vacant.
func (m *Machine) relay(c *groupState) {
	lost := claim{term: c.mirror.Term, witnessed: c.mirror.Witnessed, relayed: true}
	if c.relayed != lost {
		c.relayed = lost
		m.publish(c)
	}
}

// regain ends that.
func (m *Machine) dropRelay(c *groupState) {
	if c.relayed.relayed {
		c.relayed = claim{}
		m.publish(c)
	}
}

// regainFrom ends that for all groups of a node of which the segment tells now.
func (m *Machine) dropRelaysOf(node string) {
	for _, c := range m.ordered {
		if c.mirror.Node == node && m.knows(node) {
			m.dropRelay(c)
		}
	}
}

// place keeps which MAC the mirror tells of a node: hellos, which tell it too, may be filtered.
func (m *Machine) learnMAC(said Claim) {
	if said.Node == "" || said.Node == m.self || len(said.MAC) != 6 {
		return
	}
	if len(m.nodeByMAC) >= maxPeers {
		clear(m.nodeByMAC)
	}
	m.nodeByMAC[[6]byte(said.MAC)] = said.Node
}

// nodeOf returns the peer that has the MAC; empty: none that is known.
func (m *Machine) PeerByMAC(mac [6]byte) string {
	if node, ok := m.peers.byMAC(mac); ok {
		return node
	}
	return m.nodeByMAC[mac]
}
