package nft

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/internal/liveness"
)

const (
	resync = time.Minute // the safety net under the kernel's notifications
	// wholesale is how many changes are written as a whole table: in sets of ranges each one's cost
	// grows with the set.
	wholesale = 1000
)

// Store is a table of elements. Each write is one transaction.
type Store[Element comparable] interface {
	// Replace writes the table with exactly these elements.
	Replace(elements []Element) error
	// Change removes elements, and then adds others.
	Change(add, remove []Element) error
	// Check reads everything back, and fails with how it differs from what Replace writes.
	Check(elements []Element) error
	// Remove deletes the table.
	Remove() error
	// Watch calls changed when somebody else writes to the table, until ctx ends or it fails.
	Watch(ctx context.Context, changed func()) error
}

// Keeper keeps a table as it is wanted, no matter what other programs do to it. Its methods may be
// called from any goroutine, also before Run.
type Keeper[Element comparable] struct {
	Whole func(Element) bool // elements that are written only with all others; nil: none
	Retry time.Duration      // after a failure

	log     *slog.Logger
	store   Store[Element]
	failing string
	wake    async.Signal

	mu      sync.Mutex
	wanted  map[Element]int  // guarded by mu; how often each was added
	dirty   map[Element]bool // guarded by mu; to be compared with what is written
	failure error            // guarded by mu
	removed bool             // guarded by mu
}

// NewKeeper returns a keeper that wants no element yet. Failing says what is not done while the
// table cannot be written.
func NewKeeper[Element comparable](log *slog.Logger, store Store[Element], failing string) *Keeper[Element] {
	return &Keeper[Element]{
		Retry: 5 * time.Second, log: log, store: store, failing: failing, wake: async.NewSignal(),
		wanted: map[Element]int{}, dirty: map[Element]bool{},
	}
}

// Update adds and removes elements, and returns at once. An element is wanted until it was removed
// as often as it was added. What one call changes is written in one transaction.
func (k *Keeper[Element]) Update(add, remove []Element) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range add {
		k.wanted[e]++
		k.dirty[e] = true
	}
	for _, e := range remove {
		if k.wanted[e]--; k.wanted[e] == 0 {
			delete(k.wanted, e)
		}
		k.dirty[e] = true
	}
	k.wake.Notify()
}

// Remove deletes the table, for good.
func (k *Keeper[Element]) Remove() error {
	k.mu.Lock()
	k.removed = true
	k.mu.Unlock()
	return k.store.Remove()
}

// Err returns why the table is not as wanted; nil: it is, or will be in a moment.
func (k *Keeper[Element]) Err() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.failure
}

// Run keeps the table until ctx ends, and leaves it as it is then.
func (k *Keeper[Element]) Run(ctx context.Context) error {
	changed := async.NewSignal()
	var watching sync.WaitGroup
	defer watching.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watching.Go(func() { k.follow(ctx, changed) })
	w := writer[Element]{Keeper: k, broken: true}
	ticker := time.NewTicker(resync)
	defer ticker.Stop()
	again := time.NewTimer(0) // the first thing is to take over what a former process left
	defer again.Stop()
	pass := liveness.Of(ctx, "nftables: "+k.failing, 5*liveness.Limit) // large sets take the kernel a while
	for {
		do, due := w.repair, false
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
			do, due = w.restore, true
		case <-k.wake:
			do = w.apply
		case <-changed:
		case <-ticker.C:
		}
		if w.broken && !due {
			continue // all is written soon
		}
		pass.Begin()
		err := do()
		pass.End()
		k.note(err)
		if err != nil {
			again.Reset(k.Retry)
		}
	}
}

// follow watches the table until ctx ends.
func (k *Keeper[Element]) follow(ctx context.Context, changed async.Signal) {
	for ctx.Err() == nil {
		err := k.store.Watch(ctx, changed.Notify)
		if err != nil {
			k.log.Debug("nftables are not watched", "error", err) // what matters is told when they are written
		}
		if async.Sleep(ctx, k.Retry) != nil {
			return
		}
	}
}

// note keeps an error, and logs it once.
func (k *Keeper[Element]) note(err error) {
	if err != nil {
		err = fmt.Errorf("%s: %w", k.failing, err)
	}
	k.mu.Lock()
	news := err != nil && (k.failure == nil || k.failure.Error() != err.Error())
	k.failure = err
	k.mu.Unlock()
	if news {
		k.log.Warn(err.Error())
	}
}

// writer is the state of the goroutine that writes.
type writer[Element comparable] struct {
	*Keeper[Element]
	written map[Element]bool
	broken  bool // the table is not known to be as written says
}

// apply writes what changed.
func (w *writer[Element]) apply() error {
	add, remove, whole := w.next()
	switch {
	case whole, len(add)+len(remove) > wholesale:
		return w.restore()
	case len(add)+len(remove) == 0:
		return nil
	}
	if err := w.store.Change(add, remove); err != nil {
		w.broken = true
		return err
	}
	for _, e := range add {
		w.written[e] = true
	}
	for _, e := range remove {
		delete(w.written, e)
	}
	return nil
}

// next returns the difference of what is dirty, which is clean then.
func (w *writer[Element]) next() (add, remove []Element, whole bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.removed {
		return nil, nil, false
	}
	for e := range w.dirty {
		switch want := w.wanted[e] > 0; {
		case want == w.written[e]:
		case w.Whole != nil && w.Whole(e):
			whole = true
		case want:
			add = append(add, e)
		default:
			remove = append(remove, e)
		}
	}
	clear(w.dirty)
	return add, remove, whole
}

// restore writes everything.
func (w *writer[Element]) restore() error {
	all, ok := w.all()
	if !ok {
		return nil
	}
	w.broken = true
	if err := w.store.Replace(all); err != nil {
		return err
	}
	w.broken = false
	w.written = make(map[Element]bool, len(all))
	for _, e := range all {
		w.written[e] = true
	}
	return nil
}

// repair reads the table back, and restores it if it differs.
func (w *writer[Element]) repair() error {
	if err := w.apply(); err != nil || w.broken || w.gone() {
		return err
	}
	err := w.store.Check(slices.Collect(maps.Keys(w.written)))
	if err == nil || w.gone() {
		return nil
	}
	w.log.Warn("nftables were changed by somebody else; writing them again", "found", err)
	return w.restore()
}

func (w *writer[Element]) gone() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.removed
}

// all returns everything that is wanted, unless the table was removed.
func (w *writer[Element]) all() ([]Element, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.dirty)
	return slices.Collect(maps.Keys(w.wanted)), !w.removed
}
