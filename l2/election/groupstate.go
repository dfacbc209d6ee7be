package election

import (
	"net/netip"
	"slices"
	"time"
)

// contest is one group on one segment: who claims it, and what this node makes of that.
type groupState struct {
	key        groupKey
	name       string
	wanted     bool // this node knows the group
	addresses  []netip.Addr
	knownSince []time.Time // since when, for each of addresses
	candidates []string
	needs      Capabilities
	preferred  map[string]int32

	owned        bool // this node claims it, and answers for it
	mine         claim
	claimedAt    time.Time // when, or when last claimed anew
	offeredSince time.Time // since when this node offers it; zero: not

	rivals            map[string]claim // claims of peers, dead ones left out
	vouchedUntil      time.Time        // until when a peer that claims it no more answered for all of it; zero: nobody, or for some only
	highestTerm       uint64           // the highest term known
	highestSilentTerm uint64           // the highest term of those that fell silent, as we saw: to relay it is no news
	mirror            Claim            // what the second channel says
	formerNode        string           // another node of which it told before
	formerUntil       time.Time        // until when
	disputed          string           // the silent node of whose claim the mirror told, and against which we claimed anew
	relayed           claim            // of a silent node that has shown by the mirror that it lives; relayed; zero: none
	due               time.Time        // when to claim what is vacant, or to give up what this node cannot serve; zero: not
	cause             Cause            // of the vacancy
}

// standing is a claim with its claimant, to be compared.
type nodeClaim struct {
	claim
	node string
}

// beats tells whether a claim comes before another: witnessed, then the higher term, then the heavier node.
func (c *groupState) beats(a, b nodeClaim) bool {
	switch {
	case a.witnessed != b.witnessed:
		return a.witnessed
	case a.term != b.term:
		return a.term > b.term
	}
	return RanksBefore(c.name, nil, a.node, b.node)
}

// candidate reports whether the node may own the group.
func (c *groupState) isCandidate(node string) bool {
	_, found := slices.BinarySearch(c.candidates, node)
	return found
}

// learn keeps the highest term.
func (c *groupState) learnTerm(term uint64) { c.highestTerm = max(c.highestTerm, term) }

// best returns the best of the rivals' claims that count. A claim that is relayed does if it is above our own, which it
// may be otherwise.
func (c *groupState) best(counts func(string, claim) bool) (best nodeClaim, found bool) {
	for node, claim := range c.rivals {
		if !counts(node, claim) || claim.relayed && claim.term <= max(c.mine.term, c.highestSilentTerm) {
			continue
		}
		if s := (nodeClaim{claim, node}); !found || c.beats(s, best) {
			best, found = s, true
		}
	}
	return best, found
}

// contested reports whether a peer's claim, though it may not count, is of no lower term than ours.
func (c *groupState) contested() bool {
	for _, claim := range c.rivals {
		if !claim.relayed && claim.term >= c.mine.term {
			return true
		}
	}
	return false
}

// vacant reports whether nobody owns the group who is to be respected: a peer, or one of whom only the mirror tells,
// unless that one hears nobody and we do: then our side serves more.
func (c *groupState) vacant(counts func(string, claim) bool, alone bool) bool {
	respected := func(x claim) bool { return !x.relayed || x.term > c.highestSilentTerm && (x.witnessed || alone) }
	if c.relayed.relayed && respected(c.relayed) {
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
func (c *groupState) rank(self string, able func(string) bool) int {
	n := 0
	for _, node := range c.candidates {
		if node != self && able(node) && !c.rivals[node].offered && RanksBefore(c.name, c.preferred, node, self) {
			n++
		}
	}
	return n
}

// takers reports whether anybody else may take the group.
func (c *groupState) hasTakers(self string, able func(string) bool) bool {
	return slices.ContainsFunc(c.candidates, func(node string) bool { return node != self && able(node) && !c.rivals[node].offered })
}
