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
	// hesitates is how long a kernel that lives takes to answer at most: until then nobody is told
	// that a ward does not answer, as when its speaker is replaced.
	hesitates = 50 * time.Millisecond
	// wardsMiss is how long after others fell silent a ward must still answer, to say that this node
	// is not cut off: one that is has missed five answers by then.
	wardsMiss = 300 * time.Millisecond
)

// farNode is a node that others call silent, or that does not answer this one's watch.
type farNode struct {
	asked   bool         // by a goroutine
	look    async.Signal // has that goroutine look now
	suspect bool         // it is not known yet whether its kernel answers
	dead    bool         // its kernel does not
	answers bool         // its kernel did, the last time
	boots   bool         // it does again, and the speaker is not ready yet
	serves  bool         // others say that it is
	missed  time.Time    // since when it does not answer this node's watch; zero: it does, or is none
	told    time.Time    // when others said last that it is silent
	since   time.Time    // of suspect, dead, or boots
}

// ward is a node that this one watches.
type ward struct {
	answers  bool      // it does, and says by that that it serves
	answered time.Time // when it last did
	// reachable: its kernel answered once. Else something filters TCP, and no answer says nothing.
	reachable bool
	asks      bool      // its kernel is to be asked, to know that
	asked     time.Time // when it last was
}

// NoticeSilent notes that another node says that this one is silent. It is asked, and dead if it
// does not answer: this node may never have heard it, or may not hear at all in this moment. One
// that was never heard is suspected at once. Silences does not tell of it.
func (d *Detector) NoticeSilent(node string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if w := d.wards[node]; w != nil && w.answers {
		return // this node knows better
	}
	if node != d.self && d.exists(node) && now.Sub(d.noticed[node]) >= d.every {
		d.doubtFar(node, now)
	}
	if f := d.far[node]; f != nil {
		f.told, f.serves = now, false
	}
}

// doubtFar has a node asked. It needs the lock.
func (d *Detector) doubtFar(node string, now time.Time) {
	f := d.far[node]
	switch {
	case f != nil && (f.dead || f.boots):
		return
	case f == nil:
		f = &farNode{look: async.NewSignal(), told: now, since: now}
		d.far[node] = f
		d.begun.Notify()
	default:
		f.look.Notify()
	}
	d.noticed[node] = now
	if f.suspect = d.heard[node] == nil; f.suspect {
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
	if s := d.silent[node]; s != nil {
		s.look.Notify()
	}
}

// Ward notes whether a node that this one watches answers, which says that it serves. If it does
// not any more it is asked like one that others call silent, until it answers or WardLeft, and
// News tells of it while its kernel does not answer.
func (d *Detector) Ward(node string, answers bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if node == d.self || !d.exists(node) {
		return
	}
	w, now := d.wards[node], time.Now()
	if w == nil {
		w = &ward{}
		d.wards[node] = w
	}
	if answers && !w.reachable && !w.asks && now.Sub(w.asked) >= d.every {
		w.asks = true
		d.begun.Notify()
	}
	wasAlone := d.alone()
	if answers {
		if w.answered = now; wasAlone && !w.answers {
			d.rejoins() // others that live may take longer to answer
		}
	}
	same := answers == w.answers
	if w.answers = answers; d.alone() != wasAlone {
		d.notify()
	}
	if same {
		return
	}
	switch f := d.far[node]; {
	case answers && f != nil:
		d.forget(node, f)
	case answers:
		d.news.Notify()
	case w.reachable:
		d.doubtFar(node, now)
		f = d.far[node]
		f.missed, f.serves = now, false
		time.AfterFunc(hesitates, d.news.Notify)
	}
}

// reaches reports whether a ward answered after the last node fell silent: then it is not this one
// that is cut off. It needs the lock.
func (d *Detector) reaches() bool {
	last, _ := d.silentTogether()
	for _, w := range d.wards {
		if w.answers && w.answered.Sub(last) >= wardsMiss {
			return true
		}
	}
	return false
}

// WardLeft notes that a node is watched no longer.
func (d *Detector) WardLeft(node string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	wasAlone := d.alone()
	if delete(d.wards, node); d.alone() != wasAlone {
		d.notify()
	}
	if f := d.far[node]; f != nil {
		f.missed = time.Time{}
		f.look.Notify()
	}
}

// unaskedWards returns the wards whose kernels are to be asked whether they answer at all. The
// caller does.
func (d *Detector) unaskedWards() map[string]*ward {
	d.mu.Lock()
	defer d.mu.Unlock()
	found := map[string]*ward{}
	for node, w := range d.wards {
		if w.asks {
			w.asks, w.asked = false, time.Now()
			found[node] = w
		}
	}
	return found
}

// reach notes whether the kernel of a ward answers.
func (d *Detector) reach(ctx context.Context, node string, w *ward) {
	answers := d.answers(ctx, node)
	d.mu.Lock()
	defer d.mu.Unlock()
	w.reachable = answers
}

// CutOff notes that nobody who watches this node reaches it any more, or that somebody does, and
// reports whether that is news. Others may think that it is dead, as when it is Alone.
func (d *Detector) CutOff(cutOff bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cutOff == cutOff {
		return false
	}
	if !cutOff && d.alone() {
		d.join(time.Now())
	}
	d.cutOff = cutOff
	d.notify()
	return true
}

// News returns the nodes that others are to be told are silent: those of Silences, and those that
// this one watches, ascending.
func (d *Detector) News() []string {
	var found []string
	for _, s := range d.Silences() {
		found = append(found, s.Node)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	for node, f := range d.far {
		switch {
		case f.missed.IsZero() || d.alone() || d.deaf():
		case f.dead && now.Sub(f.since) < newsFor, f.suspect && now.Sub(f.missed) >= hesitates:
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
	w := d.wards[node]
	return (hears || w != nil && w.answers) && d.far[node] == nil && !boots
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
	noes := 0
	for asked := 0; ; asked++ {
		answers := d.answers(ctx, node)
		if ctx.Err() != nil || !d.noteFar(node, f, answers) {
			return
		}
		if noes++; answers {
			noes = 0
		}
		await(ctx, f.look, d.pause(answers, d.asksSeldom(node, f, asked, noes)))
	}
}

// asksSeldom reports whether a node that others call silent, and that was asked so often, is asked
// less often from now on: not if this node watches it, and tells of it. After a few questions in a
// row without an answer it may be, unless somebody says or hears that it is there.
func (d *Detector) asksSeldom(node string, f *farNode, asked, noes int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	dead := noes >= fewQuestions && !f.serves && len(d.heard[node]) == 0
	return f.missed.IsZero() && (dead || asked > manyQuestions)
}

// noteFar notes whether the kernel of a node answered that others call silent. It returns false if
// that is settled.
func (d *Detector) noteFar(node string, f *farNode, answers bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.far[node] != f {
		return false
	}
	if w := d.wards[node]; w != nil && w.answers {
		answers = true
	}
	before, now := *f, time.Now()
	wasAlone := d.alone()
	if wasAlone && answers && f.dead {
		d.rejoins()
	}
	f.suspect = false
	if f.answers = answers; d.alone() != wasAlone {
		d.notify()
	}
	switch {
	case !answers && len(d.heard[node]) > 0 && now.Sub(f.told) > noticeLasts,
		!answers && f.serves && now.Sub(f.told) > d.every:
		// It is heard, and nobody says any more that it is not; or others know that it serves, and
		// something filters TCP.
		d.forget(node, f)
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
