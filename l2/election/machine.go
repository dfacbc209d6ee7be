package election

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// machine is the protocol of docs/design/l2-protocol.md on one segment: it decides for which groups this node answers. It
// has no socket and no clock: each method takes the time, which must not go backwards, and what it wants done
// is collected until take.
type Machine struct {
	self     string
	boot     uint64
	handover time.Duration
	pacer    pacer
	peers    *peerTable

	// What others want of this node.
	state         State
	linked, keyed bool
	capabilities  Capabilities

	groups         map[groupKey]*groupState
	ordered        []*groupState          // all of them, by key
	pending        map[groupKey]bool      // those with a due time
	expected       map[string]int         // the other candidates, and of how many groups
	claims         map[string]*peerClaims // what the peers that are alive claim
	own            claimSet
	claimsPerFrame int // claims in a message

	eligible      bool      // this node may claim
	catchingUp    bool      // it overslept, and has not caught up
	answeredUntil time.Time // since when it has not answered, while it is dazed
	isolated      bool      // it hears nobody, and should
	lastPeerJoin  time.Time // when somebody was heard anew last
	synced        bool      // it knows what those that it hears claim
	owned         int

	toOffer   []groupKey // to be offered, if another comes before this node
	offered   groupKey   // the last of them that was offered
	lastOffer time.Time  // when

	proofs    *proofs
	nodeByMAC map[[6]byte]string // nodes by the MACs that the mirror tells

	untold        map[groupKey]int // claims that changed, and how often they are still to be sent
	lastFlush     time.Time        // when some were sent last
	pullRequested bool             // somebody asked for all of ours
	lastPull      time.Time        // when they were sent last
	sequence      uint64

	out Output
}

// claimant is a peer's claims as far as they are known.
type peerClaims struct {
	claimSet
	boot         uint64
	differsSince time.Time // when they began to differ from its digest; zero: they agree
	lastPull     time.Time
	held         []groupKey // what its former process said to keep for it
	holdUntil    time.Time  // for how long; zero: nothing was said
}

// output is what is to be done, in this order.
type Output struct {
	Actions     []Action
	AnswerUntil time.Time // the watchdog's deadline; zero: as before
	Claims      []Claim   // of this node's, for the mirror
	Changes     []PeerChange
	Messages    []Message
}

// move is one thing to carry out.
type Action struct {
	Kind      ActionKind
	Group     string
	Owner     string // after the move; empty: nobody
	Cause     Cause
	Addresses []netip.Addr
	Probe     []netip.Addr // those of addrs that nobody is known to answer for: the segment is to be asked first
}

type ActionKind uint8

const (
	ActionStart    ActionKind = iota // answer from now on, and announce
	ActionAnnounce                   // announce again: what the segment believes may be stale
	ActionStop                       // answer no more
	ActionExpect                     // addresses were set or replaced: know them
	ActionForget                     // addresses are none of ours any more
)

const (
	claimRepeats   = 3                     // a claim that changed is sent so often
	claimPause     = 10 * time.Millisecond // with this between
	maxClaimFrames = 64                    // messages
	rankDelay      = 20 * time.Millisecond // between the candidates' turns to take what is vacant
	loneListen     = 3                     // times as long to listen when those expected are not heard
	maxSyncWait    = 5                     // intervals that one whose claims cannot be got may hold up others
	crowd          = 50                    // peers from which on the interval grows with their number

	holdTime     = 10 * time.Second // for so long after its last message others keep what a Holding node owns
	resumeWithin = time.Second      // for so long after it is Ready again
)

// Options say which node a machine is for, and how patient it is.
type Options struct {
	Node     string        // at most MaxNodeName bytes
	Boot     uint64        // random for each process, not 0
	Interval time.Duration // between hellos
	Listen   time.Duration // on a segment before anything is claimed
	Handover time.Duration // the longest time to own a group that another node is to take
	Random   func() uint64 // unforeseeable numbers, never 0
}

// newMachine returns the machine of a node that is Starting, on a segment that is not open.
func NewMachine(o Options) *Machine {
	return &Machine{
		self: o.Node, boot: o.Boot, handover: o.Handover,
		pacer:  pacer{base: o.Interval, interval: o.Interval, listen: o.Listen},
		peers:  newPeerTable(o.Node, o.Boot, o.Random),
		groups: make(map[groupKey]*groupState), pending: make(map[groupKey]bool), expected: make(map[string]int),
		claims: make(map[string]*peerClaims), own: newClaimSet(), untold: make(map[groupKey]int),
		proofs: newProofs(), nodeByMAC: make(map[[6]byte]string),
		claimsPerFrame: claimsPerMessage(1500, o.Node), synced: true,
	}
}

// Open takes that the interface can be spoken to from now on, in frames of up to so many bytes.
func (m *Machine) Open(now time.Time, mtu int) {
	m.pacer.opened(now)
	m.claimsPerFrame = claimsPerMessage(mtu, m.self)
	m.pacer.hurry(now)
}

// Close takes that it cannot any more.
func (m *Machine) Close(now time.Time) { m.pacer.closed(now) }

// Due reports whether it is time for a tick.
func (m *Machine) Due(now time.Time) bool { return m.pacer.due(now) }

// SilentAfter is how long this node may be silent before its peers count it as dead.
func (m *Machine) SilentAfter() time.Duration { return silence * m.pacer.interval }

// CatchingUp reports whether this node overslept, and does not know yet what its peers claim by now.
func (m *Machine) CatchingUp() bool { return m.catchingUp }

// Summary is a machine's part of a segment's status.
type Summary struct {
	Claiming bool   // this node may own groups
	Peers    []Peer // those alive, by name
	Owned    int    // groups that this node owns
}

// Summary returns the state of things.
func (m *Machine) Summary(now time.Time) Summary {
	return Summary{Claiming: m.eligible, Peers: m.peers.list(now), Owned: m.owned}
}

// take returns what is to be done, once.
func (m *Machine) Take() Output {
	out := m.out
	m.out = Output{}
	return out
}

// contest returns the contest of a group, and makes it if need be.
func (m *Machine) group(key groupKey) *groupState {
	if c, ok := m.groups[key]; ok {
		return c
	}
	c := &groupState{key: key, rivals: make(map[string]claim)}
	m.groups[key] = c
	i, _ := slices.BinarySearchFunc(m.ordered, key, func(c *groupState, k groupKey) int { return compareKeys(c.key, k) })
	m.ordered = slices.Insert(m.ordered, i, c)
	return c
}

// set replaces what is wanted of one group. No addresses: the group is not announced here.
func (m *Machine) SetGroup(now time.Time, group string, desired Desired) {
	addresses, candidates := desired.Addresses, desired.Candidates
	key := keyOf(group)
	if c, known := m.groups[key]; len(addresses) == 0 && (!known || !c.wanted) {
		return
	}
	c := m.group(key)
	m.countCandidates(c.candidates, -1)
	m.countCandidates(candidates, +1)
	if len(addresses) == 0 {
		m.relinquish(c, "", Removed)
		m.dropRelay(c)
		m.setAddresses(now, c, nil)
		c.wanted, c.candidates, c.preferred, c.needs = false, nil, nil, 0
		m.cancelDue(c)
		m.out.Actions = append(m.out.Actions, Action{Kind: ActionForget, Group: group})
		m.updateIsolated()
		return
	}
	changed := !slices.Equal(c.addresses, addresses)
	c.name, c.wanted, c.preferred, c.needs = group, true, desired.Preferred, desired.Needs
	c.candidates = slices.Sorted(slices.Values(candidates))
	if changed {
		m.setAddresses(now, c, addresses)
		m.out.Actions = append(m.out.Actions, Action{Kind: ActionExpect, Group: group, Addresses: addresses, Probe: m.unproven(now, c)})
	}
	m.updateIsolated()
	was := c.owned
	m.evaluate(now, c, Configured)
	if changed && was && c.owned {
		m.announce(c, Configured)
	}
}

// count keeps how many groups expect each of the other nodes.
func (m *Machine) countCandidates(candidates []string, n int) {
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
func (m *Machine) SetState(now time.Time, state State, linked, keyed bool, cause Cause) {
	if state != m.state {
		m.state = state
		m.pacer.hurry(now)
	}
	if keyed && !m.keyed {
		m.pacer.restartListening(now) // what was said before could not be understood
	}
	m.linked, m.keyed = linked, keyed
	m.updateEligible(now, cause)
}

// equip takes what this node is able to forward by.
func (m *Machine) SetCapabilities(now time.Time, capabilities Capabilities) {
	if capabilities == m.capabilities {
		return
	}
	m.capabilities = capabilities
	m.pacer.hurry(now)
	m.evaluateAll(now, Capability)
}

// settle keeps eligible, and decides anew when it changes.
func (m *Machine) updateEligible(now time.Time, cause Cause) {
	able := m.mayOwn(now)
	if !able && m.owned > 0 {
		for _, c := range m.ordered {
			m.relinquish(c, "", cause)
		}
	}
	if eligible := able && m.state == Ready && !m.catchingUp; eligible != m.eligible {
		m.eligible = eligible
		m.pacer.hurry(now)
		m.evaluateAll(now, cause)
	}
}

// able reports whether the segment can be spoken to, and was listened on for long enough.
func (m *Machine) mayOwn(now time.Time) bool {
	if !m.linked || !m.keyed {
		return false
	}
	if !m.eligible && m.owned == 0 && m.isolated {
		return m.pacer.listenedFor(now, loneListen*m.pacer.listen)
	}
	return m.pacer.listenedFor(now, m.pacer.listen)
}

// hear takes a message whose signature held. An error is a rejection.
func (m *Machine) Hear(now time.Time, x Message) error {
	if x.kind == kindChallenge && x.to == m.boot && x.Node != m.self {
		m.send(Message{kind: kindProof, to: x.Boot, nonce: x.nonce})
	}
	m.peers.late = m.catchingUp
	c, challenge, err := m.peers.hear(now, x)
	if challenge != nil {
		m.send(*challenge)
	}
	if err != nil {
		return err
	}
	p := m.claimsOf(now, x)
	m.updateHold(now, p, x)
	switch x.kind {
	case kindClaims:
		m.applyClaims(now, x.Node, p, x.claims)
	case kindPull:
		m.pullRequested = m.pullRequested || x.to == m.boot
	case kindHello, kindChallenge, kindProof:
	}
	switch {
	case p.digest == x.digest && !p.differsSince.IsZero():
		p.differsSince = time.Time{}
		m.dropRelaysOf(x.Node)
	case p.digest != x.digest && p.differsSince.IsZero():
		p.differsSince = now
	}
	if p.digest != x.digest && now.Sub(p.lastPull) >= m.pacer.interval {
		p.lastPull = now
		m.send(Message{kind: kindPull, to: x.Boot})
	}
	if c != nil {
		m.applyChange(now, *c)
	}
	m.updateSynced(now)
	return nil
}

// claimant returns what the sender claims, nothing if it is another process than before.
func (m *Machine) claimsOf(now time.Time, x Message) *peerClaims {
	p, known := m.claims[x.Node]
	if known && p.boot == x.Boot {
		return p
	}
	next := &peerClaims{claimSet: newClaimSet(), boot: x.Boot}
	switch {
	case !known:
	case now.Before(p.holdUntil):
		next.holdUntil, next.held = p.holdUntil, m.hold(x.Node, p)
	default:
		m.dropPeer(now, x.Node, PeerLeft)
	}
	m.claims[x.Node] = next
	return next
}

// said takes some of a peer's claims.
func (m *Machine) applyClaims(now time.Time, node string, p *peerClaims, some claimList) {
	for _, key := range p.apply(some) {
		c := m.group(key)
		claim, claims := p.claims[key]
		_, was := c.rivals[node]
		m.endVouch(now, c, node, claim, claims)
		if claims {
			c.rivals[node] = claim
			c.learnTerm(claim.term)
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
		if c := m.groups[e.group]; e.removed && c != nil && c.owned {
			m.announce(c, HandedOver)
		}
	}
}

// disregard voids all claims of a peer.
func (m *Machine) dropPeer(now time.Time, node string, cause Cause) {
	p := m.claims[node]
	if p == nil {
		return
	}
	delete(m.claims, node)
	m.dropClaims(now, node, slices.SortedFunc(maps.Keys(p.claims), compareKeys), cause)
	m.release(now, node, p, cause)
}

// void forgets a peer's claims of these groups.
func (m *Machine) dropClaims(now time.Time, node string, groups []groupKey, cause Cause) {
	for _, key := range groups {
		c := m.groups[key]
		if x := c.rivals[node]; !x.relayed {
			c.highestSilentTerm = max(c.highestSilentTerm, x.term)
		}
		m.endVouch(now, c, node, claim{}, false)
		delete(c.rivals, node)
		m.evaluate(now, c, cause)
		m.prune(c)
	}
}

// prune forgets a contest that nobody takes part in.
func (m *Machine) prune(c *groupState) {
	if c.wanted || len(c.rivals) > 0 || c.mirror.Node != "" {
		return
	}
	if i, found := slices.BinarySearchFunc(m.ordered, c.key, func(c *groupState, k groupKey) int { return compareKeys(c.key, k) }); found {
		m.ordered = slices.Delete(m.ordered, i, i+1)
	}
	delete(m.groups, c.key)
}

// changed takes a peer's step.
func (m *Machine) applyChange(now time.Time, c PeerChange) {
	m.out.Changes = append(m.out.Changes, c)
	if c.Alive {
		m.lastPeerJoin = now
		m.dropRelaysOf(c.Node)
	} else {
		m.dropPeer(now, c.Node, c.Cause)
	}
	m.updateIsolated()
	m.updateSynced(now)
	m.evaluateAll(now, c.Cause)
}

// settleAlone keeps whether this node is alone where it should not be. Its claims are unwitnessed then.
func (m *Machine) updateIsolated() {
	alone := len(m.expected) > 0 && m.peers.countAlive() == 0
	if alone == m.isolated {
		return
	}
	m.isolated = alone
	if alone {
		m.clearWitnessed()
	}
}

// doubt takes all claims of this node's for unwitnessed, until it is acquainted again: others may have claimed the same
// without its hearing it.
func (m *Machine) clearWitnessed() {
	for _, c := range m.ordered {
		if c.owned && c.mine.witnessed {
			c.mine.witnessed = false
			m.publish(c)
		}
	}
}

// settleSynced keeps whether the claims of those alive are known, and decides anew when they are. One whose claims
// cannot be got holds up nothing for long.
func (m *Machine) updateSynced(now time.Time) {
	synced := true
	for _, p := range m.claims {
		synced = synced && (p.differsSince.IsZero() || now.Sub(p.differsSince) > maxSyncWait*m.pacer.interval)
	}
	if synced == m.synced {
		return
	}
	m.synced = synced
	if synced {
		m.evaluateAll(now, Joined)
	}
}
