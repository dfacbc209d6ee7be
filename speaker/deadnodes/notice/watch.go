package notice

import (
	"cmp"
	"crypto/sha256"
	"maps"
	"slices"
	"time"
)

const (
	// askEvery is how often a watcher asks each of its wards. One that does not answer it asks ten
	// times less often.
	askEvery = 50 * time.Millisecond
	// missedAfter is how long a ward does not answer until its kernel is asked. That is no more than a
	// question, so it need not be certain.
	missedAfter = 4 * askEvery
	// wardFor is how long somebody is a ward after it last asked for that, or answered: Kubernetes has
	// noticed by then that it is dead.
	wardFor = 5 * time.Minute
	// mostWards bounds what this node does for others.
	mostWards = 256

	// mostWatchers is how many nodes watch one.
	mostWatchers = 3
	// inviteEvery is how often watchers are asked to be that.
	inviteEvery = 5 * time.Second
	// asksWithin is how soon a watcher asks.
	asksWithin = 3 * time.Second
	// anotherFor is for how long another one has the place of a watcher that did not ask.
	anotherFor = time.Minute
)

// wards are the nodes that this one watches. It is pure: the caller has the clock.
type wards struct {
	byNode map[string]*ward
	number uint64    // of the last round of questions
	looked time.Time // when the last round was
}

// ward is a node that asked to be watched.
type ward struct {
	until    time.Time
	answered time.Time
	knows    bool // it answered at least once
	silent   bool
}

// newWards numbers rounds from a number that nobody can foresee, so that no answer to an earlier
// process counts.
func newWards(number uint64, now time.Time) *wards {
	return &wards{byNode: map[string]*ward{}, number: number, looked: now}
}

// invite notes that a node asks to be watched, and reports whether it is.
func (w *wards) invite(node string, now time.Time) bool {
	one := w.byNode[node]
	if one == nil {
		if len(w.byNode) >= mostWards {
			return false
		}
		one = &ward{}
		w.byNode[node] = one
	}
	one.until = now.Add(wardFor)
	return true
}

// answer notes an answer to a round of questions, and reports whether the node did not answer
// before. What is older than a second is not counted.
func (w *wards) answer(node string, number uint64, now time.Time) (news bool) {
	one := w.byNode[node]
	if one == nil || w.number-number > uint64(time.Second/askEvery) {
		return false
	}
	news = one.silent || !one.knows
	one.until, one.answered, one.knows, one.silent = now.Add(wardFor), now, true, false
	return news
}

// round begins a round of questions. It returns whom to ask, who does not answer any more, and who
// is watched no longer. If it is called late, answers may wait to be read, and all get their time
// again.
func (w *wards) round(now time.Time) (ask, missed, left []string) {
	slept := now.Sub(w.looked) > 2*askEvery
	w.looked = now
	w.number++
	for node, one := range w.byNode {
		switch {
		case now.After(one.until):
			delete(w.byNode, node)
			left = append(left, node)
			continue
		case one.knows && slept:
			one.answered = now
		case one.knows && !one.silent && now.Sub(one.answered) > missedAfter:
			one.silent = true
			missed = append(missed, node)
		}
		if one.knows && !one.silent || w.number%10 == 0 {
			ask = append(ask, node)
		}
	}
	return ask, missed, left
}

// watchers are the nodes that watch this one. It is pure: the caller has the clock.
type watchers struct {
	node    string
	chosen  map[string]*watcher
	invited time.Time // when watchers were last asked to be that
}

// watcher is a node that is to watch this one.
type watcher struct {
	since, asked time.Time
	failed       time.Time // when another one got its place; zero: none did
}

func newWatchers(node string) *watchers {
	return &watchers{node: node, chosen: map[string]*watcher{}}
}

// ask notes that a node asks this one.
func (w *watchers) ask(node string, now time.Time) {
	if one := w.chosen[node]; one != nil {
		one.asked = now
	}
}

// invite returns which nodes are to be asked now to watch this one: of those that may, the ones
// that come first in an order of this node's own, so that few change as nodes come and go. One that
// does not watch has its place taken by the next. Nobody is asked again before some time is over.
func (w *watchers) invite(may []string, now time.Time) []string {
	maps.DeleteFunc(w.chosen, func(node string, one *watcher) bool {
		return !slices.Contains(may, node) || !one.failed.IsZero() && now.Sub(one.failed) >= anotherFor
	})
	var invited []string
	for node, one := range w.chosen {
		if one.failed.IsZero() && now.Sub(one.since) >= asksWithin && now.Sub(one.asked) >= asksWithin {
			one.failed = now
		}
		if one.failed.IsZero() {
			invited = append(invited, node)
		}
	}
	due := now.Sub(w.invited) >= inviteEvery
	if len(invited) < min(mostWatchers, len(may)) {
		for _, node := range inOrder(w.node, may) {
			if len(invited) < mostWatchers && w.chosen[node] == nil {
				w.chosen[node] = &watcher{since: now}
				invited, due = append(invited, node), true
			}
		}
	}
	if !due {
		return nil
	}
	w.invited = now
	slices.Sort(invited)
	return invited
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
