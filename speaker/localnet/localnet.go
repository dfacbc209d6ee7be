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
	// relist is how old what is known of routes may be when anything changes: the kernel says nothing
	// of some that vanish.
	relist = time.Minute
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
	// addresses fails if it cannot read all of them.
	addresses() ([]Address, error)
	// gateways also returns the interfaces of default routes, by index. It fails if it cannot read all
	// of them.
	gateways() (found []netip.Addr, through map[int]bool, err error)
	// watch calls changed when one of the others may return something else. It returns nil when ctx
	// ends, and an error when it missed something.
	watch(ctx context.Context, changed func(event)) error
}

// event is what may have changed beside addresses.
type event struct {
	routes bool // default routes did
	// link is an interface that is down, gone, or lost an address, by index: its routes of IPv4 may go
	// with that in silence. 0: there is none.
	link int
}

// Watcher follows the kernel. Make one with New or OfAddresses.
type Watcher struct {
	log     *slog.Logger
	kernel  kernel
	routes  bool // gateways are followed
	changed async.Signal

	mu      sync.Mutex
	now     Network      // guarded by mu
	listed  time.Time    // guarded by mu; when routes were
	through map[int]bool // guarded by mu; the interfaces of default routes, by index
	stale   bool         // guarded by mu; default routes may have changed since
	lost    map[int]bool // guarded by mu; interfaces that may have lost routes since
}

// New returns a Watcher that knows nothing yet.
func New(log *slog.Logger) *Watcher {
	w := OfAddresses(log)
	w.kernel, w.routes = system{routes: true}, true
	return w
}

// OfAddresses returns a Watcher of addresses alone, which never reads routes: there may be a
// million.
func OfAddresses(log *slog.Logger) *Watcher {
	return &Watcher{log: log, kernel: system{}, changed: async.NewSignal(), lost: map[int]bool{}}
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

// Read reads the kernel now, but for routes that are known. If it fails, Current stays as it was,
// since an address that cannot be seen may still be there.
func (w *Watcher) Read() error {
	now, through, list := w.due()
	var err error
	if now.Addresses, err = w.kernel.addresses(); err == nil && list {
		now.Gateways, through, err = w.kernel.gateways()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.stale = w.stale || list
		return err
	}
	if list {
		w.listed, w.through = time.Now(), through
	}
	same := now.Equal(w.now)
	if w.now = now; !same {
		w.changed.Notify()
	}
	return nil
}

// due returns what is known, and whether routes are to be listed. What happens from here on counts
// the next time.
func (w *Watcher) due() (now Network, through map[int]bool, list bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	list = w.stale || time.Since(w.listed) >= relist
	for link := range w.lost {
		list = list || w.through[link]
	}
	w.stale = false
	clear(w.lost)
	return w.now, w.through, list && w.routes
}

// note takes what the next Read is for.
func (w *Watcher) note(e event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stale = w.stale || e.routes; e.link != 0 {
		w.lost[e.link] = true
	}
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
		err := w.kernel.watch(ctx, func(e event) { w.note(e); events.Notify() })
		if err == nil {
			return
		}
		w.log.Debug("addresses of this node are watched again", "error", err)
		if async.Sleep(ctx, retry) != nil {
			return
		}
	}
}
