// Package bfd detects in fractions of a second that a router is gone: Bidirectional Forwarding
// Detection in asynchronous mode (RFC 5880), over one hop (RFC 5881) and several (RFC 5883).
//
// The state machine is session.go, without socket and clock; sockets.go has the wire, and this file
// runs one goroutine for each session.
package bfd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Defaults of a Peer's zero fields.
const (
	DefaultInterval   = 300 * time.Millisecond
	DefaultMultiplier = 3
)

// Peer is one router to watch. Two equal ones need no change.
type Peer struct {
	// Name identifies the session in events, status and metrics. Unique.
	Name string
	// Remote is the router's address, with a zone if it is link-local.
	Remote netip.Addr
	// Local is our end; the zero Addr lets the kernel choose.
	Local netip.Addr
	// Device binds the session to an interface or a VRF; empty means none.
	Device string
	// MinTTL is the lowest TTL that packets may arrive with, for a router that is several hops away
	// (RFC 5883 section 5, RFC 5082); 0: it is one hop away, and the TTL is 255.
	MinTTL uint8
	// ReceiveInterval and TransmitInterval are the shortest that are asked for, and liked; 0: 300 ms.
	ReceiveInterval, TransmitInterval time.Duration
	// Multiplier is after how many of our intervals without a packet the router calls us dead; 0: 3.
	Multiplier uint8
	// Authentication signs the packets of both ends.
	Authentication Authentication
}

func (p Peer) timers() timers {
	return timers{
		tx:         cmp.Or(p.TransmitInterval, DefaultInterval),
		rx:         cmp.Or(p.ReceiveInterval, DefaultInterval),
		multiplier: cmp.Or(p.Multiplier, DefaultMultiplier),
	}
}

// place is what a session cannot change.
func (p Peer) place() Peer {
	p.ReceiveInterval, p.TransmitInterval, p.Multiplier = 0, 0, 0
	return p
}

// Event is a session's step into Up, or out of it.
type Event struct {
	Peer  string
	State State
	// Diag is why we left Up, Remote what the router said last: AdminDown is its wish, and no failure.
	Diag   Diagnostic
	Remote State
}

// Status is a session at one moment.
type Status struct {
	Peer  string
	State State
	// Since is when the session entered or left Up.
	Since time.Time
	Diag  Diagnostic
	// Transmit is the time between our packets, Detection after which silence the router is dead; 0:
	// not yet known.
	Transmit, Detection time.Duration
	// Err is why nothing is sent or received; empty: all is well.
	Err string
}

// Engine keeps sessions. Its methods may be called from any goroutine.
type Engine struct {
	log     *slog.Logger
	metrics *metrics
	events  chan Event
	wire    *wire

	mu       sync.Mutex
	ctx      context.Context // guarded by mu; that of Run, nil before and after
	running  sync.WaitGroup
	sessions map[string]*runner // guarded by mu
}

// New returns an engine without sessions. Metrics may be nil.
func New(log *slog.Logger, registerer prometheus.Registerer) (*Engine, error) {
	m := newMetrics()
	if registerer != nil {
		if err := m.register(registerer); err != nil {
			return nil, err
		}
	}
	return &Engine{
		log:      log,
		metrics:  m,
		events:   make(chan Event, 64),
		wire:     newWire(log, m),
		sessions: map[string]*runner{},
	}, nil
}

// Events are the sessions' steps into and out of Up. Sessions stop if nobody reads them.
func (e *Engine) Events() <-chan Event { return e.events }

// Run keeps the sessions until ctx ends. Then each router is told that it is on purpose
// (AdminDown), for its detection time, and Run returns.
func (e *Engine) Run(ctx context.Context) error {
	e.mu.Lock()
	e.ctx = ctx
	for _, r := range e.sessions {
		e.start(r)
	}
	e.mu.Unlock()
	<-ctx.Done()
	e.mu.Lock()
	e.ctx = nil
	e.mu.Unlock()
	e.running.Wait()
	return nil
}

// Sync replaces the peers. Sessions of those that are equal to what they were are not touched, and
// other timers are told to the router within the session.
func (e *Engine) Sync(peers []Peer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	wanted := map[string]Peer{}
	for _, p := range peers {
		wanted[p.Name] = p
	}
	for name, r := range e.sessions {
		if p, stays := wanted[name]; !stays || p.place() != r.peer.place() {
			delete(e.sessions, name)
			r.end()
			if stays && r.now().State == Up {
				e.tell(Event{Peer: name, State: Down, Remote: AdminDown}) // another session begins, Down
			}
		}
	}
	for _, p := range peers {
		r, known := e.sessions[p.Name]
		switch {
		case !known:
			r = &runner{
				engine: e,
				peer:   p,
				in:     make(chan packet, 64),
				far:    make(chan int, 1),
				timers: make(chan timers, 1),
				status: Status{Peer: p.Name, State: Down, Since: time.Now()},
				end:    func() {},
			}
			e.sessions[p.Name] = r
			e.start(r)
		case r.peer != p:
			r.peer = p
			r.configure(p.timers())
		}
	}
}

// start runs a session, if the engine runs. e.mu is held.
func (e *Engine) start(r *runner) {
	if e.ctx == nil || e.ctx.Err() != nil {
		return
	}
	ctx, end := context.WithCancel(e.ctx)
	r.end = end
	peer := r.peer
	e.running.Go(func() { r.run(ctx, peer) }) // ends with ctx, after its farewell
}

// Status returns the sessions by name.
func (e *Engine) Status() []Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := make([]Status, 0, len(e.sessions))
	for _, r := range e.sessions {
		list = append(list, r.now())
	}
	slices.SortFunc(list, func(a, b Status) int { return cmp.Compare(a.Peer, b.Peer) })
	return list
}

// runner is one session with its goroutine.
type runner struct {
	engine *Engine
	peer   Peer // of the engine
	in     chan packet
	far    chan int // the TTL of a packet that came from too far away
	timers chan timers
	end    func()

	mu     sync.Mutex
	status Status // guarded by mu
}

func (r *runner) now() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

// configure leaves timers for the goroutine; only the latest count.
func (r *runner) configure(t timers) {
	select {
	case <-r.timers:
	default:
	}
	r.timers <- t
}

const (
	// reopen is the pause before sockets that could not be opened are tried again.
	reopen = 5 * time.Second
	// grace is how long a session whose timer was late waits before it calls the other dead: what the
	// other said may wait in the socket.
	grace = 20 * time.Millisecond
)

// run keeps the session until ctx ends.
func (r *runner) run(ctx context.Context, peer Peer) {
	defer r.engine.metrics.forget(peer.Name)
	for {
		link, err := r.engine.wire.open(peer, r.in, r.far)
		if err == nil {
			r.note("")
			r.serve(ctx, peer, link)
			link.close()
			return
		}
		r.note(err.Error())
		r.engine.log.Warn("BFD session not opened; will be tried again", "peer", peer.Name, "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(reopen):
		}
	}
}

// tooFar says that packets come from further away than they may.
func tooFar(p Peer, ttl int) string {
	if p.MinTTL == 0 {
		return fmt.Sprintf(
			"the router's BFD packets come with TTL %d, and it is to be one hop away (TTL 255); is it further, or another host's address?",
			ttl,
		)
	}
	return fmt.Sprintf(
		"the router's BFD packets come with TTL %d, and %d hops allow %d at least (RFC 5883 section 5); have it send them with TTL 255, or allow more hops in ebgpMultihop or ttlSecurityHops",
		ttl, 256-int(p.MinTTL), p.MinTTL,
	)
}

// complain notes why packets do not count, unless others do: then somebody else sends them.
func (r *runner) complain(s *session, why string) {
	if s.state != Up {
		r.note(why)
	}
}

func (r *runner) note(err string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.Err = err
}

func (r *runner) serve(ctx context.Context, peer Peer, link *link) {
	s := newSession(time.Now(), peer.timers(), peer.Authentication, link.discriminator, rand.Float64)
	timer := time.NewTimer(0)
	defer timer.Stop()
	ending := ctx.Done()
	var wake time.Time
	for {
		select {
		case <-ending:
			ending = nil
			s.stop(time.Now())
		case p := <-r.in:
			r.receive(s, p)
		case ttl := <-r.far:
			r.complain(s, tooFar(peer, ttl))
		case t := <-r.timers:
			s.configure(time.Now(), t)
		case <-timer.C:
		}
		r.drain(s)
		now := time.Now()
		if late := now.Sub(wake); !wake.IsZero() && late > grace && s.silent(now) {
			// This process was late, not necessarily the other: what it said may not have been read yet.
			wake = now.Add(grace)
			timer.Reset(grace)
			continue
		}
		s.tick(now)
		r.carryOut(s, link)
		if s.ended(time.Now()) {
			return
		}
		wake = s.next()
		timer.Reset(max(0, time.Until(wake)))
	}
}

func (r *runner) receive(s *session, p packet) {
	err := s.receive(time.Now(), p)
	switch {
	case err == nil:
		r.note("")
	case errors.Is(err, errUnproven):
		r.engine.metrics.rejected.WithLabelValues("unproven").Inc()
	default:
		r.engine.metrics.rejected.WithLabelValues("authentication").Inc()
		r.complain(s, err.Error())
	}
}

// drain takes what has come in.
func (r *runner) drain(s *session) {
	for {
		select {
		case p := <-r.in:
			r.receive(s, p)
		default:
			return
		}
	}
}

// carryOut sends, tells and publishes.
func (r *runner) carryOut(s *session, link *link) {
	out, changes := s.take()
	for _, p := range out {
		link.send(s.bytes(p))
	}
	m := r.engine.metrics
	r.mu.Lock()
	name := r.status.Peer
	r.status.Transmit, r.status.Detection, r.status.Diag, r.status.State = s.interval(), s.detection(), s.diag, s.state
	var events []Event
	for _, c := range changes {
		if c.from != Up && c.to != Up {
			continue
		}
		r.status.Since = time.Now()
		events = append(events, Event{Peer: name, State: c.to, Diag: c.diag, Remote: c.remote})
	}
	r.mu.Unlock()
	m.set(name, s.state == Up)
	for _, e := range events {
		m.changes.WithLabelValues(name, strings.ToLower(e.State.String())).Inc()
		r.engine.log.Info(
			"BFD session",
			"peer",
			name,
			"state",
			e.State.String(),
			"diagnostic",
			e.Diag.String(),
			"remote",
			e.Remote.String(),
		)
		if e.State == AdminDown {
			continue // the caller that ended it knows
		}
		r.engine.tell(e)
	}
}

// tell passes an event on, if somebody reads.
func (e *Engine) tell(event Event) {
	select {
	case e.events <- event:
	default:
		e.log.Warn("a BFD event was lost: nobody reads them", "peer", event.Peer)
	}
}

type metrics struct {
	up       *prometheus.GaugeVec
	changes  *prometheus.CounterVec
	packets  *prometheus.CounterVec
	rejected *prometheus.CounterVec
}

func newMetrics() *metrics {
	return &metrics{
		up: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "berth_bfd_session_up",
			Help: "1 while the BFD session is Up."}, []string{"peer"}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "berth_bfd_session_changes_total",
			Help: "Changes of BFD sessions into Up and out of it, by the new state."}, []string{"peer", "state"}),
		packets: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "berth_bfd_packets_total",
			Help: "BFD packets sent and received."}, []string{"peer", "direction"}),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "berth_bfd_packets_rejected_total",
			Help: "BFD packets ignored, by reason."}, []string{"reason"}),
	}
}

func (m *metrics) register(r prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{m.up, m.changes, m.packets, m.rejected} {
		if err := r.Register(c); err != nil {
			return fmt.Errorf("register BFD metrics: %w", err)
		}
	}
	return nil
}

func (m *metrics) set(peer string, up bool) {
	value := 0.0
	if up {
		value = 1
	}
	m.up.WithLabelValues(peer).Set(value)
}

func (m *metrics) forget(peer string) {
	label := prometheus.Labels{"peer": peer}
	m.up.DeletePartialMatch(label)
	m.changes.DeletePartialMatch(label)
	m.packets.DeletePartialMatch(label)
}
