package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// listener is where routers connect to us; a zero one is nowhere.
type listener struct {
	addresses []netip.Addr
	port      uint16
}

// newListener reads host:port; the host is an IP address, or left out for all of the node's.
func newListener(text string) (listener, error) {
	if text == "" {
		return listener{}, nil
	}
	host, service, err := net.SplitHostPort(text)
	if err != nil {
		return listener{}, fmt.Errorf("listen for BGP on %q: %w; write [address]:port, such as :179", text, err)
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil || port == 0 {
		return listener{}, fmt.Errorf("listen for BGP on %q: %q is not a port from 1 to 65535", text, service)
	}
	l := listener{port: uint16(port)}
	if host != "" {
		address, err := netip.ParseAddr(host)
		if err != nil {
			return listener{}, fmt.Errorf("listen for BGP on %q: %w", text, err)
		}
		l.addresses = []netip.Addr{address}
		return l, nil
	}
	l.addresses = []netip.Addr{netip.IPv4Unspecified()}
	if _, err := os.Stat("/proc/net/if_inet6"); err == nil { // the kernel knows IPv6
		l.addresses = append(l.addresses, netip.IPv6Unspecified())
	}
	return l, nil
}

func (l listener) texts() []string {
	var texts []string
	for _, a := range l.addresses {
		texts = append(texts, a.String())
	}
	return texts
}

// try listens for a moment, to see whether it can be done.
func (l listener) try() error {
	for _, a := range l.addresses {
		network := "tcp4"
		if a.Is6() {
			network = "tcp6"
		}
		found, err := net.ListenTCP(network, net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, l.port)))
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			return fmt.Errorf("%w (ss -ltnp shows on the node who has the port; with Calico it is often BIRD)", err)
		case errors.Is(err, syscall.EACCES):
			return fmt.Errorf("%w (the speaker needs the capability NET_BIND_SERVICE, which manifests/bgp-passive gives)", err)
		case err != nil:
			return err
		}
		if err := found.Close(); err != nil {
			return err
		}
	}
	return nil
}

// start starts GoBGP; without a listener if there can be none, since that concerns some peers only.
func (o *owner) start(ctx context.Context) error {
	o.deaf = "the speaker runs without --bgp-listen, so that no router can connect; install manifests/bgp-passive, or have the speaker connect: leave out passive and give an address"
	if o.listener.port > 0 {
		err := o.listener.try()
		if err == nil {
			o.server, err = startServer(ctx, o.routerID, o.listener, o.notes)
		}
		if err == nil {
			o.deaf = ""
			return nil
		}
		o.deaf = fmt.Sprintf("no router can connect: %v; it is tried again every %s", err, retryPause)
		o.log.Warn("BGP does not listen", slog.Any("error", err))
	}
	var err error
	o.server, err = startServer(ctx, o.routerID, listener{}, o.notes)
	return err
}

// mayListen tells whether there is a listener to be had that peers are waiting for.
func (o *owner) mayListen() bool {
	return o.listener.port > 0 && slices.ContainsFunc(o.peers, Peer.Listens) && o.listener.try() == nil
}

// restart replaces GoBGP for what is global in it: the router ID and the listener. The sessions end with
// NOTIFICATION Cease, Peer De-configured, and come up again.
func (o *owner) restart(ctx context.Context) error {
	o.log.Info("BGP starts anew", slog.String("reason", o.anew))
	for _, s := range o.board.sessions {
		if !s.invalid && !s.peer.ByPrefix() {
			o.dropPeer(ctx, s, o.anew)
		}
	}
	o.anew = ""
	old := o.server
	old.cancel() // its events are not read any more
	stopped := make(chan struct{})
	go func() { // ends when GoBGP has; if that hangs, so does GoBGP
		old.stop(ctx, false)
		close(stopped)
	}()
	last := time.NewTimer(stopPause)
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
func (o *owner) hear(peers []Peer) (usable []Peer, problems []problem) {
	for _, p := range peers {
		switch {
		case !p.Listens() || o.deaf == "" && o.listener.reachedFrom(p):
			usable = append(usable, p)
		case o.deaf == "":
			problems = append(problems, problem{p, fmt.Sprintf("%s cannot connect to %s, where the speaker listens (--bgp-listen): it is of another family", p.Place(), o.listener.texts())})
		default:
			problems = append(problems, problem{p, o.deaf})
			if o.listener.port > 0 {
				o.peersDone = false
				o.retry.Reset(retryPause)
			}
		}
	}
	return usable, problems
}

func (l listener) reachedFrom(p Peer) bool {
	return slices.ContainsFunc(l.addresses, func(a netip.Addr) bool { return a.BitLen() == p.Covers().Addr().BitLen() })
}
