// Package localnet knows what the kernel of this node has: addresses on the interfaces of this
// network namespace, and next hops of default routes. A Watcher (localnet.go) follows them by
// netlink (kernel.go). Linux only.
package localnet

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/internal/links"
	"github.com/berth-lb/berth/internal/liveness"
)

const (
	// settle is how long changes are gathered, since one rarely comes alone.
	settle = 100 * time.Millisecond
	// retry is how soon a reading that failed is tried again.
	retry = time.Second
)

// Address is an address on an interface, with the length of its subnet.
type Address struct {
	netip.Prefix
	Interface string
}

func (a Address) String() string { return a.Prefix.String() + " on " + a.Interface }

// Network is what the kernel has at one moment. Only addresses that can be a host's beyond its own
// link are in it.
type Network struct {
	Addresses []Address    // ascending
	Gateways  []netip.Addr // ascending
}

// Equal reports whether both are the same.
func (n Network) Equal(other Network) bool {
	return slices.Equal(n.Addresses, other.Addresses) && slices.Equal(n.Gateways, other.Gateways)
}

// kernel is where a Watcher reads.
type kernel interface {
	// read fails if it cannot read everything.
	read() (Network, error)
	// watch calls changed when read may return something else. It returns nil when ctx ends, and an
	// error when it missed something.
	watch(ctx context.Context, changed func()) error
}

// Watcher follows the kernel. Make one with New.
type Watcher struct {
	log     *slog.Logger
	kernel  kernel
	changed async.Signal

	mu  sync.Mutex
	now Network // guarded by mu
}

// New returns a Watcher that knows nothing yet.
func New(log *slog.Logger) *Watcher {
	return &Watcher{log: log, kernel: system{}, changed: async.NewSignal()}
}

// Changed tells one reader when Current returns something else.
func (w *Watcher) Changed() <-chan struct{} { return w.changed }

// Current returns what was read last.
func (w *Watcher) Current() Network {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// OfService reports whether the kernel has the address because a Service has it, and for no other
// reason.
func (w *Watcher) OfService(address netip.Addr) bool {
	all := w.Current().Addresses
	i, found := slices.BinarySearchFunc(
		all,
		address,
		func(a Address, to netip.Addr) int { return a.Addr().Compare(to) },
	)
	for ; i < len(all) && all[i].Addr() == address; i++ {
		if !links.OfServices(all[i].Interface) {
			return false
		}
	}
	return found
}

// Read reads the kernel now. If it fails, Current stays as it was, since an address that cannot be
// seen may still be there.
func (w *Watcher) Read() error {
	now, err := w.kernel.read()
	if err != nil {
		return err
	}
	w.mu.Lock()
	same := now.Equal(w.now)
	w.now = now
	w.mu.Unlock()
	if !same {
		w.changed.Notify()
	}
	return nil
}

// Run follows the kernel until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := async.NewSignal()
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() { w.follow(ctx, events) })
	due := time.NewTimer(0)
	defer due.Stop()
	waiting := true
	pass := liveness.Of(ctx, "network of the node", liveness.Limit)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-events:
			if !waiting {
				waiting = true
				due.Reset(settle)
			}
		case <-due.C:
			waiting = false
			pass.Begin()
			err := w.Read()
			pass.End()
			if err != nil {
				w.log.Warn("addresses of this node are not read; what was known counts until they are", "error", err)
				waiting = true
				due.Reset(retry)
			}
		}
	}
}

// follow watches until ctx ends.
func (w *Watcher) follow(ctx context.Context, events async.Signal) {
	for ctx.Err() == nil {
		err := w.kernel.watch(ctx, events.Notify)
		if err == nil {
			return
		}
		w.log.Debug("addresses of this node are watched again", "error", err)
		if async.Sleep(ctx, retry) != nil {
			return
		}
	}
}
