package deadnodes

import (
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

// Serves reports whether a node is heard, and its speaker is ready if it was dead before.
func (d *Detector) Serves(node string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, boots := d.booted[node]
	return len(d.heard[node]) > 0 && d.silent[node] == nil && !boots
}

// NewsChanged has a value when Silences or Serves returns something else: for who tells other
// nodes.
func (d *Detector) NewsChanged() <-chan struct{} { return d.news }
