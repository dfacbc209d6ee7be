package deadnodes

import (
	"cmp"
	"hash/fnv"
	"maps"
	"slices"
	"time"
)

const (
	// newsFor is how long a silence is told: Kubernetes has noticed by then.
	newsFor = 5 * time.Minute
	// mostWitnesses is how many nodes tell of one silence. In a rack of hundreds not all need to.
	mostWitnesses = 8
)

// Silence is that of a node which this node heard, and hears on no interface any more.
type Silence struct {
	Node  string
	Since time.Time
	// Interfaces on which it was heard, ascending.
	Interfaces []string
	// Probed: its kernel was asked since then. It did not answer.
	Probed bool
}

// Silences returns those nodes that fell silent without a word and whose kernels do not answer, or
// were not asked yet: the newest silence first. A silence ends when the node is heard, or answers,
// or after five minutes since its kernel last ceased to answer. There are none while Alone: then
// this node may be the silent one. Of many nodes on a segment, eight tell of each silence.
func (d *Detector) Silences() []Silence {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.alone() || d.deaf() {
		return nil
	}
	var found []Silence
	for node, s := range d.silent {
		isNew := time.Since(s.since) < newsFor || time.Since(d.stopped[node]) < newsFor
		if (s.suspect || s.dead) && isNew && d.tells(node, s) {
			found = append(found, Silence{Node: node, Since: s.since, Interfaces: s.on, Probed: s.probed})
		}
	}
	slices.SortFunc(found, func(a, b Silence) int {
		return cmp.Or(b.Since.Compare(a.Since), cmp.Compare(a.Node, b.Node))
	})
	return found
}

// mayTell reports whether this node is to tell when a silent one dies.
func (d *Detector) mayTell(node string, s *silentNode) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tells(node, s)
}

// tells reports whether this node is one of those that tell of a silence: of all that may have
// heard the node, those that come first in an order of that node's own. It needs the lock.
func (d *Detector) tells(node string, s *silentNode) bool {
	mine, before := order(node, d.self), 0
	for peer, on := range d.heard {
		shares := len(on) > 0 && (len(s.on) == 0 || slices.ContainsFunc(s.on, func(i string) bool { return on[i] }))
		if shares && order(node, peer) < mine {
			before++
		}
	}
	return before < mostWitnesses
}

// order returns the place of a node among those that may tell of another.
func order(of, node string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(of + "/" + node))
	return h.Sum64()
}

// SilencesChanged has a value when Silences returns something else.
func (d *Detector) SilencesChanged() <-chan struct{} { return d.told }

// lose notes that a node is not heard on an interface any more. It needs the lock.
func (d *Detector) lose(node, on string) {
	if d.lost[node] == nil {
		d.lost[node] = map[string]time.Time{}
	}
	d.lost[node][on] = time.Now()
}

// lostLately returns the interfaces on which a node was heard a moment ago: those of one silence.
// It needs the lock.
func (d *Detector) lostLately(node string) []string {
	now := time.Now()
	maps.DeleteFunc(d.lost[node], func(_ string, since time.Time) bool { return now.Sub(since) > together })
	return slices.Sorted(maps.Keys(d.lost[node]))
}
