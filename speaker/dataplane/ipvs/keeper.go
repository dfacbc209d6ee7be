//go:build linux

package ipvs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/berth-lb/berth/internal/async"
)

// keeper is the state of the goroutine that writes.
type keeper struct {
	*Driver
	edge    *edge               // nil: not connected
	served  map[netip.Addr]bool // the addresses that are ours; true: with a route
	deleted time.Time           // when real servers were deleted last
	sample  Frontend            // a virtual server that is looked for often

	// What the kernel had no module for, and when it was asked: each time, it starts modprobe.
	lacksIPVS  time.Time
	schedulers map[string]time.Time

	// When all was compared last, and what the kernel looked like since when it was as desired; nil:
	// it was not.
	compared time.Time
	looks    map[Frontend]uint64
	touched  map[netip.Addr]bool // that Sync changed since: what else is at them may have become ours
}

// scope is how much a pass compares.
type scope bool

const (
	everything scope = true
	changes    scope = false // what Sync changed
)

// thorough is how often the kernel is asked for what it lacked, and all is compared that a glance
// does not show, if there are many virtual servers: perServer is for each, so that few are compared
// in every pass.
const (
	thorough  = 30 * time.Second
	perServer = thorough / 1000
)

// few reports whether so many of all virtual servers are compared faster one by one than by reading
// everything, which is a question for each that there is.
func few(some, all int) bool { return some <= max(64, all/4) }

// pass compares the kernel with what is desired, repairs the difference and reads back what it
// wrote.
func (k *keeper) pass(ctx context.Context, s scope) {
	if w, err := k.program(ctx, s); w != nil {
		k.report(w, err)
	}
}

// program does the work of a pass, while nothing else programs the kernel. It returns nil after
// Remove.
func (k *keeper) program(ctx context.Context, s scope) (*work, error) {
	k.passing.Lock()
	defer k.passing.Unlock()
	if k.removed {
		return nil, nil
	}
	w := k.work(s)
	err := k.converge(ctx, w)
	if err != nil {
		k.disconnect() // the next pass starts over, with everything
	}
	return w, err
}

// work is what one pass does.
type work struct {
	all                  bool
	dirty                map[Frontend]bool // what Sync changed
	desired              Table             // everything, or what is dirty
	part                 map[Frontend]bool // of everything, what is compared; nil: all
	actual               Table             // the same part of the kernel's table
	operations, repaired int               // all, and those on what Sync did not change
	problems             map[Frontend]error
}

func (k *keeper) work(s scope) *work {
	k.mu.Lock()
	defer k.mu.Unlock()
	w := &work{dirty: k.dirty, all: s == everything || k.edge == nil || !few(len(k.dirty), len(k.desired.claims))}
	k.dirty = map[Frontend]bool{}
	if w.all {
		w.desired = k.desired.table()
	} else {
		w.desired = k.desired.of(w.dirty)
	}
	return w
}

// leave sets expire_nodest_conn, so that connections are reset, not dropped, if somebody deletes
// the virtual servers before the next process takes them over. A program that deletes them may not
// be able to write sysctls.
func (k *keeper) leave() {
	if k.edge != nil {
		_ = k.edge.sysctls.set(nodestConnections, "1") // as good as can be
	}
}

func (k *keeper) disconnect() {
	k.looks = nil
	if k.edge != nil {
		_ = k.edge.close() // nothing is lost with it
		k.edge = nil
	}
}

func (k *keeper) converge(ctx context.Context, w *work) error {
	if err := k.open(); err != nil {
		return err
	}
	if w.all {
		if err := k.refresh(); err != nil {
			return err
		}
	}
	if err := k.deliver(w); err != nil {
		return err
	}
	if err := k.compare(ctx, w); err != nil {
		return err
	}
	if w.all {
		return k.retire(w)
	}
	return nil
}

func (k *keeper) open() error {
	switch {
	case k.edge != nil:
		return nil
	case time.Since(k.lacksIPVS) < thorough:
		return k.Err()
	}
	e, err := k.connect()
	if errors.Is(err, ErrNoIPVS) {
		k.lacksIPVS = time.Now()
	}
	if err != nil {
		return err
	}
	k.edge, k.schedulers = &e, map[string]time.Time{}
	return nil
}

// compare reads the kernel's table and makes it as desired. To read all of it costs a question for
// each virtual server, so only those are read that look different from when they were as desired:
// what Sync or somebody else changed.
func (k *keeper) compare(ctx context.Context, w *work) error {
	for f := range w.dirty {
		if f.Mark == 0 { // those by mark are ours anyway
			k.touched[f.Address] = true
		}
	}
	var looks map[Frontend]uint64
	if w.all {
		looks = k.look(w)
		if w.part != nil && len(w.part) == 0 {
			return nil
		}
	}
	err := k.repair(ctx, w)
	switch {
	case err != nil || len(w.problems) > 0:
		k.looks = nil
	case w.all && w.operations == 0:
		k.looks = looks
		clear(k.touched)
		if w.part == nil {
			k.compared = time.Now()
		}
	}
	return err
}

// look glances at the kernel's table, and says what of it is to be compared.
func (k *keeper) look(w *work) map[Frontend]uint64 {
	looks, err := k.edge.servers.glance()
	if err != nil || k.looks == nil || time.Since(k.compared) >= min(thorough, time.Duration(len(w.desired))*perServer) {
		return looks
	}
	part := maps.Clone(w.dirty)
	for f, digest := range looks {
		if k.looks[f] != digest || f.Mark == 0 && k.touched[f.Address] {
			part[f] = true
		}
	}
	for f := range k.looks {
		if _, still := looks[f]; !still {
			part[f] = true
		}
	}
	if few(len(part), len(w.desired)) {
		w.part = part
	}
	return looks
}

// repair reads what is to be compared, and makes it as desired.
func (k *keeper) repair(ctx context.Context, w *work) (err error) {
	some := w.dirty
	if w.part != nil {
		some = w.part
	}
	if w.actual, err = k.read(w, some); err != nil {
		return err
	}
	return k.write(ctx, w)
}

// refresh sets the sysctls, and learns which addresses are ours.
func (k *keeper) refresh() error {
	if err := settle(k.edge.sysctls); err != nil {
		return err
	}
	routed, err := k.edge.delivery.addresses()
	if err != nil {
		return err
	}
	for a := range k.served { // those whose route somebody deleted are known from before
		if !routed[a] {
			routed[a] = false
		}
	}
	k.served = routed
	return nil
}

// deliver makes the routes of desired addresses. They come before the virtual servers, which are
// known as ours by them.
func (k *keeper) deliver(w *work) error {
	for _, f := range families {
		var missing []netip.Addr
		used := false
		for frontend := range w.desired {
			if a := frontend.Address; plain(a) && f.holds(a) {
				used = true
				if !k.served[a] {
					missing = append(missing, a)
				}
			}
		}
		if used && (w.all || len(missing) > 0) {
			if err := k.edge.delivery.ensureRules(f); err != nil {
				return err
			}
		}
		for _, a := range missing {
			if err := k.edge.delivery.add(a); err != nil {
				return err
			}
			k.served[a] = true
		}
	}
	return nil
}

// read returns all of the kernel's table, or that of some frontends if they are few.
func (k *keeper) read(w *work, some map[Frontend]bool) (Table, error) {
	if w.all && w.part == nil && (w.actual == nil || !few(len(some), len(w.desired))) {
		return k.edge.servers.table()
	}
	t := Table{}
	for f := range some {
		v, exists, err := k.edge.servers.virtualServer(f)
		if err != nil {
			return nil, err
		}
		if exists {
			t[f] = v
		}
	}
	return t, nil
}

// write carries out what Diff says, and reads back what was written. An error is of IPVS as a
// whole.
func (k *keeper) write(ctx context.Context, w *work) error {
	owned := ownedAt(func(a netip.Addr) bool { _, ours := k.served[a]; return ours })
	desired := w.desired
	if w.part != nil {
		desired = only(desired, w.part)
	}
	operations, problems := Diff(desired, w.actual, owned)
	w.problems, w.operations = problems, len(operations)
	if len(operations) == 0 {
		return nil
	}
	refused := map[Frontend]error{}
	written := map[Frontend]bool{}
	apply := func(o Operation) {
		written[o.Frontend] = true
		if !w.dirty[o.Frontend] {
			w.repaired++
		}
		if refused[o.Frontend] == nil {
			refused[o.Frontend] = k.apply(o)
		}
	}
	if err := k.applyAll(ctx, operations, apply); err != nil {
		return err
	}
	shown, err := k.read(w, written)
	if err != nil {
		return err
	}
	different, _ := Diff(only(w.desired, written), only(shown, written), owned)
	for _, o := range different {
		if err := refused[o.Frontend]; err != nil {
			w.problems[o.Frontend] = err
		} else if w.problems[o.Frontend] == nil {
			w.problems[o.Frontend] = fmt.Errorf("the kernel accepted a change of virtual server %s and does not show it: still to do: %s", o.Frontend, o)
		}
	}
	return nil
}

func (k *keeper) apply(o Operation) error {
	scheduler := o.Settings.Scheduler // empty but for settings
	if time.Since(k.schedulers[scheduler]) < thorough {
		return fmt.Errorf("%s: %w", o, ErrNoScheduler)
	}
	err := k.edge.servers.apply(o)
	if errors.Is(err, ErrNoScheduler) {
		k.schedulers[scheduler] = time.Now()
	}
	return err
}

func only(t Table, some map[Frontend]bool) Table {
	part := Table{}
	for f := range some {
		if v, ok := t[f]; ok {
			part[f] = v
		}
	}
	return part
}

// flushing is how long the kernel may take to look for the connections of a deleted real server: it
// does so one timer tick later, and would take those of one that is just being moved.
const flushing = 100 * time.Millisecond

// applyAll protects the connections of real servers that are moved, and ends those of real servers
// that are deleted.
func (k *keeper) applyAll(ctx context.Context, operations []Operation, apply func(Operation)) error {
	first := slices.IndexFunc(operations, func(o Operation) bool { return deletes(o.Kind) }) // Diff puts them last
	if first < 0 {
		first = len(operations)
	}
	if slices.ContainsFunc(operations[:first], func(o Operation) bool { return o.Kind == MoveRealServer }) {
		if err := async.Sleep(ctx, time.Until(k.deleted.Add(flushing))); err != nil {
			return err
		}
		if err := k.edge.sysctls.set(nodestConnections, "0"); err != nil {
			return err
		}
	}
	for _, o := range operations[:first] {
		apply(o)
	}
	if first == len(operations) {
		return nil
	}
	err := resetting(k.edge.sysctls, func() {
		for _, o := range operations[first:] {
			apply(o)
		}
	})
	k.deleted = time.Now()
	return err
}

// resetting has the kernel end the connections of the real servers that remove deletes.
func resetting(s sysctls, remove func()) error {
	if err := s.set(nodestConnections, "1"); err != nil {
		return err
	}
	remove()
	return s.set(nodestConnections, "0")
}

// watched returns a virtual server that the kernel showed; false: there is none.
func (k *keeper) watched() (Frontend, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err, shown := k.shown[k.sample]; shown && err == nil {
		return k.sample, true
	}
	for f, err := range k.shown {
		if err == nil {
			k.sample = f
			return f, true
		}
	}
	return Frontend{}, false
}

// emptied reports whether somebody deleted the virtual servers, by looking for one of them.
func (k *keeper) emptied() bool {
	f, some := k.watched()
	if !some || k.edge == nil {
		return false
	}
	_, exists, err := k.edge.servers.virtualServer(f)
	return err == nil && !exists
}

func deletes(k Kind) bool { return k == DeleteRealServer || k == DeleteVirtualServer }

// retire gives up the addresses that are no longer desired and have no virtual server left.
func (k *keeper) retire(w *work) error {
	used := map[netip.Addr]bool{}
	for f := range w.desired {
		used[f.Address] = true
	}
	for f := range w.problems { // a virtual server that could not be deleted
		used[f.Address] = true
	}
	before := len(k.served)
	for a := range k.served {
		if used[a] {
			continue
		}
		if err := k.edge.delivery.remove(a); err != nil {
			return err
		}
		delete(k.served, a)
	}
	if before > 0 && len(k.served) == 0 {
		return k.edge.delivery.removeRules()
	}
	return nil
}

// report logs and sends what is new.
func (k *keeper) report(w *work, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	if w.repaired > 0 && err == nil {
		k.log.Warn("IPVS table was not as desired, and was repaired", "operations", w.repaired)
	}
	for _, o := range k.update(w, err) {
		if o.Err != nil {
			k.log.Warn("not forwarded by IPVS", "frontend", o.Frontend, "error", o.Err)
		}
		k.observed.Send(o)
	}
}

// update keeps what was seen, for Serves and Err, and returns what changed of it.
func (k *keeper) update(w *work, err error) (news []Observation) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !same(k.failed, err) {
		news = append(news, Observation{Err: err})
	}
	k.failed = err
	if err != nil {
		for f := range w.dirty {
			k.dirty[f] = true // still to be told of
		}
		return news
	}
	see := func(f Frontend, err error) {
		if old, known := k.shown[f]; !known || w.dirty[f] || !same(old, err) {
			news = append(news, Observation{f, err})
		}
		k.shown[f] = err
	}
	for f := range w.desired {
		see(f, w.problems[f])
	}
	for f := range w.dirty {
		if _, desired := w.desired[f]; !desired {
			news = append(news, Observation{f, w.problems[f]})
			delete(k.shown, f)
		}
	}
	return news
}

func same(a, b error) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Error() == b.Error()
}
