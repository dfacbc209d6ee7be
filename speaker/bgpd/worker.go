package bgpd

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/internal/async"
)

// changesKept is how many changes of paths wait for the loop of BGP before the oldest are lost.
const changesKept = 1024

// Work speaks BGP as the keeper at the other end of the connection wants it, until the keeper says
// farewell, and then ends the sessions. If the keeper is gone without a word it returns at once, so
// that routers keep the routes that can. Before it takes a message from a router that router's
// address is written to the trace.
func Work(ctx context.Context, conn net.Conn, trace *os.File, log *slog.Logger) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	// A worker whose keeper is gone ends no session with a word, so its process ends first.
	driving, stop := context.WithCancel(context.WithoutCancel(ctx))
	w := &worker{registry: prometheus.NewRegistry(), changes: async.NewStream[bgp.PathChange](changesKept)}
	w.desk = newDesk(log, w.registry)
	w.stays, w.paths = true, w.changes.Send
	tracer := &tracer{trace: trace}
	w.open = func(o *order) (Announcer, error) {
		driver, err := bgp.New(bgp.Config{
			Node: o.Identity.Node, Listen: o.Identity.Listen, RouterID: o.RouterID, NextHops: o.NextHops,
			Logger: log, Metrics: w.registry, Liveness: w, OnChange: w.changed.Notify,
			Heard: tracer.mark,
		})
		w.driver = driver
		return driver, err
	}
	driven := make(chan error, 1)
	w.carried = func(o *order) {
		switch {
		case o.Complete: // a keeper says it once
			w.runs = true
			go func() { // ends with driving, or with the process
				driven <- w.driver.Run(driving)
				end()
			}()
		case o.Farewell && w.runs:
			stop()
		case o.Farewell:
			driven <- nil
			end()
		}
	}
	if _, err := w.serve(ctx, conn); err != nil {
		return fmt.Errorf("the keeper is gone: %w", err)
	}
	return <-driven
}

// worker has one side at its desk, the keeper.
type worker struct {
	*desk
	registry *prometheus.Registry
	driver   *bgp.Driver
	runs     bool // it was said completely what is wanted
	changes  *async.Stream[bgp.PathChange]
}

// Watch implements bgp.Liveness: the keeper has it done.
func (w *worker) Watch(peers []bgp.Peer) {
	peers = slices.Clone(peers)
	if peers == nil {
		peers = []bgp.Peer{}
	}
	w.tell(func(u *untold) { u.Watch = &peers })
}

// Changes implements bgp.Liveness.
func (w *worker) Changes() <-chan bgp.PathChange { return w.changes.C() }
