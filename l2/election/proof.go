package election

import (
	"net/netip"
	"time"
)

// This file knows which addresses need no probe before this node answers for them: those that this
// node or a peer answers for, or did a moment ago, as this process saw itself. What the mirror says
// proves nothing: all nodes may have been away since, and another host may have taken the address.

// proofLifetime is for how long after it was last answered for an address counts as this cluster's.
const proofLifetime = 5 * time.Second

// proofs are until when addresses were answered for, as far as one machine knows.
type proofs struct {
	own    map[netip.Addr]struct{}  // this node answers for it now
	last   map[netip.Addr]time.Time // until when it was answered for, by this node or before it was last wanted
	expiry []proofEnd               // when to look at last again, in order
}

// proofEnd is when a proof may be forgotten.
type proofEnd struct {
	addr netip.Addr
	at   time.Time
}

func newProofs() *proofs {
	return &proofs{own: make(map[netip.Addr]struct{}), last: make(map[netip.Addr]time.Time)}
}

// keep remembers until when the address was answered for.
func (p *proofs) keep(now time.Time, addr netip.Addr, until time.Time) {
	for len(p.expiry) > 0 && now.Sub(p.expiry[0].at) > proofLifetime {
		if first := p.expiry[0]; !p.last[first.addr].After(first.at) {
			delete(p.last, first.addr)
		}
		p.expiry = p.expiry[1:]
	}
	if isRecent(now, until) && until.After(p.last[addr]) {
		p.last[addr] = until
		p.expiry = append(p.expiry, proofEnd{addr, now})
	}
}

// isRecent reports whether what was answered for until then counts as proof now.
func isRecent(now, until time.Time) bool { return now.Sub(until) <= proofLifetime }

// SetAnswered says that this node starts or stops answering for an address.
func (m *Machine) SetAnswered(now time.Time, addr netip.Addr, on bool) {
	if on {
		m.proofs.own[addr] = struct{}{}
		m.setProbing(addr, false)
		return
	}
	delete(m.proofs.own, addr)
	until := now
	if m.catchingUp {
		until = m.answeredUntil
	}
	m.proofs.keep(now, addr, until)
}

// setProbing says whether this node, which owns an address, does not answer for it yet.
func (m *Machine) setProbing(addr netip.Addr, probing bool) {
	c := m.addresses[keyOf(addr)]
	if c == nil || !c.owned || c.mine.probing == probing {
		return
	}
	c.mine.probing = probing
	m.untold[c.key] = claimRepeats
	m.own.put(c.key, c.mine) // the mirror does not show it
}

// Owns reports whether this node owns the address.
func (m *Machine) Owns(addr netip.Addr) bool {
	c, ok := m.addresses[keyOf(addr)]
	return ok && c.owned
}

// unproven reports whether the address is to be probed before this node answers for it.
func (m *Machine) unproven(now time.Time, c *addressState) bool {
	_, answering := m.proofs.own[c.addr]
	return !answering && !isRecent(now, m.proofs.last[c.addr]) && !isRecent(now, m.vouchedUntil(now, c))
}

// vouchedUntil returns until when a peer answered for the address, by its claim. The zero time: no
// peer is known to, or the last one did not yet.
func (m *Machine) vouchedUntil(now time.Time, c *addressState) time.Time {
	until := c.vouchedUntil
	for node, x := range c.rivals {
		if x.probing && !x.relayed {
			return time.Time{}
		}
		until = latest(until, m.stoodUntil(now, node, x))
	}
	return until
}

// stoodUntil returns until when a peer answered for what it claims.
func (m *Machine) stoodUntil(now time.Time, node string, x claim) time.Time {
	switch {
	case x.relayed, x.probing:
		return time.Time{}
	case x.held:
		return now
	}
	return m.peers.stoodUntil(now, node)
}

// unansweredSince returns since when nobody answers for a vacant address, as Action.Since has it.
func (m *Machine) unansweredSince(now time.Time, c *addressState) time.Time {
	for node, x := range c.rivals {
		if x.offered && !x.probing && m.peers.isAlive(node) {
			return now
		}
	}
	if until := latest(m.vouchedUntil(now, c), m.proofs.last[c.addr]); isRecent(c.vacantSince, until) {
		return until
	}
	return c.vacantSince
}

// endVouch keeps until when a peer answered for the address, when its claim ends. If the peer did
// not answer yet, nothing is known.
func (m *Machine) endVouch(now time.Time, c *addressState, node string, next claim, claims bool) {
	was, had := c.rivals[node]
	switch {
	case !had || claims && !next.relayed: // it stands
	case was.probing:
		c.vouchedUntil = time.Time{}
	default:
		c.vouchedUntil = latest(c.vouchedUntil, m.stoodUntil(now, node, was))
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Claims reports whether a peer claims the address, or did a moment ago, on the segment or in the
// mirror.
func (m *Machine) Claims(now time.Time, node string, addr netip.Addr) bool {
	c, ok := m.addresses[keyOf(addr)]
	if !ok {
		return false
	}
	x, claims := c.rivals[node]
	return claims && !x.relayed || c.mirror.Node == node ||
		c.formerNode == node && !m.peers.isAlive(node) && now.Sub(c.formerUntil) <= proofLifetime
}
