package bgp

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// start starts GoBGP; without a listener if there can be none, since that concerns some peers only.
func (o *loop) start(ctx context.Context) error {
	o.listenError = "the speaker runs without --bgp-listen, so that no router can connect; install manifests/bgp-passive, or have the speaker connect: leave out passive and give an address"
	if o.listener.port > 0 {
		err := o.listener.try()
		if err == nil {
			o.server, err = startServer(ctx, o.routerID, o.listener, o.gobgpLog)
		}
		if err == nil {
			o.listenError = ""
			return nil
		}
		o.listenError = fmt.Sprintf("no router can connect: %v; it is tried again every %s", err, retryPause)
		o.log.Warn("BGP does not listen for connections", "error", err)
	}
	var err error
	o.server, err = startServer(ctx, o.routerID, listener{}, o.gobgpLog)
	return err
}

// mayListen reports whether there is a listener to be had that peers are waiting for.
func (o *loop) mayListen() bool {
	return o.listener.port > 0 && slices.ContainsFunc(o.peers, Peer.Listens) && o.listener.try() == nil
}

// restart replaces GoBGP for what is global in it: the router ID and the listener. The sessions end
// with NOTIFICATION Cease, Peer De-configured, and come up again.
func (o *loop) restart(ctx context.Context) error {
	o.log.Info("restarting BGP", "reason", o.restartReason)
	for _, s := range o.published.sessions {
		if !s.invalid && !s.peer.ByPrefix() {
			o.dropPeer(ctx, s, o.restartReason)
		}
	}
	o.restartReason = ""
	old := o.server
	old.cancel() // its events are not read any more
	stopped := make(chan struct{})
	go func() { // ends when GoBGP has; if that hangs, so does GoBGP
		old.stop(ctx, false)
		close(stopped)
	}()
	last := time.NewTimer(stopPause + time.Duration(len(o.byAddress))*sessionStop)
	defer last.Stop()
	select {
	case <-stopped:
	case <-last.C: // its port stays taken, which is reported
	}
	if err := o.start(ctx); err != nil {
		return err
	}
	for prefix := range o.announced {
		o.dirty[prefix] = true
	}
	o.peersNews = true
	return nil
}

// hear tells the peers that can reach us from those that cannot.
func (o *loop) hear(peers []Peer) (usable []Peer, problems []problem) {
	for _, p := range peers {
		switch {
		case !p.Listens() || o.listenError == "" && o.listener.reachedFrom(p):
			usable = append(usable, p)
		case o.listenError == "":
			problems = append(
				problems,
				problem{
					p,
					fmt.Sprintf(
						"%s cannot connect to %s, where the speaker listens (--bgp-listen): it is of another family",
						p.Place(),
						o.listener.texts(),
					),
				},
			)
		default:
			problems = append(problems, problem{p, o.listenError})
			if o.listener.port > 0 {
				o.peersDone = false
				o.retry.Reset(retryPause)
			}
		}
	}
	return usable, problems
}
