package l2

import (
	"net/netip"
	"slices"
	"time"
)

// contest is one group on one segment: who claims it, and what this node makes of that.
type contest struct {
	key        groupKey
	group      string
	wanted     bool // this node knows the group
	addresses  []netip.Addr
	known      []time.Time // since when, for each of addresses
	candidates []string
	needs      Capabilities
	preferred  map[string]int32

	owned   bool // this node claims it, and answers for it
	mine    claim
	claimed time.Time // when, or when last claimed anew
	offered time.Time // since when this node offers it; zero: not

	rivals   map[string]claim // claims of peers, dead ones left out
	vouched  time.Time        // until when a peer that claims it no more answered for all of it; zero: nobody, or for some only
	highest  uint64           // the highest term known
	voided   uint64           // the highest term of those that fell silent, as we saw: to relay it is no news
	mirror   Claim            // what the second channel says
	former   string           // another node of which it told before
	formerly time.Time        // until when
	disputes string           // the silent node of whose claim the mirror told, and against which we claimed anew
	lost     claim            // of a silent node that has shown by the mirror that it lives; relayed; zero: none
	due      time.Time        // when to claim what is vacant, or to give up what this node cannot serve; zero: not
	cause    Cause            // of the vacancy
}

// standing is a claim with its claimant, to be compared.
type standing struct {
	claim
	node string
}

// beats tells whether a claim comes before another: witnessed, then the higher term, then the heavier node.
func (c *contest) beats(a, b standing) bool {
	switch {
	case a.witnessed != b.witnessed:
		return a.witnessed
	case a.term != b.term:
		return a.term > b.term
	}
	return before(c.group, nil, a.node, b.node)
}

// candidate reports whether the node may own the group.
func (c *contest) candidate(node string) bool {
	_, found := slices.BinarySearch(c.candidates, node)
	return found
}

// learn keeps the highest term.
func (c *contest) learn(term uint64) { c.highest = max(c.highest, term) }

// best returns the best of the rivals' claims that count. A claim that is relayed does if it is above our own, which it
// may be otherwise.
func (c *contest) best(counts func(string, claim) bool) (best standing, found bool) {
	for node, claim := range c.rivals {
		if !counts(node, claim) || claim.relayed && claim.term <= max(c.mine.term, c.voided) {
			continue
		}
		if s := (standing{claim, node}); !found || c.beats(s, best) {
			best, found = s, true
		}
	}
	return best, found
}

// contested reports whether a peer's claim, though it may not count, is of no lower term than ours.
func (c *contest) contested() bool {
	for _, claim := range c.rivals {
		if !claim.relayed && claim.term >= c.mine.term {
			return true
		}
	}
	return false
}

// vacant reports whether nobody owns the group who is to be respected: a peer, or one of whom only the mirror tells,
// unless that one hears nobody and we do: then our side serves more.
func (c *contest) vacant(counts func(string, claim) bool, alone bool) bool {
	respected := func(x claim) bool { return !x.relayed || x.term > c.voided && (x.witnessed || alone) }
	if c.lost.relayed && respected(c.lost) {
		return false
	}
	for node, claim := range c.rivals {
		if counts(node, claim) && respected(claim) {
			return false
		}
	}
	return true
}

// rank is the node's place among those that may take the group: candidates that are able and do not offer it
// themselves.
func (c *contest) rank(self string, able func(string) bool) int {
	n := 0
	for _, node := range c.candidates {
		if node != self && able(node) && !c.rivals[node].offered && before(c.group, c.preferred, node, self) {
			n++
		}
	}
	return n
}

// takers reports whether anybody else may take the group.
func (c *contest) takers(self string, able func(string) bool) bool {
	return slices.ContainsFunc(c.candidates, func(node string) bool { return node != self && able(node) && !c.rivals[node].offered })
}
