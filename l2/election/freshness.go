package election

import "time"

// This file has what follows when a node has not heard from the API for long: its desired state may
// be stale, and an address that it owns may be somebody else's by now. A node that knows better
// takes the address. When all nodes are equally stale, because the API is away, nothing changes.

// freshness is how old this node's desired state is, and what ages mean.
type freshness struct {
	freshWithin, staleAfter time.Duration

	confirmedAt time.Time     // zero: nothing confirms it
	age         time.Duration // at the last tick
}

// isFresh reports whether a desired state of that age is up to date.
func (f *freshness) isFresh(age time.Duration) bool { return age != ageUnknown && age <= f.freshWithin }

// isStale reports whether a desired state of that age may be out of date.
func (f *freshness) isStale(age time.Duration) bool { return f.staleAfter > 0 && age >= f.staleAfter }

// Confirm says that this node's desired state was up to date at a time that is not after now.
func (m *Machine) Confirm(now, at time.Time) {
	m.freshness.confirmedAt = at
	m.updateAge(now)
}

// updateAge keeps the age up to date, and decides every address again when that changes what this
// node may do.
func (m *Machine) updateAge(now time.Time) {
	f := &m.freshness
	if f.confirmedAt.IsZero() {
		return
	}
	before := f.age
	f.age = max(0, now.Sub(f.confirmedAt))
	if f.isFresh(before) != f.isFresh(f.age) || f.isStale(before) != f.isStale(f.age) {
		m.evaluateAll(now, PeerStale)
	}
}

// outranks reports whether this node knows better than a peer what is desired.
func (m *Machine) outranks(node string) bool {
	return m.freshness.isFresh(m.freshness.age) && m.freshness.isStale(m.peers.age(node))
}

// isOutranked reports whether a peer that is alive knows better than this node.
func (m *Machine) isOutranked(node string) bool {
	return m.freshness.isStale(m.freshness.age) && m.peers.isAlive(node) && m.freshness.isFresh(m.peers.age(node))
}

// Outdated returns a peer that is alive and knows better than this node what is desired; "": none.
func (m *Machine) Outdated() string {
	for node := range m.peers.peers {
		if m.isOutranked(node) {
			return node
		}
	}
	return ""
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
	return func(node string) bool {
		return m.isOutranked(node) || !m.outranks(node) && RanksBefore(c.ranked, c.preferred, node, m.self)
	}
}
