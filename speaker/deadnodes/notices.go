package deadnodes

import (
	"context"
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
	if f := d.far[node]; f != nil {
		f.told, f.serves = now, false
		return
	}
	if node == d.self || now.Sub(d.noticed[node]) < d.every || !d.exists(node) {
		return
	}
	d.noticed[node] = now
	f := &farNode{look: async.NewSignal(), suspect: d.heard[node] == nil, told: now}
	d.far[node] = f
	d.begun.Notify()
	if f.suspect {
		d.notify()
	}
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

// Serves reports whether a node is heard, and its speaker is ready if it was dead before.
func (d *Detector) Serves(node string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, boots := d.booted[node]
	return len(d.heard[node]) > 0 && d.silent[node] == nil && d.far[node] == nil && !boots
}

// NewsChanged has a value when Silences or Serves returns something else: for who tells other
// nodes.
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
