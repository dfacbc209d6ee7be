package election

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"
)

// Desired is the desired state of one address. The zero value: it is not announced.
type Desired struct {
	// Announced is true while some node is to answer for the address. If it is false, the other
	// fields do not matter.
	Announced bool
	// Interfaces are names, or patterns as in path.Match. "" stands for the interfaces that hold a
	// node address. None: only those.
	Interfaces []string
	// Candidates are the nodes that may own the address. This node is included only if it may.
	Candidates []string
	// Preferred gives candidates a weight. Of the nodes that are free to take the address, the one
	// with the highest weight comes first. Nodes that are not in it have weight 0.
	Preferred map[string]int32
	// Rank is what candidates of the same weight are ranked by: addresses with the same Rank and
	// the same candidates go to the same node when they become vacant together. "": the address.
	Rank string
	// Needs are the capabilities that a node must have to own the address: this node according to
	// SetCapabilities, others according to their messages.
	Needs Capabilities
	// Exempt nodes need none; ascending.
	Exempt []string
}

// Equal reports whether both say the same. Lists of nodes are mostly the same memory: those are not
// read.
func (d Desired) Equal(o Desired) bool {
	return d.Announced == o.Announced && d.Rank == o.Rank && d.Needs == o.Needs &&
		equal(d.Interfaces, o.Interfaces) && equal(d.Candidates, o.Candidates) && equal(d.Exempt, o.Exempt) &&
		(reflect.ValueOf(d.Preferred).Pointer() == reflect.ValueOf(o.Preferred).Pointer() ||
			maps.Equal(d.Preferred, o.Preferred))
}

func equal(a, b []string) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}

// Suits reports whether a node with these capabilities may own the address.
func (d Desired) Suits(node string, capabilities Capabilities) bool {
	return slices.Contains(d.Candidates, node) && (capabilities.Has(d.Needs) || isIn(d.Exempt, node))
}

// isIn reports whether a list that is ascending has the node.
func isIn(nodes []string, node string) bool {
	_, found := slices.BinarySearch(nodes, node)
	return found
}

// sorted returns the nodes in order: the same list if it is already.
func sorted(nodes []string) []string {
	if slices.IsSorted(nodes) {
		return nodes
	}
	return slices.Sorted(slices.Values(nodes))
}

// addressState is one address on one segment: its desired state, who claims it, and what this node
// makes of that.
type addressState struct {
	key        addressKey
	addr       netip.Addr
	text       string // of addr
	wanted     bool   // the address has a desired state here
	candidates []string
	needs      Capabilities
	exempt     []string // of the candidates, those that need none
	preferred  map[string]int32
	ranked     string // what candidates are ranked by

	owned        bool // this node claims the address
	mine         claim
	claimedAt    time.Time // when it was last claimed
	offeredSince time.Time // since when it is offered for a rebalancing; zero: it is not

	rivals            map[string]claim // claims of live peers, by node
	vouchedUntil      time.Time        // until when a former claimant answered for it; zero: none did
	highestTerm       uint64           // of all claims ever heard
	highestSilentTerm uint64           // of peers that this node saw fall silent: a relayed claim up to it is stale
	mirror            Claim            // the mirrored claim
	formerNode        string           // whose claim the mirror had before
	formerUntil       time.Time        // until then
	disputed          string           // the silent node against whose mirrored claim this node claimed again
	relayed           claim            // of a silent node that is alive according to the mirror; zero: none
	bid               bid              // on a mute segment; zero: there is none
	patience          time.Duration    // in an outage, before it is claimed; 0: not chosen yet
	due               time.Time        // when to claim it, or to give up what this node cannot serve; zero: never
	cause             Cause            // of the vacancy
	vacantSince       time.Time        // since when this node waits for its turn
}

// A bid is how an address is claimed on a mute segment. There the mirror is all that nodes know of
// each other, and it has one claim for each address: the first of several bids for a vacant
// address gets there. An owner that the mirror shows, and that lives, claims above the bid.
type bid struct {
	term  uint64    // of the claim in the mirror; 0: there is no bid
	until time.Time // when the claim stands, whatever the mirror shows by then
	owner string    // whom the mirror showed before, and who may claim above it; "": nobody
}

// nodeClaim is a claim with its claimant.
type nodeClaim struct {
	claim
	node string
}

// beats reports whether claim a is better than b: witnessed, then the higher term, then the node
// that ranks before.
func (c *addressState) beats(a, b nodeClaim) bool {
	switch {
	case a.witnessed != b.witnessed:
		return a.witnessed
	case a.term != b.term:
		return a.term > b.term
	}
	return RanksBefore(c.text, nil, a.node, b.node)
}

// isCandidate reports whether the node may own the address.
func (c *addressState) isCandidate(node string) bool {
	return isIn(c.candidates, node)
}

// canWith reports whether a node with these capabilities can own the address, if it may.
func (c *addressState) canWith(node string, capabilities Capabilities) bool {
	return capabilities.Has(c.needs) || isIn(c.exempt, node)
}

// learnTerm keeps the highest term.
func (c *addressState) learnTerm(term uint64) { c.highestTerm = max(c.highestTerm, term) }

// best returns the best of the rivals' claims that count. A relayed claim counts if it is above
// ours, which it may refer to otherwise.
func (c *addressState) best(counts func(string, claim) bool) (best nodeClaim, found bool) {
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

// contested reports whether the term of a peer's claim, which may not count, is not below ours.
func (c *addressState) contested() bool {
	for _, claim := range c.rivals {
		if !claim.relayed && claim.term >= c.mine.term {
			return true
		}
	}
	return false
}

// vacant reports whether no claim has to be respected. The claim of a node that only the mirror
// shows has to be, unless that node hears nobody and this one has for a while: then this side
// serves more.
func (c *addressState) vacant(counts func(string, claim) bool, alone bool) bool {
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

// rank returns the node's place among the candidates that are able to take the address and do not
// offer it.
func (c *addressState) rank(self string, able, before func(string) bool) int {
	n := 0
	for _, node := range c.candidates {
		if node != self && able(node) && !c.rivals[node].offered && before(node) {
			n++
		}
	}
	return n
}

// isOffered reports whether a peer that is alive offers the address, and so still answers.
func (c *addressState) isOffered(isAlive func(string) bool) bool {
	for node, claim := range c.rivals {
		if claim.offered && isAlive(node) {
			return true
		}
	}
	return false
}

// hasTakers reports whether another node may take the address.
func (c *addressState) hasTakers(self string, able func(string) bool) bool {
	return slices.ContainsFunc(c.candidates, func(node string) bool {
		return node != self && able(node) && !c.rivals[node].offered
	})
}
