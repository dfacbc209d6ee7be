package bgpd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/internal/lines"
	"github.com/berth-lb/berth/internal/promtext"
	"github.com/berth-lb/berth/speaker/rival"
)

const (
	// dialAgain is the pause between attempts to reach the other side.
	dialAgain = 50 * time.Millisecond
	// answerWithin is how long an answer may take.
	answerWithin = 2 * time.Second
	// meetWithin is how long Meet waits.
	meetWithin = 2 * time.Second
	// partWithin is how long the other side may take to end after a farewell: a worker ends sessions.
	partWithin = 5 * time.Second
	// observationsKept is how many observations wait for a reader before the oldest are lost.
	observationsKept = 256
)

// RemoteConfig is what a Remote needs. Dial and Logger must not be nil.
type RemoteConfig struct {
	Identity
	// RouterID and NextHops are as in bgp.Config.
	RouterID netip.Addr
	NextHops []netip.Addr
	// Dial connects to the other side.
	Dial   func(context.Context) (net.Conn, error)
	Logger *slog.Logger
	// Liveness is for the other side to use; nil: it has its own.
	Liveness bgp.Liveness
	// OnChange is as in bgp.Config.
	OnChange func()
}

// Remote is a bgp.Driver that runs in another process. Its methods may be called from any
// goroutine, also before Run. None waits for the other side but Meet, Withdraw, Ends and Gather,
// for a bounded time. What is said while the other side is away is said when it is back.
type Remote struct {
	RemoteConfig
	wake     async.Signal
	observed *async.Stream[bgp.Observation]

	mu        sync.Mutex
	met       net.Conn                  // guarded by mu; of Meet, for Run
	connected bool                      // guarded by mu
	since     time.Time                 // guarded by mu; when that began
	failure   string                    // guarded by mu; why it is not connected
	wants     wants                     // guarded by mu
	unsaid    unsaid                    // guarded by mu
	status    bgp.Status                // guarded by mu; the last
	watched   []bgp.Peer                // guarded by mu; by Liveness
	paths     map[string]bgp.PathChange // guarded by mu; the last of each peer
	asked     uint64                    // guarded by mu; the last ID of a question
	questions map[uint64]chan answer    // guarded by mu; by ID
}

var _ Announcer = (*Remote)(nil)

// NewRemote returns a Remote that is not connected yet.
func NewRemote(config RemoteConfig) *Remote {
	r := &Remote{
		RemoteConfig: config, wake: async.NewSignal(), observed: async.NewStream[bgp.Observation](observationsKept),
		since: time.Now(), failure: "not reached yet", wants: newWants(),
		unsaid: unsaid{groups: map[string]bool{}}, paths: map[string]bgp.PathChange{},
		questions: map[uint64]chan answer{},
	}
	r.wants.Identity, r.wants.RouterID, r.wants.NextHops = config.Identity, config.RouterID, config.NextHops
	return r
}

// change changes what is wanted, and has it said.
func (r *Remote) change(do func(*wants, *unsaid)) {
	r.mu.Lock()
	do(&r.wants, &r.unsaid)
	r.mu.Unlock()
	r.wake.Notify()
}

// Sync is that of bgp.Driver. What is wanted already is not said again: most plans come to what
// was, and where nothing is announced by BGP that is nothing, for each Service.
func (r *Remote) Sync(group string, desired bgp.Desired) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.EqualFunc(r.wants.Groups[group].Routes, desired.Routes, bgp.Route.Equal) {
		return
	}
	if len(desired.Routes) > 0 {
		r.wants.Groups[group] = desired
	} else {
		delete(r.wants.Groups, group)
	}
	r.unsaid.groups[group] = true
	r.wake.Notify()
}

// SyncPeers is that of bgp.Driver.
func (r *Remote) SyncPeers(peers []bgp.Peer) {
	canonical := make([]bgp.Peer, 0, len(peers))
	for _, p := range peers {
		canonical = append(canonical, p.Canonical())
	}
	r.change(func(w *wants, u *unsaid) { w.Peers, u.peers = canonical, true })
}

// LeaveAlone is that of bgp.Driver.
func (r *Remote) LeaveAlone(routers map[netip.Addr]string) {
	r.change(func(w *wants, u *unsaid) { w.LeftAlone, u.leftAlone = maps.Clone(routers), true })
}

// SetRouterID is that of bgp.Driver.
func (r *Remote) SetRouterID(id netip.Addr) error {
	if err := bgp.CheckRouterID(id); err != nil {
		return err
	}
	r.change(func(w *wants, u *unsaid) { w.RouterID, u.routerID = id, true })
	return nil
}

// SetNextHops is that of bgp.Driver.
func (r *Remote) SetNextHops(addresses []netip.Addr) error {
	if err := bgp.CheckNextHops(addresses); err != nil {
		return err
	}
	r.change(func(w *wants, u *unsaid) { w.NextHops, u.nextHops = slices.Clone(addresses), true })
	return nil
}

func (r *Remote) enter(p phase) {
	r.change(func(w *wants, u *unsaid) { w.Phase, u.phase = p, true })
}

// Drain is that of bgp.Driver.
func (r *Remote) Drain(after time.Duration) { r.enter(phase{phaseDrain, after}) }

// LastResort is that of bgp.Driver.
func (r *Remote) LastResort() { r.enter(phase{Kind: phaseLastResort}) }

// Resume is that of bgp.Driver.
func (r *Remote) Resume() { r.enter(phase{Kind: phaseResume}) }

// Restart is that of bgp.Driver. A keeper keeps the sessions unless it is told to end, too.
func (r *Remote) Restart() { r.enter(phase{Kind: phaseRestart}) }

// Withdraw is that of bgp.Driver.
func (r *Remote) Withdraw(ctx context.Context) error {
	r.enter(phase{Kind: phaseWithdraw})
	_, err := r.ask(ctx, question{Kind: askWithdrawn})
	return err
}

// Ends reports whether the other side was told to end as well: where it was not, the sessions
// outlive this process. It may take a second.
func (r *Remote) Ends(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	a, err := r.ask(ctx, question{Kind: askEnds})
	return err != nil || a.Ends
}

// Look is rival.Look, by the process whose own connections are none of a rival's.
func (r *Remote) Look(routers []rival.Router) ([]rival.Connection, error) {
	r.mu.Lock()
	met := r.met != nil
	r.mu.Unlock()
	if met {
		return r.lookBeforeRun(routers)
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	a, err := r.ask(ctx, question{Kind: askRivals, Routers: routers})
	return a.Rivals, err
}

// Gather implements prometheus.Gatherer: the metrics of the other side, as far as it has them.
func (r *Remote) Gather() ([]*dto.MetricFamily, error) {
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	a, missing := r.ask(ctx, question{Kind: askMetrics})
	families, err := promtext.Decode(a.Metrics)
	if err = errors.Join(missing, err); err != nil {
		return families, fmt.Errorf("metrics of BGP: %w", err)
	}
	return families, nil
}

// Observed is that of bgp.Driver.
func (r *Remote) Observed() <-chan bgp.Observation { return r.observed.C() }

// Status is that of bgp.Driver, as it was last told. Err says if the other side is away.
func (r *Remote) Status() bgp.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.status
	s.Peers = slices.Clone(s.Peers)
	if !r.connected {
		s.Err = fmt.Sprintf(
			"the process that speaks BGP is away since %s: %s",
			r.since.Format(time.TimeOnly),
			r.failure,
		)
	}
	return s
}

// ask asks the other side, and waits for the answer.
func (r *Remote) ask(ctx context.Context, q question) (answer, error) {
	told := make(chan answer, 1)
	r.mu.Lock()
	if !r.connected {
		defer r.mu.Unlock()
		return answer{}, fmt.Errorf("the process that speaks BGP is away: %s", r.failure)
	}
	r.asked++
	q.ID = r.asked
	r.questions[q.ID] = told
	r.unsaid.questions = append(r.unsaid.questions, q)
	r.mu.Unlock()
	r.wake.Notify()
	select {
	case a, ok := <-told:
		if ok {
			return a, a.err()
		}
	case <-ctx.Done():
		r.mu.Lock()
		delete(r.questions, q.ID)
		r.mu.Unlock()
	}
	return answer{}, errors.New("the process that speaks BGP does not answer")
}

// Meet connects, for two seconds at most, and hears how things are before anything is wanted: which
// sessions there are already. It is called before Run, or not at all.
func (r *Remote) Meet(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, meetWithin)
	defer cancel()
	for ctx.Err() == nil {
		conn, err := r.Dial(ctx)
		if err != nil {
			r.away(err)
			_ = async.Sleep(ctx, dialAgain)
			continue
		}
		n, conn, err := lines.First[news](conn, meetWithin)
		if err != nil {
			r.away(err)
			return
		}
		r.mu.Lock()
		r.met = conn
		if n.Status != nil {
			r.status = *n.Status
		}
		r.mu.Unlock()
		return
	}
}

// lookBeforeRun asks on the connection of Meet, for what is wanted depends on the answer.
func (r *Remote) lookBeforeRun(routers []rival.Router) ([]rival.Connection, error) {
	r.mu.Lock()
	conn := r.met
	r.met = nil
	r.asked++
	o := order{
		Identity: &r.wants.Identity, RouterID: r.wants.RouterID, NextHops: r.wants.NextHops,
		Question: &question{ID: r.asked, Kind: askRivals, Routers: routers},
	}
	r.mu.Unlock()
	_ = conn.SetWriteDeadline(time.Now().Add(answerWithin))
	err := json.NewEncoder(conn).Encode(o)
	for err == nil {
		var n news
		if n, conn, err = lines.First[news](conn, answerWithin); err != nil {
			break
		}
		r.hear(n)
		for _, a := range n.Told {
			if a.ID != o.Question.ID {
				continue
			}
			r.mu.Lock()
			r.met = conn
			r.mu.Unlock()
			return a.Rivals, a.err()
		}
	}
	return nil, fmt.Errorf("ask the process that speaks BGP: %w", err)
}

// dial returns the connection of Meet, the first time.
func (r *Remote) dial(ctx context.Context) (net.Conn, error) {
	r.mu.Lock()
	conn := r.met
	r.met = nil
	r.mu.Unlock()
	if conn != nil {
		return conn, nil
	}
	return r.Dial(ctx)
}

// Run keeps the connection until ctx ends, and says farewell then. What is wanted before Run is
// said at once.
func (r *Remote) Run(ctx context.Context) error {
	var watching sync.WaitGroup
	defer watching.Wait()
	ctx, end := context.WithCancel(ctx)
	defer end()
	if r.Liveness != nil {
		watching.Go(func() { r.watch(ctx) })
	}
	talk := lines.Talk[order, news]{
		Wake: r.wake, Next: r.next, Hear: func(n news) error { r.hear(n); return nil },
		Farewell: &order{Farewell: true}, PartWithin: partWithin,
	}
	told := ""
	for ctx.Err() == nil {
		conn, err := r.dial(ctx)
		if err == nil {
			r.connect()
			told = ""
			if err = talk.Over(ctx, conn); err == nil {
				break
			}
		}
		r.away(err)
		if err.Error() != told && ctx.Err() == nil {
			told = err.Error()
			r.Logger.Warn("the process that speaks BGP is away; it is told everything when it is there", "error", err)
		}
		_ = async.Sleep(ctx, dialAgain)
	}
	return nil
}

// connect has everything said on a new connection.
func (r *Remote) connect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.connected, r.since, r.failure = true, time.Now(), ""
	r.watched = nil
	r.unsaid.everything(&r.wants)
}

// away notes that the other side is gone, and that no session is known to be there.
func (r *Remote) away(err error) {
	r.mu.Lock()
	lost := r.connected
	if lost {
		r.connected, r.since = false, time.Now()
	}
	r.failure = err.Error()
	var ended []bgp.Observation
	for i, p := range r.status.Peers {
		if !lost || !p.Established() {
			continue
		}
		reason := "the process that speaks BGP ended"
		ended = append(ended, bgp.Observation{Time: r.since, Kind: bgp.SessionDown, Peer: p.Name, Reason: reason})
		r.status.Peers[i] = p.Ended(r.since, reason)
	}
	for id, told := range r.questions {
		close(told)
		delete(r.questions, id)
	}
	r.unsaid.questions = nil
	r.mu.Unlock()
	for _, o := range ended {
		r.observed.Send(o)
	}
	r.changed()
}

func (r *Remote) changed() {
	if r.OnChange != nil {
		r.OnChange()
	}
}

// next returns the next order, if there is one.
func (r *Remote) next() (order, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unsaid.next(&r.wants)
}

// hear takes news.
func (r *Remote) hear(n news) {
	r.mu.Lock()
	if n.Status != nil {
		r.status = *n.Status
	}
	if n.Watch != nil {
		r.watched = *n.Watch
		for _, p := range r.watched { // it has sessions with them now
			if c, known := r.paths[p.Name]; known {
				r.unsaid.paths = append(r.unsaid.paths, c)
			}
		}
		maps.DeleteFunc(r.paths, func(name string, _ bgp.PathChange) bool {
			return !slices.ContainsFunc(r.watched, func(p bgp.Peer) bool { return p.Name == name })
		})
	}
	for _, a := range n.Told {
		if told := r.questions[a.ID]; told != nil {
			told <- a
			delete(r.questions, a.ID)
		}
	}
	r.mu.Unlock()
	if n.Watch != nil && r.Liveness != nil {
		r.Liveness.Watch(*n.Watch)
		r.wake.Notify()
	}
	for _, o := range n.Observed {
		r.observed.Send(o)
	}
	if n.Status != nil {
		r.changed()
	}
}

// watch passes on what Liveness says, until ctx ends.
func (r *Remote) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-r.Liveness.Changes():
			r.change(func(_ *wants, u *unsaid) {
				r.paths[c.Peer] = c
				if slices.ContainsFunc(r.watched, func(p bgp.Peer) bool { return p.Name == c.Peer }) {
					u.paths = append(u.paths, c)
				}
			})
		}
	}
}

// known returns the peers that are wanted.
func (r *Remote) known() []bgp.Peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.wants.Peers
}

// announces reports whether what is wanted is to be announced, and stay so.
func (r *Remote) announces() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.wants.Phase.Kind == phaseResume || r.wants.Phase.Kind == phaseRestart
}

// copyOfWants returns all that is wanted.
func (r *Remote) copyOfWants() wants {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.wants
	w.Groups = maps.Clone(w.Groups)
	return w
}
