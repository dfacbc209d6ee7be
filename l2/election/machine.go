package election

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
	"unsafe"
)

// Machine is the protocol of docs/design/l2-protocol.md on one segment: it decides for which
// addresses this node answers. Each method that takes the time needs one that is not before the
// last. What the machine wants done is collected until Take.
type Machine struct {
	self     string
	boot     uint64
	handover time.Duration
	pacer    pacer
	random   func() uint64
	peers    *peerTable

	// What the caller says about this node.
	state         State
	linked, keyed bool
	capabilities  Capabilities
	freshness     freshness

	addresses      map[addressKey]*addressState
	ordered        []*addressState        // all of them, by key
	pending        map[addressKey]bool    // the addresses with a due time
	shared         int                    // addresses that have another candidate
	sorted         []string               // the last list of candidates, which is in order
	claims         map[string]*peerClaims // what the peers that are alive claim, by node
	own            claimSet
	claimsPerFrame int // how many claims fit into a message

	eligible      bool      // this node may claim addresses
	catchingUp    bool      // the loop ran too late, and this node does not know yet what its peers claim
	answeredUntil time.Time // while catchingUp: when this node stopped answering
	isolated      bool      // other candidates are expected, and none is heard
	outage        outage
	lastPeerJoin  time.Time // when a peer was last heard for the first time, or again
	gathering     bool      // that was a moment ago
	synced        bool      // the claims of all peers that are heard are known
	owned         int       // how many addresses this node owns

	toOffer   []addressKey // addresses to be offered to a node that ranks before this one
	offered   addressKey   // the last of them that was offered
	lastOffer time.Time    // when that was

	neighbors map[string]bool // nodes with an address in a subnet of the segment; nil: not known
	proofs    *proofs
	nodeByMAC map[[6]byte]string // by what the mirror says

	untold        map[addressKey]int // claims that changed, and how often each is still to be sent
	lastFlush     time.Time          // when some of them were last sent
	pullRequested bool               // a peer asked for all claims of this node
	lastPull      time.Time          // when they were last sent
	sequence      uint64
	echoes        map[uint64]uint64 // the last sequence that an echo answered, by its sender's boot

	out Output
}

// peerClaims are a peer's claims as far as they are known.
type peerClaims struct {
	claimSet
	boot         uint64
	differsSince time.Time // when they began to differ from the peer's digest; zero: they agree
	lastPull     time.Time
	stale, fresh bool         // its desired state, when it was last heard
	held         []addressKey // what its former process asked to keep for it
	holdUntil    time.Time    // zero: nothing is held
}

// Output is what is to be done, in the order of its fields.
type Output struct {
	Actions     []Action
	AnswerUntil time.Time // the watchdog's new deadline; zero: no change
	Claims      []Claim   // of this node, for the mirror
	Changes     []PeerChange
	Overdue     []string // peers that may be about to count as dead
	Messages    []Message
}

// Action is one thing to do for an address.
type Action struct {
	Kind    ActionKind
	Address netip.Addr
	Owner   string // after the action; empty: none
	Cause   Cause
	Probe   bool // with ActionStart: nobody is known to answer for it, so probe it before answering
	// Since, with ActionStart, is when the address became vacant: when another node was last known to
	// answer for it or, if none is, when this node found that nobody does. The current time: another
	// node answers for it until this one does.
	Since time.Time
}

// ActionKind is what an Action does.
type ActionKind uint8

// The kinds of actions.
const (
	ActionStart    ActionKind = iota // answer from now on, and announce
	ActionAnnounce                   // announce again: hosts may have stale entries
	ActionStop                       // stop answering
	ActionExpect                     // the address is wanted here from now on
	ActionForget                     // the address is not wanted here any more
)

const (
	claimRepeats   = 3                     // how often a claim that changed is sent
	claimPause     = 10 * time.Millisecond // between these times
	maxClaimFrames = 64                    // claim messages at a time
	echoWindow     = 16                    // so many messages later an echo is too old
	maxEchoes      = 256                   // machines of this process whose echoes are remembered
	rankDelay      = 20 * time.Millisecond // between the turns of the candidates for a vacant address
	offerDelay     = 5 * rankDelay         // the same for an address that its owner offers
	loneListen     = 3                     // how many times longer to listen while expected peers are not heard
	maxSyncWait    = 5                     // intervals for which a peer whose claims cannot be had delays others
	crowd          = 50                    // the number of peers above which the interval grows

	holdTime     = 10 * time.Second // for how long after the last message of a Holding node its addresses are kept
	resumeWithin = time.Second      // for how long after it is Ready again
)

// Options say which node a machine is for, and how patient it is.
type Options struct {
	Node     string        // at most MaxNodeName bytes
	Boot     uint64        // random for each machine, not 0
	Interval time.Duration // between hellos
	Listen   time.Duration // on a segment before anything is claimed
	Handover time.Duration // the longest time to own an address that another node is to take

	Times
	Random func() uint64 // unforeseeable numbers, never 0
}

// NewMachine returns the machine of a node that is Starting, on a segment that is not open.
func NewMachine(o Options) *Machine {
	f := freshness{Times: o.Times}
	f.age = f.undecided()
	return &Machine{
		self:           o.Node,
		boot:           o.Boot,
		handover:       o.Handover,
		freshness:      f,
		pacer:          pacer{base: o.Interval, interval: o.Interval, listen: o.Listen},
		random:         o.Random,
		peers:          newPeerTable(o.Node, o.Boot, o.Random),
		addresses:      make(map[addressKey]*addressState),
		pending:        make(map[addressKey]bool),
		claims:         make(map[string]*peerClaims),
		own:            newClaimSet(),
		claimsPerFrame: claimsPerMessage(MaxMessage, o.Node),
		synced:         true,
		proofs:         newProofs(),
		nodeByMAC:      make(map[[6]byte]string),
		untold:         make(map[addressKey]int),
		echoes:         make(map[uint64]uint64),
	}
}

// Summary is a machine's part of a segment's status.
type Summary struct {
	Claiming bool     // this node may own addresses
	Peers    []Peer   // alive, by name
	Owned    int      // how many addresses this node owns
	Unheard  []string // nodes that own addresses here by the mirror, on a mute segment, by name
}

// Open says that messages can be sent and received from now on, in frames with up to mtu bytes of
// payload.
func (m *Machine) Open(now time.Time, mtu int) {
	m.pacer.opened(now)
	m.SetMTU(mtu)
	m.pacer.hurry(now)
}

// SetMTU says that frames carry up to mtu bytes of payload from now on. Only an MTU below
// MaxMessage makes a difference.
func (m *Machine) SetMTU(mtu int) { m.claimsPerFrame = claimsPerMessage(mtu, m.self) }

// Close says that they no longer can.
func (m *Machine) Close(now time.Time) { m.pacer.closed(now) }

// Due reports whether it is time for a tick.
func (m *Machine) Due(now time.Time) bool { return m.pacer.due(now) }

// SilentAfter returns how long this node may be silent before its peers count it as dead.
func (m *Machine) SilentAfter() time.Duration { return silence * m.pacer.interval }

// CatchingUp reports whether the loop ran too late, and this node does not know yet what its peers
// claim.
func (m *Machine) CatchingUp() bool { return m.catchingUp }

// Summary returns the machine's part of the status.
func (m *Machine) Summary(now time.Time) Summary {
	return Summary{Claiming: m.eligible, Peers: m.peers.list(now), Owned: m.owned, Unheard: m.unheard()}
}

// Take returns what is to be done, once.
func (m *Machine) Take() Output {
	out := m.out
	m.out = Output{}
	return out
}

// SetDesired replaces the desired state of one address.
func (m *Machine) SetDesired(now time.Time, addr netip.Addr, desired Desired) {
	key := keyOf(addr)
	if c, known := m.addresses[key]; !desired.Announced && (!known || !c.wanted) {
		return
	}
	c := m.stateOf(key)
	m.countShared(c.candidates, -1)
	if !desired.Announced {
		m.relinquish(c, "", Removed)
		m.endBid(c)
		m.dropRelay(c)
		m.proofs.keep(now, addr, m.vouchedUntil(now, c))
		c.wanted, c.candidates, c.preferred, c.needs, c.exempt = false, nil, nil, 0, nil
		m.cancelDue(c)
		m.out.Actions = append(m.out.Actions, Action{Kind: ActionForget, Address: addr})
		m.updateIsolated()
		m.prune(c)
		return
	}
	if !c.wanted {
		c.wanted = true
		m.out.Actions = append(m.out.Actions, Action{Kind: ActionExpect, Address: addr})
	}
	c.preferred, c.ranked = desired.Preferred, cmp.Or(desired.Rank, c.text)
	c.needs, c.exempt = desired.Needs, desired.Exempt
	c.candidates = m.inOrder(desired.Candidates)
	m.countShared(c.candidates, +1)
	m.dropRelayOfStranger(c)
	m.updateIsolated()
	m.evaluate(now, c, Configured)
}

// SetState sets the state of this node, and whether its link is up and it has a key. The cause is
// reported for addresses that move because of it.
func (m *Machine) SetState(now time.Time, state State, linked, keyed bool, cause Cause) {
	if state != m.state {
		m.state = state
		m.pacer.hurry(now)
	}
	if keyed && !m.keyed {
		m.pacer.restartListening(now) // earlier messages could not be verified
	}
	m.linked, m.keyed = linked, keyed
	m.updateEligible(now, cause)
}

// SetCapabilities sets what this node is able to forward by.
func (m *Machine) SetCapabilities(now time.Time, capabilities Capabilities) {
	if capabilities == m.capabilities {
		return
	}
	m.capabilities = capabilities
	m.pacer.hurry(now)
	m.evaluateAll(now, Capability)
}

// Confirm says when this node's desired state was up to date.
func (m *Machine) Confirm(now time.Time, c Contact) {
	m.freshness.contact = c
	m.updateAge(now)
}

// updateAge keeps the age up to date, and decides every address again when that changes what this
// node may do.
func (m *Machine) updateAge(now time.Time) {
	f := &m.freshness
	if f.began.IsZero() {
		f.began = now
	}
	before := f.age
	switch {
	case !f.contact.IsZero():
		f.age = max(0, now.Sub(f.contact.at))
		if m.mayBeFirst(now) {
			f.age = max(f.age, f.undecided())
		}
	case f.StaleAfter > 0: // it may never hear from the API
		f.age = max(f.undecided(), now.Sub(f.began))
	}
	if f.isFresh(before) != f.isFresh(f.age) || f.isStale(before) != f.isStale(f.age) {
		m.evaluateAll(now, PeerStale)
	}
}

// mayBeFirst reports whether this node is back, or there, for so short a time that stale peers may
// only need longer to hear from the API. A peer that was confirmed since, and is stale again, would
// not. A node that has just started, or hears nobody, may not have heard of those peers yet.
func (m *Machine) mayBeFirst(now time.Time) bool {
	f := &m.freshness
	since := now.Sub(f.contact.returned)
	if f.contact.isNew() && since < f.StaleAfter {
		return true
	}
	return since < f.grace() && (m.peers.countAlive() == 0 || m.peers.anyAlive(func(p *peer) bool {
		return f.mayLag(now, p.age)
	}))
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

// Hear takes a message whose signature is valid. An error is a Rejection.
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
	m.outage.heard = true
	if m.freshness.isStale(x.age) {
		m.updateAge(now) // the peer may only need longer
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
		m.applyChanges(now, *c)
	}
	if stale, fresh := m.freshness.isStale(x.age), m.freshness.isFresh(x.age); stale != p.stale || fresh != p.fresh {
		p.stale, p.fresh = stale, fresh
		m.evaluateAll(now, PeerStale)
	}
	m.updateSynced(now)
	return nil
}

// stateOf returns the state of an address, and creates it if necessary.
func (m *Machine) stateOf(key addressKey) *addressState {
	if c, ok := m.addresses[key]; ok {
		return c
	}
	addr := netip.AddrFrom16(key).Unmap()
	c := &addressState{key: key, addr: addr, text: addr.String(), rivals: make(map[string]claim)}
	m.addresses[key] = c
	i, _ := m.position(key)
	m.ordered = slices.Insert(m.ordered, i, c)
	return c
}

// position returns where the address is in ordered, or would be, and whether it is.
func (m *Machine) position(key addressKey) (int, bool) {
	return slices.BinarySearchFunc(
		m.ordered,
		key,
		func(c *addressState, k addressKey) int { return compareKeys(c.key, k) },
	)
}

// countShared keeps how many addresses have another candidate.
func (m *Machine) countShared(candidates []string, n int) {
	if len(candidates) > 1 || len(candidates) == 1 && candidates[0] != m.self {
		m.shared += n
	}
}

// inOrder returns the nodes in order: the same list if it is already. Many addresses share one,
// which is looked at once.
func (m *Machine) inOrder(nodes []string) []string {
	if same := len(nodes) == len(m.sorted) && unsafe.SliceData(nodes) == unsafe.SliceData(m.sorted); !same {
		m.sorted = sorted(nodes)
	}
	return m.sorted
}

// updateEligible keeps eligible up to date, and decides every address again when it changes.
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

// mayOwn reports whether messages can be exchanged, and were listened for long enough.
func (m *Machine) mayOwn(now time.Time) bool {
	if !m.linked || !m.keyed {
		return false
	}
	if !m.eligible && m.owned == 0 && m.isolated {
		return m.pacer.listenedFor(now, loneListen*m.pacer.listen)
	}
	return m.pacer.listenedFor(now, m.pacer.listen)
}

// claimsOf returns the claims of the sender. A new process of the sender has none.
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

// applyClaims takes some of a peer's claims.
func (m *Machine) applyClaims(now time.Time, node string, p *peerClaims, some claimList) {
	for _, key := range p.apply(some) {
		c := m.stateOf(key)
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
			m.announce(c, HandedOver) // hosts may have the other node's MAC
		}
		m.prune(c)
	}
	for _, e := range some.entries {
		// A peer that gives up an address which this node owns answered for it, even if its claim was
		// never heard here, for example in a partition.
		if c := m.addresses[e.address]; e.removed && c != nil && c.owned {
			m.announce(c, HandedOver)
		}
	}
}

// dropPeer drops all claims of a peer.
func (m *Machine) dropPeer(now time.Time, node string, cause Cause) {
	p := m.claims[node]
	if p == nil {
		return
	}
	delete(m.claims, node)
	m.dropClaims(now, node, slices.SortedFunc(maps.Keys(p.claims), compareKeys), cause)
	m.release(now, node, p, cause)
}

// dropClaims drops a peer's claims of these addresses.
func (m *Machine) dropClaims(now time.Time, node string, addresses []addressKey, cause Cause) {
	for _, key := range addresses {
		c := m.addresses[key]
		if x := c.rivals[node]; !x.relayed {
			c.highestSilentTerm = max(c.highestSilentTerm, x.term)
		}
		m.endVouch(now, c, node, claim{}, false)
		delete(c.rivals, node)
		m.evaluate(now, c, cause)
		m.prune(c)
	}
}

// prune forgets an address that is not wanted here and that nobody claims.
func (m *Machine) prune(c *addressState) {
	if c.wanted || len(c.rivals) > 0 || c.mirror.Node != "" {
		return
	}
	if i, found := m.position(c.key); found {
		m.ordered = slices.Delete(m.ordered, i, i+1)
	}
	delete(m.addresses, c.key)
}

// applyChanges takes that peers came, went or changed their states, for one cause. All addresses
// are decided again once, however many peers are gone at once.
func (m *Machine) applyChanges(now time.Time, all ...PeerChange) {
	for _, c := range all {
		m.out.Changes = append(m.out.Changes, c)
		if c.Alive {
			m.lastPeerJoin, m.gathering = now, true
			m.dropRelaysOf(c.Node)
		} else {
			m.dropPeer(now, c.Node, c.Cause)
		}
	}
	m.updateIsolated()
	m.updateSynced(now)
	m.evaluateAll(now, all[0].Cause)
}

// endOutage ends an outage once peers are heard and their claims are known: until then everything
// that they own looks vacant.
func (m *Machine) endOutage(now time.Time) {
	if m.outage.peers == 0 || !m.outage.heard || !m.inStep(now) {
		return
	}
	m.outage = outage{}
	for _, c := range m.ordered {
		c.patience = 0
		m.evaluate(now, c, PeerSeen)
	}
}

// updateIsolated keeps isolated up to date. The claims of an isolated node are unwitnessed.
func (m *Machine) updateIsolated() {
	alone := m.shared > 0 && m.peers.countAlive() == 0
	if alone == m.isolated {
		return
	}
	m.isolated = alone
	if alone {
		m.clearWitnessed()
	}
}

// clearWitnessed makes all claims of this node unwitnessed until it is in step with its peers
// again: they may have claimed the same addresses while it heard nothing.
func (m *Machine) clearWitnessed() {
	for _, c := range m.ordered {
		if c.owned && c.mine.witnessed {
			c.mine.witnessed = false
			m.publish(c)
		}
	}
}

// updateSynced keeps synced up to date, and decides every address again when it becomes true. A
// peer whose claims cannot be had does not delay others for long.
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
