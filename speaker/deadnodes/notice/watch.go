package notice

import (
	"cmp"
	"crypto/sha256"
	"maps"
	"slices"
	"time"
)

const (
	// askEvery is how often a watcher asks its wards. One that does not answer it asks with each
	// seldom-th question only.
	askEvery = 50 * time.Millisecond
	seldom   = 10
	// missedAtMost is how many questions in a row a ward may leave without an answer until its kernel
	// is asked. That is no more than a question, so it need not be certain.
	missedAtMost = 4
	// answersLate is how many questions later an answer still counts.
	answersLate = 20
	// mostWards bounds what this node does for others.
	mostWards = 32
	// wardFor is how long somebody is watched after it last asked for that: if it is dead, Kubernetes
	// has noticed by then.
	wardFor = 5 * time.Minute

	// mostWatchers is how many nodes watch one.
	mostWatchers = 3
	// inviteEvery is how often watchers are asked to be that.
	inviteEvery = 5 * time.Second
	// asksWithin is how soon a watcher asks.
	asksWithin = 3 * time.Second
	// anotherFor is for how long a node is not asked again that did not watch; each time twice as
	// long.
	anotherFor  = time.Minute
	anotherMost = 16 * time.Minute
)

// wards are the nodes that this one watches. It is pure: the caller has the clock.
type wards struct {
	byNode map[string]*ward
	number uint64 // of the last questions
}

// ward is a node that asked to be watched.
type ward struct {
	until  time.Time
	knows  bool // it answered at least once
	missed int  // how many questions in a row it did not answer
}

func (w *ward) silent() bool { return w.missed > missedAtMost }

// newWards numbers questions from a number that nobody can foresee, so that no answer to an earlier
// process counts.
func newWards(number uint64) *wards { return &wards{byNode: map[string]*ward{}, number: number} }

// invite notes that a node asks to be watched.
func (w *wards) invite(node string, now time.Time) {
	one := w.byNode[node]
	if one == nil {
		if len(w.byNode) >= mostWards {
			return
		}
		one = &ward{}
		w.byNode[node] = one
	}
	one.until = now.Add(wardFor)
}

// answer notes an answer to a question, and reports whether it counts.
func (w *wards) answer(node string, number uint64) bool {
	one := w.byNode[node]
	if one == nil || w.number-number >= answersLate {
		return false
	}
	one.knows, one.missed = true, 0
	return true
}

// ask begins the next questions, and returns to whom; all: also to those that are asked seldom.
func (w *wards) ask(all bool) []string {
	w.number++
	var asked []string
	for node, one := range w.byNode {
		if one.knows && !one.silent() {
			one.missed++
		}
		if all || one.knows && !one.silent() || w.number%seldom == 0 {
			asked = append(asked, node)
		}
	}
	return asked
}

// known reports whether some ward answered at least once.
func (w *wards) known() bool {
	for _, one := range w.byNode {
		if one.knows {
			return true
		}
	}
	return false
}

// expire returns who is watched no longer, and forgets it.
func (w *wards) expire(now time.Time) (left []string) {
	for node, one := range w.byNode {
		if now.After(one.until) {
			left = append(left, node)
			delete(w.byNode, node)
		}
	}
	return left
}

// watchers are the nodes that watch this one. It is pure: the caller has the clock.
type watchers struct {
	node    string
	chosen  map[string]*watcher
	invited time.Time // when watchers were last asked to be that
}

// watcher is a node that is to watch this one, or was to.
type watcher struct {
	since, asked time.Time
	failed       time.Time     // when another one got its place; zero: none did
	again        time.Duration // after that it may be chosen again
}

func newWatchers(node string) *watchers {
	return &watchers{node: node, chosen: map[string]*watcher{}}
}

// ask notes that a node asks this one, and reports whether it is to. One that had its place taken
// gets one back, if there is any.
func (w *watchers) ask(node string, now time.Time) bool {
	one := w.chosen[node]
	if one == nil || !one.failed.IsZero() && w.active() >= mostWatchers {
		return false
	}
	*one = watcher{since: one.since, asked: now}
	return true
}

// end notes that a node watches this one no longer.
func (w *watchers) end(node string, now time.Time) {
	if one := w.chosen[node]; one != nil {
		one.failed, one.again = now, anotherFor
	}
}

// active counts those that are to watch this node.
func (w *watchers) active() (n int) {
	for _, one := range w.chosen {
		if one.failed.IsZero() {
			n++
		}
	}
	return n
}

// watched reports whether somebody asked this node lately.
func (w *watchers) watched(now time.Time) bool {
	for _, one := range w.chosen {
		if now.Sub(one.asked) < asksWithin {
			return true
		}
	}
	return false
}

// invite returns which nodes are to be asked now to watch this one: of those that may, the ones
// that come first in an order of this node's own, so that few change as nodes come and go. One
// that does not watch has its place taken by the next, and those that were never asked come first.
// Nobody is asked again before some time is over.
func (w *watchers) invite(may map[string]bool, now time.Time) []string {
	maps.DeleteFunc(w.chosen, func(node string, _ *watcher) bool { return !may[node] })
	var invited, free, failed []string
	for node := range may {
		switch one := w.chosen[node]; {
		case one == nil || !one.failed.IsZero() && now.Sub(one.failed) >= one.again:
			free = append(free, node)
		case !one.failed.IsZero():
			failed = append(failed, node)
		case now.Sub(one.since) >= asksWithin && now.Sub(one.asked) >= asksWithin:
			one.failed, one.again = now, min(max(2*one.again, anotherFor), anotherMost)
		default:
			invited = append(invited, node)
		}
	}
	due := now.Sub(w.invited) >= inviteEvery
	if missing := min(mostWatchers-len(invited), len(free)+len(failed)); missing > 0 {
		due = true
		free = inOrder(w.node, free)
		slices.SortStableFunc(free, func(a, b string) int { return cmp.Compare(w.triedFor(a), w.triedFor(b)) })
		// Those that failed lately are better than nobody.
		slices.SortFunc(failed, func(a, b string) int { return w.chosen[a].failed.Compare(w.chosen[b].failed) })
		for _, node := range append(free, failed...)[:missing] {
			w.chosen[node] = &watcher{since: now, again: w.triedFor(node)}
			invited = append(invited, node)
		}
	}
	if !due {
		return nil
	}
	w.invited = now
	slices.Sort(invited)
	return invited
}

// triedFor returns for how long a node was not asked again, since it did not watch.
func (w *watchers) triedFor(node string) time.Duration {
	if one := w.chosen[node]; one != nil {
		return one.again
	}
	return 0
}

// inOrder returns nodes in an order that is a node's own.
func inOrder(of string, nodes []string) []string {
	type keyed struct{ key, node string }
	order := make([]keyed, 0, len(nodes))
	for _, node := range nodes {
		sum := sha256.Sum256([]byte(of + "/" + node))
		order = append(order, keyed{string(sum[:]), node})
	}
	slices.SortFunc(order, func(a, b keyed) int { return cmp.Compare(a.key, b.key) })
	sorted := make([]string, 0, len(order))
	for _, k := range order {
		sorted = append(sorted, k.node)
	}
	return sorted
}
