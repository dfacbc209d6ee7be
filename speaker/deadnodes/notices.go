package deadnodes

import (
	"context"
	"slices"
	"time"

	"github.com/berth-lb/berth/internal/async"
)

const (
	// noticeLasts is how long a notice counts against what this node hears. Others repeat it each
	// 10 s.
	noticeLasts = 15 * time.Second
	// bootsAtLeast is how long a node is dead at least that boots. One that is back before was not
	// reached for a moment, and has all that it had.
	bootsAtLeast = 10 * time.Second
)

// farNode is a node that others call silent.
type farNode struct {
	asked   bool         // by a goroutine
	look    async.Signal // has that goroutine look now
	suspect bool         // it is not known yet whether its kernel answers
	dead    bool         // its kernel does not
	boots   bool         // it does again, and the speaker is not ready yet
	serves  bool         // others say that it is
	missed  time.Time    // since when it does not answer this node's watch; zero: it does, or is none
	told    time.Time    // when others said last that it is silent
	since   time.Time    // of dead, or boots
}

// NoticeSilent notes that another node says that this one is silent. It is asked, and dead if it
// does not answer: this node may never have heard it, or may not hear at all in this moment. One
// that was never heard is suspected at once. Silences does not tell of it.
func (d *Detector) NoticeSilent(node string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if d.far[node] == nil && now.Sub(d.noticed[node]) < d.every {
		return
	}
	if f := d.doubtFar(node, now); f != nil {
		f.told, f.serves = now, false
	}
}

// doubtFar returns what is known of a node beside what this one hears, and has it asked if that is
// new; nil: there is no such node. It needs the lock.
func (d *Detector) doubtFar(node string, now time.Time) *farNode {
	f := d.far[node]
	if f != nil || node == d.self || !d.exists(node) {
		return f
	}
	d.noticed[node] = now
	f = &farNode{look: async.NewSignal(), suspect: d.heard[node] == nil}
	d.far[node] = f
	d.begun.Notify()
	if f.suspect {
		d.notify()
	}
	return f
}

// NoticeServes notes that another node says that this one serves again. It counts once its kernel
// answers.
func (d *Detector) NoticeServes(node string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.far[node]; f != nil {
		f.serves = true
		f.look.Notify()
	}
}

// WardSilent notes that a node that this one watches does not answer any more. It is asked like one
// that others call silent, until WardServes or WardLeft, and News tells of it while its kernel does
// not answer.
func (d *Detector) WardSilent(node string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.wards, node)
	now := time.Now()
	if f := d.doubtFar(node, now); f != nil {
		f.told, f.missed, f.serves = now, now, false
		d.news.Notify()
	}
}

// WardServes notes that a node that this one watches says that it serves.
func (d *Detector) WardServes(node string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.exists(node) {
		return
	}
	d.wards[node] = true
	if f := d.far[node]; f != nil {
		f.missed, f.serves = time.Time{}, true
		f.look.Notify()
	}
	d.news.Notify()
}

// WardLeft notes that a node is watched no longer.
func (d *Detector) WardLeft(node string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.wards, node)
	if f := d.far[node]; f != nil {
		f.missed = time.Time{}
		f.look.Notify()
	}
}

// News returns the nodes of which others are to be told that they are silent: those of Silences, and
// those that this one watches, ascending.
func (d *Detector) News() []string {
	var found []string
	for _, s := range d.Silences() {
		found = append(found, s.Node)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for node, f := range d.far {
		if !f.missed.IsZero() && (f.suspect || f.dead) && time.Since(f.missed) < newsFor {
			found = append(found, node)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// Hears reports whether a node is heard on a segment.
func (d *Detector) Hears(node string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.heard[node]) > 0
}

// Serves reports whether a node is heard, or answers this one's watch, and its speaker is ready if
// it was dead before.
func (d *Detector) Serves(node string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, boots := d.booted[node]
	hears := len(d.heard[node]) > 0 && d.silent[node] == nil
	return (hears || d.wards[node]) && d.far[node] == nil && !boots
}

// NewsChanged has a value when News or Serves returns something else: for who tells other nodes.
func (d *Detector) NewsChanged() <-chan struct{} { return d.news }

// forget ends what others said of a node. It needs the lock.
func (d *Detector) forget(node string, f *farNode) {
	delete(d.far, node)
	f.look.Notify()
	d.notify()
}

// unaskedFar returns the nodes that others call silent and that are not asked yet. The caller asks
// them.
func (d *Detector) unaskedFar() map[string]*farNode {
	d.mu.Lock()
	defer d.mu.Unlock()
	found := map[string]*farNode{}
	for node, f := range d.far {
		if !f.asked {
			f.asked = true
			found[node] = f
		}
	}
	return found
}

// followFar asks a node that others call silent until that is settled.
func (d *Detector) followFar(ctx context.Context, node string, f *farNode) {
	for asked := 0; ; asked++ {
		answers := d.answers(ctx, node)
		if ctx.Err() != nil || !d.noteFar(node, f, answers) {
			return
		}
		pause := d.every
		if asked > manyQuestions {
			pause *= 10
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-f.look:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// noteFar notes whether the kernel of a node answered that others call silent. It returns false if
// that is settled.
func (d *Detector) noteFar(node string, f *farNode, answers bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.far[node] != f {
		return false
	}
	before, now := *f, time.Now()
	f.suspect = false
	switch {
	case !answers && len(d.heard[node]) > 0 && now.Sub(f.told) > noticeLasts:
		d.forget(node, f) // it is heard, and nobody says any more that it is not
		return false
	case !answers:
		if f.dead, f.boots = true, false; !before.dead {
			f.since = now
		}
	case f.dead && !f.serves && now.Sub(f.since) >= bootsAtLeast:
		f.dead, f.boots, f.since = false, true, now
	case f.boots && !f.serves && now.Sub(f.since) < speakerAtMost:
	case !f.missed.IsZero():
		f.dead, f.boots = false, false // it lives, and its speaker is away: it is asked on and on
	default:
		d.noticed[node] = now
		d.forget(node, f)
		return false
	}
	if before.suspect != f.suspect || before.dead != f.dead || before.boots != f.boots {
		d.notify()
	}
	return true
}
