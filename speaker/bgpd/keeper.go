package bgpd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"golang.org/x/sync/errgroup"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/internal/keptfile"
	"github.com/berth-lb/berth/speaker/rival"
)

// Bounds of what a keeper does without a speaker.
const (
	// pairing is how long after the speaker was told to end the keeper may be told, too. If it is not,
	// the speaker alone is started again, and the sessions stay.
	pairing = time.Second
	// partAtMost is how long the keeper waits, once told to end, for the speaker to say what becomes
	// of the routes. With the time for a worker to end it is shorter than the grace period of the pod.
	partAtMost = 10 * time.Second
	// aloneAtMost is the default of KeeperConfig.AloneAtMost.
	aloneAtMost = 30 * time.Second
	// keepEvery bounds how often the state is written, and keepAtLeast how seldom while a speaker is
	// there.
	keepEvery, keepAtLeast = 5 * time.Second, time.Hour
	// forgetAfter is how old the state may be.
	forgetAfter = 24 * time.Hour
	// keptVersion is that of the state's form.
	keptVersion = 1
)

// KeeperConfig is what a Keeper needs. Logger and Worker must not be empty.
type KeeperConfig struct {
	Logger *slog.Logger
	// Worker is the command of a worker, which calls Work with what Inherited returns.
	Worker []string
	// StateFile is where what is wanted is kept over the end of this process. It holds the passwords
	// of sessions, so it belongs on a file system in memory that only root reads. Empty: nowhere.
	StateFile string
	// Liveness watches paths; nil: none is watched. The caller runs it.
	Liveness bgp.Liveness
	// AloneAtMost is how long routes stay as they were without a speaker; 0: 30 s. Then they are a
	// last resort: other nodes know better where they lead.
	AloneAtMost time.Duration
}

// Keeper remembers what a speaker wants of BGP, and has a worker do it. Make one with NewKeeper.
type Keeper struct {
	KeeperConfig
	desk   *desk
	staff  *staff
	remote *Remote       // of the worker; set once, under desk.mu
	ending chan struct{} // closed when the keeper is told to end
	keep   async.Signal  // the state changed
	unfit  chan error    // why it cannot serve its speaker

	mu      sync.Mutex
	start   func()        // guarded by mu; runs the remote, once
	line    net.Conn      // guarded by mu; nil: no speaker
	parted  chan struct{} // guarded by mu; closed when line has ended
	nobody  chan struct{} // parted before there was a speaker
	parting bool          // guarded by mu; the speaker has said a phase since the keeper was told to end
	lift    *time.Timer   // guarded by mu; when a router is no longer left alone
}

// NewKeeper returns a keeper that does nothing yet.
func NewKeeper(config KeeperConfig) *Keeper {
	parted := make(chan struct{})
	close(parted)
	if config.AloneAtMost == 0 {
		config.AloneAtMost = aloneAtMost
	}
	k := &Keeper{
		KeeperConfig: config, ending: make(chan struct{}), keep: async.NewSignal(), unfit: make(chan error, 1),
		parted: parted, nobody: parted,
	}
	k.staff = &staff{log: config.Logger, command: config.Worker, onCrash: k.leaveAlone}
	registry := prometheus.NewRegistry()
	if err := Register(registry, k.staff.crashes); err != nil {
		panic(err) // a registry that is empty takes it
	}
	k.desk = newDesk(config.Logger, prometheus.Gatherers{registry, prometheus.GathererFunc(k.gather)})
	k.desk.open, k.desk.carried, k.desk.ends, k.desk.rivals = k.open, k.carried, k.ends, k.rivals
	return k
}

// Register registers the keeper's own metrics.
func Register(r prometheus.Registerer, crashes func() int) error {
	err := r.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "berth_bgp_crashes_total",
		Help: "How often the process that speaks BGP crashed and was started again.",
	}, func() float64 { return float64(crashes()) }))
	if err != nil {
		return fmt.Errorf("register the metrics of BGP's keeper: %w", err)
	}
	return nil
}

// open makes the Remote of the worker.
func (k *Keeper) open(o *order) (Announcer, error) {
	if err := errors.Join(bgp.CheckRouterID(o.RouterID), bgp.CheckNextHops(o.NextHops)); err != nil {
		return nil, err
	}
	k.remote = NewRemote(RemoteConfig{
		Identity: *o.Identity, RouterID: o.RouterID, NextHops: o.NextHops, Dial: k.staff.hire, Logger: k.Logger,
		Liveness: k.Liveness, OnChange: k.desk.changed.Notify,
	})
	return announcer{k.remote, k}, nil
}

// announcer is the Remote, with what the keeper does besides.
type announcer struct {
	*Remote
	keeper *Keeper
}

// SyncPeers forgives the routers of neighbors that changed.
func (a announcer) SyncPeers(peers []bgp.Peer) {
	before := a.known()
	a.Remote.SyncPeers(peers)
	after := a.known()
	if before == nil {
		return
	}
	a.keeper.staff.forgive(func(router netip.Addr) bool { return peerOf(before, router) != peerOf(after, router) })
	a.keeper.leaveAlone()
}

// LeaveAlone is not for speakers to say.
func (announcer) LeaveAlone(map[netip.Addr]string) {}

// peerOf returns the peer that a router belongs to.
func peerOf(peers []bgp.Peer, router netip.Addr) bgp.Peer {
	for _, p := range peers {
		if p.Address == router || p.Interface != "" && p.Interface == router.Zone() || p.Prefix.Contains(router) {
			return p
		}
	}
	return bgp.Peer{}
}

// leaveAlone has the worker leave alone whom the blame says, now and when that changes.
func (k *Keeper) leaveAlone() {
	k.mu.Lock()
	defer k.mu.Unlock() // of two at once, the later has the last word
	routers, changes := k.staff.leftAlone(time.Now())
	if k.lift != nil {
		k.lift.Stop()
		k.lift = nil
	}
	if !changes.IsZero() {
		k.lift = time.AfterFunc(time.Until(changes)+time.Millisecond, k.leaveAlone)
	}
	k.remote.LeaveAlone(routers)
	k.keep.Notify()
}

// rivals has the worker look, whose connections are ours. While there is none, none is ours.
func (k *Keeper) rivals(routers []rival.Router) ([]rival.Connection, error) {
	k.desk.mu.Lock()
	remote := k.remote
	k.desk.mu.Unlock()
	if remote == nil || remote.Status().Err != "" {
		return rival.Look(routers)
	}
	return remote.Look(routers)
}

// gather returns the worker's metrics, if there is one.
func (k *Keeper) gather() ([]*dto.MetricFamily, error) {
	k.desk.mu.Lock()
	remote := k.remote
	k.desk.mu.Unlock()
	if remote == nil {
		return nil, nil
	}
	return remote.Gather()
}

// carried begins with what is wanted when that is complete, and has it kept.
func (k *Keeper) carried(o *order) {
	if o.Complete {
		k.begin()
	}
	select {
	case <-k.ending:
		k.mu.Lock()
		k.parting = k.parting || o.Phase != nil
		k.mu.Unlock()
	default:
	}
	k.keep.Notify()
}

// begin runs the worker, once.
func (k *Keeper) begin() {
	k.mu.Lock()
	start := k.start
	k.start = nil
	k.mu.Unlock()
	if start != nil {
		start()
	}
}

// ends waits for a word to end, for as long as one may follow the speaker's.
func (k *Keeper) ends(ctx context.Context) bool {
	enough := time.NewTimer(pairing)
	defer enough.Stop()
	select {
	case <-k.ending:
		return true
	case <-enough.C:
	case <-ctx.Done():
	}
	return false
}

// Run serves until ctx ends, and then for as long as it takes to end the sessions as the speaker
// says, or within ten seconds nobody. Speakers connect to l, one at a time; a later one replaces
// the former.
func (k *Keeper) Run(ctx context.Context, l net.Listener) error {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	working, rest := context.WithCancel(life)
	defer rest()
	worked := make(chan struct{})
	group, life := errgroup.WithContext(life)
	k.mu.Lock()
	k.start = func() {
		group.Go(func() error {
			defer close(worked)
			return k.remote.Run(working)
		})
	}
	k.mu.Unlock()
	if k.recall() {
		group.Go(func() error {
			if async.Sleep(life, k.AloneAtMost) == nil {
				k.goOnAlone(k.nobody)
			}
			return nil
		})
	}
	if k.StateFile != "" {
		group.Go(func() error {
			keptfile.Keep(life, k.StateFile, k.keep, keepEvery, k.writeState, k.Logger)
			return nil
		})
		group.Go(func() error {
			for async.Sleep(life, keepAtLeast) == nil {
				if k.served() {
					k.keep.Notify()
				}
			}
			return nil
		})
	}
	group.Go(func() error { return k.accept(life, l) })
	group.Go(func() error {
		select {
		case err := <-k.unfit:
			return err
		case <-life.Done():
			return nil
		}
	})
	context.AfterFunc(life, func() { _ = l.Close() })
	select {
	case <-ctx.Done():
		k.leave()
		rest()
		k.mu.Lock()
		idle := k.start != nil
		k.start = nil
		k.mu.Unlock()
		if !idle {
			<-worked
		}
	case <-life.Done(): // something failed
	}
	end()
	err := group.Wait()
	k.staff.end()
	return err
}

// accept serves speakers.
func (k *Keeper) accept(ctx context.Context, l net.Listener) error {
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("listen for the speaker: %w", err)
		}
		k.serve(ctx, conn)
	}
}

// serve begins to serve a speaker, in the place of the former one.
func (k *Keeper) serve(ctx context.Context, conn net.Conn) {
	k.mu.Lock()
	former, parted := k.line, k.parted
	k.mu.Unlock()
	if former != nil {
		_ = former.Close()
	}
	<-parted
	done := make(chan struct{})
	k.mu.Lock()
	k.line, k.parted = conn, done
	k.mu.Unlock()
	go func() { // ends with the connection
		farewell, err := k.desk.serve(ctx, conn)
		k.mu.Lock()
		k.line = nil
		k.mu.Unlock()
		close(done)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errOther):
			k.unfit <- err
			return
		case !farewell:
			k.Logger.Warn("the speaker is gone; going on with what it wanted last", "error", err)
		}
		if async.Sleep(ctx, k.AloneAtMost) == nil {
			k.goOnAlone(done)
		}
	}()
}

// goOnAlone makes the routes a last resort, unless another speaker came, or they are to go.
func (k *Keeper) goOnAlone(after chan struct{}) {
	k.mu.Lock()
	alone := k.parted == after
	k.mu.Unlock()
	if r := k.announcing(); alone && r != nil {
		k.Logger.Warn("no speaker came; routers are asked to prefer other nodes")
		r.LastResort()
		k.keep.Notify()
	}
}

// leave waits for what the speaker has to say, and else leaves the routes to whose routers keep
// them. A speaker that has begun to part has as long as its flags say.
func (k *Keeper) leave() {
	close(k.ending)
	k.mu.Lock()
	line, parted := k.line, k.parted
	k.mu.Unlock()
	if line != nil {
		enough := time.NewTimer(partAtMost)
		defer enough.Stop()
		select {
		case <-parted:
		case <-enough.C:
			k.mu.Lock()
			parting := k.parting
			k.mu.Unlock()
			if parting {
				<-parted
			} else {
				k.Logger.Warn("the speaker does not say what becomes of the routes; routers keep them that can")
			}
		}
	}
	if r := k.announcing(); r != nil {
		r.Restart()
	}
}

// announcing returns the Remote if what is wanted is to be announced, and stay so; else nil.
func (k *Keeper) announcing() *Remote {
	k.desk.mu.Lock()
	defer k.desk.mu.Unlock()
	if k.remote == nil || !k.remote.announces() {
		return nil
	}
	return k.remote
}

// kept is the state as a file.
type kept struct {
	wants
	Blame blame
}

// served reports whether a speaker is there.
func (k *Keeper) served() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.line != nil
}

// writeState writes the state, unless a speaker has not said everything yet.
func (k *Keeper) writeState() (written bool, err error) {
	k.desk.mu.Lock()
	remote, whole := k.remote, k.desk.named == nil
	k.desk.mu.Unlock()
	if remote == nil || !whole {
		return false, nil
	}
	state := kept{wants: remote.copyOfWants(), Blame: k.staff.copyOfBlame()}
	if err := keptfile.Write(k.StateFile, keptVersion, state); err != nil {
		return false, fmt.Errorf("%s: %w", k.StateFile, err)
	}
	return true, nil
}

// recall begins with what was wanted of the process before, and reports whether it does.
func (k *Keeper) recall() bool {
	if k.StateFile == "" {
		return false
	}
	state := kept{wants: newWants()}
	age, err := keptfile.Read(k.StateFile, keptVersion, forgetAfter, &state)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err == nil {
		k.staff.remember(state.Blame)
		peers := state.Peers
		if peers == nil {
			peers = []bgp.Peer{}
		}
		err = k.desk.carryOut(context.Background(), &order{
			Identity: &state.Identity, RouterID: state.RouterID, NextHops: state.NextHops, Groups: state.Groups,
			Peers: &peers, Phase: &state.Phase, Complete: true,
		})
	}
	if err != nil {
		k.Logger.Warn("the state of the process before is not used", "error", err)
		return false
	}
	k.leaveAlone()
	k.Logger.Info(
		"going on with what the speaker wanted of the process before",
		"groups",
		len(state.Groups),
		"age",
		age,
	)
	k.begin()
	return true
}
