package heart

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/berth-lb/berth/bgp/bfd"
	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/internal/keptfile"
	"github.com/berth-lb/berth/internal/lines"
	"github.com/berth-lb/berth/internal/promtext"
	"github.com/berth-lb/berth/internal/trace"
	"github.com/berth-lb/berth/l2"
	"github.com/berth-lb/berth/speaker/localnet"
)

// Bounds of the end.
const (
	// pairing is how long after the speaker was told to end the heart may be told, too. If it is not,
	// the speaker alone is started again, and the heart goes on.
	pairing = time.Second
	// firstWithin is how long who connects may take to say who it is.
	firstWithin = 10 * time.Second
	// partAtMost is how long the heart waits, once told to end, for the speaker to say what becomes of
	// the addresses. It is shorter than the grace period of the pod.
	partAtMost = 12 * time.Second
	// drainAtMost is for the others to take over.
	drainAtMost = 2 * time.Second
	// mirrorAtMost is how long claims that the API server showed count without a speaker, who would
	// say when they no longer do.
	mirrorAtMost = 10 * time.Second
)

// patience is how long the heart vouches for what a speaker wanted that crashed, and that had just
// heard from the API server: the next one is there soon, on a busy node a little later. So peers
// that know better do not take over at once.
type patience struct {
	vouchFor, vouchEvery time.Duration
	// age is how old it says that this is: too old to take anything from others, and not old enough
	// for others to take over.
	age          time.Duration
	fresh, stale time.Duration // see l2.Config
}

const usualVouchFor, usualAge = 20 * time.Second, 8 * time.Second

// YieldsAfter is after how long without a speaker a node yields to nodes that know better.
const YieldsAfter = usualVouchFor + l2.StaleAfter - usualAge

// Config of a Heart.
type Config struct {
	Logger *slog.Logger
	// StateFile is where orders are kept over the end of this process. It holds the keys of hellos, so
	// it belongs on a file system in memory that only root reads. Empty: nowhere.
	StateFile string
	// Within says that the heart is part of the speaker's process, and ends with it.
	Within bool
	// Trace is what remembers questions and observations; nil: nothing does.
	Trace *trace.Log
}

// errOther says that a speaker is of another node or cluster. The heart ends then, and forgets what
// it knew: its next process is of the speaker's.
var errOther = errors.New("this heart is of another node or cluster")

// Heart carries out what a speaker wants, and goes on when it is away. Make one with New.
type Heart struct {
	Config
	registry *prometheus.Registry
	net      *localnet.Watcher
	engine   *bfd.Engine
	ledger   *ledger
	ending   chan struct{} // closed when the heart is told to end
	keep     async.Signal  // the orders changed
	unfit    chan error    // why the heart cannot serve its speaker
	watchers watchers
	serving  sync.Mutex // held while a speaker takes the place of another
	patience patience

	mu       sync.Mutex
	driver   *l2.Driver       // guarded by mu; nil until the node is known
	start    func(*l2.Driver) // guarded by mu; runs the driver
	orders   orders           // guarded by mu; what counts
	terms    *termSet         // guarded by mu; of orders
	named    named            // guarded by mu; what this connection has named
	line     net.Conn         // guarded by mu; nil: no speaker
	parted   chan struct{}    // guarded by mu; closed when line has ended
	farewell bool             // guarded by mu; the last speaker said it
}

// named is what a connection has named before it was complete.
type named struct {
	complete bool
	desired  map[netip.Addr]bool
	mirrored map[mirrorKey]bool
}

// mirrorKey is what a mirrored claim is about.
type mirrorKey struct {
	address netip.Addr
	segment string
}

// New returns a heart that does nothing yet.
func New(config Config) (*Heart, error) {
	registry := prometheus.NewRegistry()
	engine, err := bfd.New(config.Logger.With("driver", "bfd"), registry)
	if err != nil {
		return nil, fmt.Errorf("BFD: %w", err)
	}
	parted := make(chan struct{})
	close(parted)
	return &Heart{
		Config: config, registry: registry, engine: engine, ledger: newLedger(),
		net: localnet.OfAddresses(config.Logger.With("driver", "localnet")), ending: make(chan struct{}),
		keep: async.NewSignal(), unfit: make(chan error, 1), orders: newOrders(), terms: newTermSet(), parted: parted,
		watchers: watchers{all: map[*watcher]bool{}},
		patience: patience{vouchFor: usualVouchFor, vouchEvery: time.Second, age: usualAge},
	}, nil
}

// Run serves until ctx ends, and then for as long as it takes to hand over what this node answers
// for: the speaker says how, or within twelve seconds nobody. Speakers connect to l, one at a time;
// a later one replaces the former. Who speaks BGP connects to l, too, or to the other listeners.
func (h *Heart) Run(ctx context.Context, l net.Listener, others ...net.Listener) error {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	group, life := errgroup.WithContext(life)
	h.mu.Lock()
	h.start = func(d *l2.Driver) {
		group.Go(func() error { return d.Run(life) })
		group.Go(func() error { h.observe(life, d); return nil })
	}
	h.mu.Unlock()
	if err := h.net.Read(); err != nil {
		h.Logger.Warn("addresses of this node are not read yet", "error", err)
	}
	h.recall()
	group.Go(func() error { return h.net.Run(life) })
	group.Go(func() error { return h.engine.Run(life) })
	group.Go(func() error { h.watch(life); return nil })
	if h.StateFile != "" {
		group.Go(func() error {
			keptfile.Keep(life, h.StateFile, h.keep, keepEvery, h.writeState, h.Logger)
			return nil
		})
	}
	group.Go(func() error { return h.accept(life, l, true) })
	for _, l := range others {
		group.Go(func() error { return h.accept(life, l, false) })
	}
	group.Go(func() error {
		select {
		case err := <-h.unfit:
			return err
		case <-life.Done():
			return nil
		}
	})
	select {
	case <-ctx.Done():
		h.leave(life)
	case <-life.Done(): // something failed
	}
	end()
	return group.Wait()
}

// accept serves who connects: speakers, and who wants paths watched.
func (h *Heart) accept(ctx context.Context, l net.Listener, speakers bool) error {
	context.AfterFunc(ctx, func() { _ = l.Close() })
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("listen for the speaker: %w", err)
		}
		go h.receive(ctx, conn, speakers) // ends soon, or with the connection
	}
}

// receive finds out who has connected.
func (h *Heart) receive(ctx context.Context, conn net.Conn, speakers bool) {
	first, rest, err := lines.First[order](conn, firstWithin)
	switch {
	case err != nil:
		h.Logger.Debug("who connected said nothing", "error", err)
	case first.Watches:
		h.watchFor(ctx, rest, first)
	case speakers:
		h.serve(ctx, rest, first)
	default:
		_ = conn.Close()
		h.Logger.Error("who connected may have paths watched only")
	}
}

// serve begins to serve a speaker, in the place of the former one.
func (h *Heart) serve(ctx context.Context, conn net.Conn, first order) {
	h.serving.Lock()
	defer h.serving.Unlock()
	h.mu.Lock()
	former, parted := h.line, h.parted
	h.mu.Unlock()
	if former != nil {
		_ = former.Close()
	}
	<-parted // it reads no further order
	done := make(chan struct{})
	h.mu.Lock()
	h.line, h.parted, h.farewell = conn, done, false
	h.named = named{desired: map[netip.Addr]bool{}, mirrored: map[mirrorKey]bool{}}
	h.mu.Unlock()
	h.ledger.open()
	talk := lines.Talk[news, order]{
		Wake: h.ledger.wake, Next: h.ledger.next, Hear: func(o order) error { return h.hear(ctx, o) },
	}
	go func() { // ends with the connection
		err := h.hear(ctx, first)
		if err == nil {
			err = talk.Over(ctx, conn)
		}
		_ = conn.Close()
		h.Logger.Debug("no further orders", "error", err)
		h.ledger.close()
		h.mu.Lock()
		h.line = nil
		farewell := h.farewell
		h.mu.Unlock()
		close(done)
		if ctx.Err() != nil {
			return
		}
		if !farewell {
			h.Logger.Warn("the speaker is gone; going on with what it wanted last")
			go h.vouch(ctx, done) // ends with ctx
		}
		if async.Sleep(ctx, mirrorAtMost) == nil {
			h.loseMirror(done)
		}
	}()
}

// vouch has peers wait for the next speaker after one that crashed, until it comes.
func (h *Heart) vouch(ctx context.Context, after chan struct{}) {
	p := h.patience
	h.mu.Lock()
	crashed := keptfile.SinceBoot()
	known := h.orders.Confirmed > 0 && crashed-h.orders.Confirmed <= p.age
	h.mu.Unlock()
	for known && keptfile.SinceBoot()-crashed < p.vouchFor && async.Sleep(ctx, p.vouchEvery) == nil {
		h.mu.Lock()
		if known = h.parted == after; known && keptfile.SinceBoot()-h.orders.Confirmed > p.age {
			h.driver.Confirm(time.Now().Add(-p.age))
		}
		h.mu.Unlock()
	}
}

// loseMirror forgets what a speaker told of the mirror, unless another came.
func (h *Heart) loseMirror(of chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.parted == of && h.driver != nil {
		h.driver.MirrorLost()
		clear(h.orders.mirrored)
	}
}

// errFarewell ends the connection of a speaker that has nothing more to say.
var errFarewell = errors.New("the speaker said farewell")

// hear takes an order. An error ends the connection.
func (h *Heart) hear(ctx context.Context, o order) error {
	if err := h.carryOut(ctx, o); err != nil {
		h.Logger.Error("an order was not carried out", "error", err)
		if errors.Is(err, errOther) {
			h.unfit <- err
		}
		return err
	}
	if o.Farewell {
		return errFarewell
	}
	return nil
}

// carryOut does what an order says.
func (h *Heart) carryOut(ctx context.Context, o order) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if o.Identity != nil {
		if err := h.identify(*o.Identity); err != nil {
			return err
		}
	}
	if h.driver == nil {
		return errors.New("the speaker did not say which node this is")
	}
	h.apply(&o)
	if o.State != nil {
		h.setState(ctx, *o.State)
	}
	for _, a := range o.Rebalance {
		h.driver.Rebalance(a)
	}
	if o.Question != nil {
		h.answer(*o.Question)
	}
	if o.Complete {
		h.complete()
	}
	h.farewell = h.farewell || o.Farewell
	h.keep.Notify()
	return nil
}

// identify makes the driver. mu is held.
func (h *Heart) identify(id Identity) error {
	if h.driver != nil {
		if was := h.orders.Identity; was.Node != id.Node || was.Cluster != id.Cluster {
			return fmt.Errorf("%w: of node %s in cluster %s, and the speaker of node %s in cluster %s",
				errOther, was.Node, was.Cluster, id.Node, id.Cluster)
		}
		return nil
	}
	driver, err := l2.New(l2.Config{
		Node: id.Node, Cluster: id.Cluster, NodeAddresses: id.NodeAddresses,
		FreshWithin: h.patience.fresh, StaleAfter: h.patience.stale,
		OnClaim: h.ledger.claimed, Asked: h.asked, Answers: h.ledger.answering, Harmless: h.net.OfService,
		Logger: h.Logger.With("driver", "l2"), Metrics: h.registry,
	})
	if err != nil {
		return fmt.Errorf("layer 2: %w", err)
	}
	h.driver, h.orders.Identity = driver, id
	return nil
}

// apply has the drivers do what an order says, and remembers it. mu is held.
func (h *Heart) apply(o *order) {
	if o.Keys != nil {
		h.driver.SetKeys(*o.Keys)
	}
	if o.Capabilities != nil {
		h.driver.SetCapabilities(*o.Capabilities)
	}
	if o.Nodes != nil {
		h.driver.SetNodes(o.Nodes)
	}
	if o.Confirmed != nil {
		h.driver.Confirm(time.Now().Add(-*o.Confirmed))
	}
	if o.MirrorLost {
		h.driver.MirrorLost()
	}
	for _, c := range o.Mirrored {
		h.driver.Mirrored(c)
		h.named.mirror(c)
	}
	for i, t := range o.Terms {
		o.Terms[i] = h.terms.share(t)
	}
	for a, w := range o.Desired {
		d := w.desired(o.Terms)
		h.driver.Sync(a, d)
		h.named.want(a, d.Announced)
	}
	h.orders.apply(o)
	if o.NewNext {
		h.driver.Anticipate(h.orders.next)
	}
}

func (n *named) mirror(c l2.Claim) {
	if !n.complete && n.mirrored != nil {
		n.mirrored[mirrorKey{c.Address, c.Segment}] = true
	}
}

func (n *named) want(a netip.Addr, wanted bool) {
	if !n.complete && n.desired != nil && wanted {
		n.desired[a] = true
	}
}

// complete withdraws what the connection has not named, and runs the driver if it does not yet. mu
// is held.
func (h *Heart) complete() {
	if h.named.complete {
		return
	}
	for a := range h.orders.desired {
		if !h.named.desired[a] {
			h.driver.Sync(a, l2.Desired{})
			delete(h.orders.desired, a)
		}
	}
	for key := range h.orders.mirrored {
		if !h.named.mirrored[key] {
			h.driver.Mirrored(l2.Claim{Address: key.address, Segment: key.segment})
			delete(h.orders.mirrored, key)
		}
	}
	h.named = named{complete: true}
	h.run()
}

// run runs the driver, once. mu is held.
func (h *Heart) run() {
	if h.start != nil {
		h.start(h.driver)
		h.start = nil
	}
}

// setState has the driver take a state, and tells when it has drained. A speaker that is told to
// end says that it restarts. If the heart is not told so soon after, it stays, and there is nothing
// to hand over. mu is held.
func (h *Heart) setState(ctx context.Context, o stateOrder) {
	driver := h.driver
	restarts := o.State == l2.Restarting || o.State == l2.Holding
	if !restarts || h.Within {
		driver.SetState(o.State)
		h.orders.State = o.State
	}
	if restarts || o.State == l2.Leaving {
		go h.tellDrained(ctx, driver, o, restarts && !h.Within) // ends with ctx
	}
}

func (h *Heart) tellDrained(ctx context.Context, driver *l2.Driver, o stateOrder, ifBoth bool) {
	if ifBoth {
		enough := time.NewTimer(pairing)
		defer enough.Stop()
		select {
		case <-h.ending:
			driver.SetState(o.State)
		case <-enough.C:
			h.ledger.tell(func(u *untold) { u.Drained = o.Turn })
			return
		case <-ctx.Done():
			return
		}
	}
	select {
	case <-driver.Drained():
		h.ledger.tell(func(u *untold) { u.Drained = o.Turn })
	case <-ctx.Done():
	}
}

// leave hands over what this node answers for.
func (h *Heart) leave(ctx context.Context) {
	close(h.ending)
	h.mu.Lock()
	driver, line, parted := h.driver, h.line, h.parted
	h.mu.Unlock()
	if line != nil {
		select {
		case <-parted:
		case <-time.After(partAtMost):
			h.Logger.Warn("the speaker does not say what becomes of the addresses; others take them over")
		}
	}
	h.mu.Lock()
	farewell := h.farewell
	h.mu.Unlock()
	if driver == nil || farewell {
		return
	}
	driver.SetState(l2.Restarting)
	select {
	case <-driver.Drained():
	case <-time.After(drainAtMost):
	case <-ctx.Done():
	}
}

// observe passes on what layer 2 sees, until ctx ends.
func (h *Heart) observe(ctx context.Context, d *l2.Driver) {
	for {
		select {
		case <-ctx.Done():
			return
		case o := <-d.Observed():
			var holds []string
			if o.Address.IsValid() {
				holds = d.Holds(o.Address)
			}
			h.ledger.seen(o, holds)
			if o.Kind != l2.PeerOverdue { // one message that is lost makes one
				h.Trace.Event(entryOf(o))
			}
		}
	}
}

// watch passes on what BFD sees, until ctx ends.
func (h *Heart) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-h.engine.Events():
			h.watchers.saw(e)
		}
	}
}

// pathsUp returns the paths that are up, as events.
func (h *Heart) pathsUp() []bfd.Event {
	var up []bfd.Event
	for _, s := range h.engine.Status() {
		if s.State == bfd.Up {
			up = append(up, bfd.Event{Peer: s.Peer, State: bfd.Up, Remote: bfd.Up})
		}
	}
	return up
}

// answer answers a question. mu is held.
func (h *Heart) answer(q question) {
	a := answer{ID: q.ID}
	if q.Metrics {
		a.Metrics = h.gather()
	} else {
		a.Layer2, a.BFD = h.driver.Status(), h.engine.Status()
	}
	h.ledger.tell(func(u *untold) { u.Told = append(u.Told, a) })
}

// gather returns all metrics, as text.
func (h *Heart) gather() []byte {
	text, err := promtext.Encode(h.registry)
	if err != nil {
		h.Logger.Warn("some metrics are missing", "error", err)
	}
	return text
}
