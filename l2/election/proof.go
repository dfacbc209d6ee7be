package election

import (
	"net/netip"
	"slices"
	"time"
)

// This file knows which addresses need no probe before this node answers for them: those that this
// node or a peer answers for, or did a moment ago, as this process saw itself. What the mirror says
// proves nothing: all nodes may have been away since, and another host may have taken the address.

const (
	// proofLifetime is for how long after it was last answered for an address counts as this
	// cluster's.
	proofLifetime = 5 * time.Second
	// vouchDelay is how long a peer's claim must have stood since the group got an address. A claim
	// names only the group, and its owner may not have learned of the address.
	vouchDelay = time.Second
)

// proofs are who answers for which address, as far as one machine knows.
type proofs struct {
	holders map[netip.Addr][]*groupState // the wanted groups that have it
	own     map[netip.Addr]struct{}      // this node answers for it now
	last    map[netip.Addr]proof         // until when it was answered for, by this node or in a former group
	expiry  []proofEnd                   // when to look at last again, in order
}

// proof is the last moment at which an address was answered for.
type proof struct {
	until time.Time
	own   bool // by this node
}

// proofEnd is when a proof may be forgotten.
type proofEnd struct {
	addr netip.Addr
	at   time.Time
}

func newProofs() *proofs {
	return &proofs{
		holders: make(map[netip.Addr][]*groupState),
		own:     make(map[netip.Addr]struct{}),
		last:    make(map[netip.Addr]proof),
	}
}

// answering reports whether this node answers for the address.
func (p *proofs) answering(addr netip.Addr) bool {
	_, ok := p.own[addr]
	return ok
}

// keep remembers until when the address was answered for.
func (p *proofs) keep(now time.Time, addr netip.Addr, last proof) {
	for len(p.expiry) > 0 && now.Sub(p.expiry[0].at) > proofLifetime {
		if first := p.expiry[0]; !p.last[first.addr].until.After(first.at) {
			delete(p.last, first.addr)
		}
		p.expiry = p.expiry[1:]
	}
	if last.stands(now) && last.until.After(p.last[addr].until) {
		p.last[addr] = last
		p.expiry = append(p.expiry, proofEnd{addr, now})
	}
}

// stands reports whether the proof is recent enough.
func (p proof) stands(now time.Time) bool { return now.Sub(p.until) <= proofLifetime }

// SetAnswered says that this node starts or stops answering for an address.
func (m *Machine) SetAnswered(now time.Time, addr netip.Addr, on bool) {
	if on {
		m.proofs.own[addr] = struct{}{}
		return
	}
	delete(m.proofs.own, addr)
	last := proof{until: now, own: true}
	if m.catchingUp {
		last.until = m.answeredUntil
	}
	m.proofs.keep(now, addr, last)
}

// SetPartial says whether this node answers only for some addresses of a group that it owns.
func (m *Machine) SetPartial(group string, partial bool) {
	c := m.groups[keyOf(group)]
	if c == nil || !c.owned || c.mine.partial == partial {
		return
	}
	c.mine.partial = partial
	m.untold[c.key] = claimRepeats
	m.own.put(c.key, c.mine) // the mirror does not show it
}

// setAddresses replaces the addresses of a group.
func (m *Machine) setAddresses(now time.Time, c *groupState, addresses []netip.Addr) {
	holders, until := m.proofs.holders, m.vouchedUntil(now, c)
	known := make([]time.Time, len(addresses))
	for i, a := range addresses {
		if at := slices.Index(c.addresses, a); at >= 0 {
			known[i] = c.knownSince[at]
			continue
		}
		known[i] = now
		holders[a] = append(holders[a], c)
	}
	for i, a := range c.addresses {
		if slices.Contains(addresses, a) {
			continue
		}
		m.proofs.keep(now, a, c.proves(i, until))
		if holders[a] = slices.DeleteFunc(holders[a], func(h *groupState) bool {
			return h == c
		}); len(holders[a]) == 0 {
			delete(holders, a)
		}
	}
	c.addresses, c.knownSince = addresses, known
}

// Owns reports whether this node owns a group that has the address.
func (m *Machine) Owns(addr netip.Addr) bool {
	return slices.ContainsFunc(m.proofs.holders[addr], func(c *groupState) bool { return c.owned })
}

// unproven returns the group's addresses that are to be probed before this node answers for them.
func (m *Machine) unproven(now time.Time, c *groupState) []netip.Addr {
	var list []netip.Addr
	until := m.vouchedUntil(now, c)
	for i, a := range c.addresses {
		if !m.proofs.answering(a) && !m.proofs.last[a].stands(now) && !c.proves(i, until).stands(now) &&
			!m.provenElsewhere(now, c, a) {
			list = append(list, a)
		}
	}
	return list
}

// provenElsewhere reports whether a peer answers for the address as part of another group, or did a
// moment ago.
func (m *Machine) provenElsewhere(now time.Time, c *groupState, addr netip.Addr) bool {
	return slices.ContainsFunc(m.proofs.holders[addr], func(h *groupState) bool {
		return h != c && h.proves(slices.Index(h.addresses, addr), m.vouchedUntil(now, h)).stands(now)
	})
}

// vouchedUntil returns until when a peer answered for the group's addresses, by its claim. The zero
// time: no peer is known to, or one answers for some of them only.
func (m *Machine) vouchedUntil(now time.Time, c *groupState) time.Time {
	until := c.vouchedUntil
	for node, x := range c.rivals {
		if x.partial && !x.relayed {
			return time.Time{}
		}
		until = latest(until, m.stoodUntil(now, node, x))
	}
	return until
}

// proves returns what a claim that stood until then proves about the group's n-th address.
func (c *groupState) proves(n int, until time.Time) proof {
	if until.Sub(c.knownSince[n]) < vouchDelay {
		return proof{}
	}
	return proof{until: until}
}

// stoodUntil returns until when a peer answered for everything that it claims.
func (m *Machine) stoodUntil(now time.Time, node string, x claim) time.Time {
	switch {
	case x.relayed, x.partial:
		return time.Time{}
	case x.held:
		return now
	}
	return m.peers.stoodUntil(now, node)
}

// endVouch keeps until when a peer answered for the group, when its claim ends. If the peer
// answered only for some addresses, nothing is known about any.
func (m *Machine) endVouch(now time.Time, c *groupState, node string, next claim, claims bool) {
	was, had := c.rivals[node]
	switch {
	case !had || claims && !next.relayed: // it stands
	case was.partial:
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

// renamed reports whether a group looks like another one under a new name: nobody ever claimed it,
// and this node, or a peer, answers for some of its addresses, or did a moment ago.
func (m *Machine) renamed(now time.Time, c *groupState) (own, peers bool) {
	for _, a := range c.addresses {
		last := m.proofs.last[a]
		recent := c.highestTerm == 0 && last.stands(now)
		own = own || m.proofs.answering(a) || recent && last.own
		peers = peers || recent && !last.own || m.elsewhere(c, a)
	}
	return own, peers
}

// elsewhere reports whether a peer claims another group that has the address.
func (m *Machine) elsewhere(c *groupState, addr netip.Addr) bool {
	return slices.ContainsFunc(m.proofs.holders[addr], func(h *groupState) bool {
		if h == c {
			return false
		}
		for node, x := range h.rivals {
			if !x.relayed && (x.held || m.peers.mayOwn(node)) {
				return true
			}
		}
		return false
	})
}

// Claims reports whether a peer claims a group that has the address, or did a moment ago, on the
// segment or in the mirror.
func (m *Machine) Claims(now time.Time, node string, addr netip.Addr) bool {
	return slices.ContainsFunc(m.proofs.holders[addr], func(c *groupState) bool {
		x, ok := c.rivals[node]
		return ok && !x.relayed || c.mirror.Node == node ||
			c.formerNode == node && !m.peers.isAlive(node) && now.Sub(c.formerUntil) <= proofLifetime
	})
}
