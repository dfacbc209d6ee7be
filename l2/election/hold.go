package election

import (
	"slices"
	"time"
)

// This file is how others keep a node's groups while its speaker is replaced: its last messages say that it is Holding and
// announce an interval that lasts holdTime, the claims of its former process stay until the new one has claimed anew.

// announcedInterval is the interval in our messages: others wait for a Holding node longer.
func (m *Machine) announcedInterval() time.Duration {
	if m.state == Holding {
		return holdTime / silence
	}
	return m.pacer.interval
}

// stays reports whether what this node owns is to stay with it.
func (m *Machine) keepsGroups() bool { return m.eligible || m.state == Holding }

// heldFor keeps until when a peer's groups are kept for it.
func (m *Machine) updateHold(now time.Time, p *peerClaims, x Message) {
	switch x.state {
	case Holding:
		p.holdUntil = now.Add(silence * x.interval)
	case Ready:
		if resumed := now.Add(resumeWithin); resumed.Before(p.holdUntil) {
			p.holdUntil = resumed
		}
		if len(p.held) == 0 {
			p.holdUntil = time.Time{} // it stayed
		}
	case Leaving, Restarting:
		p.holdUntil = time.Time{}
	case Starting:
	}
}

// hold turns the claims of a peer's former process into held ones, and returns their groups.
func (m *Machine) hold(node string, p *peerClaims) []groupKey {
	for key := range p.claims {
		c := m.groups[key]
		claim := c.rivals[node]
		if claim.relayed {
			delete(c.rivals, node)
			continue
		}
		claim.held = true
		c.rivals[node] = claim
		p.held = append(p.held, key)
	}
	slices.SortFunc(p.held, compareKeys)
	return slices.Compact(p.held)
}

// release voids what was held for a peer and not claimed anew.
func (m *Machine) release(now time.Time, node string, p *peerClaims, cause Cause) {
	held := slices.DeleteFunc(p.held, func(key groupKey) bool {
		c := m.groups[key]
		return c == nil || !c.rivals[node].held
	})
	p.held, p.holdUntil = nil, time.Time{}
	m.dropClaims(now, node, held, cause)
}

// expire releases what is held for those whose time is over.
func (m *Machine) expireHolds(now time.Time) {
	for node, p := range m.claims {
		if len(p.held) > 0 && !now.Before(p.holdUntil) {
			m.release(now, node, p, PeerLeft)
		}
	}
}
