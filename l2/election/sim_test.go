package election

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// This file is a world in which machines run as they do in a segment's loop, in virtual time: a
// network that loses, delays and reorders, nodes that freeze, crash and are slow, clocks that
// drift, and an API that is late or away. One seed makes one history, the same each time.

const (
	simInterval = 100 * time.Millisecond
	simListen   = time.Second
	simHandover = time.Second
	simProbe    = 200 * time.Millisecond  // to probe for an address
	simOrphan   = 3300 * time.Millisecond // from a node's start to that
	simConfirm  = 300 * time.Millisecond  // between looks at the API
	simFresh    = 700 * time.Millisecond
	simStale    = 1500 * time.Millisecond
	simGrace    = 2500 * time.Millisecond
)

var simTimes = Times{FreshWithin: simFresh, StaleAfter: simStale, Grace: simGrace}

type world struct {
	random    *rand.Rand
	now       time.Duration
	events    eventQueue
	serial    int
	nodes     []*simNode
	addresses []netip.Addr
	needs     map[netip.Addr]Capabilities // what each address needs now
	tenants   map[netip.Addr]int          // the Service that has each address now

	loss    float64 // of each message
	twice   float64 // of messages that arrive twice
	delay   time.Duration
	blocked map[[2]int]bool // from, to

	silent time.Duration // until when all messages are lost
	heard  []Message     // some that were sent, for a replay

	last  map[netip.Addr]time.Duration // when a node last answered for an address
	fault error                        // a node answered that should have probed

	api    map[netip.Addr]Claim
	trace  *strings.Builder // nil: none
	moves  int
	writes int // to the API

	mute      bool     // the segment carries no messages
	older     bool     // speakers say nothing about their freshness, and some are old
	forgetful *simNode // it is no candidate for anything when it boots; nil: none
	exempt    []string // nodes that need no capability
}

type simNode struct {
	w     *world
	index int
	name  string
	drift float64 // how fast its clock runs
	boots uint64

	m      *Machine // nil: crashed
	until  time.Time
	owns   map[netip.Addr]bool
	clear  map[netip.Addr]time.Time     // of those, when probing ends; zero: it need not, or has ended
	asked  bool                         // it probed when it last claimed an address
	vacant time.Duration                // for how long that address was vacant, as it knows
	told   map[netip.Addr]time.Duration // when it last announced an address
	state  State
	linked bool
	frozen bool
	slow   time.Duration // how long each of its steps may take
	inbox  []Message
	wakeAt int           // the serial of the wake-up that counts
	holds  time.Duration // until when others may wait for its next process

	capabilities Capabilities
	needs        map[netip.Addr]Capabilities // as it sees the API
	tenants      map[netip.Addr]int          // as it sees the API
	contact      Contact                     // when it saw that it is up to date, on its clock
	old          bool                        // its speaker is of a version without capabilities, until it is replaced

	apiCut  bool
	pending map[netip.Addr]Claim // not written yet
	refused map[netip.Addr]Claim // not written because the API has one of no lower term, until that changes
	seen    map[netip.Addr]Claim // as it sees the API
	gone    time.Duration        // since when it cannot reach the API; 0: it can
	absent  bool                 // the API calls it not ready
}

type event struct {
	at     time.Duration
	serial int
	do     func()
}

type eventQueue []event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].serial < q[j].serial
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *eventQueue) Pop() any {
	old := *q
	last := old[len(old)-1]
	*q = old[:len(old)-1]
	return last
}

func newWorld(seed uint64, nodes, addresses int, trace *strings.Builder) *world {
	w := &world{
		random:  rand.New(rand.NewPCG(seed, 0)),
		blocked: map[[2]int]bool{},
		needs:   map[netip.Addr]Capabilities{},
		tenants: map[netip.Addr]int{},
		last:    map[netip.Addr]time.Duration{},
		api:     map[netip.Addr]Claim{},
		trace:   trace,
		delay:   time.Millisecond,
	}
	for i := range addresses {
		w.addresses = append(w.addresses, netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + i)}))
	}
	for i := range nodes {
		n := &simNode{
			w:       w,
			index:   i,
			name:    fmt.Sprintf("n%d", i),
			drift:   1,
			needs:   map[netip.Addr]Capabilities{},
			tenants: map[netip.Addr]int{},
			pending: map[netip.Addr]Claim{},
			refused: map[netip.Addr]Claim{},
			told:    map[netip.Addr]time.Duration{},
			seen:    map[netip.Addr]Claim{},
			linked:  true,
		}
		w.nodes = append(w.nodes, n)
	}
	return w
}

func (w *world) log(format string, args ...any) {
	if w.trace != nil {
		fmt.Fprintf(w.trace, "%9.3f "+format+"\n", append([]any{w.now.Seconds()}, args...)...)
	}
}

func (w *world) after(d time.Duration, do func()) {
	w.serial++
	heap.Push(&w.events, event{w.now + d, w.serial, do})
}

// run lets time pass, and calls check from time to time.
func (w *world) run(d time.Duration, check func() error) error {
	end := w.now + d
	next := w.now
	for len(w.events) > 0 && w.events[0].at <= end {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
		if check != nil && w.now >= next {
			next = w.now + 10*time.Millisecond
			if err := check(); err != nil {
				return err
			}
		}
	}
	w.now = end
	return nil
}

func (w *world) between(low, high time.Duration) time.Duration {
	return low + time.Duration(w.random.Int64N(int64(high-low)+1))
}

// local is the node's clock.
func (n *simNode) local() time.Time {
	return time.Unix(1_000_000+int64(n.index)*1000, 0).Add(time.Duration(float64(n.w.now) * n.drift))
}

// stranger is a candidate with a speaker's token that is on another segment.
const stranger = "stranger"

// steal takes an address by the API alone, and again above each claim against that, as somebody
// does who has the stranger's token.
func (w *world) steal(addr netip.Addr, times int) {
	have := w.api[addr]
	if have.Node != stranger {
		w.log("%s is stolen in the API", addr)
		w.api[addr] = Claim{Address: addr, Node: stranger, Term: have.Term + 1, Witnessed: true}
		w.publish(addr)
	}
	if times > 1 {
		w.after(w.between(10*time.Millisecond, 100*time.Millisecond), func() { w.steal(addr, times-1) })
	}
}

// boot starts the node's process.
func (n *simNode) boot() {
	n.boots++
	options := Options{
		Node: n.name, Boot: n.boots<<8 | uint64(n.index) + 1,
		Interval: simInterval, Listen: simListen, Handover: simHandover,
		Times:  simTimes,
		Random: n.w.random.Uint64,
	}
	if n.w.older {
		options.StaleAfter = 0
	}
	n.m = NewMachine(options)
	n.owns, n.clear, n.inbox, n.until, n.state = map[netip.Addr]bool{}, map[netip.Addr]time.Time{}, nil, time.Time{}, Ready
	n.frozen = false
	n.gone, n.absent = 0, false
	n.w.log("%s boots", n.name)
	n.connect()
	now := n.local()
	if !n.w.older {
		n.contact = n.contact.Past(now).Contact(now) // as the process before kept it
		n.m.Confirm(now, n.contact)
		n.confirm(n.boots)
	}
	for _, a := range n.w.addresses {
		if said, ok := n.seen[a]; ok {
			n.m.Mirrored(now, said)
		}
		n.want(a)
	}
	neighbors := map[string]bool{}
	for _, name := range n.w.names() {
		neighbors[name] = name != n.name
	}
	n.m.SetNeighbors(now, neighbors)
	n.m.Open(now, 1500)
	n.act()
	boot := n.boots
	n.w.after(simOrphan, func() {
		if n.boots == boot && n.m != nil {
			n.withdrawOrphans()
		}
	})
}

// withdrawOrphans withdraws what the API says that this node owns, and it has not claimed again.
func (n *simNode) withdrawOrphans() {
	for _, a := range n.w.addresses {
		_, newer := n.pending[a]
		bids := n.m.addresses[keyOf(a)].bid.term != 0
		if n.w.api[a].Node == n.name && !n.owns[a] && !newer && !bids {
			n.pending[a] = Claim{Address: a}
		}
	}
	n.write()
}

// confirm sees from time to time, in this process, that the node is up to date.
func (n *simNode) confirm(boot uint64) {
	if n.boots != boot || n.m == nil {
		return
	}
	if !n.apiCut && !n.frozen {
		now := n.local()
		n.contact = n.contact.Confirm(now, now, simTimes)
		n.m.Confirm(now, n.contact)
		n.applyOutputs()
		n.sleep()
	}
	n.w.after(simConfirm, func() { n.confirm(boot) })
}

// want sets an address, as the node sees it in the API.
func (n *simNode) want(addr netip.Addr) {
	candidates := append(n.w.names(), stranger)
	if n.w.forgetful == n {
		candidates = slices.DeleteFunc(candidates, func(name string) bool { return name == n.name })
	}
	n.m.SetDesired(n.local(), addr, Desired{
		Announced:  true,
		Candidates: candidates,
		Needs:      n.needed(addr),
		Exempt:     n.w.exempt,
	})
}

// begin has the node answer for an address, at once if it may, or after probing.
func (n *simNode) begin(m Action) {
	n.owns[m.Address], n.told[m.Address], n.asked = true, n.w.now, m.Probe
	n.vacant = n.local().Sub(m.Since)
	n.w.moves++
	n.w.log("%s starts %s (%s), probes: %t", n.name, m.Address, m.Cause, m.Probe)
	if m.Probe {
		n.clear[m.Address] = n.local().Add(simProbe)
		return
	}
	bound := proofLifetime + 1500*time.Millisecond // for slow nodes and clocks that drift
	if slices.ContainsFunc(n.w.nodes, func(o *simNode) bool { return o.holds > 0 && n.w.now < o.holds+bound }) {
		bound += holdTime
	}
	if age := n.w.now - n.w.last[m.Address]; n.w.fault == nil && age > bound {
		n.w.fault = fmt.Errorf("at %.3f s %s answers for %s without having asked: for %s nobody did",
			n.w.now.Seconds(), n.name, m.Address, age)
	}
	n.clear[m.Address] = time.Time{}
	n.m.SetAnswered(n.local(), m.Address, true)
}

// end stops answering for an address.
func (n *simNode) end(addr netip.Addr) {
	delete(n.owns, addr)
	if at, ok := n.clear[addr]; ok && at.IsZero() {
		n.m.SetAnswered(n.local(), addr, false)
	}
	delete(n.clear, addr)
}

// judge ends the probes whose time is over. No other host has an address in this world.
func (n *simNode) judge() {
	for a, at := range n.clear {
		if !at.IsZero() && !n.m.CatchingUp() && !n.local().Before(at) {
			n.clear[a] = time.Time{}
			n.m.SetAnswered(n.local(), a, true)
		}
		if n.clear[a].IsZero() && n.answering(a) {
			n.w.last[a] = n.w.now
		}
	}
}

// needed returns what the node believes that an address needs.
func (n *simNode) needed(addr netip.Addr) Capabilities {
	if n.old {
		return 0
	}
	return n.needs[addr]
}

// plan takes from the API what the addresses need.
func (n *simNode) plan() {
	if n.apiCut || n.frozen {
		return // it looks when it is back
	}
	for _, a := range n.w.addresses {
		n.tenants[a] = n.w.tenants[a]
		if n.needs[a] == n.w.needs[a] {
			continue
		}
		n.needs[a] = n.w.needs[a]
		if n.m != nil {
			n.w.log("%s sees that %s needs %b", n.name, a, n.needs[a])
			n.want(a)
			n.applyOutputs()
			n.sleep()
		}
	}
}

// need changes what an address needs.
func (w *world) need(addr netip.Addr, needs Capabilities) {
	w.log("%s needs %b", addr, needs)
	w.needs[addr] = needs
	for _, n := range w.nodes {
		w.after(w.between(2*time.Millisecond, 60*time.Millisecond), n.plan)
	}
}

// reassign gives an address to another Service.
func (w *world) reassign(addr netip.Addr) {
	w.log("%s goes to another Service", addr)
	w.tenants[addr]++
	for _, n := range w.nodes {
		w.after(w.between(2*time.Millisecond, 60*time.Millisecond), n.plan)
	}
}

// setCapabilities changes what a node is able to forward by.
func (n *simNode) setCapabilities(capabilities Capabilities) {
	n.w.log("%s has %b", n.name, capabilities)
	n.capabilities = capabilities
	n.act()
}

// able returns the capabilities that the node's speaker knows about.
func (n *simNode) able() Capabilities {
	if n.old {
		return 0
	}
	return n.capabilities
}

// suits reports whether the node believes that it may own the address.
func (n *simNode) suits(addr netip.Addr) bool { return n.able().Has(n.needed(addr)) }

func (w *world) names() []string {
	var names []string
	for _, n := range w.nodes {
		names = append(names, n.name)
	}
	return names
}

func (n *simNode) crash() {
	n.w.log("%s crashes", n.name)
	n.m = nil
	n.pending, n.refused = map[netip.Addr]Claim{}, map[netip.Addr]Claim{}
	n.lose()
}

// reopen ends the node's segment, as when the interface loses its address, and begins it again.
func (n *simNode) reopen(after time.Duration) {
	n.w.log("%s: the segment ends", n.name)
	for a := range n.owns {
		n.pending[a] = Claim{Address: a}
	}
	n.write()
	n.m = nil
	n.w.after(after, func() {
		if n.m == nil {
			n.boot()
		}
	})
}

// replace ends the node's process, which holds what it owns, and starts another after a while.
func (n *simNode) replace(after time.Duration) {
	n.w.log("%s holds", n.name)
	n.state = Holding
	n.holds = n.w.now + 50*time.Millisecond + time.Duration(1.02*float64(holdTime))
	n.act()
	n.w.after(40*time.Millisecond, func() {
		if n.m != nil && n.state == Holding {
			n.w.log("%s ends", n.name)
			n.m, n.frozen = nil, false
			n.pending, n.refused = map[netip.Addr]Claim{}, map[netip.Addr]Claim{}
		}
	})
	n.w.after(40*time.Millisecond+after, func() {
		if n.m == nil {
			n.old = false
			n.boot()
		}
	})
}

// lose makes the API call the node not ready after a while, if it is not heard until then.
func (n *simNode) lose() {
	if n.gone != 0 {
		return
	}
	n.gone = n.w.now
	mark := n.gone
	n.w.after(time.Second, func() {
		if n.gone != mark {
			return
		}
		n.absent = true
		n.w.republish(n)
		clear(n.seen)
		if n.m != nil && !n.frozen {
			n.m.MirrorLost(n.local())
			n.applyOutputs()
			n.sleep()
		}
	})
}

// act is one turn of a segment's loop.
func (n *simNode) act() {
	if n.m == nil || n.frozen {
		return
	}
	now := n.local()
	if n.m.Due(now) {
		if late := n.m.BeginTick(now); late > OnTime {
			if late == TooLate {
				n.until = time.Time{}
			}
			n.drain(now)
		}
		n.m.Tick(now)
	}
	n.drain(now)
	n.judge()
	n.m.SetCapabilities(now, n.able())
	n.m.SetState(now, n.state, n.linked, true, Joined)
	n.m.Step(now, Joined)
	n.applyOutputs()
	n.sleep()
}

// drain hears all messages that wait.
func (n *simNode) drain(now time.Time) {
	for len(n.inbox) > 0 {
		x := n.inbox[0]
		n.inbox = n.inbox[1:]
		_ = n.m.Hear(now, x)
	}
}

// sleep schedules the node's next turn for when its machine wants it.
func (n *simNode) sleep() {
	wait := time.Duration(float64(n.m.Next().Sub(n.local()))/n.drift) + time.Microsecond
	n.w.serial++
	serial := n.w.serial
	n.wakeAt = serial
	n.w.after(max(wait, 0)+n.late(), func() {
		if n.wakeAt == serial {
			n.act()
		}
	})
}

// late returns how much later than due a slow node acts.
func (n *simNode) late() time.Duration {
	if n.slow == 0 {
		return 0
	}
	return n.w.between(0, n.slow)
}

func (n *simNode) applyOutputs() {
	out := n.m.Take()
	for _, m := range out.Actions {
		switch m.Kind {
		case ActionStart:
			n.begin(m)
		case ActionStop:
			n.end(m.Address)
			n.w.log("%s stops %s (%s, to %q)", n.name, m.Address, m.Cause, m.Owner)
		case ActionAnnounce:
			n.told[m.Address] = n.w.now
		case ActionExpect, ActionForget:
		}
	}
	if !out.AnswerUntil.IsZero() {
		n.until = out.AnswerUntil
	}
	for _, c := range out.Changes {
		n.w.log("%s: %s alive=%t %s (%s)", n.name, c.Node, c.Alive, c.State, c.Cause)
	}
	for _, c := range out.Claims {
		if c.Address.IsValid() {
			n.pending[c.Address] = c
			delete(n.refused, c.Address)
			n.w.log("%s claims %+v", n.name, c)
		}
	}
	if len(n.pending) > 0 {
		n.w.after(n.w.between(2*time.Millisecond, 60*time.Millisecond), n.write)
	}
	for _, x := range out.Messages {
		n.w.transmit(n, x)
	}
}

func (w *world) transmit(from *simNode, x Message) {
	if !from.linked || w.mute {
		return
	}
	if w.older {
		x.age = ageUnknown
	}
	if len(w.heard) < maxHeard {
		w.heard = append(w.heard, x)
	} else {
		w.heard[w.random.IntN(maxHeard)] = x
	}
	if w.now < w.silent {
		return
	}
	for _, to := range w.nodes {
		if to == from || w.blocked[[2]int{from.index, to.index}] || !to.linked || w.random.Float64() < w.loss {
			continue
		}
		deliver := func() {
			if to.m == nil || len(to.inbox) >= 512 {
				return
			}
			to.inbox = append(to.inbox, x)
			if to.slow > 0 {
				w.after(to.late(), to.act)
			} else if !to.frozen {
				to.act()
			}
		}
		w.after(w.between(0, w.delay), deliver)
		if w.twice > 0 && w.random.Float64() < w.twice {
			w.after(w.between(0, 10*w.delay), deliver)
		}
	}
}

// maxHeard is how many messages are kept for a replay.
const maxHeard = 64

// replay sends old messages to some nodes, as somebody does who has recorded them, here or on
// another segment that the node is on.
func (w *world) replay() {
	w.log("messages are replayed")
	for range 20 {
		if len(w.heard) == 0 {
			return
		}
		x, to := w.heard[w.random.IntN(len(w.heard))], w.nodes[w.random.IntN(len(w.nodes))]
		if w.random.IntN(2) == 0 {
			x.Boot ^= 1 << 40
		}
		w.after(w.between(0, 500*time.Millisecond), func() {
			if to.m != nil && len(to.inbox) < 512 {
				to.inbox = append(to.inbox, x)
			}
		})
	}
}

// write writes this node's claims to the API.
func (n *simNode) write() {
	if n.m == nil || n.frozen || n.apiCut {
		return // written when it is back
	}
	for _, a := range n.w.addresses {
		said, ok := n.pending[a]
		if !ok {
			continue
		}
		delete(n.pending, a)
		have := n.w.api[a]
		switch {
		case said.Node == "" && have.Node != n.name, said.says(have):
			continue
		case said.Node != "" && have.Node != "" && have.Node != n.name && have.Term >= said.Term:
			n.refused[a] = said // a mirror keeps the highest term, and shows it to this node
			continue
		case said.Node == "":
			n.w.writes++
			delete(n.w.api, a)
		default:
			n.w.writes++
			n.w.api[a] = said
		}
		n.w.publish(a)
	}
}

// says reports whether two claims are the same for the protocol.
func (c Claim) says(o Claim) bool {
	return c.Address == o.Address && c.Node == o.Node && c.Term == o.Term && c.Witnessed == o.Witnessed &&
		c.Tentative == o.Tentative
}

// publish shows one address's claim to all that are connected.
func (w *world) publish(addr netip.Addr) {
	for _, n := range w.nodes {
		w.after(w.between(2*time.Millisecond, 60*time.Millisecond), func() { n.look(addr) })
	}
}

// republish shows the claims of a node again because its readiness changed.
func (w *world) republish(of *simNode) {
	for _, a := range w.addresses {
		if w.api[a].Node == of.name {
			w.publish(a)
		}
	}
}

// look reads an address's claim from the API.
func (n *simNode) look(addr netip.Addr) {
	if n.apiCut {
		return
	}
	if again, ok := n.refused[addr]; ok {
		delete(n.refused, addr)
		if _, newer := n.pending[addr]; !newer {
			n.pending[addr] = again
			n.w.after(n.w.between(2*time.Millisecond, 60*time.Millisecond), n.write)
		}
	}
	said := n.w.api[addr]
	if said.Node != "" && said.Node != stranger && n.w.node(said.Node).absent {
		said = Claim{Term: said.Term}
	}
	said.Address = addr
	if n.seen[addr].says(said) {
		return
	}
	n.seen[addr] = said
	if n.m == nil || n.frozen {
		return // it looks when it is back
	}
	n.drain(n.local())
	n.m.Mirrored(n.local(), said)
	n.applyOutputs()
	n.sleep()
}

// connect lets the node see everything in the API.
func (n *simNode) connect() {
	if n.apiCut || n.m == nil {
		return
	}
	n.gone = 0
	if n.absent {
		n.absent = false
		n.w.republish(n)
	}
	n.plan()
	for _, a := range n.w.addresses {
		n.look(a)
	}
	if n.m != nil {
		n.write()
	}
}

func (w *world) node(name string) *simNode {
	i := slices.IndexFunc(w.nodes, func(n *simNode) bool { return n.name == name })
	return w.nodes[i]
}

// owners returns the nodes that answer for an address now.
func (w *world) owners(addr netip.Addr) []*simNode {
	var list []*simNode
	for _, n := range w.nodes {
		if n.answering(addr) {
			list = append(list, n)
		}
	}
	return list
}

func (n *simNode) answering(addr netip.Addr) bool {
	return n.m != nil && !n.frozen && n.linked && n.owns[addr] && n.local().Before(n.until)
}

func (n *simNode) freeze() {
	n.w.log("%s freezes", n.name)
	n.frozen = true
}

func (n *simNode) thaw() {
	if !n.frozen {
		return
	}
	n.w.log("%s thaws", n.name)
	n.frozen = false
	if n.m == nil {
		return
	}
	// Its view of the API is older than what it sees next.
	for _, a := range n.w.addresses {
		if said, ok := n.seen[a]; ok {
			n.m.Mirrored(n.local(), said)
		}
	}
	n.act()
	n.plan()
	n.write()
}
