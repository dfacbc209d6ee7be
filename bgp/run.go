package bgp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/berth-lb/berth/internal/liveness"
)

// Run keeps the sessions and the routes until ctx ends. Then it closes the sessions with
// NOTIFICATION Cease (Administrative Shutdown "leaving" after Drain or Withdraw, else
// Administrative Reset "restarting"), after Restart those of peers that keep the routes without a
// word, and returns nil, or an error if that took more than two seconds. It must not be called
// twice.
func (d *Driver) Run(ctx context.Context) error {
	if !d.orders.start() {
		return errors.New("run BGP driver: it has run already")
	}
	return newLoop(d).run(ctx)
}

func (o *loop) run(ctx context.Context) error {
	// GoBGP outlives ctx by the time it takes to say goodbye.
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer o.asking.Wait()
	defer cancel()
	if err := o.start(inner); err != nil {
		return err
	}
	resync := time.NewTicker(o.config.ResyncInterval)
	defer resync.Stop()
	defer o.retry.Stop()
	defer o.settle.Stop()
	defer o.drain.Stop()
	defer o.rest.Stop()
	defer o.seekAgain.Stop()

	pass := liveness.Of(ctx, "BGP", liveness.Limit+o.config.ResyncInterval) // it comes around at least that often
	defer pass.End()
	for {
		pass.Begin()
		select {
		case <-ctx.Done():
			o.carryOut(o.orders.take()) // the last word counts, and select may have passed it over
			return o.close(inner, cancel)
		case <-o.orders.wake:
			o.carryOut(o.orders.take())
		case e := <-o.server.events:
			o.sessionChanged(inner, e)
		case <-o.gobgpLog.wake:
			o.readLog(inner)
		case conn := <-o.server.ears.connections():
			o.connectedTo(conn)
		case a := <-o.answered:
			o.connected(a)
		case v := <-o.probes:
			o.probeAnswered(v)
		case c := <-o.changes():
			o.pathChanged(inner, c)
		case seen := <-o.found:
			o.routerFound(inner, seen)
		case <-o.seekAgain.C:
			o.seek(inner)
		case <-o.settle.C:
			o.settleSessions(inner)
		case <-o.retry.C:
			o.tryAgain(inner)
		case <-o.drain.C:
			if o.phase == draining {
				o.enter(withdrawn)
			}
		case <-o.rest.C:
			o.wakeRested(inner)
		case <-resync.C:
			o.readBack()
		case <-o.work():
			o.sendBatch()
		}
		if o.restartReason != "" {
			if err := o.restart(inner); err != nil {
				return err
			}
		}
		if o.peersNews && len(o.dirty) == 0 {
			o.peersNews = false
			o.syncPeers(inner)
			o.seek(inner)
		}
	}
}

// work is ready while there is something to send. One batch at a time, so that news of sessions and
// newer orders come in between.
func (o *loop) work() <-chan struct{} {
	if len(o.dirty) > 0 && !o.settles || len(o.withdrawn) > 0 && o.withdrawDone() {
		return o.ready
	}
	return nil
}

func (o *loop) carryOut(ord order) {
	for group, desired := range ord.groups {
		for _, prefix := range o.desired.replace(group, desired) {
			o.touch(prefix)
		}
	}
	if ord.turn != o.turn {
		o.turn = ord.turn
		o.drain.Stop()
		if ord.phase == draining {
			o.drain.Reset(ord.drainFor)
		}
		o.enter(ord.phase)
	}
	o.withdrawn = append(o.withdrawn, ord.withdrawn...)
	if ord.routerID.IsValid() && ord.routerID != o.routerID {
		o.restartReason = fmt.Sprintf("the router ID changes from %s to %s", o.routerID, ord.routerID)
		o.routerID = ord.routerID
	}
	if ord.nextHops != nil && !maps.Equal(ord.nextHops, o.nextHops) {
		o.nextHops = ord.nextHops
		for prefix := range o.desired.prefixes {
			o.dirty[prefix] = true
		}
		o.peersNews = true // some may need an IPv6 next hop now, or no longer
	}
	if ord.newLeft {
		o.leftAlone, o.peersNews = ord.leftAlone, true
	}
	if ord.peers != nil {
		o.peers = *ord.peers
		o.peersNews = true // see to them after the routes, so that the first End-of-RIB tells the truth
	}
}

// enter begins a phase.
func (o *loop) enter(p phase) {
	if p == o.phase {
		return
	}
	o.phase = p
	o.published.update(func() { o.published.leaving = p == draining || p == withdrawn })
	for prefix := range o.desired.prefixes {
		o.touch(prefix)
	}
	o.log.Info("BGP phase changed", "phase", p.String(), "announced", len(o.announced))
}

// close says goodbye to the peers and ends GoBGP.
func (o *loop) close(ctx context.Context, cancel context.CancelFunc) error {
	o.closing = true
	o.unwatchPaths()
	for address, s := range o.byAddress {
		if counted, err := o.server.established(ctx, address); err == nil && counted {
			// Its event may still be on the way.
			o.published.update(func() { s.state = gobgp.BGP_FSM_ESTABLISHED })
		}
		if !s.up() || o.phase == restarting && s.keeps {
			continue
		}
		if err := o.server.goodbye(ctx, address, o.phase == draining || o.phase == withdrawn); err != nil {
			o.log.Warn("could not send the last NOTIFICATION", "peer", s.peer.Name, "error", err)
		}
	}
	enough := time.NewTimer(byePause)
	defer enough.Stop()
	for waiting := true; waiting && o.anyToEnd(); {
		select {
		case e := <-o.server.events:
			o.sessionChanged(ctx, e)
		case <-enough.C:
			waiting = false
		}
	}
	quietly := o.phase == restarting
	if !quietly {
		cancel()
	}
	stopped := make(chan struct{})
	go func() { // ends when GoBGP has; if that hangs, so does GoBGP
		o.server.stop(ctx, quietly)
		close(stopped)
	}()
	last := time.NewTimer(stopPause + time.Duration(len(o.byAddress))*sessionStop)
	defer last.Stop()
	select {
	case <-stopped:
		return nil
	case <-last.C:
		return errors.New("stop BGP: sessions did not end in time")
	}
}
