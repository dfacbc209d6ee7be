package bgpd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/internal/lines"
	"github.com/berth-lb/berth/internal/promtext"
	"github.com/berth-lb/berth/speaker/rival"
)

// statusPause is the least time between two words on the status: thousands of routes can change it
// one by one.
const statusPause = 20 * time.Millisecond

var (
	// errOther says that who connects is of another node. This process ends then: the next one is
	// theirs.
	errOther = errors.New("this process is of another node")

	errFarewell = errors.New("the other side said farewell")
)

// desk carries out what is wanted, and tells what is new. One side at a time talks to it.
type desk struct {
	log     *slog.Logger
	metrics prometheus.Gatherer
	// open makes the Announcer, of the first order.
	open func(*order) (Announcer, error)
	// carried is called after each order.
	carried func(*order)
	// ends reports whether this process is told to end.
	ends func(context.Context) bool
	// rivals looks for connections of other programs.
	rivals func([]rival.Router) ([]rival.Connection, error)
	// stays: a farewell ends the conversation only when the context ends.
	stays bool
	// paths takes what is seen of paths; nil: nothing is.
	paths func(bgp.PathChange)

	wake    async.Signal
	changed async.Signal // the status may be another

	mu       sync.Mutex
	identity Identity        // guarded by mu
	to       Announcer       // guarded by mu; nil until the first order
	groups   map[string]bool // guarded by mu; all that are wanted
	named    map[string]bool // guarded by mu; by this side so far; nil: it has named all
	farewell bool            // guarded by mu; this side has said it
	untold   untold          // guarded by mu
}

// untold is what the other side has not been told yet.
type untold struct {
	news
	status bool // as it is when the news are told
}

func newDesk(log *slog.Logger, metrics prometheus.Gatherer) *desk {
	return &desk{
		log: log, metrics: metrics, wake: async.NewSignal(), changed: async.NewSignal(), groups: map[string]bool{},
		carried: func(*order) {}, ends: func(context.Context) bool { return true }, rivals: rival.Look,
	}
}

// serve talks to a side until it or ctx ends, and reports whether it said farewell.
func (d *desk) serve(ctx context.Context, conn net.Conn) (farewell bool, err error) {
	ctx, end := context.WithCancel(ctx)
	var following sync.WaitGroup
	defer following.Wait()
	defer end()
	d.mu.Lock()
	d.named, d.farewell, d.untold = map[string]bool{}, false, untold{status: true}
	d.mu.Unlock()
	following.Go(func() { d.follow(ctx) })
	err = lines.Talk[news, order]{
		Wake: d.wake, Next: d.next, Hear: func(o order) error { return d.hear(ctx, o) },
	}.Over(ctx, conn)
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.farewell, err
}

// tell adds to what is to be told.
func (d *desk) tell(add func(*untold)) {
	d.mu.Lock()
	add(&d.untold)
	d.mu.Unlock()
	d.wake.Notify()
}

// follow notes what is new, until ctx ends.
func (d *desk) follow(ctx context.Context) {
	var observed <-chan bgp.Observation
	for {
		select {
		case <-ctx.Done():
			return
		case o := <-observed:
			d.tell(func(u *untold) { u.Observed, u.status = append(u.Observed, o), true })
		case <-d.changed:
			d.mu.Lock()
			if d.to != nil {
				observed = d.to.Observed()
			}
			d.untold.status = true
			d.mu.Unlock()
			d.wake.Notify()
			_ = async.Sleep(ctx, statusPause)
		}
	}
}

// next returns what is new, if anything is.
func (d *desk) next() (news, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.untold.news
	if d.untold.status {
		n.Status = &bgp.Status{}
		if d.to != nil {
			*n.Status = d.to.Status()
		}
	}
	d.untold = untold{}
	return n, n.Status != nil || len(n.Observed) > 0 || n.Watch != nil || len(n.Told) > 0
}

// hear takes an order. An error ends the conversation.
func (d *desk) hear(ctx context.Context, o order) error {
	if err := d.carryOut(ctx, &o); err != nil {
		d.log.Error("an order was not carried out", "error", err)
		return err
	}
	d.carried(&o)
	if o.Farewell && !d.stays {
		return errFarewell
	}
	return nil
}

// carryOut does what an order says. The Announcer waits for nobody, so mu may be held.
func (d *desk) carryOut(ctx context.Context, o *order) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if o.Identity != nil {
		if err := d.identify(o); err != nil {
			return err
		}
	}
	if d.to == nil && !o.Farewell {
		return errors.New("nobody said which node this is")
	}
	d.farewell = d.farewell || o.Farewell
	if err := d.numbers(o); err != nil {
		return err
	}
	for group, desired := range o.Groups {
		d.to.Sync(group, desired)
		d.name(group, len(desired.Routes) > 0)
	}
	if o.LeftAlone != nil {
		d.to.LeaveAlone(*o.LeftAlone)
	}
	if o.Peers != nil {
		d.to.SyncPeers(*o.Peers)
	}
	if o.Phase != nil {
		d.enter(ctx, *o.Phase)
	}
	for _, c := range o.Paths {
		if d.paths != nil {
			d.paths(c)
		}
	}
	if o.Question != nil {
		go d.answer(ctx, d.to, *o.Question) // ends with ctx
	}
	if o.Complete {
		d.complete()
	}
	return nil
}

// identify makes the Announcer. mu is held.
func (d *desk) identify(o *order) error {
	switch {
	case d.to == nil:
		to, err := d.open(o)
		if err != nil {
			return err
		}
		d.to, d.identity = to, *o.Identity
		d.changed.Notify()
	case d.identity != *o.Identity:
		return fmt.Errorf("%w: of %+v, and is to be of %+v", errOther, d.identity, *o.Identity)
	}
	return nil
}

// numbers sets what is global. mu is held.
func (d *desk) numbers(o *order) error {
	if o.RouterID.IsValid() {
		if err := d.to.SetRouterID(o.RouterID); err != nil {
			return err
		}
	}
	if o.NextHops != nil {
		return d.to.SetNextHops(o.NextHops)
	}
	return nil
}

// name notes that a group is wanted. mu is held.
func (d *desk) name(group string, wanted bool) {
	if !wanted {
		delete(d.groups, group)
		return
	}
	d.groups[group] = true
	if d.named != nil {
		d.named[group] = true
	}
}

// complete removes the groups that this side has not named. mu is held.
func (d *desk) complete() {
	if d.named == nil {
		return
	}
	for group := range d.groups {
		if !d.named[group] {
			d.to.Sync(group, bgp.Desired{})
			delete(d.groups, group)
		}
	}
	d.named = nil
}

// enter enters a phase. mu is held.
func (d *desk) enter(ctx context.Context, p phase) {
	switch p.Kind {
	case phaseResume:
		d.to.Resume()
	case phaseLastResort:
		d.to.LastResort()
	case phaseDrain:
		d.to.Drain(p.For)
	case phaseRestart:
		d.to.Restart()
	case phaseWithdraw:
		to := d.to
		go func() { _ = to.Withdraw(ctx) }() // ends with ctx; who wants to know asks
	}
}

// answer answers a question.
func (d *desk) answer(ctx context.Context, to Announcer, q question) {
	a := answer{ID: q.ID}
	var err error
	switch q.Kind {
	case askMetrics:
		a.Metrics, err = promtext.Encode(d.metrics)
	case askWithdrawn:
		err = to.Withdraw(ctx)
	case askEnds:
		a.Ends = d.ends(ctx)
	case askRivals:
		a.Rivals, err = d.rivals(q.Routers)
	}
	if err != nil {
		a.Failure = err.Error()
	}
	d.tell(func(u *untold) { u.Told = append(u.Told, a) })
}
