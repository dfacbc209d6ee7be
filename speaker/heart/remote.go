package heart

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/berth-lb/berth/bgp/bfd"
	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/internal/lines"
	"github.com/berth-lb/berth/internal/promtext"
	"github.com/berth-lb/berth/l2"
)

const (
	// dialAgain is the pause between attempts to reach the heart.
	dialAgain = 50 * time.Millisecond
	// answerWithin is how long an answer may take.
	answerWithin = time.Second
)

// RemoteConfig is what a Remote needs. Dial and Logger must not be nil.
type RemoteConfig struct {
	Identity
	// Dial connects to the heart.
	Dial   func(context.Context) (net.Conn, error)
	Logger *slog.Logger
	// OnClaim and Answers are as in l2.Config, but only the latest of several changes may arrive.
	OnClaim func(l2.Claim)
	Answers func(addr netip.Addr, on bool)
	// Whole is called once OnClaim was called for all that the first heart claims. Nil: not called.
	Whole func()
	// Gained is called when this node begins to answer for an address on a segment; not for what it
	// answered for before this process began. Nil: not called.
	Gained func(addr netip.Addr)
}

// Remote is layer 2 for a speaker, whose heart runs elsewhere. Its methods may be called
// from any goroutine, also before Run; none waits for the heart but Status and Gather, for a second
// at most. What is said while the heart is away is said when it is back.
type Remote struct {
	RemoteConfig
	wake     async.Signal
	observed *async.Stream[l2.Observation]

	mu        sync.Mutex
	connected bool          // guarded by mu
	heard     bool          // guarded by mu; a heart said something
	since     time.Time     // guarded by mu; when that began
	failure   string        // guarded by mu; why it is not connected
	want      orders        // guarded by mu; all that is wanted
	confirmed time.Time     // guarded by mu; zero: never
	turn      uint64        // guarded by mu; of the state
	drained   chan struct{} // guarded by mu; closed when the heart has drained for turn
	unsaid    unsaid        // guarded by mu

	answers map[netip.Addr]int      // guarded by mu; what the heart has said
	holds   map[netip.Addr][]string // guarded by mu
	claims  map[claimKey]l2.Claim   // guarded by mu

	asked     uint64                 // guarded by mu; the last ID of a question
	questions map[uint64]chan answer // guarded by mu; by ID
	last      answer                 // guarded by mu; about the status
}

// unsaid is what the heart has not been told yet.
type unsaid struct {
	identity, keys, capabilities, nodes, confirmed, next, state bool

	lost      bool // the mirror
	complete  bool // the last order completes what a connection begins with
	desired   map[netip.Addr]bool
	mirrored  map[mirrorKey]bool
	rebalance map[netip.Addr]bool
	questions []question
}

// NewRemote returns a Remote that is not connected yet.
func NewRemote(config RemoteConfig) *Remote {
	r := &Remote{
		RemoteConfig: config, wake: async.NewSignal(), observed: async.NewStream[l2.Observation](mostUnread),
		want: newOrders(), failure: "not reached yet", drained: make(chan struct{}), since: time.Now(),
		answers: map[netip.Addr]int{}, holds: map[netip.Addr][]string{}, claims: map[claimKey]l2.Claim{},
		questions: map[uint64]chan answer{},
		unsaid: unsaid{
			desired:   map[netip.Addr]bool{},
			mirrored:  map[mirrorKey]bool{},
			rebalance: map[netip.Addr]bool{},
		},
	}
	r.want.Identity = config.Identity
	return r
}

// change changes what is wanted, and has it said.
func (r *Remote) change(do func()) {
	r.mu.Lock()
	do()
	r.mu.Unlock()
	r.wake.Notify()
}

// Sync is that of l2.Driver. What is wanted already is not said again: most plans come to what was.
func (r *Remote) Sync(a netip.Addr, d l2.Desired) {
	a = a.Unmap().WithZone("")
	r.mu.Lock()
	defer r.mu.Unlock()
	switch was, wanted := r.want.desired[a]; {
	case wanted && was.Equal(d), !wanted && !d.Announced:
		return
	case d.Announced:
		r.want.desired[a] = d
	default:
		delete(r.want.desired, a)
	}
	r.unsaid.desired[a] = true
	r.wake.Notify()
}

// Anticipate is that of l2.Driver.
func (r *Remote) Anticipate(addresses map[netip.Addr]l2.Desired) {
	next := maps.Clone(addresses)
	r.change(func() { r.want.next, r.unsaid.next = next, true })
}

// Rebalance is that of l2.Driver. While the heart is away it is lost.
func (r *Remote) Rebalance(a netip.Addr) {
	r.change(func() { r.unsaid.rebalance[a] = true })
}

// Mirrored is that of l2.Driver.
func (r *Remote) Mirrored(said l2.Claim) {
	key := mirrorKey{said.Address, said.Segment}
	r.change(func() {
		r.want.mirrored[key] = said
		r.unsaid.mirrored[key] = true
	})
}

// MirrorLost is that of l2.Driver.
func (r *Remote) MirrorLost() {
	r.change(func() {
		clear(r.want.mirrored)
		clear(r.unsaid.mirrored)
		r.unsaid.lost = true
	})
}

// SetKeys is that of l2.Driver.
func (r *Remote) SetKeys(keys l2.Keys) {
	r.change(func() { r.want.Keys, r.unsaid.keys = keys, true })
}

// SetCapabilities is that of l2.Driver.
func (r *Remote) SetCapabilities(c l2.Capabilities) {
	r.change(func() { r.want.Capabilities, r.unsaid.capabilities = c, true })
}

// SetNodes is that of l2.Driver.
func (r *Remote) SetNodes(addresses map[string][]netip.Addr) {
	r.change(func() { r.want.Nodes, r.unsaid.nodes = addresses, true })
}

// Confirm is that of l2.Driver.
func (r *Remote) Confirm(at time.Time) {
	r.change(func() { r.confirmed, r.unsaid.confirmed = at, true })
}

// SetState is that of l2.Driver. A heart in a process of its own takes the states Restarting and
// Holding when it is told to end, too, and otherwise goes on.
func (r *Remote) SetState(state l2.State) {
	r.change(func() {
		if state == r.want.State {
			return
		}
		r.want.State, r.unsaid.state = state, true
		r.turn++
		r.drained = make(chan struct{})
	})
}

// Drained is that of l2.Driver. If the heart ends, it is closed as well.
func (r *Remote) Drained() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.drained
}

// Observed is that of l2.Driver.
func (r *Remote) Observed() <-chan l2.Observation { return r.observed.C() }

// Holds is that of l2.Driver, by what the heart has said.
func (r *Remote) Holds(a netip.Addr) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.holds[a])
}

// Status is that of l2.Driver. If the heart does not answer it is the last that is known, and Err
// says so.
func (r *Remote) Status() l2.Status {
	a, err := r.status()
	s := a.Layer2
	s.Lost += r.observed.Dropped()
	if err != nil {
		s.Err = strings.Join(
			slices.DeleteFunc([]string{err.Error(), s.Err}, func(t string) bool { return t == "" }),
			"; ",
		)
	}
	return s
}

// status asks the heart for its status; if it does not answer, the last is returned, too.
func (r *Remote) status() (answer, error) {
	a, err := r.ask(false)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		return r.last, err
	}
	if a.ID > r.last.ID {
		r.last = a
	}
	return a, nil
}

// BFD returns the state of the paths, as of the last Status: one answer of the heart has both.
// Empty while the heart is away, which layer 2 says.
func (r *Remote) BFD() []bfd.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.connected {
		return nil
	}
	return r.last.BFD
}

// Gather implements prometheus.Gatherer: the heart's metrics.
func (r *Remote) Gather() ([]*dto.MetricFamily, error) {
	a, err := r.ask(true)
	if err != nil {
		return nil, err
	}
	families, err := promtext.Decode(a.Metrics)
	if err != nil {
		return nil, fmt.Errorf("metrics of layer 2 and BFD: %w", err)
	}
	return families, nil
}

// ask asks the heart, and waits for the answer.
func (r *Remote) ask(metrics bool) (answer, error) {
	told := make(chan answer, 1)
	r.mu.Lock()
	if !r.connected {
		defer r.mu.Unlock()
		return answer{}, fmt.Errorf("the process that answers ARP, NDP and BFD is away since %s: %s",
			r.since.Format(time.TimeOnly), r.failure)
	}
	r.asked++
	id := r.asked
	r.questions[id] = told
	r.unsaid.questions = append(r.unsaid.questions, question{ID: id, Metrics: metrics})
	r.mu.Unlock()
	r.wake.Notify()
	enough := time.NewTimer(answerWithin)
	defer enough.Stop()
	select {
	case a, ok := <-told:
		if ok {
			return a, nil
		}
	case <-enough.C:
		r.mu.Lock()
		delete(r.questions, id)
		r.mu.Unlock()
	}
	return answer{}, errors.New("the process that answers ARP, NDP and BFD does not answer the speaker")
}

// Run keeps the connection until ctx ends, and says farewell then. What is wanted before Run is
// said at once.
func (r *Remote) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		conn, err := r.Dial(ctx)
		if err != nil {
			r.away(err)
			_ = async.Sleep(ctx, dialAgain)
			continue
		}
		err = r.talk(ctx, conn)
		r.away(err)
		if ctx.Err() == nil {
			r.Logger.Warn("the heart is gone; its next process is told everything", "error", err)
			_ = async.Sleep(ctx, dialAgain)
		}
	}
	return nil
}

// away notes that the heart is gone, and with it what it answered for.
func (r *Remote) away(err error) {
	r.mu.Lock()
	if r.connected {
		r.connected, r.since = false, time.Now()
		closeOnce(r.drained)
	}
	if err != nil {
		r.failure = err.Error()
	}
	for id, told := range r.questions {
		close(told)
		delete(r.questions, id)
	}
	r.unsaid.questions = nil
	r.mu.Unlock()
}

// closeOnce closes c, if it is not closed. One goroutine at a time may call it.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// talk says what is wanted and hears what is new, until ctx or the connection ends.
func (r *Remote) talk(ctx context.Context, conn net.Conn) error {
	r.connect()
	return lines.Talk[order, news]{
		Wake: r.wake, Next: r.next, Hear: func(n news) error { r.hear(n); return nil },
		Farewell: &order{Farewell: true}, // and the heart closes the connection
	}.Over(ctx, conn)
}

// connect has everything said on a new connection.
func (r *Remote) connect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.connected, r.since, r.failure = true, time.Now(), ""
	u := &r.unsaid
	u.identity, u.complete = true, true
	u.keys, u.capabilities, u.next, u.state = true, true, true, true
	u.nodes, u.confirmed = r.want.Nodes != nil, !r.confirmed.IsZero()
	u.lost = false // what is not named is forgotten
	clear(u.rebalance)
	for a := range r.want.desired {
		u.desired[a] = true
	}
	for key := range r.want.mirrored {
		u.mirrored[key] = true
	}
}

// next returns the next order, if there is one.
func (r *Remote) next() (o order, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := &r.unsaid
	flag := func(unsaid *bool) bool {
		was := *unsaid
		*unsaid, more = false, more || was
		return was
	}
	if flag(&u.identity) {
		o.Identity = new(r.want.Identity)
	}
	if flag(&u.keys) {
		o.Keys = new(r.want.Keys)
	}
	if flag(&u.capabilities) {
		o.Capabilities = new(r.want.Capabilities)
	}
	if flag(&u.nodes) {
		o.Nodes = r.want.Nodes
	}
	if flag(&u.confirmed) {
		o.Confirmed = new(time.Since(r.confirmed))
	}
	o.MirrorLost = flag(&u.lost)
	set := newTermSet()
	for key := range u.mirrored {
		if len(o.Mirrored) == perOrder {
			break
		}
		claim := r.want.mirrored[key]
		if claim.Node == "" {
			claim.Address, claim.Segment = key.address, key.segment
			delete(r.want.mirrored, key)
		}
		o.Mirrored = append(o.Mirrored, claim)
		delete(u.mirrored, key)
	}
	for a := range u.desired {
		if len(o.Desired) == perOrder {
			break
		}
		if o.Desired == nil {
			o.Desired = map[netip.Addr]wish{}
		}
		o.Desired[a] = set.wish(r.want.desired[a])
		delete(u.desired, a)
	}
	if flag(&u.next) {
		o.NewNext, o.Next = true, map[netip.Addr]wish{}
		for a, d := range r.want.next {
			o.Next[a] = set.wish(d)
		}
	}
	o.Terms = set.all
	if len(u.questions) > 0 {
		o.Question, u.questions = new(u.questions[0]), u.questions[1:]
	}
	more = more || len(o.Mirrored) > 0 || len(o.Desired) > 0 || o.Question != nil
	if len(u.desired) > 0 || len(u.mirrored) > 0 {
		return o, more // what follows is about all of them
	}
	for a := range u.rebalance {
		o.Rebalance, more = append(o.Rebalance, a), true
	}
	clear(u.rebalance)
	if flag(&u.state) {
		o.State = &stateOrder{State: r.want.State, Turn: r.turn}
	}
	o.Complete = flag(&u.complete)
	return o, more
}

// hear takes news.
func (r *Remote) hear(n news) {
	r.mu.Lock()
	calls := r.note(n)
	first, again := n.Whole && !r.heard, n.Whole && r.heard
	r.heard = r.heard || n.Whole
	r.mu.Unlock()
	for _, call := range calls {
		call()
	}
	if first && r.Whole != nil {
		r.Whole()
	}
	if again {
		r.observed.Send(l2.Observation{Time: time.Now(), Kind: l2.Restarted})
	}
	for _, said := range n.Seen {
		o := said.Observation
		if said.Failure != "" {
			o.Err = errors.New(said.Failure)
		}
		r.observed.Send(o)
	}
}

// note takes news into account, and returns what is to be called because of them. mu is held.
func (r *Remote) note(n news) (calls []func()) {
	if n.Whole {
		for a := range r.answers {
			if _, still := n.Answers[a]; !still {
				n.Answers = withZero(n.Answers, a)
			}
		}
		claimed := make(map[claimKey]bool, len(n.Claims))
		for _, c := range n.Claims {
			claimed[keyOf(c)] = true
		}
		for key, c := range r.claims {
			if !claimed[key] {
				c.Node = ""
				n.Claims = append(n.Claims, c)
			}
		}
		clear(r.holds)
	}
	for a, count := range n.Answers {
		calls = append(calls, r.noteAnswers(a, count, n.Whole)...)
	}
	for a, interfaces := range n.Holds {
		if len(interfaces) == 0 {
			delete(r.holds, a)
		} else {
			r.holds[a] = interfaces
		}
	}
	for _, c := range n.Claims {
		if c.Node == "" {
			delete(r.claims, keyOf(c))
		} else {
			r.claims[keyOf(c)] = c
		}
		if r.OnClaim != nil {
			calls = append(calls, func() { r.OnClaim(c) })
		}
	}
	if n.Drained == r.turn && n.Drained > 0 {
		closeOnce(r.drained)
	}
	for _, a := range n.Told {
		if told := r.questions[a.ID]; told != nil {
			told <- a
			delete(r.questions, a.ID)
		}
	}
	return calls
}

// noteAnswers notes on how many segments an address is answered for. mu is held.
func (r *Remote) noteAnswers(a netip.Addr, count int, before bool) (calls []func()) {
	for n := r.answers[a]; n != count; {
		on := count > n
		if on {
			n++
		} else {
			n--
		}
		if r.Answers != nil {
			calls = append(calls, func() { r.Answers(a, on) })
		}
		if on && !before && r.Gained != nil {
			calls = append(calls, func() { r.Gained(a) })
		}
	}
	r.answers[a] = count
	if count == 0 {
		delete(r.answers, a)
	}
	return calls
}

func keyOf(c l2.Claim) claimKey { return claimKey{c.Address, c.Segment, c.Interface} }

func withZero(m map[netip.Addr]int, a netip.Addr) map[netip.Addr]int {
	if m == nil {
		m = map[netip.Addr]int{}
	}
	m[a] = 0
	return m
}
