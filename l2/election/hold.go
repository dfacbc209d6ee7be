package election

import (
	"slices"
	"time"
)

// This file keeps a node's addresses for it while its speaker is replaced. The last messages of the
// old process say Holding and announce an interval that makes it count as alive for holdTime. Its
// claims stay until the new process has claimed again.

// announcedInterval returns the interval for messages. Others wait longer for a Holding node.
func (m *Machine) announcedInterval() time.Duration {
	if m.state == Holding {
		return holdTime / silence
	}
	return m.pacer.interval
}

// keepsAddresses reports whether this node is to keep what it owns.
func (m *Machine) keepsAddresses() bool { return m.eligible || m.state == Holding }

// updateHold keeps until when a peer's addresses are held for it.
func (m *Machine) updateHold(now time.Time, p *peerClaims, x Message) {
	switch x.state {
	case Holding:
		p.holdUntil = now.Add(silence * x.interval)
	case Ready:
		if resumed := now.Add(resumeWithin); resumed.Before(p.holdUntil) {
			p.holdUntil = resumed
		}
		if len(p.held) == 0 {
			p.holdUntil = time.Time{} // it did not restart
		}
	case Leaving, Restarting:
		p.holdUntil = time.Time{}
	case Starting:
	}
}

// hold marks the claims of a peer's former process as held, and returns their addresses.
func (m *Machine) hold(node string, p *peerClaims) []addressKey {
	for key := range p.claims {
		c := m.addresses[key]
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

// release drops what was held for a peer and not claimed again.
func (m *Machine) release(now time.Time, node string, p *peerClaims, cause Cause) {
	held := slices.DeleteFunc(p.held, func(key addressKey) bool {
		c := m.addresses[key]
		return c == nil || !c.rivals[node].held
	})
	p.held, p.holdUntil = nil, time.Time{}
	m.dropClaims(now, node, held, cause)
}

// expireHolds releases what is held for peers whose time is over.
func (m *Machine) expireHolds(now time.Time) {
	for node, p := range m.claims {
		if len(p.held) > 0 && !now.Before(p.holdUntil) {
			m.release(now, node, p, PeerLeft)
		}
	}
}
