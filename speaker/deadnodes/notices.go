package deadnodes

import (
	"maps"
	"slices"
	"time"

	"github.com/berth-lb/berth/internal/async"
)

// NoticeSilent notes that another node says that this one is silent. It is asked, and dead if it
// does not answer: this node may never have heard it, or may not hear at all in this moment. One
// that was never heard is suspected at once. Notices of a node count once in a second.
func (d *Detector) NoticeSilent(node string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if node == d.self || now.Sub(d.noticed[node]) < d.every || !d.exists(node) {
		return
	}
	d.noticed[node] = now
	if s := d.silent[node]; s != nil {
		s.look.Notify()
		return
	}
	s := &silentNode{look: async.NewSignal(), since: now, noticed: true, suspect: d.heard[node] == nil}
	d.silent[node] = s
	d.begun.Notify()
	if s.suspect {
		d.notify()
	}
}

// NoticeServes notes that another node says that this one serves again. It counts once its kernel
// answers.
func (d *Detector) NoticeServes(node string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.silent[node]; s != nil {
		s.look.Notify()
	}
	d.ready(node)
}

// HearRouted notes a hello that came by a router. Who sends it lives, and serves. It does not count
// for a node that is heard on a segment.
func (d *Detector) HearRouted(node string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if node == d.self || len(d.heard[node]) > 0 || !d.wards[node] && !d.exists(node) {
		return
	}
	if !d.wards[node] {
		d.wards[node] = true
		d.tell()
	}
	d.ready(node)
	s := d.silent[node]
	if s == nil || !s.noticed && !s.dead && !s.suspect {
		return
	}
	s.routed = time.Time{}
	if s.noticed {
		delete(d.silent, node)
	}
	s.dead, s.suspect, s.answers = false, false, true
	s.look.Notify()
	d.notify()
}

// MissRouted notes that routed hellos of a node do not come any more. It is asked, and suspected
// only if it does not answer: a speaker that is replaced sends none, either.
func (d *Detector) MissRouted(node string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.wards[node] {
		return
	}
	delete(d.wards, node)
	if len(d.heard[node]) > 0 {
		return
	}
	s := d.silent[node]
	if s == nil {
		s = &silentNode{look: async.NewSignal(), since: time.Now(), noticed: true}
		d.silent[node] = s
		d.begun.Notify()
	}
	s.routed = time.Now()
	s.look.Notify()
}

// Hears reports whether a node is heard on a segment.
func (d *Detector) Hears(node string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.heard[node]) > 0
}

// News returns the nodes that others are to be told of, ascending: those of Silences, and those
// that are dead whose routed hellos came here.
func (d *Detector) News() []string {
	told := map[string]bool{}
	for _, s := range d.Silences() {
		told[s.Node] = true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for node, s := range d.silent {
		if s.dead && !s.routed.IsZero() && time.Since(s.routed) < newsFor {
			told[node] = true
		}
	}
	return slices.Sorted(maps.Keys(told))
}

// Serves reports whether a node is heard, and its speaker is ready if it was dead before.
func (d *Detector) Serves(node string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, boots := d.booted[node]
	return (len(d.heard[node]) > 0 && d.silent[node] == nil || d.wards[node]) && !boots
}

// NewsChanged has a value when News or Serves returns something else.
func (d *Detector) NewsChanged() <-chan struct{} { return d.news }
