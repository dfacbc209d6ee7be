package l2

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// machine is the protocol of docs/design/l2-protocol.md on one segment: it decides for which groups this node answers. It
// has no socket and no clock: each method takes the time, which must not go backwards, and what it wants done
// is collected until take.
type machine struct {
	self     string
	boot     uint64
	handover time.Duration
	clock    clockwork
	members  *roster

	// What others want of this node.
	state         State
	linked, keyed bool
	capabilities  Capabilities

	contests map[groupKey]*contest
	order    []*contest           // all of them, by key
	pending  map[groupKey]bool    // those with a due time
	expected map[string]int       // the other candidates, and of how many groups
	peers    map[string]*claimant // what the peers that are alive claim
	own      claimSet
	room     int // claims in a message

	eligible      bool      // this node may claim
	dazed         bool      // it overslept, and has not caught up
	answeredUntil time.Time // since when it has not answered, while it is dazed
	alone         bool      // it hears nobody, and should
	company       time.Time // when somebody was heard anew last
	synced        bool      // it knows what those that it hears claim
	owned         int

	moving   []groupKey // to be offered, if another comes before this node
	offering groupKey   // the last of them that was offered
	moved    time.Time  // when

	proofs   *proofs
	stations map[[6]byte]string // nodes by the MACs that the mirror tells

	untold    map[groupKey]int // claims that changed, and how often they are still to be sent
	flushed   time.Time        // when some were sent last
	pulled    bool             // somebody asked for all of ours
	published time.Time        // when they were sent last
	sequence  uint64

	out output
}

// claimant is a peer's claims as far as they are known.
type claimant struct {
	claimSet
	boot  uint64
	since time.Time // when they began to differ from its digest; zero: they agree
	asked time.Time
	held  []groupKey // what its former process said to keep for it
	until time.Time  // for how long; zero: nothing was said
}

// output is what is to be done, in this order.
type output struct {
	moves       []move
	answerUntil time.Time // the watchdog's deadline; zero: as before
	claims      []Claim   // of this node's, for the mirror
	changes     []change
	messages    []message
}

// move is one thing to carry out.
type move struct {
	kind  moveKind
	group string
	owner string // after the move; empty: nobody
	cause Cause
	addrs []netip.Addr
	probe []netip.Addr // those of addrs that nobody is known to answer for: the segment is to be asked first
}

type moveKind uint8

const (
	start    moveKind = iota // answer from now on, and announce
	announce                 // announce again: what the segment believes may be stale
	stop                     // answer no more
	expect                   // addresses were set or replaced: know them
	forget                   // addresses are none of ours any more
)

const (
	tellTimes  = 3                     // a claim that changed is sent so often
	tellPause  = 10 * time.Millisecond // with this between
	tellAtOnce = 64                    // messages
	rankPause  = 20 * time.Millisecond // between the candidates' turns to take what is vacant
	loneListen = 3                     // times as long to listen when those expected are not heard
	syncAtMost = 5                     // intervals that one whose claims cannot be got may hold up others
	crowd      = 50                    // peers from which on the interval grows with their number

	holdTime     = 10 * time.Second // for so long after its last message others keep what a Holding node owns
	resumeWithin = time.Second      // for so long after it is Ready again
)

func newMachine(self string, boot uint64, interval, listen, handover time.Duration, random func() uint64) *machine {
	return &machine{
		self: self, boot: boot, handover: handover,
		clock:    clockwork{base: interval, interval: interval, listen: listen},
		members:  newRoster(self, boot, random),
		contests: make(map[groupKey]*contest), pending: make(map[groupKey]bool), expected: make(map[string]int),
		peers: make(map[string]*claimant), own: newClaimSet(), untold: make(map[groupKey]int),
		proofs: newProofs(), stations: make(map[[6]byte]string),
		room: claimsPerMessage(1500, self), synced: true,
	}
}

// take returns what is to be done, once.
func (m *machine) take() output {
	out := m.out
	m.out = output{}
	return out
}

// contest returns the contest of a group, and makes it if need be.
func (m *machine) contest(key groupKey) *contest {
	if c, ok := m.contests[key]; ok {
		return c
	}
	c := &contest{key: key, rivals: make(map[string]claim)}
	m.contests[key] = c
	i, _ := slices.BinarySearchFunc(m.order, key, func(c *contest, k groupKey) int { return compareKeys(c.key, k) })
	m.order = slices.Insert(m.order, i, c)
	return c
}

// set replaces what is wanted of one group. No addresses: the group is not announced here.
func (m *machine) set(now time.Time, group string, desired Desired) {
	addresses, candidates := desired.Addresses, desired.Candidates
	key := keyOf(group)
	if c, known := m.contests[key]; len(addresses) == 0 && (!known || !c.wanted) {
		return
	}
	c := m.contest(key)
	m.count(c.candidates, -1)
	m.count(candidates, +1)
	if len(addresses) == 0 {
		m.relinquish(c, "", Removed)
		m.regain(c)
		m.readdress(now, c, nil)
		c.wanted, c.candidates, c.preferred, c.needs = false, nil, nil, 0
		m.undue(c)
		m.out.moves = append(m.out.moves, move{kind: forget, group: group})
		m.settleAlone()
		return
	}
	changed := !slices.Equal(c.addresses, addresses)
	c.group, c.wanted, c.preferred, c.needs = group, true, desired.Preferred, desired.Needs
	c.candidates = slices.Sorted(slices.Values(candidates))
	if changed {
		m.readdress(now, c, addresses)
		m.out.moves = append(m.out.moves, move{kind: expect, group: group, addrs: addresses, probe: m.unproven(now, c)})
	}
	m.settleAlone()
	was := c.owned
	m.evaluate(now, c, Configured)
	if changed && was && c.owned {
		m.announce(c, Configured)
	}
}

// count keeps how many groups expect each of the other nodes.
func (m *machine) count(candidates []string, n int) {
	for _, node := range candidates {
		if node == m.self {
			continue
		}
		if m.expected[node] += n; m.expected[node] == 0 {
			delete(m.expected, node)
		}
	}
}

// stand takes what this node is told to be, and whether its link and its key let it.
func (m *machine) stand(now time.Time, state State, linked, keyed bool, cause Cause) {
	if state != m.state {
		m.state = state
		m.clock.hurry(now)
	}
	if keyed && !m.keyed {
		m.clock.listenAnew(now) // what was said before could not be understood
	}
	m.linked, m.keyed = linked, keyed
	m.settle(now, cause)
}

// equip takes what this node is able to forward by.
func (m *machine) equip(now time.Time, capabilities Capabilities) {
	if capabilities == m.capabilities {
		return
	}
	m.capabilities = capabilities
	m.clock.hurry(now)
	m.evaluateAll(now, Capability)
}

// settle keeps eligible, and decides anew when it changes.
func (m *machine) settle(now time.Time, cause Cause) {
	able := m.able(now)
	if !able && m.owned > 0 {
		for _, c := range m.order {
			m.relinquish(c, "", cause)
		}
	}
	if eligible := able && m.state == Ready && !m.dazed; eligible != m.eligible {
		m.eligible = eligible
		m.clock.hurry(now)
		m.evaluateAll(now, cause)
	}
}

// able reports whether the segment can be spoken to, and was listened on for long enough.
func (m *machine) able(now time.Time) bool {
	if !m.linked || !m.keyed {
		return false
	}
	if !m.eligible && m.owned == 0 && m.alone {
		return m.clock.listenedFor(now, loneListen*m.clock.listen)
	}
	return m.clock.listenedFor(now, m.clock.listen)
}

// hear takes a message whose signature held. An error is a rejection.
func (m *machine) hear(now time.Time, x message) error {
	if x.kind == kindChallenge && x.to == m.boot && x.node != m.self {
		m.send(message{kind: kindProof, to: x.boot, nonce: x.nonce})
	}
	m.members.late = m.dazed
	c, challenge, err := m.members.hear(now, x)
	if challenge != nil {
		m.send(*challenge)
	}
	if err != nil {
		return err
	}
	p := m.claimant(now, x)
	m.heldFor(now, p, x)
	switch x.kind {
	case kindClaims:
		m.said(now, x.node, p, x.claims)
	case kindPull:
		m.pulled = m.pulled || x.to == m.boot
	case kindHello, kindChallenge, kindProof:
	}
	switch {
	case p.digest == x.digest && !p.since.IsZero():
		p.since = time.Time{}
		m.regainFrom(x.node)
	case p.digest != x.digest && p.since.IsZero():
		p.since = now
	}
	if p.digest != x.digest && now.Sub(p.asked) >= m.clock.interval {
		p.asked = now
		m.send(message{kind: kindPull, to: x.boot})
	}
	if c != nil {
		m.changed(now, *c)
	}
	m.settleSynced(now)
	return nil
}

// claimant returns what the sender claims, nothing if it is another process than before.
func (m *machine) claimant(now time.Time, x message) *claimant {
	p, known := m.peers[x.node]
	if known && p.boot == x.boot {
		return p
	}
	next := &claimant{claimSet: newClaimSet(), boot: x.boot}
	switch {
	case !known:
	case now.Before(p.until):
		next.until, next.held = p.until, m.hold(x.node, p)
	default:
		m.disregard(now, x.node, PeerLeft)
	}
	m.peers[x.node] = next
	return next
}

// said takes some of a peer's claims.
func (m *machine) said(now time.Time, node string, p *claimant, some claims) {
	for _, key := range p.take(some) {
		c := m.contest(key)
		claim, claims := p.claims[key]
		_, was := c.rivals[node]
		m.vouch(now, c, node, claim, claims)
		if claims {
			c.rivals[node] = claim
			c.learn(claim.term)
		} else {
			delete(c.rivals, node)
		}
		m.evaluate(now, c, HandedOver)
		if c.owned && was != claims {
			m.announce(c, HandedOver) // some of the segment may believe the other
		}
		m.prune(c)
	}
	for _, e := range some.entries {
		// Who gives up what we own answered for it, even if we did not hear of its claim: in a partition, say.
		if c := m.contests[e.group]; e.removed && c != nil && c.owned {
			m.announce(c, HandedOver)
		}
	}
}

// disregard voids all claims of a peer.
func (m *machine) disregard(now time.Time, node string, cause Cause) {
	p := m.peers[node]
	if p == nil {
		return
	}
	delete(m.peers, node)
	m.void(now, node, slices.SortedFunc(maps.Keys(p.claims), compareKeys), cause)
	m.release(now, node, p, cause)
}

// void forgets a peer's claims of these groups.
func (m *machine) void(now time.Time, node string, groups []groupKey, cause Cause) {
	for _, key := range groups {
		c := m.contests[key]
		if x := c.rivals[node]; !x.relayed {
			c.voided = max(c.voided, x.term)
		}
		m.vouch(now, c, node, claim{}, false)
		delete(c.rivals, node)
		m.evaluate(now, c, cause)
		m.prune(c)
	}
}

// prune forgets a contest that nobody takes part in.
func (m *machine) prune(c *contest) {
	if c.wanted || len(c.rivals) > 0 || c.mirror.Node != "" {
		return
	}
	if i, found := slices.BinarySearchFunc(m.order, c.key, func(c *contest, k groupKey) int { return compareKeys(c.key, k) }); found {
		m.order = slices.Delete(m.order, i, i+1)
	}
	delete(m.contests, c.key)
}

// changed takes a peer's step.
func (m *machine) changed(now time.Time, c change) {
	m.out.changes = append(m.out.changes, c)
	if c.alive {
		m.company = now
		m.regainFrom(c.peer)
	} else {
		m.disregard(now, c.peer, c.cause)
	}
	m.settleAlone()
	m.settleSynced(now)
	m.evaluateAll(now, c.cause)
}

// settleAlone keeps whether this node is alone where it should not be. Its claims are unwitnessed then.
func (m *machine) settleAlone() {
	alone := len(m.expected) > 0 && m.members.alive() == 0
	if alone == m.alone {
		return
	}
	m.alone = alone
	if alone {
		m.doubt()
	}
}

// doubt takes all claims of this node's for unwitnessed, until it is acquainted again: others may have claimed the same
// without its hearing it.
func (m *machine) doubt() {
	for _, c := range m.order {
		if c.owned && c.mine.witnessed {
			c.mine.witnessed = false
			m.tell(c)
		}
	}
}

// settleSynced keeps whether the claims of those alive are known, and decides anew when they are. One whose claims
// cannot be got holds up nothing for long.
func (m *machine) settleSynced(now time.Time) {
	synced := true
	for _, p := range m.peers {
		synced = synced && (p.since.IsZero() || now.Sub(p.since) > syncAtMost*m.clock.interval)
	}
	if synced == m.synced {
		return
	}
	m.synced = synced
	if synced {
		m.evaluateAll(now, Joined)
	}
}

// mirrored takes what the second channel says of a group.
func (m *machine) mirrored(now time.Time, said Claim) {
	key := keyOf(said.Group)
	if said.Node == "" && m.contests[key] == nil {
		return
	}
	c := m.contest(key)
	if was := c.mirror.Node; was != "" && was != m.self && was != said.Node {
		c.former, c.formerly = was, now
	}
	c.mirror = said
	c.learn(said.Term)
	m.place(said)
	switch {
	case !c.lost.relayed:
	case said.Node != "" && said.Node != m.self && !m.knows(said.Node) && said.Term >= c.lost.term:
		m.lose(c) // its side moved it, or witnesses it
	default:
		m.regain(c)
	}
	m.evaluate(now, c, PeerSilent)
	if c.owned && c.mirror.Node != m.self && c.mirror.Term < c.mine.term {
		m.tellMirror(c) // another's withdrawal, or older claim, came over ours
	}
	m.prune(c)
}

// mirrorLost has this node trust no more that those live of whom only the mirror told.
func (m *machine) mirrorLost(now time.Time) {
	for _, c := range m.order {
		if !m.knows(c.mirror.Node) {
			m.regain(c)
			c.mirror, c.disputes = Claim{}, ""
		}
	}
	m.evaluateAll(now, PeerSilent)
}
