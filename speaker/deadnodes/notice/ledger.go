package notice

import (
	"maps"
	"slices"
	"time"
)

// repeats are when a notice is sent, after what it tells of: datagrams are lost, and who has just
// begun has heard none. A silence is told each repeatEvery after that.
var repeats = []time.Duration{
	0, 100 * time.Millisecond, 300 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second,
}

const (
	repeatEvery = 10 * time.Second
	// forgetAfter is how long it may take until who was silent serves, for others to be told.
	forgetAfter = time.Hour
	// greetEvery is how often one node is told all. It says a few times that it serves.
	greetEvery = time.Second
)

// ledger says what is to be told when. It is pure: the caller has the clock.
type ledger map[string]*told

// told is what others were told of a node.
type told struct {
	kind  Kind
	since time.Time
	sent  int
	over  bool // it is told no longer
}

func (t *told) due() time.Time {
	if t.sent < len(repeats) {
		return t.since.Add(repeats[t.sent])
	}
	return t.since.Add(repeats[len(repeats)-1] + time.Duration(t.sent-len(repeats)+1)*repeatEvery)
}

// update notes which nodes are silent now. One that was is told to serve once serves says so.
func (l ledger) update(now time.Time, silent []string, serves func(node string) bool) {
	for _, node := range silent {
		if t := l[node]; t == nil || t.over || t.kind != Silent {
			l[node] = &told{kind: Silent, since: now}
		}
	}
	for node, t := range l {
		switch {
		case t.kind != Silent || slices.Contains(silent, node):
		case serves(node):
			l[node] = &told{kind: Serves, since: now}
		case now.Sub(t.since) > forgetAfter:
			delete(l, node)
		default:
			t.over = true // it may be dead, but that is no news, or uncertain
		}
	}
}

// serves notes that a node serves, which others may not know.
func (l ledger) serves(node string, now time.Time) { l[node] = &told{kind: Serves, since: now} }

// take returns what is to be sent now, and when there will be more; zero: nothing is known.
func (l ledger) take(now time.Time) (send []Notice, next time.Time) {
	for _, node := range slices.Sorted(maps.Keys(l)) {
		t := l[node]
		if !t.over && !t.due().After(now) {
			send = append(send, Notice{Kind: t.kind, Node: node})
			for !t.due().After(now) {
				t.sent++ // those that are late make one
			}
		}
		if t.kind == Serves && t.sent >= len(repeats) {
			delete(l, node)
			continue
		}
		if due := t.due(); !t.over && (next.IsZero() || due.Before(next)) {
			next = due
		}
	}
	return send, next
}

// greeted says when nodes were last told all, as they began.
type greeted map[string]time.Time

// greet returns what a node is to be told that says that it serves: it may not know who died
// before.
func (g greeted) greet(l ledger, node string, now time.Time) (send []Notice) {
	maps.DeleteFunc(g, func(_ string, at time.Time) bool { return now.Sub(at) >= greetEvery })
	if _, ok := g[node]; ok {
		return nil
	}
	g[node] = now
	for _, silent := range slices.Sorted(maps.Keys(l)) {
		if t := l[silent]; t.kind == Silent && !t.over && silent != node {
			send = append(send, Notice{Kind: Silent, Node: silent})
		}
	}
	return send
}
